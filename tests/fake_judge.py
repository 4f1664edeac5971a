"""A judge for tests: a real HTTP server on loopback that answers chat completions as a script says.

    with FakeJudge(lambda request: "Consistency: 2") as judge:      # a function of the request, for every request
        Judge(settings(judge), cache=tmp_path)
    with FakeJudge(["yes", error(429, retry_after=0), slow("no", 0.2), "no"]) as judge:   # in order; the last repeats

A text is an answer, a number the status of an error; the functions below make the rest. A list is used up by the
probe's call too. `judge.requests` are the requests received, `judge.most` how many were under way at once.
"""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from corl_cli.core import evaluation


@dataclass(frozen=True)
class Reply:
    """What the server does with one request."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0  # seconds before the first byte
    hang_up: bool = False


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float  # monotonic seconds

    @property
    def text(self) -> str:
        """All text of its messages."""
        return "\n".join(part["text"] for part in self._parts() if part["type"] == "text")

    @property
    def images(self) -> list[bytes]:
        """The images of its messages, decoded from their data: URLs."""
        urls = [part["image_url"]["url"] for part in self._parts() if part["type"] == "image_url"]
        return [base64.b64decode(url.partition(";base64,")[2]) for url in urls]

    def _parts(self) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for message in self.body["messages"]:
            content = message["content"]
            parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
        return parts


def answer(text: str | None, *, finish_reason: str = "stop", refusal: str | None = None) -> Reply:
    """A well-formed chat completion."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    completion = {"id": "fake", "object": "chat.completion", "model": "fake", "choices": [choice]}
    return Reply(body=json.dumps(completion).encode(), headers={"Content-Type": "application/json"})


def error(status: int, message: str = "scripted", *, retry_after: float | str | None = None) -> Reply:
    """An error in OpenAI's form, with a Retry-After in seconds or as an HTTP date."""
    headers = {"Content-Type": "application/json"} | ({} if retry_after is None else {"Retry-After": str(retry_after)})
    return Reply(status=status, body=json.dumps({"error": {"message": message}}).encode(), headers=headers)


def slow(text: str, seconds: float) -> Reply:
    """An answer that takes its time."""
    return Reply(body=answer(text).body, headers=answer(text).headers, delay=seconds)


def cut_off(text: str) -> Reply:
    """An answer that came to the token limit."""
    return answer(text, finish_reason="length")


def refused(reason: str = "I cannot help with that.") -> Reply:
    """A refusal in the field that is made for it."""
    return answer(None, refusal=reason)


def truncated() -> Reply:
    """A completion whose JSON ends in the middle."""
    return Reply(body=answer("Consistency: 2").body[:40], headers={"Content-Type": "application/json"})


def nonsense() -> Reply:
    """What a captive portal says: 200, and a page."""
    return Reply(body=b"<html><body>Please log in.</body></html>", headers={"Content-Type": "text/html"})


def hang_up() -> Reply:
    """The connection closed without a word."""
    return Reply(hang_up=True)


Spoken = str | int | Reply
Script = Callable[[Request], Spoken] | Sequence[Spoken]


def _reply(spoken: Spoken) -> Reply:
    if isinstance(spoken, str):
        return answer(spoken)
    return error(spoken) if isinstance(spoken, int) else spoken


class FakeJudge:
    """The server; a context manager."""

    def __init__(self, script: Script = ("ready",)) -> None:
        self._script = script
        self._lock = threading.Lock()
        self._under_way = 0
        self.most = 0
        self.requests: list[Request] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> FakeJudge:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, request: Request) -> Reply:
        """The script's reply to this request."""
        with self._lock:
            self.requests.append(request)
            place = len(self.requests) - 1
        if callable(self._script):
            return _reply(self._script(request))
        return _reply(self._script[min(place, len(self._script) - 1)])

    def entered(self, step: int) -> None:
        """Count the requests under way."""
        with self._lock:
            self._under_way += step
            self.most = max(self.most, self._under_way)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                judge.entered(1)
                try:
                    reply = judge.take(Request(self.path, dict(self.headers), body, time.monotonic()))
                    time.sleep(reply.delay)
                finally:
                    judge.entered(-1)
                if reply.hang_up:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(reply.status)
                for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *_: object) -> None:
                """Keep the tests' output clean."""

        return Handler


def settings(judge: FakeJudge, **changed: Any) -> evaluation.Judge:
    """A recipe's eval.judge for this server, without a key; `changed` are other keys of the section."""
    return evaluation.Judge(**{"base_url": judge.base_url, "model": "fake-judge", "key_variable": None, **changed})


def unused_port() -> int:
    """A port on loopback that nobody listens on: a judge that is down."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
