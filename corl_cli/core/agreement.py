"""Whether the sections of a recipe go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corl_cli.core.types import TASKS

if TYPE_CHECKING:
    from corl_cli.core.recipe import Recipe


def disagreements(recipe: Recipe) -> list[str]:
    """Faults between the sections of a recipe, one line each."""
    return [*_tasks(recipe), *_objective(recipe), *_best(recipe)]


def _tasks(recipe: Recipe) -> list[str]:
    train = recipe.train
    faults = [
        f"rewards.{task}: no reward for a task of train.tasks; give one, or leave the task out of train.tasks"
        for task in train.tasks
        if train.method == "rl" and not getattr(recipe.rewards, task)
    ]
    if train.cycle and len(train.tasks) < len(TASKS):
        faults.append("train.cycle: there are no turns with one task in train.tasks")
    together = len(train.tasks) == len(TASKS) and train.method == "rl" and not train.cycle
    if recipe.algo.credit != "per_task" and not together:
        faults.append(
            f"algo.credit: {recipe.algo.credit} needs both tasks in every step, to be rewarded in pairs; use per_task"
        )
    return faults


def _objective(recipe: Recipe) -> list[str]:
    algo, lora = recipe.algo, recipe.model.lora
    idle = {
        "beta": algo.beta > 0,
        "dynamic_sampling": algo.dynamic_sampling > 0,
        "num_iterations": algo.num_iterations > 1,
    }
    faults = []
    if recipe.train.method == "sft":
        faults = [f"algo.{name}: imitation (train.method sft) does not use it" for name, said in idle.items() if said]
    elif lora and lora.dropout and (algo.beta > 0 or algo.num_iterations > 1):
        faults.append(
            "model.lora.dropout: log-probs are compared (algo.beta, algo.num_iterations), and dropout would make them "
            "differ by chance; use 0"
        )
    return faults


def _best(recipe: Recipe) -> list[str]:
    if not recipe.checkpoint.best or recipe.compared():
        return []
    probes = recipe.eval.probes
    known = ", ".join(name for task in TASKS if probes for name in probes.readings(task)) or "nothing"
    return [f"checkpoint.best: {recipe.checkpoint.best} cannot be told; eval.probes.rewards read {known}"]
