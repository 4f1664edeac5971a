"""The comparisons that the paper argues with, as graphs of trainings and merges: what `corl study` makes and reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corl_cli.core.errors import UsageError
from corl_cli.core.loader import derive
from corl_cli.core.recipe import Recipe
from corl_cli.core.recipe import Study as Section
from corl_cli.core.types import TASKS, AnswerType, Task
from corl_cli.pipelines import plan

START = "start"
REFINED: dict[str, tuple[Task, list[AnswerType]]] = {
    "t2i": ("t2i", ["mc", "oe"]),
    "mcq": ("mm2t", ["mc"]),
    "oe": ("mm2t", ["oe"]),
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One model of a study, made for each seed: trained by its recipe, or merged of its parents without one.

    A training starts from its only parent, or where the recipe says; what has neither recipe nor parents is the start.
    """

    name: str
    recipe: Recipe | None = None
    parents: tuple[str, ...] = ()

    @property
    def batches(self) -> int:
        """Steps of the run, each on other triplets."""
        return plan.num_steps(self.recipe) if self.recipe else 0

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return self.batches * self.recipe.algo.num_iterations if self.recipe else 0

    @property
    def rows(self) -> int:
        """Rows that all batches hold: samples, or targets that are imitated."""
        if self.recipe is None:
            return 0
        train = self.recipe.train
        group = self.recipe.sampling.group_size if train.method == "rl" else 1
        return self.batches * train.batch_size * group * (1 if train.cycle else len(train.tasks))

    @property
    def samples(self) -> int:
        """Samples generated while training."""
        return self.rows if self.recipe and self.recipe.train.method == "rl" else 0


@dataclass(frozen=True, kw_only=True)
class Ability:
    """A column of a study: a task, or its questions of one type."""

    title: str
    task: Task
    answer_type: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a study: the arm that each ability is read of."""

    title: str
    arms: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared: arms in an order in which parents come first, and the table that they are read into."""

    name: str
    arms: dict[str, Arm]
    abilities: tuple[Ability, ...]
    rows: tuple[Row, ...]

    def budget(self, row: Row) -> tuple[int, int]:
        """Optimiser steps and generated samples of everything that a row's models were made by."""
        needed: set[str] = set()
        open_ = list(row.arms)
        while open_:
            name = open_.pop()
            needed.add(name)
            open_ += self.arms[name].parents
        made = [self.arms[name] for name in needed]
        return sum(arm.steps for arm in made), sum(arm.samples for arm in made)


def paradigms(recipe: Recipe) -> Study:
    """The pilot (Figure 1): separate, merging, cycle and unified training at one budget of generated samples."""
    demand(recipe)
    steps = plan.num_steps(recipe)
    alone = {task: Arm(name=f"separate-{task}", recipe=_alone(recipe, task, steps)) for task in TASKS}
    cycle = {"tasks": list(TASKS), "cycle": recipe.study.cycle.model_dump(), "max_steps": 2 * steps}
    arms = [
        Arm(name=START),
        *alone.values(),
        Arm(name="merging", parents=tuple(arm.name for arm in alone.values())),
        Arm(name="cycle", recipe=_arm(recipe, "cycle", {"train": cycle, "algo": {"credit": "per_task"}})),
        Arm(name="unified", recipe=_arm(recipe, "unified", {"train": {"max_steps": steps}})),
    ]
    abilities = (Ability(title="drawing", task="t2i"), Ability(title="answering", task="mm2t"))
    rows = [
        _row(START, START, abilities),
        Row(title="separate", arms=tuple(arm.name for arm in alone.values())),
        _row("separate: the model that draws", "separate-t2i", abilities),
        _row("separate: the model that answers", "separate-mm2t", abilities),
        *(_row(name, name, abilities) for name in ("merging", "cycle", "unified")),
    ]
    return _study("paradigms", arms, abilities, rows)


