"""Everything that a recipe needs from a network, brought here before a run on machines that have none.

What is needed is said by what loads it: requirements of the policy, the data, the rewards and the benchmarks carry it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from huggingface_hub import constants

from corl_cli.core.errors import CorlError
from corl_cli.core.progress import Progress
from corl_cli.core.recipe import Recipe
from corl_cli.core.requirements import Requirement, Wanted
from corl_cli.pipelines import build
from corl_cli.pipelines.catalogue import requirements
from corl_cli.rewards import bind

__all__ = ["Fetched", "Wanted", "fetch", "lacking", "wanted"]


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

    What lies here whole is not touched. Downloads of the hub go on where they stopped.
    """
    for one in wanted:
        found = _fetch(one)
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


def _fetch(one: Wanted) -> Fetched:
    try:
        if path := one.here():
            return _lies(one, "here", path)
        if constants.HF_HUB_OFFLINE:
            return Fetched(one, "failed", "it is not here, and HF_HUB_OFFLINE is set", 0, None)
        path = one.get()
        if one.here() is None:
            raise CorlError(f"{path} is there and cannot be used: see corl doctor.")
        return _lies(one, "fetched", path)
    except Exception as error:  # the network's, the disk's and the libraries': each has classes of its own
        told = error.message if isinstance(error, CorlError) else str(error) or type(error).__name__
        hint = getattr(error, "hint", None)
        lines = [told.strip().splitlines()[0], *([hint] if hint else [])]
        return Fetched(one, "failed", " ".join(lines), 0, None)


def _lies(one: Wanted, state: Literal["here", "fetched"], path: Path) -> Fetched:
    files = path.rglob("*") if path.is_dir() else [path]
    return Fetched(one, state, str(path), sum(file.stat().st_size for file in files if file.is_file()), path)
