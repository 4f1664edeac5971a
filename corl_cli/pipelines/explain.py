"""What a person needs to believe a score: facts, and pictures on a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from corl_cli.core import pages
from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.pictures import Tile
from corl_cli.core.run_dir import writing
from corl_cli.pipelines.samples import PICTURES, Failure, Given, picture
from corl_cli.pipelines.score import Panel, Row, Scored
from corl_cli.rewards.base import Explanation

PAGE = "index.html"
TITLE = "Rewards explained"
PICTURE = re.compile(r"\d{4,}-.+-\d{2,}-.+\.png")  # the names that `write` gives


@dataclass(frozen=True, kw_only=True)
class Explained:
    """One sample as it was given, what became of it, and an explanation from each reward that could look at it.

    `pictures` are the sample's own, where no reward could look at it.
    """

    id: str
    given: dict[str, str]
    outcome: Scored | Failure
    explanations: dict[str, Explanation]
    pictures: Sequence[Tile] = ()

    @property
    def scores(self) -> dict[str, float]:
        """Its finite scores."""
        return self.outcome.scores if isinstance(self.outcome, Scored) else {}


def explain(panel: Panel, samples: Iterable[Given | Failure]) -> Iterator[Explained]:
    """Each sample scored and explained, one at a time; the panel is loaded."""
    for sample in samples:
        (outcome,) = panel.score([sample])
        row = panel.open(sample)
        given = sample if isinstance(sample, Given) else sample.given
        yield Explained(
            id=sample.id,
            given=dict(given.values) if given else {},
            outcome=outcome,
            explanations=_explanations(panel, row) if isinstance(row, Row) else {},
            pictures=_pictures(given) if given and isinstance(row, Failure) else (),
        )


def check_folder(folder: Path) -> None:
    """UsageError for a place where `write` would mix its files with others; an earlier page is none."""
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir():
        raise UsageError(f"--out {folder}: {above} is a file, and a folder is needed.", "Name a folder with --out.")
    if above is folder and any(folder.iterdir()) and not _is_earlier(folder):
        raise UsageError(f"{folder} holds something else already.", "Name a new or an empty folder with --out.")


def write(folder: Path, panel: Panel, explained: Sequence[Explained]) -> Path:
    """Every picture as a PNG, and a page with all of it, what ran included; the page's path.

    An earlier page goes, with its pictures; see `check_folder`.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if PICTURE.fullmatch(path.name):
                path.unlink()
        for number, sample in enumerate(explained, 1):
            for name, explanation in sample.explanations.items():
                for place, tile in enumerate(explanation.pictures, 1):
                    tile.image.save(folder / f"{number:04d}-{_plain(name)}-{place:02d}-{_plain(tile.text)}.png")
    page = folder / PAGE
    pages.write(
        page,
        "explain.html",
        title=TITLE,
        policy=panel.policy_name or "none was read",
        options=_options(panel),
        samples=explained,
        overview=list(dict.fromkeys(name for sample in explained for name in sample.explanations)),
    )
    return page


def lines(sample: Explained) -> Iterator[str]:
    """The explanation of a sample in plain text."""
    yield f"sample {sample.id}"
    if sample.outcome.error:
        yield f"  failed: {sample.outcome.error}"
    for name, explanation in sample.explanations.items():
        yield f"  {name}" + (f" {sample.scores[name]:.4f}" if name in sample.scores else "")
        yield from (f"    {label}: {text}" for label, text in explanation.facts.items())


def _is_earlier(folder: Path) -> bool:
    page = folder / PAGE
    return page.is_file() and f"<title>{TITLE}</title>" in page.read_text(encoding="utf-8", errors="replace")


def _options(panel: Panel) -> dict[bool, list[dict[str, object]]]:
    """The options of all rewards: under True those that differ from their defaults, under False the others."""
    found: dict[bool, list[dict[str, object]]] = {True: [], False: []}
    for name, reward in panel.rewards.items():
        changed = reward.options.model_dump(exclude_defaults=True)
        for key, value in reward.options.model_dump().items():
            found[key in changed].append({"reward": name, "option": key, "value": value})
    return found


def _pictures(given: Given) -> list[Tile]:
    """The pictures of a sample, as far as they can be read; why one cannot is in its failure already."""
    found = []
    for column, label in PICTURES.items():
        if column in given.values:
            with suppress(CorlError):
                found.append(Tile(picture(given.folder / given.values[column]), label))
    return found


def _explanations(panel: Panel, row: Row) -> dict[str, Explanation]:
    return {
        name: _explanation(panel, name, row) for name, rubric in panel.rubrics.items() if rubric.task in row.outputs
    }


@torch.no_grad()
def _explanation(panel: Panel, name: str, row: Row) -> Explanation:
    (criterion,) = panel.rubrics[name].criteria
    reward = criterion.reward
    try:
        explanation = reward.explain(panel.samples([row], name), panel.policy)[0]
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
