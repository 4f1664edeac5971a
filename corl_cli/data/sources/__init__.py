"""The names of sources of triplets, and what they are bound to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from corl_cli.core.errors import UsageError
from corl_cli.core.names import Kind, validate
from corl_cli.core.recipe import SourceSpec
from corl_cli.data.sources.base import Source

SOURCES: dict[str, str] = {
    "aokvqa": "corl_cli.data.sources.aokvqa:Aokvqa",
    "arxivqa": "corl_cli.data.sources.arxivqa:ArxivQa",
    "coco": "corl_cli.data.sources.coco:Coco",
    "geomverse": "corl_cli.data.sources.geomverse:GeomVerse",
    "m3cot": "corl_cli.data.sources.m3cot:M3Cot",
    "mavis": "corl_cli.data.sources.mavis:Mavis",
    "published": "corl_cli.data.sources.published:Published",
    "questions": "corl_cli.data.sources.questions:Questions",
    "rcot": "corl_cli.data.sources.rcot:RCot",
    "scienceqa": "corl_cli.data.sources.scienceqa:ScienceQa",
    "table": "corl_cli.data.sources.table:Table",
    "tabmwp": "corl_cli.data.sources.tabmwp:TabMwp",
    "world": "corl_cli.data.sources.world:World",
}


def resolve(name: str) -> type[Source]:
    """The class of a registered source, or of the user's own `my_pkg.module:Class`; UsageError when there is none."""
    return Kind("source", "corl_cli.data.sources.base:Source", SOURCES).resolve(name)


def bind(spec: SourceSpec, seed: int) -> Source:
    """The source that a recipe names, its options validated; UsageError with every fault at once. Reads no file."""
    cls = resolve(spec.name)
    return cls(validate(cls.Options, spec.options, f"prepare.sources.{spec.name}", spec.name), seed)


def bind_all(specs: Sequence[SourceSpec], seed: int) -> list[Source]:
    """The sources of a recipe; UsageError also when two of them would give the same ids to their items."""
    bound = [bind(spec, seed) for spec in specs]
    for (number, one), (another, other) in combinations(enumerate(bound, 1), 2):
        if _collide(one, other):
            has_option = any("label" in type(source).Options.model_fields for source in (one, other))
            raise UsageError(
                f"Sources {number} and {another} of prepare.sources are both labelled '{one.label}': "
                "their items would have the same ids.",
                "Give one another label, as in label: mine" if has_option else "Build them as two sets.",
            )
    return bound


def _collide(one: Source, other: Source) -> bool:
    """Whether two sources of one label are of different kinds, or count their items, or are the same."""
    if not one.label or one.label != other.label:
        return False
    return type(one) is not type(other) or one.numbered or one.options == other.options
