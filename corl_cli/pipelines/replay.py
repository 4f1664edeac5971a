"""Recorded rollouts rewarded again: would other rewards or weights have taught something else?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.loader import diff, load
from corl_cli.core.progress import Progress
from corl_cli.core.recipe import Recipe, RewardSpec, Rubrics
from corl_cli.core.requirements import demand
from corl_cli.core.types import TASKS, Samples, Task
from corl_cli.models.base import UnifiedPolicy
from corl_cli.pipelines.build import build_reference
from corl_cli.pipelines.catalogue import requirements
from corl_cli.pipelines.choose import chosen
from corl_cli.pipelines.recordings import Recordings, pooled, zero_variance
from corl_cli.rewards import bind
from corl_cli.rewards.base import Criterion, Options, Reward, Rubric, Scores
from corl_cli.scoring.agreement import best_changes, kendall
from corl_cli.trainer import metrics
from corl_cli.trainer.checkpoint import complete
from corl_cli.trainer.credit import credit, leave_out
from corl_cli.trainer.rollout import Recorded

CREDIT = ("algo.credit", "algo.blend", "algo.mm2t_weight", "algo.scale_advantages")


@dataclass(frozen=True, kw_only=True)
class RewardChange:
    """One reward before and after: its weight and its share in the variance that advantages follow (None: not used).

    `scores` says where the scores after came from; `largest_difference` compares them with the recorded ones when
    both were made with the same options.
    """

    task: Task
    reward: str
    weight_before: float | None
    weight_after: float | None
    share_before: float | None
    share_after: float | None
    scores: str
    largest_difference: float | None


@dataclass(frozen=True, kw_only=True)
class TaskChange:
    """How the groups of one task changed: shares are of groups, or of rows where it says so.

    `rank_correlation` is the mean Kendall tau-b and `best_changed` a share, both of the `compared` groups, those that
    vary before and after; `signs_flipped` is the share of rows, counted in both, whose advantage changes its sign.
    """

    task: Task
    groups: int
    compared: int
    rank_correlation: float
    best_changed: float
    signs_flipped: float
    zero_variance_before: float
    zero_variance_after: float
    masked_before: float
    masked_after: float


@dataclass(frozen=True, kw_only=True)
class GroupChange:
    """One group: its prompt or question, tau-b of the two orders (NaN: one of them ties all), advantages of its rows.

    `best_before` and `best_after` are samples of the group, from 0; None where all are tied or left out.
    """

    step: int
    task: Task
    group: int
    prompt: str
    rank_correlation: float
    best_before: int | None
    best_after: int | None
    best_changed: bool
    signs_flipped: int
    before: list[float]
    after: list[float]


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What would have changed. `weights` says, by step, what a reward that reads the policy was given."""

    run: str
    steps: list[int]
    weights: dict[int, str]
    rewards: list[RewardChange]
    tasks: list[TaskChange]
    groups: list[GroupChange]


def replay(
    recordings: Recordings, overrides: Sequence[str], rewards: Sequence[str], progress: Progress | None = None
) -> Replay:
    """Reward the recorded rollouts again and compare; UsageError when the change touches more than rewards and credit.

    Without overrides and rewards everything is scored again, as a check of the recording. Otherwise a reward whose
    options are those of the run keeps its recorded scores, which are exact, and only what is new is scored.
    """
    recipe = changed(recordings, overrides, rewards)
    scorer = Scorer(recordings, recipe, again=not (overrides or rewards))
    before: dict[Task, list[Recorded]] = {task: [] for task in recipe.train.tasks}
    after: dict[Task, list[Recorded]] = {task: [] for task in recipe.train.tasks}
    groups: list[GroupChange] = []
    for step in recordings.steps:
        old = recordings.read(step)
        new = scorer.score(step, old)
        for task in old:  # where tasks take turns, one of them
            groups += _groups(step, old[task], new[task])
            before[task].append(pooled([old[task]]))
            after[task].append(pooled([new[task]]))
        if progress:
            progress.advance()
    old = {task: pooled(steps) for task, steps in before.items() if steps}
    new = {task: pooled(steps) for task, steps in after.items() if steps}
    return Replay(
        run=str(recordings.run.path),
        steps=recordings.steps,
        weights=scorer.weights,
        rewards=_rewards(recordings.recipe, recipe, scorer, old, new),
        tasks=[_task(old[task], new[task]) for task in old],
        groups=sorted(groups, key=_agreement),
    )


