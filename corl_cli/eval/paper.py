"""What the paper reports of these benchmarks, to stand beside a result: Table values of arXiv 2505.17534."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SOURCE = "arXiv 2505.17534"
BASELINE, TRAINED = "Janus-Pro-1B", "ULM-R1"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model on one benchmark, on the scale on which the benchmark is told; `groups` are the parts that are known.

    Groups carry GenEval's own names of its tags.
    """

    model: str
    overall: float
    groups: Mapping[str, float] = field(default_factory=dict)
    source: str = SOURCE


# Benchmark: (Janus-Pro-1B, ULM-R1), the model before and after the paper's training.
OVERALL: dict[str, tuple[float, float]] = {
    "geneval": (0.73, 0.77),
    "wise": (0.26, 0.33),
    "dpg": (82.63, 83.92),
    "mmmu": (36.3, 42.3),
    "mmstar": (43.1, 47.6),
    "wemath": (5.9, 21.1),
    "mmvet": (39.8, 43.9),
    "pope": (86.2, 88.9),
    "logicvista": (23.9, 34.5),
    "mathvista": (37.3, 42.5),
    "mathverse": (13.5, 25.4),
    "mathvision": (13.4, 22.0),
}
GROUPS: dict[str, dict[str, tuple[float, float]]] = {
    "geneval": {
        "two_object": (0.82, 0.85),
        "counting": (0.51, 0.71),
        "position": (0.65, 0.68),
        "color_attr": (0.56, 0.80),
    },
}


def rows(benchmark: str) -> list[Row]:
    """The model that the paper starts from and the one that it trains; none for a benchmark that it does not report."""
    if benchmark not in OVERALL:
        return []
    return [
        Row(
            model=model,
            overall=OVERALL[benchmark][place],
            groups={name: pair[place] for name, pair in GROUPS.get(benchmark, {}).items()},
        )
        for place, model in enumerate((BASELINE, TRAINED))
    ]
