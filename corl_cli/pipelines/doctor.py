"""Whether this machine has what corl can make use of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from corl_cli.core import evaluation
from corl_cli.core.requirements import Requirement
from corl_cli.eval import BENCHMARKS, bind
from corl_cli.eval.base import Setting
from corl_cli.pipelines import installed
from corl_cli.pipelines.catalogue import entries
from corl_cli.pipelines.installed import Need

ANY = evaluation.Judge(model="key")  # whichever it is, it needs one: the variable's default is looked at


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at, its state, and what it is for."""

    group: str
    name: str
    state: Literal["ok", "download", "missing", "broken"]
    detail: str
    remedy: str
    purpose: str

    @property
    def met(self) -> bool:
        """Whether work that needs it can begin."""
        return self.state in ("ok", "download")


def diagnose() -> list[Finding]:
    """The machine and the libraries, then everything that any reward or benchmark may need, each thing once."""
    return gather(
        {
            "This machine": installed.machine(),
            "Libraries": installed.libraries(),
            "Rewards": _rewards(),
            "Benchmarks": _benchmarks(),
        }
    )


def gather(groups: dict[str, Iterable[Need]]) -> list[Finding]:
    """One finding for each thing, in the group that it is first met in, with all that it is for."""
    found: dict[Requirement, str] = {}
    purposes: dict[Requirement, dict[str, None]] = {}
    for group, needs in groups.items():
        for requirement, purpose in needs:
            found.setdefault(requirement, group)
            purposes.setdefault(requirement, {})[purpose] = None
    return [
        Finding(
            group=group,
            name=requirement.name,
            state=requirement.state,
            detail=requirement.detail,
            remedy=requirement.remedy,
            purpose=", ".join(purposes[requirement]),
        )
        for requirement, group in found.items()
    ]


def _rewards() -> Iterator[Need]:
    for entry in entries():
        for choice in entry.choices:
            yield from ((need, f"{entry.name} ({choice.option}: {choice.value})") for need in choice.requirements)
        yield from ((need, entry.name) for need in entry.requirements)


def _benchmarks() -> Iterator[Need]:
    for name in BENCHMARKS:
        benchmark = bind(name, {}, Setting(judge=ANY))
        yield from ((need, name) for need in (*benchmark.requirements(), *benchmark.scorers()))
