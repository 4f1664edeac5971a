"""A page about results of evaluations: numbers beside the paper's, drawings and answers with why they scored so."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corl_cli.core import pages
from corl_cli.eval import compare, paper
from corl_cli.eval.store import Store
from corl_cli.pipelines.eval_samples import Samples, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
PICTURES = 192  # of a page, shared by its results; a few MB
BARS = 40  # groups of a plot, at most
WIDTH = 300  # characters of a fact; manifest.json has it whole
DIGEST = re.compile(r"\b[0-9a-f]{32,}\b")
STEPS = {"generate": "generated", "score": "scored"}


class Shown:
    """A result as it is shown: `label` tells its checkpoint from others on the page."""

    def __init__(self, store: Store, told: Mapping[str, Any], pictures: int) -> None:
        self.store = store
        self.told = told
        self.label: str = told["checkpoint"]["name"]
        self.groups: dict[str, dict[str, Any]] = {group["name"]: group for group in told["groups"]}
        self.samples = Samples(store, pictures)

    @property
    def protocol(self) -> str:
        """Equal for results that may stand side by side."""
        parts = ("benchmark", "variant", *compare.PROTOCOL, "limit", "items", "comparable")
        return json.dumps([*(self.told[part] for part in parts), sorted(self.groups)], sort_keys=True)

    @property
    def number(self) -> str:
        """The overall number with its standard error, and what failed."""
        return _number(self.told["overall"], self.told["stderr"], self.told["failed"], self.told["scale"])

    @property
    def facts(self) -> dict[str, str]:
        """Of this checkpoint alone."""
        told, cut = self.told, self.samples.cut
        return {
            "checkpoint": f"{told['checkpoint']['name']}, weights {short(str(told['checkpoint']['weights']), 80)}",
            "overall": f"{self.number}{', over fewer than all samples' if told['partial'] else ''}",
            "samples": f"{told['samples']:,}",
            **({"answers cut off": f"{cut:,}, by the limit on their length"} if cut else {}),
            **{STEPS.get(step, step): f"{rate:.3g} samples/s" for step, rate in self.store.rates().items()},
            "folder": str(self.store.folder),
        }


class Board:
    """The results of one benchmark under one protocol, side by side."""

    def __init__(self, results: Sequence[Shown]) -> None:
        self.results = results
        self.told = results[0].told
        self.title = f"{self.told['title']} {self.told['variant']}".strip()
        self.paper = paper.rows(self.told["benchmark"])

    @property
    def incomparable(self) -> str:
        """Why the paper's numbers, where it has any, may not stand beside these; empty where they may."""
        return _incomparable(self.told) if self.paper else ""

    @property
    def line(self) -> str:
        """Whose prompts and which scorer, in one line: what is named among their settings."""
        prompts = list(_words(self.told["prompts"]))
        scorer = [named for named in _words(self.told["scorer"]) if named not in prompts]
        return f"Prompts: {', '.join(prompts) or 'not named'}. Scorer: {', '.join(scorer) or 'not named'}."

    @property
    def facts(self) -> dict[str, str]:
        """The protocol, a line for each setting."""
        lines = {"measure": self.told["measure"], "items": _asked(self.told)}
        for part in compare.PROTOCOL:
            lines |= _flat(part, self.told[part])
        return lines

    @property
    def table(self) -> list[dict[str, str]]:
        """A line for the overall number, for each further one and for each group; a column for each model."""
        scale = self.told["scale"]
        lines = [self._line("overall", self.told["items"], [result.number for result in self.results])]
        for name in dict.fromkeys(name for result in self.results for name in result.told["metrics"]):
            values = [_number(result.told["metrics"].get(name), None, 0, scale) for result in self.results]
            lines.append(self._line(name, None, values))
        groups = self.results[0].groups
        for name, group in groups.items() if len(groups) > 1 else ():
            there = [result.groups[name] for result in self.results]
            values = [_number(each["mean"], each["stderr"], each["failed"], scale) for each in there]
            lines.append(self._line(name, group["items"], values))
        return lines

    def _line(self, name: str, items: int | None, values: Sequence[str]) -> dict[str, str]:
        ours = {result.label: value for result, value in zip(self.results, values, strict=True)}
        published = {}
        for row in self.paper:
            known = row.overall if name == "overall" else row.groups.get(name)
            published[f"{row.model} (paper)"] = "" if known is None else f"{known:{'.2f' if known < 1 else 'g'}}"
        return {"": name, "items": "" if items is None else f"{items:,}"} | ours | published

    @property
    def figures(self) -> list[Figure]:
        """Bars of the groups, where there are several and not too many."""
        return [_bars(self)] if 1 < len(self.results[0].groups) <= BARS else []


def write(folder: Path) -> Path:
    """Write DIR/report.html about every result in DIR and below it, and say where; CorlError when there is none."""
    found = boards(folder)
    shown = [result for board in found for result in board.results]
    alone = f"{found[0].title}: {shown[0].label}"
    pages.write(
        folder / PAGE,
        "eval.html",
        title=alone if len(shown) == 1 else f"Evaluations in {folder.resolve().name}",
        overview=_overview(found),
        boards=found,
        source=paper.SOURCE,
    )
    return folder / PAGE


