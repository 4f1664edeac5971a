"""Whether one command can run on this machine: by the checks that it makes itself before it starts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from corl_cli.core import kinds
from corl_cli.core.errors import CorlError
from corl_cli.core.kinds import KINDS
from corl_cli.core.loader import examine, load, refuse
from corl_cli.core.recipe import Model, Recipe
from corl_cli.core.requirements import Requirement
from corl_cli.core.types import TASKS
from corl_cli.data import triplets
from corl_cli.eval import resolve
from corl_cli.models import lora
from corl_cli.pipelines import build, checks, estimate, installed, plan
from corl_cli.pipelines.catalogue import requirements
from corl_cli.pipelines.doctor import Finding, gather
from corl_cli.pipelines.evaluated import Checkpoint, draft
from corl_cli.pipelines.installed import Need
from corl_cli.pipelines.machine import GIB, memory, this_device
from corl_cli.pipelines.score import Panel
from corl_cli.rewards import bind

What = Literal["train", "eval", "reward"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One command: what it does, and of its options those that decide what it needs.

    `name` is a recipe for train, a benchmark for eval (without, all of the recipe's), and a reward for reward (a name
    or a YAML mapping; without, all of the recipe's).
    """

    what: What
    name: str | None = None
    recipe: str | None = None
    overrides: Sequence[str] = ()
    checkpoint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A command as it is typed, and what it needs; the hub was asked where something has to come from there."""

    command: str
    findings: list[Finding]

    @property
    def runs(self) -> bool:
        """Whether it can begin."""
        return all(finding.met for finding in self.findings)


def ready(asked: Asked) -> Verdict:
    """What a command needs, and what of it is not here; UsageError where it names something that does not exist."""
    command, needs = {"train": _training, "eval": _evaluation, "reward": _reward}[asked.what](asked)
    told = " ".join(["corl", *command, *_options(*(("--set", change) for change in asked.overrides))])
    return Verdict(command=told, findings=gather({told: [*installed.basis(), *_fetched(needs)]}))


def _training(asked: Asked) -> tuple[list[str], list[Need]]:
    source = asked.name or asked.recipe or KINDS[0].recipe
    start = [] if asked.checkpoint is None else [f"model.checkpoint={json.dumps(asked.checkpoint)}"]
    found = examine(source, [*asked.overrides, *start])
    if found.faults:
        raise refuse(found.source, found.faults)
    recipe = found.recipe
    kind = kinds.kind_of(recipe) or KINDS[0]
    own = None if source == kind.recipe else source
    command = ["train", kind.command, *_options(("--recipe", own), ("--from", asked.checkpoint))]
    weights, data = _start(recipe), _data(recipe, source)
    needs = [installed.torchvision(), *weights, *data]
    for task, spec in build.specs(recipe):
        needs += [(need, f"rewards.{task}.{spec.name}") for need in requirements(bind(spec, task))]
    absent: list[tuple[int | str, ...]] = []  # what is not here is not read
    absent += [] if _here(weights) else [("model", "checkpoint")]
    absent += [] if _here(data) else [("data", "path")]
    try:
        checks.check(replace(found, dropped=absent), KINDS)
    except CorlError as error:
        return command, [*needs, *_faults(error, needs)]
    return command, needs if absent else [*needs, (_memory(recipe), "weights, optimiser and samples")]


def _evaluation(asked: Asked) -> tuple[list[str], list[Need]]:
    if asked.name:
        resolve(asked.name)
    found, checkpoint = draft(asked.recipe, asked.overrides, asked.checkpoint, None, generating=True)
    if found.faults:
        raise refuse(found.source, found.faults)
    options = _options(("--recipe", asked.recipe), ("--checkpoint", asked.checkpoint))
    command = ["eval", asked.name or "suite", *options]
    vision = installed.torchvision()
    try:
        from corl_cli.pipelines import evaluate, orders  # their imports need a torchvision that fits, or none

        wanted = orders.Asked(recipe=asked.recipe, overrides=asked.overrides, checkpoint=asked.checkpoint)
        taken = orders.take(wanted, [asked.name] if asked.name else None)
    except CorlError as error:
        return command, [vision, *_faults(error, [vision])]
    there = [] if checkpoint.requirements() else [(_weights(checkpoint), "what is evaluated")]
    needs = [(need, order.benchmark.name) for order in taken for need in evaluate.needs(order)]
    return command, [vision, *there, *needs]


def _reward(asked: Asked) -> tuple[list[str], list[Need]]:
    recipe = load(asked.recipe or KINDS[0].recipe, asked.overrides)
    own = [spec.name for task in TASKS for spec in getattr(recipe.rewards, task)]
    names = own if asked.name is None else [asked.name]
    panel = Panel(recipe, names, asked.checkpoint)
    needs = [(need, name) for name, reward in panel.rewards.items() for need in requirements(reward)]
    if panel.policy_name:
        needs += _policy(panel.model)
    if needs:  # models are read
        needs.insert(0, installed.torchvision())
    options = _options(
        *(("--reward", name) for name in names), ("--recipe", asked.recipe), ("--checkpoint", asked.checkpoint)
    )
    return ["reward", "score", *options], needs


def _options(*given: tuple[str, str | None]) -> list[str]:
    """Options as they are typed; those without a value are left out."""
    return [f"{name} {shlex.quote(value)}" for name, value in given if value is not None]


def _start(recipe: Recipe) -> list[Need]:
    """The weights that a hub id names; of a folder, which the checks look into, those that its adapters stand on."""
    try:
        path = build.locate(recipe.model.checkpoint)
        base = lora.base_of(path) if Path(path).expanduser().is_dir() else path
    except CorlError:  # the checks say so
        return []
    return [(need, "what training starts from") for need in Checkpoint(base, base, None).requirements()]


def _data(recipe: Recipe, source: str) -> list[Need]:
    wanted = [(recipe.data, "triplets to train on")]
    if probes := recipe.eval.probes:
        wanted.append((recipe.data.model_copy(update={"split": probes.split}), "held-out triplets"))
    remedy = f"Where there is a network: HF_HUB_OFFLINE=0 corl convert --fetch-only --recipe {shlex.quote(source)}"
    return [
        (replace(need, remedy="" if need.met else remedy), purpose)
        for data, purpose in wanted
        for need in triplets.requirements(data)
    ]


def _policy(model: Model) -> list[Need]:
    """The policy that rewards read; a torchvision that stands in its way is told of apart."""
    try:
        build.policy_class(model.family)
        from corl_cli.models import fitness  # after the look at torchvision, which its import needs

        checkpoint = Checkpoint.find(model.checkpoint)
        if Path(checkpoint.path).expanduser().is_dir():
            fitness.check(checkpoint.path)
    except CorlError as error:
        return list(_faults(error, [installed.torchvision()]))
    return [(need, "the policy that rewards read") for need in checkpoint.requirements() or [_weights(checkpoint)]]


def _weights(checkpoint: Checkpoint) -> Requirement:
    """Weights in a folder, which was looked into."""
    return Requirement(name="the policy's weights", state="ok", detail=checkpoint.name)


def _memory(recipe: Recipe) -> Requirement:
    """Whether the estimate fits into this device, as a training finds out when it begins."""
    try:
        plan.check_memory(recipe)
        size = plan.sized(recipe).train.micro_batch_size or 1
    except CorlError as error:
        return Requirement(name="memory", state="missing", detail=error.message, remedy=error.hint or "")
    needed, device = estimate.peak(recipe, 1, size).total, this_device()
    what = "the GPU's" if device.type == "cuda" else "this machine's"
    detail = f"{needed / GIB:.2f} of {what} {memory(device) / GIB:.0f} GiB, as estimated"
    return Requirement(name="memory", state="ok", detail=detail)


def _here(needs: Sequence[Need]) -> bool:
    return all(need.state == "ok" for need, _ in needs)


def _faults(error: CorlError, known: Sequence[Need]) -> Iterator[Need]:
    """What a check has said beyond the needs that are known, in one finding."""
    told = [f"needs {need.name} ({need.state}): " for need, _ in known]
    details = {need.detail for need, _ in known}
    lines = [line for line in error.message.splitlines() if not any(words in line for words in told)]
    if lines := [line for line in lines if line not in details]:
        remedies = {need.remedy for need, _ in known}
        remedy = " ".join(line for line in (error.hint or "").splitlines() if line not in remedies)
        yield Requirement(name="the recipe", state="broken", detail=" ".join(lines), remedy=remedy), "this command"


def _fetched(needs: Sequence[Need]) -> Iterator[Need]:
    """The needs, the hub first where one of them has to come from there; what it does not give is missing."""
    hub = None
    if any(_of_hub(need) for need, _ in needs):
        hub = installed.hub()
        yield hub, "what is downloaded"
    for need, purpose in needs:
        why = installed.refused(need.wanted) if hub and hub.met and need.wanted and _of_hub(need) else None
        yield (replace(need, state="missing", detail=why[0], remedy=why[1]) if why else need), purpose


def _of_hub(need: Requirement) -> bool:
    return need.state == "download" and need.wanted is not None and need.wanted.kind != "file"
