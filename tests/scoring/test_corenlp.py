import io
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from corl_cli.core.errors import CorlError
from corl_cli.scoring import corenlp


def release(names=corenlp.JARS):
    """A zip as the site gives it, with jars of a few bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(f"{corenlp.RELEASE}/{name}", name * 1000)
        archive.writestr(f"{corenlp.RELEASE}/README.txt", "read me")
    return buffer.getvalue()


@pytest.fixture
def site():
    """Stands for the Stanford site: answers every path with `content` (404 where None) and keeps the requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.requests.append(self.path)
            if server.content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(server.content)))
            self.end_headers()
            self.wfile.write(server.content[: server.until])

        def log_message(self, *arguments):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.content, server.until = [], release(), None
    server.url = f"http://127.0.0.1:{server.server_port}/corenlp.zip"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def jars(folder):
    folder.mkdir(parents=True)
    for name in corenlp.JARS:
        zipfile.ZipFile(folder / name, "w").close()


def test_of_several_processes_one_fetches(site, tmp_path):
    code = "import sys; from pathlib import Path; from corl_cli.scoring import corenlp\n"
    code += "sys.stdin.readline(); print(*corenlp.fetch(Path(sys.argv[1]), sys.argv[2]))"
    command = [sys.executable, "-c", code, str(tmp_path / "new" / "folder"), site.url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ranks = [subprocess.Popen(command, **pipes) for _ in range(3)]
    for rank in ranks:
        rank.stdin.write("go\n")
        rank.stdin.flush()
    said = [rank.communicate() for rank in ranks]
    assert {out for out, _ in said} == {" ".join(str(tmp_path / "new/folder" / name) for name in corenlp.JARS) + "\n"}
    assert sum(err.count("Fetching") for _, err in said) == 1
    assert site.requests == ["/corenlp.zip"]
    left = {path.name: path.read_text() for path in (tmp_path / "new/folder").iterdir()}
    assert left == {name: name * 1000 for name in corenlp.JARS} | {"fetch.lock": ""}


@pytest.mark.parametrize(
    ("content", "until", "why"),
    [
        (None, None, "404"),
        (release(), 100, "zip"),
        (b"<html>log in first</html>", None, "zip"),
        (release(names=corenlp.JARS[:1]), None, "models"),
    ],
)
def test_what_cannot_be_fetched_is_one_line_and_leaves_nothing_half(site, tmp_path, content, until, why):
    site.content, site.until = content, until
    with pytest.raises(CorlError, match=why) as error:
        corenlp.fetch(tmp_path, site.url)
    assert "\n" not in error.value.message
    assert site.url in error.value.message
    assert error.value.hint == corenlp.by_hand(tmp_path)
    assert not (tmp_path / corenlp.JARS[1]).exists()
    assert not list(tmp_path.glob("*.zip"))
    site.content, site.until = release(), None
    assert all(jar.is_file() for jar in corenlp.fetch(tmp_path, site.url))


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CorlError, match="could not be fetched"):
        corenlp.fetch(tmp_path / "file" / "folder", "http://127.0.0.1:9/")


def test_the_first_place_with_both_jars_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("CORENLP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    places = corenlp.places()
    assert (places[0], places[-1]) == (tmp_path / "home", tmp_path / "cache/corl/corenlp-3.6.0")
    jars(places[-1])
    assert corenlp.find() == [places[-1] / name for name in corenlp.JARS]
    jars(places[0])
    (places[0] / corenlp.JARS[1]).unlink()
    assert corenlp.find() == [places[-1] / name for name in corenlp.JARS]
    (places[0] / corenlp.JARS[1]).touch()
    assert corenlp.find() == [places[0] / name for name in corenlp.JARS]
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert corenlp.cache() == Path.home() / ".cache/corl/corenlp-3.6.0"


def test_a_requirement_says_what_is_there_and_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setattr(corenlp, "places", lambda: [tmp_path / "a", tmp_path / "b"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    missing = corenlp.requirement()
    assert (missing.state, missing.remedy) == ("missing", corenlp.by_hand())
    assert str(tmp_path / "a") in missing.detail
    assert str(tmp_path / "b") in missing.detail
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert corenlp.requirement().state == "download"
    jars(tmp_path / "b")
    ready = corenlp.requirement()
    assert (ready.state, ready.detail, ready.remedy) == ("ok", str(tmp_path / "b"), "")
    (tmp_path / "b" / corenlp.JARS[1]).write_bytes(b"PK cut off")
    broken = corenlp.requirement()
    assert (broken.state, broken.met) == ("broken", False)
    assert corenlp.by_hand(tmp_path / "b") in broken.remedy
