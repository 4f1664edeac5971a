"""Learning rate and tasks as functions of the step, so that a resumed run needs no state of a scheduler."""

import math

from corl_cli.core.recipe import Optim, Train
from corl_cli.core.types import Task


def learning_rate(optim: Optim, step: int, num_steps: int) -> float:
    """Rate of optimiser step `step` (from 0): linear warm-up over `warmup_steps`, then the schedule down to 0."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    done = (step - optim.warmup_steps) / max(1, num_steps - optim.warmup_steps)
    match optim.schedule:
        case "linear":
            return optim.lr * (1 - done)
        case "cosine":
            return optim.lr * (1 + math.cos(math.pi * done)) / 2
        case _:
            return optim.lr


def turn(train: Train, step: int, per_epoch: int) -> list[Task]:
    """The tasks of optimiser step `step` (from 0): all of them, or the one whose turn it is."""
    if train.cycle is None:
        return train.tasks
    length = train.cycle.every * (per_epoch if train.cycle.unit == "epochs" else 1)
    return [train.tasks[step // length % len(train.tasks)]]