def rows(folder: Path) -> list[dict[str, Any]]:
    """One line for each result in a folder and below it, with the paper's numbers and whether they may be compared."""
    table = []
    for told in (store.result() for store in compare.results(folder)):
        published = {row.model: row.overall for row in paper.rows(told["benchmark"])}
        why = _incomparable(told)
        table.append(
            {
                "benchmark": f"{told['title']} {told['variant']}".strip(),
                "checkpoint": told["checkpoint"]["name"],
                "overall": told["overall"],
                "comparable": (f"no: {why}" if why else "yes") if published else None,
                **{name: told[name] for name in ("stderr", "items", "failed")},
                **{model: published.get(model) for model in (paper.BASELINE, paper.TRAINED)},
            }
        )
    return table


def _asked(told: Mapping[str, Any]) -> str:
    """How many items were asked, and of how many where these are not all."""
    asked, of = told["items"], told["items_of"]
    return f"{asked:,}" if asked == of else f"{asked:,} of {of:,}"


def _incomparable(told: Mapping[str, Any]) -> str:
    """Why the paper's numbers may not stand beside a result; empty where they may."""
    reasons = {
        f"{_asked(told)} items only": told["items"] < told["items_of"],
        "other prompts or another scorer than the paper's": not told["comparable"],
    }
    return ", and ".join(reason for reason, holds in reasons.items() if holds)


def boards(folder: Path, pictures: int = PICTURES) -> list[Board]:
    """The results by protocol, in the order of their paths, with so many pictures at most among them.

    Two results of one checkpoint also carry their folders' names. CorlError when there is none.
    """
    stores = compare.results(folder)
    found: dict[str, list[Shown]] = {}
    for store in stores:
        result = Shown(store, store.result(), pictures // len(stores))
        found.setdefault(result.protocol, []).append(result)
    for results in found.values():
        names = [result.label for result in results]
        for result in results:
            if names.count(result.label) > 1:
                result.label = f"{result.label} ({result.store.folder.relative_to(folder)})"
    return [Board(results) for results in found.values()]


def _overview(boards: Sequence[Board]) -> list[dict[str, str]]:
    """A row for each benchmark and protocol, with a column for each checkpoint and for the paper's models.

    Whether these may be compared stands first, where the narrowest window shows it.
    """
    labels = list(dict.fromkeys(result.label for board in boards for result in board.results))
    models = [f"{model} (paper)" for model in (paper.BASELINE, paper.TRAINED) if any(board.paper for board in boards)]
    table = []
    for board in boards:
        known = board.table[0]
        comparable = {"comparable": ("no" if board.incomparable else "yes") if board.paper else ""} if models else {}
        cells = {name: known.get(name, "") for name in ("items", *labels, *models)}
        table.append({"": board.title} | comparable | cells)
    return table


def _number(value: float | None, error: float | None, failed: int, scale: float) -> str:
    """A number with its standard error and what failed, with the digits that make sense on its scale: 0.731, 73.1."""
    digits = max(1, 3 - round(math.log10(scale)))
    text = "–" if value is None else f"{value:.{digits}f}"
    if value is not None and error is not None:
        text += f" ± {error:.{digits}f}"
    return text + (f" ({failed} failed)" if failed else "")


def _flat(name: str, value: Any) -> dict[str, str]:
    """Settings by dotted name, without those that are not set."""
    if isinstance(value, Mapping):
        return {key: text for inner, each in value.items() for key, text in _flat(f"{name}.{inner}", each).items()}
    if value is None or value == "":
        return {}
    return {name.replace("_", " "): short(value if isinstance(value, str) else json.dumps(value), WIDTH)}


def _words(settings: Any) -> Iterator[str]:
    """The settings that are words, however deep, each after its name; digests are cut short."""
    for name, value in settings.items() if isinstance(settings, Mapping) else ():
        if isinstance(value, str) and value:
            text = short(DIGEST.sub(lambda digest: digest[0][:8], value), 80)
            yield text if name == "source" else f"{name.replace('_', ' ')} {text}"
        yield from _words(value)


def _bars(board: Board) -> Figure:
    """A bar for each group and checkpoint with its standard error; the paper's numbers as marks where comparable."""
    from matplotlib.figure import Figure

    names, count = list(board.results[0].groups), len(board.results)
    thick = 0.8 / count
    figure = Figure(figsize=(4.6, 1 + (0.16 + 0.14 * count) * len(names) + 0.18 * count), layout="constrained")
    axis = figure.subplots()
    for place, result in enumerate(board.results):
        groups = [result.groups[name] for name in names]
        axis.barh(
            [line - 0.4 + thick * (place + 0.5) for line in range(len(names))],
            [math.nan if group["mean"] is None else group["mean"] for group in groups],
            thick * 0.9,
            xerr=[group["stderr"] or 0.0 for group in groups],
            color=f"C{place}",
            error_kw={"linewidth": 1, "ecolor": "0.3"},
            label=result.label,
        )
    for row, face in zip([] if board.incomparable else board.paper, ("white", "0.2"), strict=False):
        known = {names.index(name): value for name, value in row.groups.items() if name in names}
        if known:
            axis.plot(
                list(known.values()),
                list(known),
                "D",
                color="0.2",
                markerfacecolor=face,
                markersize=6,
                label=f"{row.model} (paper)",
            )
    axis.set_yticks(range(len(names)), [short(name, 30) for name in names], fontsize=8)
    axis.set(xlim=(0, board.told["scale"]), ylim=(len(names) - 0.5, -0.5))
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if len(axis.get_legend_handles_labels()[1]) > 1:
        figure.legend(loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    return figure
