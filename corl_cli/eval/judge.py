"""A model behind an OpenAI-compatible endpoint, asked many things at once and none of them twice."""

from __future__ import annotations

import base64
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from corl_cli.core import evaluation
from corl_cli.core.errors import CorlError
from corl_cli.core.requirements import Requirement
from corl_cli.eval.judge_cache import AnswerCache, default_folder
from corl_cli.eval.judge_endpoint import Endpoint, JudgeError, Unavailable

__all__ = ["Estimate", "Judge", "JudgeError", "Unavailable"]

T = TypeVar("T")
R = TypeVar("R")

PARSED = 2  # answers asked for until one can be read
READ, WRITTEN = 1500, 100  # tokens of a call, for an estimate: a rubric and one image of 384 px; some lines
PROBE = "Reply with the single word: ready"
PROBE_RETRIES = 2  # a judge that is down should be told of at once
WORKER = "corl-judge"  # the name of a thread that asks
BEGINNING = 80  # characters of an answer that could not be read, in the reason

_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


@dataclass(frozen=True)
class Estimate:
    """What asking will take: calls at most, and dollars where the recipe has the judge's price."""

    calls: int
    cost: float | None

    def __str__(self) -> str:
        if self.cost is None:
            return f"up to {self.calls} calls, and a second one for an answer that cannot be read"
        return (
            f"up to {self.calls} calls, about ${self.cost:,.2f} "
            f"(guessed at {READ} tokens read and {WRITTEN} written a call)"
        )


class Judge:
    """Asks the endpoint of a recipe's eval.judge. Answers that can be read are kept on disk; threads may share it.

    The key is read from the environment at each call and stands in no message, identity or file.
    """

    def __init__(self, settings: evaluation.Judge, cache: Path | None = None) -> None:
        self.settings = settings
        self._endpoint = Endpoint(settings)
        self._cache = AnswerCache(cache or default_folder())
        self._thread = threading.local()  # .stop: the event that ends the `map` which a worker serves

    def requirements(self) -> list[Requirement]:
        """The key's variable, and an address that can be one; nobody is asked."""
        name = f"judge {self.settings.model}"
        if not self.settings.base_url.startswith(("http://", "https://")):
            detail = f"eval.judge.base_url is {self.settings.base_url!r}"
            remedy = "Give an address that begins with http:// or https:// and ends before /chat/completions."
            return [Requirement(name=name, state="broken", detail=detail, remedy=remedy)]
        try:
            self._endpoint.key()
        except CorlError as error:
            remedy = f"{error.hint}, or name another variable with --set eval.judge.key_variable=NAME (null for none)"
            return [Requirement(name=name, state="missing", detail=error.message.rstrip("."), remedy=remedy)]
        return [Requirement(name=name, state="ok", detail=f"at {self._endpoint.shown}")]

    def identity(self) -> dict[str, Any]:
        """What its answers depend on; part of a benchmark's scorer()."""
        return {
            "base_url": self._endpoint.shown,
            "model": self.settings.model,
            "max_tokens": self.settings.max_tokens,
            "temperature": 0,
        }

    def ask(
        self, template: str, prompt: str, image: Path | None = None, accept: Callable[[str], object] | None = None
    ) -> str:
        """`complete` with one message of the user's: the prompt, then the image as it is on disk."""
        content: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
        if image is not None:
            content.append({"type": "image_url", "image_url": {"url": _data_url(image)}})
        return self.complete([{"role": "user", "content": content}], template=template, accept=accept)

    def complete(
        self, messages: list[dict[str, Any]], *, template: str, accept: Callable[[str], object] | None = None
    ) -> str:
        """One chat completion at temperature 0: the kept answer, or a new one.

        `template` names the question's wording and its version; with messages, model, address and max_tokens it says
        which answers are the same. `accept` raises ValueError for an answer that cannot be read: it is asked for once
        more, and never kept. JudgeError when there is no answer to be had; CorlError when there will be none at all.
        """
        key = self._cache.key({"messages": messages, "template": template, **self.identity()})
        kept = self._cache.get(key)
        if kept is not None and _fault(kept, accept) is None:
            return kept
        stop = getattr(self._thread, "stop", None) or threading.Event()
        for _ in range(PARSED):
            answer = self._endpoint.call(messages, stop)
            fault = _fault(answer, accept)
            if fault is None:
                self._cache.put(key, answer, {"template": template, **self.identity()})
                return answer
        raise JudgeError(f"the answer cannot be read: {fault} (it begins {answer[:BEGINNING]!r})")

    def map(self, function: Callable[[T], R], things: Sequence[T]) -> Iterator[tuple[T, R | JudgeError]]:
        """Each thing with what `function` makes of it, as soon as it is known; `concurrency` of them at once.

        A JudgeError, or a ValueError for an answer that could not be read, stands in the result's place. Anything else
        that is raised ends the iteration, a CorlError for a judge that is down among it. Ending it early, by Ctrl-C
        too, waits for no answer.
        """
        waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[T, R | BaseException]] = queue.SimpleQueue()
        for thing in things:
            waiting.put(thing)
        stop = threading.Event()

        def work() -> None:
            self._thread.stop = stop
            while not stop.is_set():
                try:
                    thing = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    done.put((thing, function(thing)))
                except BaseException as error:
                    done.put((thing, error))

        try:
            for _ in range(min(self.settings.concurrency, len(things))):
                threading.Thread(target=work, name=WORKER, daemon=True).start()  # daemons: nobody waits for them
            for _ in things:
                thing, result = done.get()
                if isinstance(result, ValueError):
                    result = JudgeError(str(result))
                if isinstance(result, BaseException) and not isinstance(result, JudgeError):
                    raise result
                yield thing, result
        finally:
            stop.set()

    def probe(self, calls: int) -> Estimate:
        """Ask one tiny thing before the first of so many calls; nothing is asked where there are none.

        CorlError when nobody answers, or not as a judge does.
        """
        price = self.settings.price
        if calls:
            try:
                self._endpoint.call(
                    [{"role": "user", "content": PROBE}],
                    threading.Event(),
                    retries=min(PROBE_RETRIES, self.settings.retries),
                )
            except JudgeError as error:
                raise CorlError(
                    f"The judge {self._endpoint.shown} gives no answer to a first small question: {error}.",
                    "See to eval.judge.base_url and eval.judge.model, and that the server runs.",
                ) from error
        cost = None if price is None else calls * (READ * price.input + WRITTEN * price.output) / 1e6
        return Estimate(calls, cost)


def _fault(answer: str, accept: Callable[[str], object] | None) -> str | None:
    """Why the caller cannot read the answer; None where it can."""
    try:
        if accept is not None:
            accept(answer)
    except ValueError as error:
        return str(error)
    return None


def _data_url(image: Path) -> str:
    try:
        encoded = base64.b64encode(image.read_bytes()).decode()
    except OSError as error:
        raise JudgeError(f"{image.name} cannot be read: {error.strerror}") from error
    return f"data:{_TYPES.get(image.suffix.lower(), 'image/png')};base64,{encoded}"
