"""Everything that a recipe needs from a network, brought here before a run on machines that have none.

What is needed is said by what loads it: requirements of the policy, the data, the rewards and the benchmarks carry it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from huggingface_hub import constants
from huggingface_hub.utils import get_session

from corl_cli.core.errors import CorlError
from corl_cli.core.progress import Progress
from corl_cli.core.recipe import Recipe
from corl_cli.core.requirements import Requirement, Wanted
from corl_cli.pipelines import build
from corl_cli.pipelines.catalogue import requirements
from corl_cli.rewards import bind

__all__ = ["Fetched", "Wanted", "fetch", "lacking", "unreachable", "wanted"]

SECONDS = 10  # for the hub's first answer


@dataclass(frozen=True)
class Fetched:
    """What became of one wanted thing; `detail` is one line, why where it `failed`, else where it lies.

    `nbytes` is what it takes on the disk, and `path` its folder or file; 0 and None where it is not there.
    """

    wanted: Wanted
    state: Literal["here", "fetched", "failed"]
    detail: str
    nbytes: int
    path: Path | None


def wanted(recipe: Recipe) -> list[Wanted]:
    """What a recipe needs from the network, here already or not, each thing once with all that it is for.

    UsageError for a name in the recipe that nothing is bound to. A class of the user's that names nothing needs none.
    """
    found: dict[tuple[str, str, str], Wanted] = {}
    for one in (need.wanted for need in _needs(recipe) if need.wanted):
        key = (one.kind, one.name, one.revision)
        known = found.get(key, one)
        purposes = dict.fromkeys([*known.why.split(", "), one.why])
        found[key] = replace(known, why=", ".join(purposes))
    return list(found.values())


def lacking(recipe: Recipe) -> list[Requirement]:
    """What a recipe lacks here and no download brings: packages, Java, a judge, files that are put by hand."""
    return list(dict.fromkeys(need for need in _needs(recipe) if not need.met and need.wanted is None))


def fetch(wanted: Sequence[Wanted], shown: Progress) -> Iterator[Fetched]:
    """Bring each thing to where it is looked for; one that fails does not keep the others.

    What lies here whole is not touched, downloads of the hub go on where they stopped. A failure is told in one line.
    """
    asked = cache(unreachable)  # asked at most once: libraries would try each thing for half a minute
    for one in wanted:
        found = _fetch(one, asked)
        shown.advance(1, one.name)
        yield found


def _needs(recipe: Recipe) -> list[Requirement]:
    found = [*_policy(recipe), *_data(recipe)]
    for task, spec in build.specs(recipe):
        found += requirements(bind(spec, task))
    return found + _benchmarks(recipe)


def _policy(recipe: Recipe) -> list[Requirement]:
    from corl_cli.models import lora
    from corl_cli.pipelines.evaluated import Checkpoint

    path = build.locate(recipe.model.checkpoint)
    base = lora.base_of(path) if Path(path).expanduser().is_dir() else path
    return Checkpoint(base, base, None).requirements()


def _data(recipe: Recipe) -> list[Requirement]:
    from corl_cli.data import triplets

    return triplets.requirements(recipe.data)


def _benchmarks(recipe: Recipe) -> list[Requirement]:
    """What the recipe's benchmarks ask for and are scored with; data that scoring reads too stand twice."""
    from corl_cli import eval as benchmarks
    from corl_cli.eval.base import Setting

    setting = Setting(judge=recipe.eval.judge)
    bound = [benchmarks.bind(name, options, setting) for name, options in recipe.eval.benchmarks.items()]
    return [need for benchmark in bound for need in (*benchmark.requirements(), *benchmark.scorers())]


def _fetch(one: Wanted, unreachable: Callable[[], str]) -> Fetched:
    try:
        if path := one.here():
            return _lies(one, "here", path)
        if constants.HF_HUB_OFFLINE:
            return _failed(one, "it is not here, and HF_HUB_OFFLINE is set")
        if one.kind != "file" and (why := unreachable()):
            return _failed(one, why)
        path = one.get()
        return _lies(one, "fetched", path) if one.here() else _failed(one, f"{path} is damaged: see corl doctor")
    except CorlError as error:
        return _failed(one, error.message, error.hint)
    except Exception as error:  # the disk's, and those of a user's own class
        return _failed(one, str(error).strip() or type(error).__name__)


def _failed(one: Wanted, why: str, hint: str | None = None) -> Fetched:
    said = [text.splitlines()[0].rstrip(".") + "." for text in (why, hint) if text]
    return Fetched(one, "failed", " ".join(said), 0, None)


def unreachable(seconds: float = SECONDS) -> str:
    """Why the hub cannot be reached; empty where it answers, whatever it says."""
    try:
        get_session().head(constants.ENDPOINT, timeout=seconds)
    except Exception as error:  # of the library under huggingface_hub, which is not the same in all its versions
        return f"{constants.ENDPOINT} cannot be reached: {str(error) or type(error).__name__}"
    return ""


def _lies(one: Wanted, state: Literal["here", "fetched"], path: Path) -> Fetched:
    files = path.rglob("*") if path.is_dir() else [path]
    return Fetched(one, state, str(path), sum(file.stat().st_size for file in files if file.is_file()), path)
