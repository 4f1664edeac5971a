"""One benchmark of one checkpoint: generate, score, summarise; each step goes on from files."""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import math
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from accelerate import Accelerator

from corl_cli.core.errors import CorlError, Interrupted, UsageError
from corl_cli.core.loader import dump
from corl_cli.core.recipe import Recipe
from corl_cli.core.requirements import Requirement, demand
from corl_cli.core.run_dir import writing
from corl_cli.eval.base import Benchmark, Item, Score, Work
from corl_cli.eval.judge import Judge
from corl_cli.eval.store import Store
from corl_cli.eval.summary import summarise
from corl_cli.pipelines import launch
from corl_cli.pipelines.evaluated import Checkpoint
from corl_cli.pipelines.generate import Generator

Step = Literal["generate", "score", "summarise"]
BEGUN = {"inputs", "eval.yaml", "items.jsonl"}  # what a kill may leave of a result without a manifest
STEPS: tuple[Step, ...] = get_args(Step)


class Display(Protocol):
    """Shows an evaluation to whoever waits for it."""

    def say(self, line: str) -> None:
        """A line to read."""

    def bar(self, what: str, total: int) -> Any:
        """A context manager that gives a Progress."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is asked for: these steps of a benchmark, in a folder; `limit` items spread over all of them."""

    recipe: Recipe
    benchmark: Benchmark
    checkpoint: Checkpoint | None  # None where nothing is generated: the files say whose they are
    store: Store
    steps: Sequence[Step] = STEPS
    limit: int | None = None
    resume: bool = False
    allow_partial: bool = False


def check(order: Order) -> None:
    """CorlError with everything that the steps need and this machine lacks; UsageError where the folder is taken."""
    store = order.store
    if store.folder.exists() and not store.folder.is_dir():
        raise UsageError(f"{store.folder} is a file.", "Name a folder with --out.")
    inside = [file for file in store.folder.iterdir() if file.suffix != ".partial"] if store.folder.is_dir() else []
    if not store.exists and {file.name for file in inside} - BEGUN:
        raise UsageError(
            f"{store.folder} is not empty, and holds no result.", "Name a new folder with --out: results are not mixed."
        )
    if store.exists and not order.resume and "generate" in order.steps:
        raise UsageError(
            f"{store.folder} holds a result already.",
            "Go on with it, or see it again, with --resume; start another with another --out.",
        )
    if not store.exists and "generate" not in order.steps:
        raise UsageError(
            f"{store.folder} holds nothing to {order.steps[0]}.",
            f"Begin with: corl eval {order.benchmark.name} --only generate --out {store.folder}",
        )
    demand(needs(order), order.benchmark.name)


def needs(order: Order) -> list[Requirement]:
    """What the steps need from this machine: weights from the hub, data, scorers; each once."""
    found: list[Requirement] = []
    if "generate" in order.steps and order.checkpoint:
        found += order.checkpoint.requirements()
        found += [] if order.store.exists else order.benchmark.requirements()
    if "score" in order.steps:
        found += order.benchmark.scorers()
    return list(dict.fromkeys(found))


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other commands out of a result's folder; a lock that ends with the process. UsageError when one is there."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UsageError(
            f"Another command is at work in {folder}.", "Wait for it, or name another folder with --out."
        ) from error
    finally:
        os.close(descriptor)


