import torch

from corl_cli.core.types import Sampling
from corl_cli.models.noise import row_keys
from corl_cli.models.sampling import choose, nucleus


def test_nucleus_keeps_the_smallest_set_that_reaches_top_p() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = {p: torch.isfinite(nucleus(logits, p))[0].tolist() for p in (0.4, 0.5, 0.51, 0.8, 0.94, 1.0)}
    assert kept == {
        0.4: [True, False, False, False],
        0.5: [True, False, False, False],
        0.51: [True, True, False, False],
        0.8: [True, True, False, False],
        0.94: [True, True, True, False],
        1.0: [True, True, True, True],
    }


def test_temperature_zero_takes_the_best_token_of_the_guided_logits() -> None:
    guided, conditional = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[2.0, 1.0, 0.0]])
    token, logp = choose(guided, conditional, Sampling(temperature=0), row_keys(["a"], torch.device("cpu")), 0)
    assert token.tolist() == [1]
    assert torch.allclose(logp, conditional.log_softmax(-1)[:, 1])


def test_recorded_log_probs_have_the_temperature_but_not_the_guidance_or_top_p() -> None:
    guided, conditional = torch.randn(50, 9), torch.randn(50, 9)
    keys = row_keys(map(str, range(50)), torch.device("cpu"))
    token, logp = choose(guided, conditional, Sampling(temperature=0.5, top_p=0.6), keys, 4)
    expected = (conditional / 0.5).log_softmax(-1).gather(-1, token[:, None])[:, 0]
    assert torch.allclose(logp, expected)
