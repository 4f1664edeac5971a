"""What rewards cost: seconds and memory of every reward, and of each measure of `cycle`, for one batch of samples."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.recipe import Data, Model, RewardSpec
from corl_cli.core.requirements import Requirement
from corl_cli.core.types import Samples, Sampling, Task
from corl_cli.data import triplets
from corl_cli.models.base import UnifiedPolicy
from corl_cli.pipelines import random_weights
from corl_cli.pipelines.build import build_policy
from corl_cli.pipelines.memory import Memory
from corl_cli.rewards import REWARDS, bind, resolve
from corl_cli.rewards.clip import ClipScoreOptions
from corl_cli.rewards.cycle import CycleOptions
from corl_cli.scoring import corenlp
from corl_cli.scoring.captioner import Blip, PolicyCaptioner
from corl_cli.scoring.clip import Clip
from corl_cli.scoring.embedding import EmbeddingSimilarity
from corl_cli.scoring.lpips import Lpips
from corl_cli.scoring.measure import FAILED, Consistency, Likeness, Measured
from corl_cli.scoring.measure import Model as Measure
from corl_cli.scoring.scene_graph import SceneGraphs, parse
from corl_cli.scoring.similarity import Pixel
from corl_cli.scoring.spice import Spice, SpiceServer

BLIP = "Salesforce/blip-image-captioning-base"
CLIP = ClipScoreOptions().checkpoint
OPTIONS = CycleOptions()

Scoring = Callable[[], object]  # scores the batch once


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What scoring one batch of `rows` costs; no number where it cannot run, and `note` says what is missing.

    `seconds` are the median over repeats after one warm-up. `memory_mib` is the peak above what was held before the
    reward was loaded, its weights and its own processes (a JVM) included, the policy not: of the GPU where there is
    one, else of the process (Linux only). `weights` are `own` (a real checkpoint), `random` (of its size), `random,
    small`, or None.
    """

    reward: str
    part: str | None
    rows: int
    seconds: float | None
    memory_mib: float | None
    weights: str | None
    note: str


def readable(cost: Cost) -> dict[str, object]:
    """A cost for the eye: milliseconds to the hundredth in place of seconds."""
    shown = ("milliseconds", None if cost.seconds is None else f"{1000 * cost.seconds:.2f}")
    return dict(shown if name == "seconds" else (name, value) for name, value in asdict(cost).items())


@dataclass(frozen=True, kw_only=True)
class Work:
    """Something to be measured: `ready` brings models to the device and returns what is timed."""

    ready: Callable[[], Scoring]
    weights: str | None = None
    note: str = ""


def parts(chosen: Sequence[str]) -> list[str]:
    """The rewards and measures to be run, by name; all for none, all of cycle's for `cycle`. UsageError for others."""
    known = [*CYCLE, *(name for name in REWARDS if name != "cycle")]
    for name in chosen:
        if name not in (*known, "cycle"):
            nearest = get_close_matches(name, [*known, "cycle"], 1)
            hint = f"Did you mean {nearest[0]}?" if nearest else f"Choose among cycle, {', '.join(known)}."
            raise UsageError(f"There is no reward or measure '{name}' to measure.", hint)
    return [name for name in known if not chosen or name in chosen or (name in CYCLE and "cycle" in chosen)]


def bench_rewards(names: Sequence[str], batch: Batch, repeats: int) -> Iterator[Cost]:
    """The cost of each of `parts`; two ways to do one thing are timed in turn, so that both meet the same machine."""
    for _, ways in groupby(names, key=lambda name: WAYS.get(name, name)):
        yield from _in_turn(list(ways), batch, repeats)


def _in_turn(names: Sequence[str], batch: Batch, repeats: int) -> list[Cost]:
    trials = [_trial(name, batch) for name in names]
    for _ in range(repeats):
        for trial in trials:
            if trial.score:
                trial.seconds.append(_seconds(trial.score, batch.device))
    return [trial.cost(batch.rows) for trial in trials]


@dataclass(kw_only=True)
class Trial:
    """A reward or measure that has run once, or why it could not."""

    name: str
    score: Scoring | None = None
    memory: float | None = None
    seconds: list[float] = field(default_factory=list)
    weights: str | None = None
    note: str

    def cost(self, rows: int) -> Cost:
        """What the trial has found."""
        return Cost(
            reward="cycle" if self.name in CYCLE else self.name,
            part=self.name if self.name in CYCLE else None,
            rows=rows,
            seconds=statistics.median(self.seconds) if self.seconds else None,
            memory_mib=None if self.memory is None else round(self.memory, 1),
            weights=self.weights,
            note=self.note,
        )


