"""Small real parts that many tests stand on: a random tiny Janus and some triplets of the world."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest -n 2 runs on two cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import HealthCheck, settings

# a busy machine must not fail a test: nothing here is about time
settings.register_profile("corl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("corl")


@pytest.fixture(scope="session")
def policy():
    """A random tiny Janus of the real class, shared: leave its weights as they were (`policy.start`)."""
    import torch

    from corl_cli.models.janus import JanusPolicy
    from corl_cli.world.tiny import build_model, build_processor

    torch.manual_seed(0)
    processor = build_processor()
    policy = JanusPolicy(build_model(processor), processor)
    for parameter in policy.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.08)  # livelier than the default, whose outputs are nearly constant
    policy.eval()
    policy.start = {name: value.clone() for name, value in policy.state_dict().items()}
    return policy


@pytest.fixture(scope="session")
def triplets():
    """Six triplets of the world, prompts and questions of several lengths."""
    from corl_cli.world.items import WorldTriplets

    return WorldTriplets("train", 6, seed=0)[:]