@contextmanager
def resumable(store: Store) -> Iterator[None]:
    """Turn Ctrl-C into words that say how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"interrupted; {store.folder} keeps what was made.",
            f"Go on with --out {store.folder} --resume",
            signal=signal.SIGINT,
        ) from error


@contextmanager
def working(benchmark: Benchmark, what: str) -> Iterator[None]:
    """Turn what a benchmark's class raises by mistake into a CorlError that says where."""
    try:
        yield
    except (CorlError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise CorlError(
            f"{benchmark.name}: `{what}` failed: {type(error).__name__}: {error} ({frame.filename}:{frame.lineno}).",
            "What is there stays: mend it, then go on with --resume.",
        ) from error


def is_main_process() -> bool:
    """Whether this process is the one that talks."""
    return launch.join().is_main_process


def evaluate(order: Order, display: Display) -> dict[str, Any] | None:
    """Do the steps; all processes take part, the first one has the summary.

    Nothing is exchanged but through files: processes wait for each other between steps only. CorlError when a sample
    has no drawing, or the folder holds a result of something else.
    """
    accelerator = launch.join()
    with launch.watching(), resumable(order.store), ExitStack() as held:
        if accelerator.is_main_process:
            check(order)
            held.enter_context(alone_in(order.store.folder))
            _open(order, display)
            _probe(order, display)
        accelerator.wait_for_everyone()
        if "generate" in order.steps:
            _generate(order, accelerator, display)
            _settle(order, accelerator)
        alone = not order.benchmark.sharded  # what one process does, in hours maybe, nobody else waits for
        if alone and not accelerator.is_main_process:
            return None
        if "score" in order.steps:
            _score(order, accelerator, display)
            _settle(order, None if alone else accelerator)
        if "summarise" in order.steps and accelerator.is_main_process:
            with working(order.benchmark, "headline"):
                result = summarise(order.benchmark, order.store, allow_partial=order.allow_partial)
            order.store.summarised(result)
            return result
    return None


def _settle(order: Order, together: Accelerator | None) -> None:
    """Bring the processes' files into one; they wait for each other, unless one is alone."""
    if together:
        together.wait_for_everyone()
    if together is None or together.is_main_process:
        order.store.settle()
    if together:
        together.wait_for_everyone()


def _open(order: Order, display: Display) -> None:
    """Begin a result, or make sure that the one that is there is of the same weights, words and scorer."""
    store, benchmark = order.store, order.benchmark
    facts: dict[str, Any] = {"benchmark": benchmark.name, "variant": benchmark.variant}
    if order.checkpoint:
        facts["prompts"] = benchmark.protocol()
        facts["sampling"] = sampling(order.recipe, benchmark)
        facts["checkpoint"] = {"name": order.checkpoint.name, "weights": order.checkpoint.digest()}
    if not store.exists:
        _begin(order, facts, display)
        return
    store.settle()
    if order.checkpoint:  # whatever it is called now, the weights count
        facts["checkpoint"]["name"] = store.manifest()["checkpoint"]["name"]
    if "score" in order.steps and any(score.value is not None for score in store.scores().values()):
        facts["scorer"] = scorer(benchmark)
    store.check(facts)
    if order.limit is not None and order.limit != store.manifest()["limit"]:
        begun = "without a limit" if (there := store.manifest()["limit"]) is None else f"with --limit {there}"
        raise UsageError(f"{store.folder} was begun {begun}.", "Go on with that; another limit needs another --out.")


def _begin(order: Order, facts: dict[str, Any], display: Display) -> None:
    store, benchmark = order.store, order.benchmark
    display.say(f"{benchmark.name}: reading what is asked")
    with working(benchmark, "items"):
        items = benchmark.items(store.folder)
        _demand_items(benchmark, items)
    weighed = benchmark.weights(list(dict.fromkeys(item.group for item in items))) is not None
    chosen = choose(items, order.limit, by_group=weighed)
    with working(benchmark, "prepare"):
        benchmark.prepare(chosen, store.folder)
    store.create(facts | {"limit": order.limit, "items_of": len(items)}, chosen, dump(order.recipe))


def _demand_items(benchmark: Benchmark, items: Sequence[Item]) -> None:
    if not items:
        raise CorlError(f"{benchmark.title} asks nothing.", "Its `items` must return at least one Item.")
    names = Counter(item.id for item in items)
    for item in items:
        fault = (
            "stands twice"
            if names[item.id] > 1
            else "is no name that a folder can have"
            if Path(item.id).name != item.id or item.id.startswith(".")
            else "asks for no sample"
            if item.samples < 1
            else ""
        )
        if fault:
            raise CorlError(f"{benchmark.title}: the item {item.id!r} {fault}.", "Mend the data, or its `items`.")


def scorer(benchmark: Benchmark) -> dict[str, Any]:
    """What scores depend on; of a user's own benchmark also the file that it is written in."""
    return benchmark.scorer() | source(benchmark)


def source(benchmark: Benchmark) -> dict[str, str]:
    """The digest of the file that a user's own benchmark is written in, which changes more often than its scorer()."""
    if ":" not in benchmark.name:
        return {}
    text = inspect.getsource(sys.modules[type(benchmark).__module__])
    return {"source": hashlib.sha256(text.encode()).hexdigest()[:16]}


def choose(items: Sequence[Item], limit: int | None, *, by_group: bool) -> list[Item]:
    """`limit` of the items in their order, all where there is no limit; a smaller limit chooses some of a larger one's.

    Which ones is decided by a hash of their ids, in all alike, or `by_group` in each group by turns, so that a few are
    of every group.
    """
    if limit is None:
        return list(items)
    hashed = sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest())
    turns: Counter[str] = Counter()
    order: dict[str, tuple[int, int]] = {}
    for place, item in enumerate(hashed):
        order[item.id] = (turns[item.group], place) if by_group else (0, place)
        turns[item.group] += 1
    chosen = set(sorted(order, key=lambda name: order[name])[:limit])
    return [item for item in items if item.id in chosen]