def _trial(name: str, batch: Batch) -> Trial:
    """Load and run once; memory is counted from before the models were loaded."""
    work = None
    try:
        work = CYCLE[name](batch) if name in CYCLE else _reward(batch, name)
        memory = Memory(batch.device)
        score = work.ready()
        score()
        return Trial(name=name, score=score, memory=memory.peak(), weights=work.weights, note=work.note)
    except CorlError as error:  # its row says what is missing
        return Trial(name=name, weights=work.weights if work else None, note=error.message)


class Batch:
    """`prompts` x `group_size` samples of the embedded world; with `image_size`, random images of that side instead.

    The drawings of a group are real images of other items, and their captions are those items' prompts. Used as a
    context: random weights live in its temporary folder.
    """

    def __init__(self, prompts: int, group_size: int, image_size: int | None, checkpoint: str) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.full_size = self.device.type == "cuda"  # elsewhere transformers of real size would take minutes
        self.rows, self.sampling, self.checkpoint = prompts * group_size, Sampling(group_size=group_size), checkpoint
        items = list(triplets.load(Data(limit=prompts), seed=0))
        if image_size:
            items = [replace(item, image=_noise(image_size, seed)) for seed, item in enumerate(items)]
        others = [items[(row // group_size + row % group_size) % len(items)] for row in range(self.rows)]
        self.triplets = [items[row // group_size] for row in range(self.rows)]
        self.prompts = [triplet.prompt for triplet in self.triplets]
        self.real = [triplet.image for triplet in self.triplets]
        self.drawings = [other.image.copy() for other in others]
        self.captions = [other.prompt for other in others]
        self.answers = [f"<think> so </think> <answer> {other.answer} </answer>" for other in others]

    def __enter__(self) -> Batch:
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    @cached_property
    def policy(self) -> UnifiedPolicy:
        """The policy as it stands while rewards are computed."""
        dtype = "bfloat16" if self.device.type == "cuda" else "float32"
        policy = build_policy(Model.model_validate({"checkpoint": self.checkpoint, "dtype": dtype}))
        return policy.to(self.device).eval()

    def samples(self, task: Task) -> Samples:
        """The batch as a reward sees it."""
        outputs: list[Image.Image | str] = [*self.drawings] if task == "t2i" else [*self.answers]
        return Samples(task=task, triplets=self.triplets, outputs=outputs, sampling=self.sampling)


def _noise(side: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def _reward(batch: Batch, name: str) -> Work:
    """A whole reward at its default options."""
    cls = resolve(name)
    options, weights = {}, "own" if cls.needs_policy else None
    if name == "clip":
        options["checkpoint"], weights = _checkpoint(batch, CLIP, Clip(CLIP), random_weights.clip)
    reward = bind(RewardSpec.model_validate({"name": name, **options}), cls.task)
    samples, policy = batch.samples(cls.task), batch.policy if cls.needs_policy else None

    def ready() -> Scoring:
        reward.load(batch.device, policy)
        return score

    def score() -> None:
        scores = reward.score(samples, policy)
        _believe(scores.values, scores.notes[0] if scores.notes else "")

    return Work(ready=ready, weights=weights)


def _likeness(likeness: Likeness, real: Sequence[Image.Image], batch: Batch) -> Scoring:
    likeness.load(batch.device)
    return lambda: _believe(*_first(likeness(real, batch.drawings)))


def _consistency(consistency: Consistency, batch: Batch) -> Scoring:
    consistency.load(batch.device)
    return lambda: _believe(*_first(consistency(batch.prompts, batch.captions)))


def _pixel(batch: Batch) -> Work:
    return Work(ready=partial(_likeness, Pixel(), batch.real, batch))


def _lpips(batch: Batch, *, shared: bool) -> Work:
    """With `shared`, the real image of a group goes through the network once, else once for each of its drawings."""
    likeness, weights = Lpips("vgg", None), "own"
    heads, backbone = likeness.requirements()
    if backbone.state != "ok":
        likeness.backbone, weights = random_weights.vgg(batch.folder), "random"
    if heads.state != "ok":
        likeness.heads, weights = random_weights.lpips_heads(batch.folder), "random"
    real = batch.real if shared else [image.copy() for image in batch.real]
    images = len({id(image) for image in real}) + batch.rows
    return Work(
        ready=partial(_likeness, likeness, real, batch),
        weights=weights,
        note=f"{images} images of {real[0].width}x{real[0].height} through the network",
    )


def _scene_graph(batch: Batch) -> Work:
    return Work(ready=partial(_consistency, SceneGraphs(synonyms=True), batch))


def _embedding(batch: Batch) -> Work:
    wanted = OPTIONS.text_encoder
    checkpoint, weights = _checkpoint(batch, wanted, EmbeddingSimilarity(wanted), random_weights.text_encoder)
    return Work(ready=partial(_consistency, EmbeddingSimilarity(checkpoint), batch), weights=weights)


def _spice(batch: Batch, *, resident: bool) -> Work:
    """All of SPICE, nothing remembered from call to call; the JVM stays, or is started for every call."""
    spice = Spice()
    _here(spice.requirements())

    def ready() -> Scoring:
        spice.load(batch.device)
        return score

    def score() -> None:
        spice.parsed.clear()
        if spice.server and not resident:
            spice.server.close()
        _believe(*_first(spice(batch.prompts, batch.captions)))

    return Work(ready=ready, note="parsing included, nothing remembered")


def _spice_tuples(batch: Batch, *, resident: bool) -> Work:
    """SPICE's comparison of tuples, which needs none of CoreNLP's models; the tuples are the rule-based parser's."""
    _here([need for need in Spice().requirements() if "CoreNLP" not in need.name])
    package = corenlp.pycocoevalcap()
    assert package
    server = SpiceServer(sorted(package.glob("tokenizer/stanford-corenlp-*.jar")))
    pairs = [(_tuples(caption), _tuples(prompt)) for caption, prompt in zip(batch.captions, batch.prompts, strict=True)]

    def score() -> None:
        if not resident:
            server.close()
        server.score(pairs)

    return Work(ready=lambda: score, note="without parsing, which needs CoreNLP")


def _tuples(text: str) -> list[tuple[str, ...]]:
    """As SPICE writes them: what tells two things of one name apart is left out."""
    return [one[:3] for one in parse(text).tuples()]


def _policy_captions(batch: Batch) -> Work:
    captioner = PolicyCaptioner(batch.policy, OPTIONS.caption_prompt, OPTIONS.max_new_tokens)
    return Work(ready=lambda: partial(captioner, batch.drawings), weights="own")


def _blip_captions(batch: Batch) -> Work:
    length = OPTIONS.max_new_tokens
    checkpoint, weights = _checkpoint(batch, BLIP, Blip(BLIP, length), random_weights.blip)
    captioner = Blip(checkpoint, length)

    def ready() -> Scoring:
        captioner.load(batch.device)
        return partial(captioner, batch.drawings)

    return Work(ready=ready, weights=weights, note="" if weights == "own" else f"captions of up to {length} tokens")


def _checkpoint(batch: Batch, wanted: str, measure: Measure, make: Callable[..., Path]) -> tuple[str, str]:
    """The checkpoint where it is on this machine, else one with random weights; and which of the two."""
    if all(need.state == "ok" for need in measure.requirements()):
        return wanted, "own"
    return str(make(batch.folder, full_size=batch.full_size)), "random" if batch.full_size else "random, small"


def _here(needs: Sequence[Requirement]) -> None:
    for need in needs:
        if need.state != "ok":  # a benchmark downloads nothing
            raise CorlError(f"{need.name} is not here: {need.detail}")


def _first(measured: Measured) -> tuple[Tensor, str]:
    return measured.values, measured.details[0].get(FAILED, "")


def _believe(values: Tensor, reason: str) -> None:
    """Time spent on nothing but failures is no cost of scoring."""
    if bool(values.isnan().all()):
        raise CorlError(f"no sample could be scored: {reason}")


CYCLE: dict[str, Callable[[Batch], Work]] = {
    "pixel": _pixel,
    "lpips-vgg": partial(_lpips, shared=True),
    "lpips-vgg-unshared": partial(_lpips, shared=False),
    "scene_graph": _scene_graph,
    "spice": partial(_spice, resident=True),
    "spice-jvm-per-call": partial(_spice, resident=False),
    "spice-tuples": partial(_spice_tuples, resident=True),
    "spice-tuples-jvm-per-call": partial(_spice_tuples, resident=False),
    "embedding": _embedding,
    "captions-policy": _policy_captions,
    "captions-blip": _blip_captions,
}


WAYS = {
    "lpips-vgg-unshared": "lpips-vgg",
    "spice-jvm-per-call": "spice",
    "spice-tuples-jvm-per-call": "spice-tuples",
}


def _seconds(score: Scoring, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    score()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun
