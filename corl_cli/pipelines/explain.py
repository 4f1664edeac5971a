"""What a person needs to believe a score: facts, and pictures on a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from corl_cli.core import pages
from corl_cli.core.errors import CorlError
from corl_cli.core.pictures import Tile
from corl_cli.core.run_dir import writing
from corl_cli.pipelines.samples import Failure, Given
from corl_cli.pipelines.score import Panel, Row, Scored
from corl_cli.rewards.base import Criterion, Explanation

PAGE = "index.html"


@dataclass(frozen=True, kw_only=True)
class Explained:
    """One sample as it was given, what became of it, and an explanation from each reward that could look at it."""

    id: str
    given: dict[str, str]
    outcome: Scored | Failure
    explanations: dict[str, Explanation]


def explain(panel: Panel, samples: Iterable[Given | Failure]) -> Iterator[Explained]:
    """Each sample scored and explained, one at a time; the panel is loaded."""
    for sample in samples:
        (outcome,) = panel.score([sample])
        row = panel.open(sample)
        yield Explained(
            id=sample.id,
            given=dict(sample.values) if isinstance(sample, Given) else {},
            outcome=outcome,
            explanations={}
            if isinstance(row, Failure)
            else {
                criterion.name: _explanation(panel, criterion, row)
                for criterion in panel.criteria
                if criterion.reward.task in row.outputs
            },
        )


def write(folder: Path, panel: Panel, explained: Sequence[Explained]) -> Path:
    """Every picture as a PNG, and a page with all of it, what ran included; the page's path."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for number, sample in enumerate(explained, 1):
            for name, explanation in sample.explanations.items():
                for place, tile in enumerate(explanation.pictures, 1):
                    tile.image.save(folder / f"{number:04d}-{_plain(name)}-{place:02d}-{_plain(tile.text)}.png")
    page = folder / PAGE
    ran = {name: reward.options.model_dump_json() for name, reward in panel.rewards.items()}
    pages.write(page, "explain.html", ran={"policy": panel.policy_name or "none was read", **ran}, samples=explained)
    return page


def lines(sample: Explained) -> Iterator[str]:
    """The explanation of a sample in plain text."""
    yield f"sample {sample.id}"
    if isinstance(sample.outcome, Failure):
        yield f"  failed: {sample.outcome.error}"
    for name, explanation in sample.explanations.items():
        yield f"  {name}" + (f" {sample.outcome.scores[name]:.4f}" if isinstance(sample.outcome, Scored) else "")
        yield from (f"    {label}: {text}" for label, text in explanation.facts.items())


@torch.no_grad()
def _explanation(panel: Panel, criterion: Criterion, row: Row) -> Explanation:
    reward = criterion.reward
    try:
        explanation = reward.explain(panel.samples([row], reward.task), panel.policy)[0]
    except Exception as error:  # a reward may raise anything; the page says what
        reason = error.message if isinstance(error, CorlError) else f"{type(error).__name__}: {error}"
        explanation = Explanation(facts={"failed": reason})
    drawing = row.outputs[reward.task]
    if explanation.pictures or isinstance(drawing, str):
        return explanation
    return Explanation(facts=explanation.facts, pictures=[Tile(drawing, "drawing")])


def _plain(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"\W+", "-", text).strip("-")[:40] or "picture"