def corl(recipe: Recipe) -> Study:
    """The two stages and their ablations (Tables 3 and 4): each stage alone and both, supervised training, rewards."""
    demand(recipe)
    steps = plan.num_steps(recipe)
    abilities = (
        Ability(title="drawing", task="t2i"),
        Ability(title="answering mc", task="mm2t", answer_type="mc"),
        Ability(title="answering oe", task="mm2t", answer_type="oe"),
    )
    sft = {"train": {"method": "sft", "max_steps": steps}, "algo": {"credit": "per_task"}}
    unified = _arm(recipe, "unified", {"train": {"max_steps": steps}})
    arms = [
        Arm(name=START),
        Arm(name="sft", recipe=derive(_arm(recipe, "sft", sft), recipe.study.sft)),
        Arm(name="unified", recipe=unified),
    ]
    titles = {START: START, "sft": "cold SFT", "unified": "unified only"}
    rows = [_row(title, arm, abilities) for arm, title in titles.items()]
    for title, stem, parents in [("refined only", "refined", ()), ("refined after unified", "corl", ("unified",))]:
        stage = [
            Arm(name=f"{stem}-{kind}", recipe=_refined(recipe, f"{stem}-{kind}", kind, steps), parents=parents)
            for kind in REFINED
        ]
        merged = Arm(name=f"{stem}-merged", parents=(f"{stem}-mcq", f"{stem}-oe"))
        arms += [*stage, merged]
        rows.append(Row(title=title, arms=tuple(arm.name for arm in stage)))
        rows += [_row(f"{title}: {arm.name.removeprefix(f'{stem}-')}", arm.name, abilities) for arm in [*stage, merged]]
    specs = recipe.rewards.t2i
    for spec in specs if len(specs) > 1 else []:
        only = recipe.model_copy(update={"rewards": recipe.rewards.model_copy(update={"t2i": [spec]})})
        first, second = (f"only-{_word(spec.name)}-{stage}" for stage in ("unified", "t2i"))
        arms += [
            Arm(name=first, recipe=_arm(only, first, {"train": {"max_steps": steps}})),
            Arm(name=second, recipe=_refined(only, second, "t2i", steps), parents=(first,)),
        ]
        rows.append(_row(f"drawing rewarded by {spec.name} alone", second, abilities))
    rows.append(_row("drawing rewarded by all", "corl-t2i", abilities))
    return _study("corl", arms, abilities, rows)


STUDIES = {"paradigms": paradigms, "corl": corl}


def _study(name: str, arms: Sequence[Arm], abilities: tuple[Ability, ...], rows: Sequence[Row]) -> Study:
    return Study(name=name, arms={arm.name: arm for arm in arms}, abilities=abilities, rows=tuple(rows))


def _row(title: str, arm: str, abilities: Sequence[Ability]) -> Row:
    return Row(title=title, arms=(arm,) * len(abilities))


def demand(recipe: Recipe) -> None:
    """UsageError with every reason why a recipe cannot be the unified arm that the others are derived from."""
    faults = []
    if len(recipe.train.tasks) < len(TASKS) or recipe.train.cycle or recipe.train.method != "rl":
        faults.append("train: a study is derived from training both tasks together by reinforcement")
    probes = recipe.eval.probes
    faults += [
        f"eval.probes.rewards.{task}: a study reads both abilities, and here is nothing to read of {task}"
        for task in TASKS
        if probes is None or not getattr(probes.rewards, task)
    ]
    if recipe.algo.dynamic_sampling:
        faults.append(
            "algo.dynamic_sampling: it samples more than a study plans, so that budgets would not match; use 0"
        )
    if faults:
        raise UsageError("\n".join(faults), "Begin with a recipe of a study: corl recipe show study/paradigms")


def _arm(recipe: Recipe, name: str, changes: Mapping[str, Any]) -> Recipe:
    """The recipe of an arm: the study reads the weights itself, so a run has neither probes nor samples on its way."""
    bare = recipe.model_copy(update={"study": Section()})
    own = derive(derive(bare, {"eval": {"probes": None}, "checkpoint": {"best": None}}), changes)
    steps = plan.num_steps(own)
    quiet = {"checkpoint": {"keep": 1}, "tracking": {"samples_every": steps, "rollouts_every": steps}}
    return derive(own, quiet | {"name": name})


def _alone(recipe: Recipe, task: Task, steps: int) -> Recipe:
    return _arm(recipe, f"separate-{task}", _one_task(task, steps))


def _refined(recipe: Recipe, name: str, kind: str, steps: int) -> Recipe:
    """Stage 2 for one kind of task, by the study's own settings of that stage."""
    task, answer_types = REFINED[kind]
    changes = _one_task(task, steps) | {"data": {"answer_types": answer_types}}
    return derive(_arm(recipe, name, changes), recipe.study.refined)


def _one_task(task: Task, steps: int) -> dict[str, Any]:
    others: dict[str, Any] = {other: [] for other in TASKS if other != task}  # their models are not loaded
    return {
        "train": {"tasks": [task], "max_steps": steps},
        "algo": {"credit": "per_task"},
        "rewards": others,
    }


def _word(name: str) -> str:
    """A reward's name as part of a folder's: my_pkg.module:Class is Class."""
    return name.rpartition(":")[2]
