"""What each of several processes does in test_distributed.py: steps of the real loop, saved for comparison.

`torchrun … processes.py OUT` writes OUT from process 0. With one process the same functions give what to compare with.
"""

from __future__ import annotations

import copy
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor, Shard

from corl_cli.core.recipe import Lora, Recipe
from corl_cli.core.run_dir import RunDir
from corl_cli.core.types import Rollout, Task
from corl_cli.data.batches import ShuffledBatches
from corl_cli.models import lora
from corl_cli.models.base import UnifiedPolicy
from corl_cli.models.janus import JanusPolicy
from corl_cli.rewards.base import Criterion, Options, Reward, Rubric, Scores
from corl_cli.trainer import metrics as measured
from corl_cli.trainer.distributed import Replicated, Strategy
from corl_cli.trainer.journal import Journal
from corl_cli.trainer.loop import Trainer
from corl_cli.trainer.sharded import Sharded
from corl_cli.world.items import WorldTriplets
from corl_cli.world.tiny import build_model, build_processor

RECIPE = Recipe.model_validate(
    {
        "name": "processes",
        "sampling": {"group_size": 4, "mm2t": {"max_new_tokens": 8}},
        "rewards": {"t2i": [{"name": "low"}], "mm2t": [{"name": "low"}]},
        "optim": {"lr": 1e-3, "schedule": "constant"},
        "train": {"batch_size": 4, "max_steps": 2, "micro_batch_size": 1},
    }
)


class Low(Reward):
    """Pays for small token ids, but has no score for the odd triplets of step 1: all those of process 1 of 2."""

    def __init__(self, task: Task, silent: Sequence[str]) -> None:
        super().__init__(Options())
        self.task = task  # type: ignore[misc]
        self.silent = silent

    def score(self, rollout: Rollout, policy: UnifiedPolicy) -> Scores:
        mask = rollout.completion_mask.float()
        values = ((rollout.completion_ids < 32).float() * mask).sum(1) / mask.sum(1)
        masked = torch.tensor([triplet.id in self.silent for triplet in rollout.triplets])
        return Scores(values=values.masked_fill(masked, math.nan))


