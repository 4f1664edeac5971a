import pytest

from corl_cli.core.recipe import Optim
from corl_cli.trainer.schedule import learning_rate


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]),
    ],
)
def test_warm_up_then_decay(schedule: str, expected: list[float]) -> None:
    optim = Optim(lr=1.0, warmup_steps=2, schedule=schedule)  # type: ignore[arg-type]
    assert [learning_rate(optim, step, 6) for step in range(6)] == pytest.approx(expected, abs=1e-6)
