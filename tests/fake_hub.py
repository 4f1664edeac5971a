"""A server that speaks as much of the hub's API as downloads need, over folders of this machine."""

import json
import threading
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import datasets
import pytest
from huggingface_hub import constants, hf_api

COMMIT = "c" * 40
KINDS = {"api/models/": "models", "api/datasets/": "datasets"}


def lay_cache(patch: pytest.MonkeyPatch, home: Path, **more: str) -> None:
    """Have the hub's libraries keep what they fetch in `home`, here and in processes that are started."""
    places = {"HF_HOME": home, "HF_HUB_CACHE": home / "hub", "HF_DATASETS_CACHE": home / "datasets"}
    for name, value in (places | more).items():
        patch.setenv(name, str(value))
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")


class FakeHub:
    """Repositories by id in `models` and `datasets`; those in `gated` are refused, as to a stranger.

    `stall` is a file's name of which half is sent, and no more until it is None again: `stalled` is then set.
    `asked` are (method, path, Range header) of all requests.
    """

    def __init__(self, models: dict[str, Path], datasets: dict[str, Path]) -> None:
        self.repositories = {"models": models, "datasets": datasets}
        self.gated: set[str] = set()
        self.stall: str | None = None
        self.stalled, self.released = threading.Event(), threading.Event()
        self.asked: list[tuple[str, str, str | None]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def reach(self, patch: pytest.MonkeyPatch, home: Path) -> None:
        """Make this the hub of the process and of those that it starts, with a cache of its own in `home`.

        Libraries read their environment once, on import: what they have read is changed too.
        """
        lay_cache(patch, home, HF_ENDPOINT=self.url, HF_HUB_OFFLINE="0")
        patch.setattr(constants, "ENDPOINT", self.url)
        paths = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants._HF_DEFAULT_ENDPOINT)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + paths)
        patch.setattr(hf_api.api, "endpoint", self.url)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        patch.setattr(datasets.config, "HF_ENDPOINT", self.url)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path."""
        for prefix, kind in KINDS.items():
            if path.startswith(prefix):
                return self._about(kind, path.removeprefix(prefix))
        kind = "datasets" if path.startswith("datasets/") else "models"
        name, marked, rest = path.removeprefix("datasets/").partition("/resolve/")
        folder = self.repositories[kind].get(name)
        if not marked or folder is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        file = folder / rest.partition("/")[2]
        if not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        content = file.read_bytes()
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{sha1(content).hexdigest()}"'}, content

    def _about(self, kind: str, path: str) -> tuple[int, dict[str, str], bytes]:
        owner, name, *rest = path.split("/")
        folder = self.repositories[kind].get(f"{owner}/{name}")
        if folder is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if f"{owner}/{name}" in self.gated and rest[:1] != ["revision"] and rest:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if rest[:1] in (["tree"], ["paths-info"]):
            return 200, {}, json.dumps([self._entry(folder, file) for file in files]).encode()
        siblings = [{"rfilename": str(file.relative_to(folder))} for file in files]
        facts = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
        return 200, {}, json.dumps(facts).encode()

    def _entry(self, folder: Path, file: Path) -> dict[str, object]:
        content = file.read_bytes()
        name = str(file.relative_to(folder))
        return {"type": "file", "path": name, "size": len(content), "oid": sha1(content).hexdigest()}

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path).strip("/")
                length = int(self.headers.get("Content-Length") or 0)
                asked = self.rfile.read(length)
                wanted = self.headers.get("Range")
                hub.asked.append((self.command, path, wanted))
                status, headers, body = hub.answer(path)
                if self.command == "POST" and "paths-info" in path:
                    paths = json.loads(asked)["paths"]
                    body = json.dumps([entry for entry in json.loads(body) if entry["path"] in paths]).encode()
                if wanted and status == 200 and "resolve" in path:
                    start = int(wanted.removeprefix("bytes=").split("-")[0])
                    headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                    status, body = 206, body[start:]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "HEAD":
                    return
                if hub.stall and path.endswith(hub.stall):
                    self.wfile.write(body[: len(body) // 2])
                    self.wfile.flush()
                    hub.stalled.set()
                    hub.released.wait(60)
                    self.close_connection = True
                    return
                self.wfile.write(body)

            do_HEAD = do_POST = do_GET

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        return Handler
