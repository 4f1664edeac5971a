"""What of its bounds each phase of a step reaches: measured by `corl bench`, or assumed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corl_cli.core.errors import UsageError
from corl_cli.core.types import Task
from corl_cli.pipelines import gpus
from corl_cli.pipelines.machine import Machine

# What of its bound, by bandwidth or arithmetic, a phase reaches where no bench says it: assumed, not measured.
ASSUMED = {"rollout": 0.5, "update": 0.4, "optimiser": 0.5}
MEASURED = ("rollout", "update")  # that benches tell of


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Shares of the bounds by phase or by phase and task, and where they are from.

    `machine` is the one whose rates they are shares of, and `device` its kind; None where nothing was measured.
    """

    shares: Mapping[str, float]
    source: str
    machine: Machine | None = None
    device: str | None = None

    def of(self, phase: str, task: Task | None = None) -> float:
        """That of one task, else of the phase, else the assumed one."""
        return self.shares.get(f"{phase} {task}", self.shares.get(phase, ASSUMED[phase]))

    @classmethod
    def read(cls, files: Sequence[Path]) -> Efficiency:
        """From reports of corl bench rollout, update or step --json; UsageError for others or several machines."""
        found: dict[str, list[float]] = {}
        machines: list[Machine] = []
        devices, told = set(), []
        for file in files:
            try:
                report = json.loads(file.read_text(encoding="utf-8"))
                machines.append(Machine(**report["machine"]))
                devices.add(str(report["device"]))
                told.append(f"with {report['model']} on {machines[-1].name} ({file.name})")
                for row in report["rows"]:
                    for phase, share in _shares(report["command"], row):
                        found.setdefault(phase, []).append(share)
            except (OSError, ValueError, LookupError, TypeError) as error:
                raise UsageError(
                    f"{file} is no report of a bench: {error}.", "Make one: corl bench step --json > step.json"
                ) from error
        if not files:
            return cls(shares={}, source="assumed, not measured (--bench takes what corl bench step --json prints)")
        names = sorted({machine.name for machine in machines})
        if len(names) > 1:
            raise UsageError(
                f"--bench: these reports are of several machines: {', '.join(names)}.", "Give those of one machine."
            )
        lacking = [phase for phase in ASSUMED if not any(name.startswith(phase) for name in found)]
        assumed = f"; that of {' and '.join(lacking)} assumed, not measured" if lacking else ""
        return cls(
            shares={name: statistics.median(shares) for name, shares in found.items()},
            source=f"measured {', '.join(told)}{assumed}",
            machine=machines[0],
            device=devices.pop(),
        )

    def check(self, gpu: str | None, rates: Sequence[str]) -> None:
        """UsageError when the GPU that is asked for, or rates that are given, are not those that were measured."""
        if self.machine is None:
            return
        if gpu and (self.device == "cpu" or not gpus.is_named(self.machine.name, gpu)):
            kind = "the CPU " if self.device == "cpu" else ""
            raise UsageError(
                f"--bench: measured on {kind}{self.machine.name}, which says nothing of --gpu {gpu}.",
                f"Leave out --gpu to plan for that machine, or run corl bench step --json on the {gpu}.",
            )
        if rates:
            raise UsageError(
                f"--bench: its shares are of the rates that it measured, not of {' and '.join(rates)} as given.",
                "Leave out one of the two.",
            )


def _shares(command: str, row: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The phases that a row tells of, and the larger of the two shares: that of the bound that held."""
    if command == "step":
        return [(phase, max(row[f"{phase}_bandwidth_share"], row[f"{phase}_arithmetic_share"])) for phase in MEASURED]
    if command not in MEASURED:
        raise ValueError(f"corl bench {command} tells of no shares")
    return [(f"{command} {row['task']}", max(row["bandwidth_share"], row["arithmetic_share"]))]
