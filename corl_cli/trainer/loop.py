"""CoRL's training loop: for each batch of triplets draw and answer, reward, compare within groups, update.

Unified training is the tasks {t2i, mm2t}, refined training a set of one, a cycle the tasks by turns; nothing else
differs. Read `fit` first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim import Optimizer

from corl_cli.core.errors import CorlError
from corl_cli.core.recipe import Recipe
from corl_cli.core.types import TASKS, Experience, RewardResult, Rollout, Sampling, Task, Triplet
from corl_cli.models.base import UnifiedPolicy
from corl_cli.trainer import metrics as measured
from corl_cli.trainer.credit import credit, leave_out
from corl_cli.trainer.distributed import Strategy
from corl_cli.trainer.journal import Journal
from corl_cli.trainer.preflight import check_identity
from corl_cli.trainer.resampling import Rolled, resample
from corl_cli.trainer.rollout import generate, targets
from corl_cli.trainer.schedule import turn
from corl_cli.trainer.types import Batches, Rubric
from corl_cli.trainer.update import Metrics, Updater


@dataclass(kw_only=True)
class Trainer:
    """Everything one run needs, already built; the journal is told of each step and writes what is due."""

    recipe: Recipe
    accelerator: Accelerator
    strategy: Strategy
    reference: UnifiedPolicy | None
    rubrics: Mapping[Task, Rubric]
    batches: Batches
    optimizer: Optimizer
    journal: Journal
    num_steps: int
    skipped: int = 0

    def __post_init__(self) -> None:
        self.seconds: Metrics = {}
        self.updater = Updater(
            recipe=self.recipe,
            accelerator=self.accelerator,
            strategy=self.strategy,
            optimizer=self.optimizer,
            num_steps=self.num_steps,
            skipped=self.skipped,
        )

    def fit(self, start: int = 0) -> None:
        """Train from optimiser step `start` to the end; raises what stopped it, with the state saved."""
        self.strategy.learner.eval()
        self.journal.begin(start)
        for step in range(start, self.num_steps):
            torch.manual_seed(hash((self.recipe.seed, step, self.accelerator.process_index)))  # dropout of adapters
            tasks = turn(self.recipe.train, step, self.batches.per_epoch)
            if self.recipe.train.method == "rl":
                batch, found = self.reinforce(step, tasks, since=step - start)
            else:
                batch, found = self.imitate(self.batches[step], tasks), {}
            with self.timed("update"):
                found |= self.updater.update(batch, step)
            found |= measured.finish(
                gather_object([measured.summarise(batch, self.recipe, self.seconds, self._deviation)])
            )
            found |= {f"time/{phase}": value for phase, value in self.seconds.items()}
            self.journal.step(step + 1, found, batch, skipped=self.updater.skipped)

    def reinforce(self, step: int, tasks: Sequence[Task], *, since: int) -> tuple[dict[Task, Experience], Metrics]:
        """What the policy did for the triplets of a step, and what it was worth."""
        samplings = {task: self.recipe.sampling.of(task) for task in tasks}
        roll = partial(self.roll, samplings=samplings, key=f"train|{self.recipe.seed}|{step}")
        self.seconds = {}
        rollouts, rewards = roll(self.batches[step])
        if since <= 1:  # once more after an update: a sampler with stale weights shows only then
            for rollout in rollouts.values():
                identity = check_identity(self.score, rollout, self.recipe.model.dtype, self._score_alone)
                self.journal.identity(step + 1, identity, aloud=since == 0)
        replaced = 0
        if self.recipe.algo.dynamic_sampling:
            rollouts, rewards, replaced = resample(rollouts, rewards, self.recipe.algo, self.batches, step, roll)
        with self.timed("reference"):
            batch = self.experience(rollouts, rewards)
        return batch, {
            "replaced": self.updater.total([float(replaced)])[0]
        } if self.recipe.algo.dynamic_sampling else {}

    def roll(self, triplets: Sequence[Triplet], *, samplings: Mapping[Task, Sampling], key: str) -> Rolled:
        """Completions and their rewards; drawings come first, so that some are scored while answers are written."""
        actor = self.strategy.actor
        rollouts: dict[Task, Rollout] = {}
        pending = {}
        with ExitStack() as begun:
            for task in sorted(samplings, key=TASKS.index):
                with self.timed("rollout"):
                    rollouts |= generate(actor, triplets, {task: samplings[task]}, key=key)
                pending[task] = begun.enter_context(self.rubrics[task].begin(rollouts[task]))
            with self.timed("reward"):
                rewards = {task: self.rubrics[task].finish(pending[task], actor) for task in samplings}
        return {task: rollouts[task] for task in samplings}, rewards

    def experience(
        self, rollouts: Mapping[Task, Rollout], rewards: Mapping[Task, RewardResult]
    ) -> dict[Task, Experience]:
        """Advantages by the recipe's credit, and the log-probs to compare with."""
        algo = self.recipe.algo
        advantages = credit(rewards, algo, self.recipe.sampling.group_size, self._deviation)
        batch = {}
        for task, rollout in rollouts.items():
            values, rows = advantages[task]
            if self.updater.total([float(rows.sum())]) == [0.0]:
                raise _nothing_scored(rewards)
            if algo.mask_truncated:
                values, rows = leave_out(values, rows, rollout.truncated.cpu())
            batch[task] = Experience(
                rollout=rollout,
                rewards=rewards[task],
                advantages=values,
                rows=rows,
                old_logps=self.score(rollout) if algo.num_iterations > 1 else None,
                ref_logps=self.score(rollout, self.reference) if self.reference and algo.beta > 0 else None,
            )
        return batch

    def imitate(self, triplets: Sequence[Triplet], tasks: Sequence[Task]) -> dict[Task, Experience]:
        """The triplets' own images and solutions, to be made more likely."""
        self.seconds = {}
        batch = {}
        with self.timed("encode"):
            for task in tasks:
                rollout = self.strategy.actor.encode(task, triplets, targets(task, triplets))
                ones = torch.ones(len(rollout))
                batch[task] = Experience(
                    rollout=rollout, rewards=None, advantages=ones, rows=ones.bool(), old_logps=None, ref_logps=None
                )
        return batch

    @torch.no_grad()
    def score(self, rollout: Rollout, scorer: nn.Module | None = None) -> Tensor:
        """Log-probs [N, L] by the learner's own forward pass, or by another policy's, a micro-batch at a time."""
        scorer = scorer or self.strategy.learner
        return torch.cat([scorer(rollout.select(chosen)).logps for chosen in self.updater.chunks(rollout)])

    def _score_alone(self, rollout: Rollout) -> Tensor:
        return self.score(rollout, self.strategy.actor)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds spent inside, a GPU's included, to one phase of the step."""
        begun = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()  # not for rewards that go on meanwhile
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - begun

    def _deviation(self, rewards: Tensor) -> float:
        """Standard deviation of the rewards of all processes."""
        parts = gather_object([measured.Summary.of(rewards)])
        whole = sum(parts[1:], parts[0])
        return whole.deviation if whole.count > 1 else 0.0


def _nothing_scored(rewards: Mapping[Task, RewardResult]) -> CorlError:
    """The error of a step whose every row is masked, with the first reasons that the rewards gave."""
    reasons = []
    for task, result in rewards.items():
        for name in result.terms:
            missing = (~torch.isfinite(result.parts[name])).nonzero().flatten().tolist()
            if missing:
                why = f": {result.notes[name][missing[0]]}" if name in result.notes else ""
                reasons.append(f"{task} {name} failed for {len(missing)} of {len(result.total)}{why}")
    return CorlError(f"No sample of this step has a reward. {'; '.join(reasons)}", "Mend the rewards above.")
