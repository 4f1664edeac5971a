import torch
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.models.noise import gumbel, row_keys

CPU = torch.device("cpu")


@given(st.lists(st.text(), min_size=2, max_size=6, unique=True), st.integers(2, 600))
def test_a_row_has_the_same_noise_in_any_batch(labels: list[str], position: int) -> None:
    together = gumbel(row_keys(labels, CPU), torch.arange(position, position + 1), 7)[0]
    alone = gumbel(row_keys(labels[-1:], CPU), torch.arange(position - 2, position + 2), 7)[2]
    assert torch.equal(together[-1:], alone)
    assert not torch.equal(together[0], together[1])


def test_noise_is_standard_gumbel_and_fresh_at_every_position() -> None:
    keys = row_keys(map(str, range(200)), CPU)
    noise = gumbel(keys, torch.arange(20), 50)
    assert torch.isfinite(noise).all()
    assert abs(float(noise.mean()) - 0.5772) < 0.01  # Euler's constant
    assert abs(float(noise.var()) - 1.6449) < 0.03  # pi^2 / 6
    assert len(noise.flatten().unique()) > 0.95 * noise.numel()
    between = torch.corrcoef(noise.flatten(1))
    assert float((between - torch.eye(20)).abs().max()) < 0.05


def test_gumbel_max_draws_from_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0])
    keys = row_keys(map(str, range(20_000)), CPU)
    drawn = (logits + gumbel(keys, torch.arange(3, 4), 3)[0]).argmax(-1).bincount() / len(keys)
    assert torch.allclose(drawn, logits.softmax(-1), atol=0.01)
