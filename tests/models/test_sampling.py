import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from corl_cli.core.types import Sampling, Task, Triplet
from corl_cli.models import noise, sampling
from corl_cli.models.decoder import Cache, Pace
from corl_cli.models.graphs import Graphs
from corl_cli.models.janus import JanusPolicy
from corl_cli.models.logprobs import guide
from corl_cli.models.noise import row_keys
from corl_cli.models.sampling import choose, draw, nucleus

BOTH = pytest.mark.parametrize("task", ["t2i", "mm2t"])


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
    token, logp = choose(guided, conditional, Sampling(temperature=0), torch.randn(1, 3))
    assert token.tolist() == [1]
    assert torch.allclose(logp, conditional.log_softmax(-1)[:, 1])


def test_recorded_log_probs_have_the_temperature_but_not_the_guidance_or_top_p() -> None:
    guided, conditional = torch.randn(50, 9), torch.randn(50, 9)
    token, logp = choose(guided, conditional, Sampling(temperature=0.5, top_p=0.6), torch.randn(50, 9))
    expected = (conditional / 0.5).log_softmax(-1).gather(-1, token[:, None])[:, 0]
    assert torch.allclose(logp, expected)


@pytest.mark.parametrize("scoring", ["conditional", "guided", "guided-detached"])
def test_drawings_record_the_log_probs_of_the_scoring_by_hand(scoring: str) -> None:
    """A head of identity and a decoder without layers: hidden states are logits."""
    conditional, unconditional = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[0.0, 0.5, 0.0]])
    guided = unconditional + 3.0 * (conditional - unconditional)
    assert torch.equal(guided, torch.tensor([[3.0, -1.0, -3.0]]))
    assert torch.equal(guide(conditional, unconditional, 3.0), guided)
    sampling = Sampling(temperature=0.5, cfg_weight=3.0, scoring=scoring)
    tokens, logps = draw(
        Still(),  # type: ignore[arg-type]
        conditional[:, None],
        torch.ones(1, 1),
        torch.eye(3),
        sampling,
        row_keys(["a"], torch.device("cpu")),
        1,
        unconditional[:, None],
    )
    scored = (conditional if scoring == "conditional" else guided) / 0.5
    assert torch.allclose(logps, scored.log_softmax(-1).gather(-1, tokens))


class Still:
    """A decoder whose hidden state is the prompt's last embedding, and whose logits are that."""

    def prefill(self, embeds: Tensor, mask: Tensor, group_size: int, room: int) -> tuple[Tensor, Cache | None]:
        return embeds[:, -1], None

    def logits(self, task: Task, states: Tensor) -> Tensor:
        return states


class Tape(TorchDispatchMode):
    """What a CUDA graph is, on a CPU: the operations of one run of a step with the tensors and numbers that they had.

    They are done again without the Python around them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        waits = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        assert func not in waits, f"{func} waits for the device"
        made = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, made))
        return made

    def replay(self) -> None:
        for func, args, kwargs, made in self.calls:
            if func.is_view:
                continue  # the same memory
            again = func(*args, **kwargs)
            for old, new in zip(*(each if isinstance(each, tuple) else (each,) for each in (made, again)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Taped(Graphs):
    """Graphs with tapes in place of CUDA's recordings."""

    replays = 0

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.tapes: dict = {}

    def run(self, key, step) -> None:  # type: ignore[no-untyped-def]
        if key not in self.tapes:
            self.tapes[key] = None
            step()
        elif self.tapes[key] is None:
            with Tape() as self.tapes[key]:
                step()
        else:
            self.tapes[key].replay()
            Taped.replays += 1


@BOTH
@pytest.mark.parametrize("cfg_weight", [1.0, 4.0])
def test_replayed_steps_give_the_same_tokens(
    policy: JanusPolicy, triplets: list[Triplet], task: Task, cfg_weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several prompts, left padding, rows that end early, columns in blocks, finished rows looked for now and then."""
    hot = Sampling(group_size=8, temperature=2.0, top_p=0.95, cfg_weight=cfg_weight, max_new_tokens=40)
    plain = policy.sample(task, triplets, hot, key="k")
    monkeypatch.setattr(sampling, "Graphs", Taped)
    monkeypatch.setattr(noise, "_BLOCK", 1)  # made by the step itself, as on a GPU
    monkeypatch.setattr(policy._decoder, "pace", Pace(columns=8, look=3, shrink=0.5))
    monkeypatch.setattr(Taped, "replays", 0)
    replayed = policy.sample(task, triplets, hot, key="k")
    assert Taped.replays > 5
    assert torch.equal(replayed.completion_ids, plain.completion_ids)
    assert torch.equal(replayed.completion_mask, plain.completion_mask)
    assert torch.allclose(replayed.logps, plain.logps, atol=1e-5)