class Quiet:
    def say(self, line: str) -> None: ...

    def step(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def readings(self, step: int, readings: object) -> None: ...


def make_policy() -> JanusPolicy:
    torch.manual_seed(0)
    processor = build_processor()
    policy = JanusPolicy(build_model(processor), processor)
    for parameter in policy.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    policy.learn(RECIPE.train.tasks)
    return policy.eval()


def make_trainer(strategy: Strategy) -> Trainer:
    accelerator = Accelerator(cpu=True)
    data = WorldTriplets("train", 64)
    silent = [triplet.id for triplet in ShuffledBatches(data, 4, 1, seed=0, process=1, processes=2)[1]]
    # eps: Adam would otherwise make whole steps of gradients that are rounding alone
    optimizer = torch.optim.AdamW(strategy.learner.parameters(), lr=RECIPE.optim.lr, eps=1e-3)
    journal = Journal(
        run=RunDir(Path(tempfile.mkdtemp())),
        recipe=RECIPE,
        accelerator=accelerator,
        strategy=strategy,
        optimizer=optimizer,
        probes=None,
        samples=[],
        display=Quiet(),
        num_steps=2,
    )
    tasks: list[Task] = ["t2i", "mm2t"]
    return Trainer(
        recipe=RECIPE,
        accelerator=accelerator,
        strategy=strategy,
        reference=None,
        rubrics={
            task: Rubric(task, [Criterion(name="low", weight=1.0, on_error="mask", reward=Low(task, silent))])
            for task in tasks
        },
        batches=ShuffledBatches(
            data, 4, 1, seed=0, process=accelerator.process_index, processes=accelerator.num_processes
        ),
        optimizer=optimizer,
        journal=journal,
        num_steps=2,
    )


def take_step(trainer: Trainer, step: int) -> dict[str, Any]:
    """One step of the loop: metrics, the gradients before clipping by name, each task's own norm and their cosine."""
    trainer.strategy.learner.eval()
    batch, found = trainer.reinforce(step, RECIPE.train.tasks, since=2)
    found |= trainer.updater.accumulate(batch, apart=True)
    found |= measured.finish(gather_object([measured.summarise(batch, RECIPE, {})]))
    found = {name: value for name, value in found.items() if not name.startswith(("time/", "memory/"))}
    gradients = {
        name: whole(parameter.grad)
        for name, parameter in trainer.strategy.learner.named_parameters()
        if parameter.grad is not None
    }
    norm = trainer.strategy.clip(0.01)
    clipped = trainer.strategy.dot(*2 * [[p.grad for p in trainer.strategy.policy.trainable()]])
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    trainer.strategy.refresh()
    return {"metrics": found, "gradients": gradients, "norm": norm, "clipped": math.sqrt(clipped)}


def two_steps(strategy: Strategy) -> dict[str, Any]:
    """Two steps and what `save` gives between and after them."""
    trainer = make_trainer(strategy)
    first = take_step(trainer, 0)
    between = copy.deepcopy(trainer.strategy.save(trainer.optimizer))  # whole weights are the living ones
    return {
        "steps": [first, take_step(trainer, 1)],
        "between": between,
        "after": trainer.strategy.save(trainer.optimizer),
    }


def resumed(strategy: type[Sharded] | type[Replicated], saved: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    """The second step of a run that another strategy began."""
    policy = make_policy()
    policy.model.load_state_dict(saved[0])
    trainer = make_trainer(Sharded(policy, torch.float32) if strategy is Sharded else Replicated(policy))
    trainer.strategy.restore(trainer.optimizer, saved[1])
    return {"step": take_step(trainer, 1), "after": trainer.strategy.save(trainer.optimizer)}


def adapted() -> dict[str, Any]:
    """Steps of sharded adapters towards a frozen start that stands on the same weights, whole in each process."""
    policy = make_policy()
    base = sum(parameter.numel() for parameter in policy.parameters())
    lora.attach(policy.model, Lora(rank=4, alpha=8), None)
    policy = JanusPolicy(policy.model, policy.processor)
    reference = lora.bare(policy)
    trainer = make_trainer(strategy := Sharded(policy, torch.float32))
    trainer.reference = reference
    rollout = answers(trainer)
    start, learner, actor = (trainer.score(rollout, scorer) for scorer in (reference, None, strategy.actor))
    take_step(trainer, 0)
    take_step(trainer, 1)
    under = {id(parameter) for parameter in strategy.learner.parameters()}
    return {
        "shared": all(id(parameter) in under for parameter in reference.parameters()),
        "whole": sum(parameter.numel() for parameter in reference.parameters()) == base,
        "equal": torch.equal(start, learner) and torch.equal(start, actor),
        "moved": not torch.equal(trainer.score(rollout), learner),
        "kept": torch.equal(trainer.score(rollout, reference), start),
    }


def answers(trainer: Trainer) -> Rollout:
    return trainer.strategy.actor.sample("mm2t", trainer.batches[0], RECIPE.sampling.of("mm2t"), key="x")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


def shards(strategy: Sharded) -> dict[str, Any]:
    """How the weights lie: what learns must be in shards, what does not is one tensor with the actor's."""
    learner, actor = dict(strategy.learner.named_parameters()), dict(strategy.actor.named_parameters())
    learning = [parameter for parameter in learner.values() if parameter.requires_grad]
    return {
        "sharded": all(isinstance(p, DTensor) and p.placements == (Shard(0),) for p in learning),
        "held": sum(p.to_local().numel() for p in learning),
        "whole": sum(p.numel() for p in learning),
        "shared": all(actor[name] is p for name, p in learner.items() if not p.requires_grad),
        "equal": all(torch.equal(whole(p), actor[name]) for name, p in learner.items()),
    }


def main(out: Path) -> None:
    Accelerator(cpu=True)
    found = {"replicated": two_steps(Replicated(make_policy()))}
    policy = make_policy()
    policy.checkpoint_layers()
    sharded = Sharded(policy, torch.float32)
    found |= {"sharded": two_steps(sharded), "shards": shards(sharded)}
    saved = [found["replicated"]["between"]]  # as all of them would read it from the disk
    dist.broadcast_object_list(saved)
    found["adapted"] = adapted()
    found["resumed"] = resumed(Sharded, saved[0])
    if dist.get_rank() == 0:
        torch.save(found, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
