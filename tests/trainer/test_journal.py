"""What a run writes and says while it goes on."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from corl_cli.core.errors import CorlError, Interrupted, UsageError
from corl_cli.core.recipe import Recipe
from corl_cli.core.run_dir import RunDir
from corl_cli.core.types import Experience, Rollout, Sampling, Task, Triplet
from corl_cli.models.base import UnifiedPolicy
from corl_cli.models.janus import JanusPolicy
from corl_cli.rewards.base import Criterion, Options, Reward, Rubric, Scores
from corl_cli.trainer import checkpoint
from corl_cli.trainer.distributed import Replicated
from corl_cli.trainer.journal import Journal
from corl_cli.trainer.probes import Probes, Reading

METRICS = {"grad_norm": 1.0, "skipped": 0.0}


class Given(Reward):
    """Scores that a test sets before each reading; the first two items get 0 and 1 more."""

    def __init__(self, task: Task) -> None:
        super().__init__(Options())
        self.task = task  # type: ignore[misc]
        self.level = 0.0

    def score(self, rollout: Rollout, policy: UnifiedPolicy) -> Scores:
        values = torch.full([len(rollout)], self.level)
        values[1] += 1
        return Scores(values=values)


class Heard:
    """A display that remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def step(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def readings(self, step: int, readings: Sequence[Reading]) -> None: ...


class Desk:
    """A journal of eight steps that reads two items of each ability at every second one."""

    def __init__(self, path: Path, policy: JanusPolicy, triplets: list[Triplet], **recipe: Any) -> None:
        sections: dict[str, Any] = {
            "name": "test",
            "sampling": {"mm2t": {"max_new_tokens": 4}},
            "rewards": {"t2i": [{"name": "checker"}], "mm2t": [{"name": "accuracy"}]},
            "eval": {"probes": {"every": 2, "rewards": {"t2i": [{"name": "draws"}], "mm2t": [{"name": "writes"}]}}},
        }
        self.recipe = Recipe.model_validate(sections | recipe)
        run = RunDir(path)
        for folder in (run.samples, run.rollouts, run.checkpoints):
            folder.mkdir(exist_ok=True)
        self.rewards = {"t2i": Given("t2i"), "mm2t": Given("mm2t")}
        rubrics = {
            task: Rubric(task, [Criterion(name=name, weight=1.0, on_error="stop", reward=self.rewards[task])])
            for task, name in (("t2i", "draws"), ("mm2t", "writes"))
        }
        sampling = Sampling(max_new_tokens=4)
        self.display = Heard()
        self.journal = Journal(
            run=run,
            recipe=self.recipe,
            accelerator=Accelerator(cpu=True),
            strategy=Replicated(policy),
            optimizer=torch.optim.AdamW(policy.trainable()),
            probes=Probes(triplets[:2], rubrics, {"t2i": [sampling], "mm2t": [sampling]}),
            samples=triplets[:1],
            display=self.display,
            num_steps=8,
        )

    def step(self, step: int, draws: float = 0.0, writes: float = 0.0, skipped: int = 0) -> None:
        """A step after which the abilities are so much better."""
        self.rewards["t2i"].level, self.rewards["mm2t"].level = draws, writes
        self.journal.step(step, METRICS | {"skipped": float(skipped > 0)}, {}, skipped=skipped)

    def states(self) -> dict[int, dict[str, Any]]:
        folders = checkpoint.complete(self.journal.run.checkpoints)
        found = [json.loads((folder / "state.json").read_text()) for folder in folders]
        return {state["step"]: state for state in found}


def test_readings_are_saved_with_what_they_gain_over_the_start(policy, triplets, tmp_path: Path) -> None:
    desk = Desk(tmp_path, policy, triplets, checkpoint={"best": "pareto", "every": 3, "keep": 8})
    desk.journal.begin(0)  # 0 and 1: mean 0.5, standard error 0.5
    for step, draws, writes in [(1, 9, 9), (2, 1, 0), (3, 9, 9), (4, 1, -2)]:
        desk.step(step, draws, writes)
    states = desk.states()
    assert {step: state["gain"] for step, state in states.items()} == {2: 2.0, 3: None, 4: -2.0}
    assert states[2]["scores"] == {"t2i/draws": 1.5, "mm2t/writes": 0.5}
    assert states[3]["scores"] == {}, "no reading is due at step 3"
    again = Desk(tmp_path, policy, triplets, checkpoint={"best": "pareto", "every": 3, "keep": 8})
    again.journal.begin(4)  # another process goes on: the start is in the metrics
    again.step(6, 1, 1)
    assert again.states()[6]["gain"] == 4.0
    assert checkpoint.best(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-000006"


def test_one_reading_can_say_which_is_best(policy, triplets, tmp_path: Path) -> None:
    desk = Desk(tmp_path, policy, triplets, checkpoint={"best": "mm2t/writes", "every": 8, "keep": 1})
    desk.journal.begin(0)
    for step, draws, writes in [(2, 0, 2), (4, 9, 1), (6, 9, -1)]:
        desk.step(step, draws, writes)
    assert {step: state["gain"] for step, state in desk.states().items()} == {2: 4.0, 6: -2.0}


def test_a_reading_that_the_data_do_not_offer_is_told_before_the_first_step(policy, triplets, tmp_path: Path) -> None:
    desk = Desk(tmp_path, policy, triplets, checkpoint={"best": "pareto"})
    del desk.journal.probes.rubrics["mm2t"]
    with pytest.raises(UsageError, match="nothing to read mm2t/writes of"):
        desk.journal.begin(0)


def test_a_skipped_step_is_said_aloud_and_saved(policy, triplets, tmp_path: Path) -> None:
    desk = Desk(tmp_path, policy, triplets, checkpoint={"every": 1})
    desk.step(1)
    assert not desk.display.lines
    desk.step(3, skipped=2)
    assert desk.display.lines == [
        "warning: step 3 is skipped, its gradient has norm 1; that makes 2 in a row, and the run ends after more than 5"
    ]
    assert desk.states()[3]["skipped"] == 2


@pytest.mark.parametrize("broken", ["samples", "rollouts", "metrics.jsonl"])
def test_what_cannot_be_written_is_one_clear_error(policy, triplets, tmp_path: Path, broken: str) -> None:
    desk = Desk(tmp_path, policy, triplets, tracking={"samples_every": 1, "rollouts_every": 1})
    if broken == "metrics.jsonl":
        (tmp_path / broken).mkdir()
    else:
        (tmp_path / broken).rmdir()
        (tmp_path / broken).write_text("in place of the folder")
    sampling = Sampling(group_size=2)
    rollout = policy.sample("t2i", triplets[:1], sampling, key="x")
    batch: dict[Task, Experience] = {
        "t2i": Experience(
            rollout=rollout,
            rewards=desk.journal.probes.rubrics["t2i"](rollout, policy),
            advantages=torch.zeros(2),
            rows=torch.ones(2).bool(),
            old_logps=None,
            ref_logps=None,
        )
    }
    with pytest.raises(CorlError, match=broken) as caught:
        desk.journal.step(1, METRICS, batch)
    assert caught.value.exit_code == 1
    assert caught.value.hint


def test_the_page_is_made_at_the_start_when_due_and_at_a_stop(policy, triplets, tmp_path: Path) -> None:
    desk = Desk(tmp_path, policy, triplets, tracking={"report_every": 2})
    steps: list[int] = []
    desk.journal.refresh = lambda: steps.append(len([line for line in lines(tmp_path) if "seconds" in line]))
    desk.journal.begin(0)
    for step in range(1, 6):
        desk.step(step)
    desk.journal.stop = signal.SIGTERM
    with pytest.raises(Interrupted):
        desk.step(7)
    assert steps == [0, 2, 4, 6]
    assert sum("time/report" in line for line in lines(tmp_path)) == 4
    desk.journal.stop = None
    desk.step(8)
    assert len(steps) == 4, "a run that ends makes its page by itself"


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_samples_show_each_task_that_learns(policy, triplets, tmp_path: Path) -> None:
    Desk(tmp_path, policy, triplets).journal.begin(0)
    assert (tmp_path / "samples" / "step-000000.png").stat().st_size > 1000
    lines = (tmp_path / "samples" / "step-000000.jsonl").read_text().splitlines()
    assert [json.loads(line)["question"] for line in lines] == [triplets[0].question]
