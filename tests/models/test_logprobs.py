import pytest
import torch

from corl_cli.models import logprobs
from corl_cli.models.logprobs import token_logps


def _inputs() -> tuple[torch.nn.Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.nn.Linear(4, 11), torch.randn(7, 4, requires_grad=True), torch.randint(11, (7,))


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_equals_log_softmax(temperature: float) -> None:
    head, states, targets = _inputs()
    logps, entropies = token_logps(head, states, targets, temperature, 11)
    expected = torch.log_softmax(head(states) / temperature, -1)
    assert torch.allclose(logps, expected.gather(-1, targets[:, None])[:, 0], atol=1e-6)
    assert torch.allclose(entropies, -(expected.exp() * expected).sum(-1), atol=1e-5)
    assert not entropies.requires_grad


def test_chunks_give_the_same_values_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    head, states, targets = _inputs()
    whole, _ = token_logps(head, states, targets, 1.0, 11)
    expected = torch.autograd.grad(whole.sum(), [states, head.weight])
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 22)  # two positions at a time
    chunked, _ = token_logps(head, states, targets, 1.0, 11)
    found = torch.autograd.grad(chunked.sum(), [states, head.weight])
    assert torch.allclose(chunked, whole, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_a_frozen_head_gives_the_same_and_is_not_run_again(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    head, states, targets = _inputs()
    weights = torch.randn(7)
    expected = token_logps(head, states, targets, temperature, 11)
    (slope,) = torch.autograd.grad((expected[0] * weights).sum(), states)
    head.requires_grad_(False)
    monkeypatch.setattr(logprobs, "BLOCK_LOGITS", 22)
    monkeypatch.setattr(logprobs, "LEAST_ROWS", 3)
    seen: list[int] = []
    head.register_forward_hook(lambda head, given, logits: seen.append(len(logits)))
    found = token_logps(head, states, targets, temperature, 11)
    (own,) = torch.autograd.grad((found[0] * weights).sum(), states)
    assert seen == [3, 3, 1], "rows of each call"
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip((*found, own), (*expected, slope), strict=True))
    assert not found[1].requires_grad
    with torch.no_grad():
        again = token_logps(head, states, targets, temperature, 11)
    assert torch.equal(again[0], found[0])
    assert not again[0].requires_grad


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_keeps_float32_under_autocast_wherever_the_logits_lie(offset: float) -> None:
    torch.manual_seed(0)
    logits, targets = 4 * torch.randn(5, 16384) + offset, torch.randint(16384, (5,))
    exact = torch.log_softmax(logits.double(), -1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logps, entropies = token_logps(torch.nn.Identity(), logits, targets, 1.0, 16384)
    assert torch.allclose(logps.double(), exact.gather(-1, targets[:, None])[:, 0], atol=1e-5)
    assert torch.allclose(entropies.double(), -(exact.exp() * exact).sum(-1), atol=1e-4)


def test_no_states_have_no_log_probs() -> None:
    head, states, targets = _inputs()
    assert [values.shape for values in token_logps(head, states[:0], targets[:0], 1.0, 11)] == [(0,), (0,)]
