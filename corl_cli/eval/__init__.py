"""The names of benchmarks, and what they are bound to. Importing this costs no torch; resolving a name does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from corl_cli.core.errors import UsageError
from corl_cli.core.names import Kind, validate

if TYPE_CHECKING:
    from corl_cli.eval.base import Benchmark, Setting

BENCHMARKS: dict[str, str] = {
    "world": "corl_cli.eval.world:World",
    "geneval": "corl_cli.eval.geneval:GenEval",
    "wise": "corl_cli.eval.wise:Wise",
    "dpg": "corl_cli.eval.dpg:Dpg",
    "mmmu": "corl_cli.eval.understanding:Mmmu",
    "mmstar": "corl_cli.eval.understanding:MMStar",
    "wemath": "corl_cli.eval.understanding:WeMath",
    "mmvet": "corl_cli.eval.understanding:MMVet",
    "pope": "corl_cli.eval.understanding:Pope",
    "logicvista": "corl_cli.eval.understanding:LogicVista",
    "mathvista": "corl_cli.eval.understanding:MathVista",
    "mathverse": "corl_cli.eval.understanding:MathVerse",
    "mathvision": "corl_cli.eval.understanding:MathVision",
}


def resolve(name: str) -> type[Benchmark]:
    """The class of a registered benchmark, or the user's own `my_pkg.module:Class`; UsageError when there is none."""
    cls: type[Benchmark] = Kind(
        "benchmark", "corl_cli.eval.base:Benchmark", BENCHMARKS, attributes=("title", "tasks", "measure")
    ).resolve(name)
    return cls


def bind(name: str, options: Mapping[str, Any], setting: Setting) -> Benchmark:
    """The benchmark of this name, its options validated; UsageError with every fault at once."""
    cls = resolve(name)
    where = f"eval.benchmarks.{name}"
    checked = validate(cls.Options, options, where, name)
    try:
        return cls(name, checked, setting)
    except UsageError:
        raise
    except Exception as error:  # a user's class may raise anything
        raise UsageError(
            f"{where}: the benchmark cannot be made: {type(error).__name__}: {error}".rstrip(": ") + ".",
            "Mend its __init__; data and models belong into `items` and `load`.",
        ) from error