def sampling(recipe: Recipe, benchmark: Benchmark) -> dict[str, Any]:
    """How outputs are sampled, by task, and the seed: what is printed with the result."""
    section = recipe.eval
    found: dict[str, Any] = {"seed": recipe.seed, "dtype": recipe.model.dtype}
    if "t2i" in benchmark.tasks:
        found["t2i"] = section.t2i.model_dump(exclude_none=True)
    if "mm2t" in benchmark.tasks:
        found["mm2t"] = section.mm2t.model_dump() | {
            "instruction": section.instruction and section.instruction.model_dump()
        }
    return found


def _generate(order: Order, accelerator: Accelerator, display: Display) -> None:
    assert order.checkpoint
    generator = Generator(order.recipe, order.benchmark.name, order.checkpoint, order.store, accelerator)
    if accelerator.is_main_process:
        generator.refuse()
    todo = generator.missing()
    if not todo:
        return
    number = sum(len(batch.items) * batch.samples for batch in todo)
    with _bar(display, accelerator.num_processes, "generating", number) as bar:
        generator.run(todo, bar)


def _score(order: Order, accelerator: Accelerator, display: Display) -> None:
    benchmark, rank = order.benchmark, accelerator.process_index
    processes = accelerator.num_processes if benchmark.sharded else 1
    work, failed = to_score(order.store, rank, processes, allow_partial=order.allow_partial)
    with order.store.scoring(rank) as append:
        for score in failed:
            append(score)
        if not work:
            return
        with working(benchmark, "load"):
            benchmark.load(accelerator.device)
        if accelerator.is_main_process:  # now that the scorer is there and works
            order.store.note(order.store.manifest() | {"scorer": scorer(benchmark)})
        start = time.perf_counter()
        with _bar(display, processes, "scoring", len(work)) as bar, working(benchmark, "score"):
            for score in benchmark.score(work, order.store.folder):
                if score.value is not None and not math.isfinite(score.value):
                    score = replace(score, value=None, reason=f"its value is {score.value}. {score.reason}".strip())
                append(score)
                bar.advance(1, score.reason if score.value is None else "")
        order.store.timed("score", rank, len(work), time.perf_counter() - start)


def _probe(order: Order, display: Display) -> None:
    """Ask the judge for a word, before hours of drawing and before the first paid call, where it will be asked."""
    judge = order.recipe.eval.judge
    if "score" not in order.steps or judge is None:
        return
    samples, scores = order.store.keys(), order.store.scores()
    todo = sum(key not in scores or scores[key].value is None for key in samples)
    if calls := order.benchmark.calls(todo):
        display.say(f"judge {judge.model}: {Judge(judge).probe(calls)}")


def to_score(store: Store, process: int, processes: int, *, allow_partial: bool) -> tuple[list[Work], list[Score]]:
    """What one of several processes has to score, and scores of what was never made.

    Each has every n-th sample, whatever the others have scored meanwhile. What failed before is tried again. CorlError
    when samples are missing; with `allow_partial` these are scores that failed.
    """
    answers, scores = store.answers(), store.scores()
    samples = [(item, sample) for item in store.items() for sample in range(item.samples)]
    missing = [(item, n) for item, n in samples if not store.drawn(item.id, n) and (item.id, n) not in answers]
    if missing and not allow_partial:
        raise CorlError(
            f"{len(missing)} of {len(samples)} samples in {store.folder} were never made, "
            f"sample {missing[0][1]} of {missing[0][0].id} for one.",
            "Make them with --resume, or score the others with --allow-partial.",
        )
    work: list[Work] = []
    failed: list[Score] = []
    for item, sample in samples[process::processes]:
        key = (item.id, sample)
        if key in scores and scores[key].value is not None:
            continue
        answer = answers.get(key, {"failed": "it was never made"})
        if item.task == "t2i" and store.drawn(*key):
            work.append(Work(item=item, sample=sample, output=store.image(*key)))
        elif "text" in answer:
            work.append(Work(item=item, sample=sample, output=answer["text"]))
        else:
            failed.append(Score(item=item.id, sample=sample, value=None, reason=answer["failed"]))
    return work, failed


def _bar(display: Display, processes: int, what: str, total: int) -> Any:
    share = f" (this process, one of {processes})" if processes > 1 else ""
    return display.bar(f"{what}{share}", total)