def changed(recordings: Recordings, overrides: Sequence[str], rewards: Sequence[str]) -> Recipe:
    """The run's recipe with the changes asked for; a `--reward` takes the place of all rewards of its task."""
    run = recordings.recipe
    trained = f"It trained {' and '.join(run.train.tasks)}."
    for key in (override.partition("=")[0] for override in overrides):
        if (task := key.removeprefix("rewards.").partition(".")[0]) in TASKS and task not in run.train.tasks:
            raise UsageError(f"{key} is of {task}, which the run {recordings.run.path} did not train.", trained)
    recipe = load(recordings.run.recipe_file, overrides)
    other = [key for key in diff(run, recipe) if not key.startswith("rewards.") and key not in CREDIT]
    if other:
        raise UsageError(
            f"{other[0]} changes what is sampled or learnt; a replay changes rewards and credit only.",
            f"Set keys under rewards, or {', '.join(CREDIT)}.",
        )
    asked = chosen(recipe, rewards)
    for task in TASKS:
        if getattr(asked, task) and task not in run.train.tasks:
            name = getattr(asked, task)[0].name
            raise UsageError(f"{name} scores {task}, which the run {recordings.run.path} did not train.", trained)
    specs = {task: getattr(asked, task) or getattr(recipe.rewards, task) for task in TASKS}
    return recipe.model_copy(update={"rewards": Rubrics(**specs)})


class Recalled(Reward):
    """Gives back recorded scores."""

    needs_policy = False

    def __init__(self, name: str, recorded: Recorded) -> None:
        super().__init__(Options())
        self.task = recorded.samples.task  # type: ignore[misc]
        parts, notes = recorded.rewards.parts, recorded.rewards.notes
        self.scores = Scores(
            values=parts[name],
            parts={key.removeprefix(f"{name}."): part for key, part in parts.items() if key.startswith(f"{name}.")},
            notes=notes.get(name, ()),
        )

    def score(self, samples: Samples, policy: UnifiedPolicy | None) -> Scores:
        """See Reward.score."""
        return self.scores


class Scorer:
    """The rewards of a changed recipe, the ones that must score again loaded once."""

    def __init__(self, recordings: Recordings, recipe: Recipe, *, again: bool) -> None:
        self.recordings, self.recipe = recordings, recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.policies: dict[str, UnifiedPolicy] = {}
        self.weights: dict[int, str] = {}
        self.rewards = {
            (task, spec.name): bind(spec, task)
            for task in recipe.train.tasks
            for spec in getattr(recipe.rewards, task)
            if again or not self.is_recorded(task, spec)
        }
        demand([need for reward in self.rewards.values() for need in requirements(reward)], "The replay")
        reference = self._policy(self.start) if any(r.needs_reference for r in self.rewards.values()) else None
        for reward in self.rewards.values():
            reward.load(self.device, reference)

    def is_recorded(self, task: Task, spec: RewardSpec) -> bool:
        """Whether the run itself scored with this reward and these options; equal words need no class to tell."""
        specs: list[RewardSpec] = getattr(self.recordings.recipe.rewards, task)
        other = next((other for other in specs if other.name == spec.name), None)
        return other is not None and (
            spec.options == other.options or bind(spec, task).options == bind(other, task).options
        )

    @cached_property
    def start(self) -> str:
        """Where the weights are that the run began with; CorlError when the run no longer says."""
        file = self.recordings.run.provenance_file
        try:
            return str(self.recordings.run.provenance()["start"])
        except (OSError, ValueError, LookupError) as error:
            raise CorlError(
                f"{file} is missing or damaged: it says which weights the run began with, and a reward reads them.",
                "Put it back, or replay with rewards that read no policy: corl reward ls tells which.",
            ) from error

    def score(self, step: int, recorded: Mapping[Task, Recorded]) -> dict[Task, Recorded]:
        """The step with the rewards, advantages and counted rows of the changed recipe."""
        policy = self._drawn_by(step) if any(reward.needs_policy for reward in self.rewards.values()) else None
        results = {task: self._rubric(task, recorded[task])(recorded[task].samples, policy) for task in recorded}
        advantages = credit(results, self.recipe.algo, self.recipe.sampling.group_size)
        if self.recipe.algo.mask_truncated:
            advantages = {task: leave_out(*found, recorded[task].truncated) for task, found in advantages.items()}
        return {
            task: replace(recorded[task], rewards=results[task], advantages=values, rows=rows)
            for task, (values, rows) in advantages.items()
        }

    def _rubric(self, task: Task, recorded: Recorded) -> Rubric:
        criteria = [
            Criterion(
                name=spec.name,
                weight=spec.weight,
                on_error=spec.on_error,
                normalise=spec.normalise,
                reward=self.rewards.get((task, spec.name)) or Recalled(spec.name, recorded),
            )
            for spec in getattr(self.recipe.rewards, task)
        ]
        return Rubric(task, criteria)

    def _drawn_by(self, step: int) -> UnifiedPolicy:
        """The policy of a step, or the nearest thing that was kept.

        Step N is sampled by the weights that N - 1 updates have made, so it is the checkpoint of step N - 1 that is
        exact, and the start for the first step.
        """
        saved = {int(path.name.removeprefix("step-")): str(path) for path in complete(self.recordings.run.checkpoints)}
        if step == 1:
            path, words = self.start, "the weights that sampled them"
        elif step - 1 in saved:
            path, words = saved[step - 1], "the weights that sampled them"
        elif step in saved:
            path, words = saved[step], "the checkpoint of that step, one update later than what sampled them"
        else:
            path, words = self.start, "the start of the run, as the weights that sampled them were not kept"
        self.weights[step] = words
        return self._policy(path)

    def _policy(self, path: str) -> UnifiedPolicy:
        if path not in self.policies:
            kept = {name: policy for name, policy in self.policies.items() if name == self.start}
            policy = build_reference(self.recipe.model, path, None).to(self.device)
            self.policies = kept | {path: policy}  # two at most
        return self.policies[path]


