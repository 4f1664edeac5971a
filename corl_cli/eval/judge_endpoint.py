"""One OpenAI-compatible endpoint: a chat completion at temperature 0, with back-off, and what may go wrong with it."""

from __future__ import annotations

import os
import random
import threading
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from corl_cli.core import evaluation
from corl_cli.core.errors import CorlError

FIRST_WAIT = 0.5  # seconds before the second attempt; doubled for each further one, less up to half by chance
LONGEST_WAIT = 30.0
LONGEST_ASKED = 600.0  # a Retry-After beyond this is a judge that is not there today
GIVE_UP = 10  # calls in a row, of all threads, to which nobody answered: then the run stops
CONNECT_SECONDS = 10.0
SHOWN = 200  # characters of a foreign text in a message

_REFUSED_FOR_ALL = {
    401: "does not accept the key",
    403: "does not allow this key to ask",
    404: "does not know this address or model",
}


class JudgeError(Exception):
    """One call failed for good; the text is the reason."""


class Unavailable(JudgeError):
    """Nobody answered, or what answered is no judge: the next call will hardly fare better."""


class _Passing(Exception):
    """A failure worth another attempt; `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Endpoint:
    """Asks for completions. Threads may share it; `stop` in `call` ends waiting early."""

    def __init__(self, settings: evaluation.Judge) -> None:
        self.settings = settings
        address = urlsplit(settings.base_url)
        self.shown = f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}".rstrip("/")
        self._client = httpx.Client(
            timeout=httpx.Timeout(settings.timeout, connect=min(CONNECT_SECONDS, settings.timeout)),
            limits=httpx.Limits(max_connections=None),  # the threads bound it; waiting for a place is no time-out
        )
        self._chance = random.Random()  # its own: the run's random numbers stay as they are
        self._lock = threading.Lock()
        self._unanswered = 0

    def key(self) -> str | None:
        """The key, from the environment; None where none is needed. CorlError without showing it."""
        variable = self.settings.key_variable
        if variable is None:
            return None
        key = os.environ.get(variable, "").strip()
        if not key:
            raise CorlError(f"The judge's key is not there: {variable} is empty.", f"export {variable}=…")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise CorlError(
                f"{variable} holds no key: it has blanks or letters that no key has.", f"export {variable}=…"
            )
        return key

    def call(self, messages: list[dict[str, Any]], stop: threading.Event, retries: int | None = None) -> str:
        """The text of one completion.

        JudgeError when this call failed for good, its kind Unavailable where nobody sensible answered. CorlError when
        all further calls would fail too: a key that is not accepted, a model that is not there, GIVE_UP in a row.
        """
        attempts = 1 + (self.settings.retries if retries is None else retries)
        key = self.key()
        for attempt in range(1, attempts + 1):
            try:
                choice = self._attempt(messages, key)
            except _Passing as failure:
                wait = self._wait(attempt, failure.wait)
                if attempt == attempts or wait > LONGEST_ASKED:
                    again = f", after {attempt} attempts" if attempt > 1 else ""
                    raise self._unavailable(f"{failure}{again}") from None
                if stop.wait(wait):
                    raise JudgeError("stopped while waiting for the judge") from None
            else:
                with self._lock:
                    self._unanswered = 0
                return self._text(choice)
        raise AssertionError("there is always a first attempt")

    def _wait(self, attempt: int, asked: float | None) -> float:
        backed_off: float = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (attempt - 1)) * self._chance.uniform(0.5, 1)
        return backed_off if asked is None else asked + backed_off * (asked > 0)

    def _unavailable(self, reason: str) -> Unavailable | CorlError:
        with self._lock:
            self._unanswered += 1
            down = self._unanswered >= GIVE_UP
        if not down:
            return Unavailable(reason)
        return CorlError(
            f"The judge {self.shown} is down: {GIVE_UP} calls in a row failed, the last one with: {reason}.",
            "What is scored is kept. Go on with --resume once it answers again.",
        )

    def _attempt(self, messages: list[dict[str, Any]], key: str | None) -> dict[str, Any]:
        """The first choice of the completion."""
        try:
            response = self._client.post(
                self.settings.base_url.rstrip("/") + "/chat/completions",
                json={
                    "model": self.settings.model,
                    "messages": messages,
                    "temperature": 0,
                    "max_tokens": self.settings.max_tokens,
                },
                headers={} if key is None else {"Authorization": f"Bearer {key}"},
            )
        except httpx.TimeoutException:
            raise _Passing(f"no answer within {self.settings.timeout:g} s") from None
        except httpx.TransportError as error:
            raise _Passing(_hidden(f"no connection ({error or type(error).__name__})", key)) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise JudgeError(_hidden(f"the request failed ({error or type(error).__name__})", key)) from None
        self._refuse(response, key)
        try:
            choice = response.json()["choices"][0]
            if isinstance(choice["message"], dict):
                found: dict[str, Any] = choice
                return found
        except (ValueError, KeyError, IndexError, TypeError):
            pass
        raise _Passing(_hidden(f"the answer is no chat completion: {_short(response.text)!r}", key))

    def _refuse(self, response: httpx.Response, key: str | None) -> None:
        """Raise what an error status means."""
        status = response.status_code
        if status == 200:
            return
        said = _hidden(f"status {status}: {_said(response)}", key)
        if status in _REFUSED_FOR_ALL:
            with_key = f"the key in {self.settings.key_variable}, " if self.settings.key_variable else ""
            raise CorlError(
                f"The judge {self.shown} {_REFUSED_FOR_ALL[status]} ({said}).",
                f"See to {with_key}eval.judge.base_url and eval.judge.model, now {self.settings.model!r}.",
            )
        if status in (408, 429) or status >= 500:
            raise _Passing(said, _asked(response.headers.get("Retry-After")))
        raise JudgeError(said)

    def _text(self, choice: dict[str, Any]) -> str:
        """The answer in a choice; JudgeError when it was refused, cut or is empty."""
        message, finish = choice["message"], choice.get("finish_reason")
        text = message.get("content")
        if message.get("refusal"):
            raise JudgeError(f"the judge refused: {_short(str(message['refusal']))!r}")
        if finish == "content_filter":
            raise JudgeError("the judge's content filter held the answer back")
        if finish == "length":
            raise JudgeError(f"the answer was cut at {self.settings.max_tokens} tokens; see eval.judge.max_tokens")
        if not isinstance(text, str) or not text.strip():
            raise JudgeError("the judge's answer is empty")
        return text


def _asked(header: str | None) -> float | None:
    """The seconds of a Retry-After: a number, or an HTTP date (RFC 9110, 10.2.3); None where there is neither."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds == seconds else None


def _said(response: httpx.Response) -> str:
    """What the body of an error says, shortened."""
    try:
        return _short(str(response.json()["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        return _short(response.text) or response.reason_phrase


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"


def _hidden(text: str, key: str | None) -> str:
    """The text without the key, which some servers send back."""
    return text.replace(key, "[key]") if key else text
