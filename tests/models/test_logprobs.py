import torch

from corl_cli.models import logprobs
from corl_cli.models.logprobs import token_logps


def _inputs() -> tuple[torch.nn.Linear, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 11)
    hidden = torch.randn(3, 5, 4, requires_grad=True)
    ids = torch.randint(11, (3, 5))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    return head, hidden, ids, mask


def test_equals_log_softmax_where_masked_in_and_zero_elsewhere() -> None:
    head, hidden, ids, mask = _inputs()
    found = token_logps(head, hidden, ids, mask, 0.7, 11)
    expected = torch.log_softmax(head(hidden) / 0.7, -1).gather(-1, ids[..., None])[..., 0] * mask
    assert torch.allclose(found.logps, expected, atol=1e-6)
    shares = torch.softmax(head(hidden) / 0.7, -1)
    assert torch.allclose(found.entropies, -(shares * shares.log()).sum(-1) * mask, atol=1e-5)
    assert not found.entropies.requires_grad


def test_chunks_give_the_same_values_and_gradients(monkeypatch) -> None:
    head, hidden, ids, mask = _inputs()
    whole = token_logps(head, hidden, ids, mask, 1.0, 11).logps
    expected = torch.autograd.grad(whole.sum(), [hidden, head.weight])
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 22)  # two positions at a time
    chunked = token_logps(head, hidden, ids, mask, 1.0, 11).logps
    found = torch.autograd.grad(chunked.sum(), [hidden, head.weight])
    assert torch.allclose(chunked, whole, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))


def test_a_batch_of_empty_completions_is_all_zero() -> None:
    head, hidden, ids, mask = _inputs()
    assert not token_logps(head, hidden, ids, mask * 0, 1.0, 11).logps.any()