def _rewards(
    run: Recipe, recipe: Recipe, scorer: Scorer, before: Mapping[Task, Recorded], after: Mapping[Task, Recorded]
) -> list[RewardChange]:
    shared = metrics.shares(before, run), metrics.shares(after, recipe)
    found = []
    for task in before:
        old = {spec.name: spec for spec in getattr(run.rewards, task)}
        new = {spec.name: spec for spec in getattr(recipe.rewards, task)}
        for name in dict.fromkeys([*old, *new]):
            again = (task, name) in scorer.rewards
            comparable = again and name in old and scorer.is_recorded(task, new[name])
            found.append(
                RewardChange(
                    task=task,
                    reward=name,
                    weight_before=old[name].weight if name in old else None,
                    weight_after=new[name].weight if name in new else None,
                    share_before=shared[0].get(f"{task}/{name}"),
                    share_after=shared[1].get(f"{task}/{name}"),
                    scores="left out" if name not in new else "scored again" if again else "as recorded",
                    largest_difference=_largest(before[task], after[task], name) if comparable else None,
                )
            )
    return found


def _largest(before: Recorded, after: Recorded, name: str) -> float:
    """The largest difference of two raw scores; infinite where one is there and the other is not."""
    old, new = before.rewards.parts[name], after.rewards.parts[name]
    missing = torch.isnan(old) != torch.isnan(new)
    return float((old - new).abs().nan_to_num(0.0).masked_fill(missing, torch.inf).max())


def _task(before: Recorded, after: Recorded) -> TaskChange:
    size = before.samples.sampling.group_size
    rows = before.rows & after.rows
    orders = kendall(before.advantages, after.advantages, rows, size)
    compared = orders.isfinite()
    best = best_changes(before.advantages, after.advantages, rows, size)
    return TaskChange(
        task=before.samples.task,
        groups=len(orders),
        compared=int(compared.sum()),
        rank_correlation=float(orders[compared].mean()),
        best_changed=float(best[compared].float().mean()),
        signs_flipped=float(_flipped(before, after)[rows].float().mean()),
        zero_variance_before=zero_variance(before.advantages, before.rows, size),
        zero_variance_after=zero_variance(after.advantages, after.rows, size),
        masked_before=float((~before.rows).float().mean()),
        masked_after=float((~after.rows).float().mean()),
    )


def _groups(step: int, before: Recorded, after: Recorded) -> list[GroupChange]:
    size, triplets, task = before.samples.sampling.group_size, before.samples.triplets, before.samples.task
    rows = before.rows & after.rows
    orders = kendall(before.advantages, after.advantages, rows, size).tolist()
    best = best_changes(before.advantages, after.advantages, rows, size).tolist()
    flipped = _flipped(before, after).view(-1, size).sum(1).tolist()
    return [
        GroupChange(
            step=step,
            task=task,
            group=group,
            prompt=triplets[group * size].prompt if task == "t2i" else triplets[group * size].question,
            rank_correlation=orders[group],
            best_before=_best(before, group),
            best_after=_best(after, group),
            best_changed=best[group] and orders[group] == orders[group],
            signs_flipped=flipped[group],
            before=before.advantages[group * size : (group + 1) * size].tolist(),
            after=after.advantages[group * size : (group + 1) * size].tolist(),
        )
        for group in range(len(orders))
    ]


def _flipped(before: Recorded, after: Recorded) -> Tensor:
    """Which rows [N] have an advantage of the other sign; a row that is left out has advantage 0, and none."""
    return before.advantages * after.advantages < 0


def _best(recorded: Recorded, group: int) -> int | None:
    size = recorded.samples.sampling.group_size
    values = recorded.advantages[group * size : (group + 1) * size]
    return int(values.argmax()) if float(values.abs().max()) > 0 else None


def _agreement(change: GroupChange) -> tuple[bool, float, int]:
    """Sorts the groups that change most to the front and those that cannot be compared to the end."""
    value = change.rank_correlation
    return (value != value, value if value == value else 0.0, -change.signs_flipped)
