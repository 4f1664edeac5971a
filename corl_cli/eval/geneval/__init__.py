"""GenEval: whether drawings show the objects, numbers, colours and positions that were asked for (arXiv 2310.11513)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image, ImageOps
from pydantic import Field

from corl_cli.core.errors import UsageError
from corl_cli.core.requirements import Requirement
from corl_cli.eval.base import Benchmark, Check, Item, Score, Setting, Work
from corl_cli.eval.geneval import colours, detector, prompts, trial, world
from corl_cli.eval.geneval.rules import Detection, Rules, asked, judge
from corl_cli.scoring.clip import Clip

IMAGES = 4  # drawings of each prompt


class GenEvalOptions(Rules):
    """Which prompts, who finds the objects, and the thresholds of the rules."""

    prompts: str = Field("geneval", min_length=1, description="geneval, world, or a file of JSON lines like GenEval's")
    detector: str = Field(
        detector.DEFAULT, min_length=1, description="a Mask2Former of COCO's instances: hub id or folder; or checker"
    )
    clip: str = Field(colours.DEFAULT, min_length=1, description="a CLIP model that names colours: hub id or folder")


class GenEval(Benchmark):
    """GenEval's rules on its own prompts with a Mask2Former and CLIP, or on the embedded world with its checker.

    The original's detector is one of mmdetection with weights of its own; the default here has the same architecture
    and other weights, so numbers come near the published ones and are not the same. Source: arXiv 2310.11513,
    github.com/djghosh13/geneval.
    """

    title = "GenEval"
    tasks = ("t2i",)
    measure = "mean over the six tags of the share of drawings that are right (arXiv 2310.11513)"
    Options = GenEvalOptions
    options: GenEvalOptions

    def __init__(self, name: str, options: GenEvalOptions, setting: Setting) -> None:
        super().__init__(name, options, setting)
        self.checked = options.detector == "checker"  # by the world's checker
        if options.prompts == "geneval" and self.checked:
            raise UsageError(
                "The checker knows the embedded world's shapes, not the objects of GenEval's prompts.",
                "Set prompts=world with it, or leave detector out.",
            )
        if options.prompts == "world" and not self.checked:
            raise UsageError(
                f"The detector {options.detector} does not know the embedded world's shapes.",
                "Set detector=checker with prompts=world.",
            )
        self.detector = world.Checker() if self.checked else detector.Mask2Former(options.detector)
        self.clip = None if self.checked else Clip(options.clip)

    @property
    def variant(self) -> str:
        """See Benchmark.variant; empty for GenEval's own prompts."""
        return {"geneval": "", "world": "world"}.get(self.options.prompts, "own prompts")

    @property
    def comparable(self) -> bool:
        """See Benchmark.comparable; other thresholds, models or sampling make other numbers, too."""
        drawn = self.setting.drawing
        drawing = (drawn.images or IMAGES, drawn.temperature, drawn.top_p, drawn.cfg_weight)
        return self.options == self.Options() and drawing == (IMAGES, 1.0, 1.0, 5.0)

    def requirements(self) -> list[Requirement]:
        """See Benchmark.requirements: a file of one's own must be there."""
        own = self.options.prompts
        if own in ("geneval", "world") or Path(own).expanduser().is_file():
            return []
        remedy = "Set prompts to geneval, world, or a file of JSON lines in GenEval's schema."
        return [Requirement(name="prompts", state="missing", detail=f"there is no file {own}", remedy=remedy)]

    def scorers(self) -> list[Requirement]:
        """See Benchmark.scorers."""
        return [*self.detector.requirements(), *(self.clip.requirements() if self.clip else [])]

    @cached_property
    def metadata(self) -> list[dict[str, Any]]:
        """The prompts with what must be true of their drawings, in GenEval's schema; CorlError for a damaged file."""
        if self.options.prompts == "world":
            return world.prompts()
        path = prompts.OWN if self.options.prompts == "geneval" else Path(self.options.prompts).expanduser()
        return prompts.read(path, self.detector.classes, self.detector.colours)

    def items(self, folder: Path) -> list[Item]:
        """See Benchmark.items; ids are those of GenEval's folders, and `data` is the prompt's metadata."""
        samples = self.setting.drawing.images or IMAGES
        return [
            Item(id=f"{index:05}", task="t2i", prompt=data["prompt"], group=data["tag"], samples=samples, data=data)
            for index, data in enumerate(self.metadata)
        ]

    def protocol(self) -> dict[str, Any]:
        """See Benchmark.protocol."""
        return {"source": self._prompts()}

    def scorer(self) -> dict[str, Any]:
        """See Benchmark.scorer."""
        rules = {name: getattr(self.options, name) for name in Rules.model_fields}
        parts = {"detector": self.options.detector, "clip": self.options.clip}
        if self.checked:
            parts = {"detector": "checker of the embedded world", "colours": "checker of the embedded world"}
        return {"rules": "GenEval (arXiv 2310.11513)", **parts, **rules}

    def load(self, device: torch.device) -> None:
        """See Benchmark.load."""
        self.detector.load(device)
        if self.clip:
            self.clip.load(device)
            self.colours = colours.ClipColours(self.clip)

    def score(self, work: Sequence[Work], folder: Path) -> Iterator[Score]:
        """See Benchmark.score; `details` hold the tag, the objects that counted, and the colours that were asked.

        The reason of a right drawing says what its tag asks, which may be less than the prompt says.
        `detections` are [left, top, right, bottom, score] by class, in pixels.
        """
        for piece in work:
            try:
                image = _opened(Path(piece.output))
            except FileNotFoundError:
                yield Score(item=piece.item.id, sample=piece.sample, value=None, reason="the image is missing")
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's, of damaged files
                yield Score(item=piece.item.id, sample=piece.sample, value=None, reason="the image cannot be read")
            else:
                yield self._judged(piece, image)

    def weights(self, groups: Sequence[str]) -> dict[str, float]:
        """See Benchmark.weights: tags count alike, whatever their numbers of prompts."""
        return dict.fromkeys(groups, 1.0)

    def headline(self, items: Sequence[Item], scores: Sequence[Score], folder: Path) -> dict[str, float]:
        """See Benchmark.headline: shares of all images, and of prompts of which at least one image is right."""
        values: dict[str, list[float]] = {}
        for score in scores:
            if score.value is not None:
                values.setdefault(score.item, []).append(score.value)
        return {
            "correct images": fmean(value for own in values.values() for value in own),
            "correct prompts": fmean(max(own) for own in values.values()),
        }

    def self_test(self) -> list[Check]:
        """See Benchmark.self_test: a photograph of a cat and plain balls, or drawings of the world."""
        if isinstance(self.detector, world.Checker):
            return trial.try_checker(self.detector)
        return [*trial.try_detector(self.detector, self.options), *trial.try_colours(self.colours)]

    def _judged(self, piece: Work, image: Image.Image) -> Score:
        data = piece.item.data

        def paint(name: str, objects: Sequence[Detection]) -> list[str]:
            return [found.colour for found in objects] if self.checked else self.colours(image, name, objects)

        verdict = judge(data, self.detector(image, self.options.of(data["tag"])), paint, self.options)
        boxes = {
            name: [[*(round(edge, 1) for edge in found.box.tolist()), round(found.score, 4)] for found in objects]
            for name, objects in verdict.kept.items()
        }
        return Score(
            item=piece.item.id,
            sample=piece.sample,
            value=float(verdict.correct),
            reason=verdict.reason or f"found what is asked: {asked(data)}",
            details={"tag": data["tag"], "detections": boxes, "colours": dict(verdict.colours)},
        )

    def _prompts(self) -> str:
        """What the prompts are, so that nobody takes others for GenEval's."""
        own = self.options.prompts
        source = {"geneval": "GenEval", "world": "embedded world, held out"}.get(own, Path(own).name)
        return f"{source}, {len(self.metadata)} prompts, sha256 {prompts.digest(self.metadata)}"


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return ImageOps.exif_transpose(opened).convert("RGB")
