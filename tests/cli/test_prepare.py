"""`corl prepare-data` as a user types it: true subprocesses, stopped and killed in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from corl_cli.cli.app import app
from corl_cli.core.errors import UsageError
from corl_cli.pipelines import prepare

SOURCE = '''
"""Forty small pictures, of which every tenth is missing. It stops and waits where a file says so."""

import time
from pathlib import Path

from pydantic import Field
from PIL import Image

from corl_cli.data.items import Dropped, Raw
from corl_cli.data.sources.base import Options, Source


def waits(number):
    try:
        return number == int(Path("wait").read_text())
    except FileNotFoundError:  # it may go away at any time
        return False


class MineOptions(Options):
    text: Path = Field(Path("mine.txt"), description="the captions")


class Mine(Source):
    Options = MineOptions

    def files(self):
        return [self.options.text]

    def items(self):
        for number, line in enumerate(self.options.text.read_text().splitlines()):
            while waits(number):
                time.sleep(0.01)
            yield Raw(
                id=f"mine-{number}",
                source="mine",
                image=Path(f"pictures/{number}.png"),
                captions=(line,),
                question="what is it",
                answer=line,
                answer_type="oe",
            )
'''
RECIPE = """
base: world/unified
name: mine
prepare:
  sources: [{name: "mine:Mine"}]
  shard_size: 4
  test: 0.25
"""
ITEMS, MISSING = 40, 4


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source of one's own, its recipe, and the set `whole` built in one go."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("workplace")
    (folder / "mine.py").write_text(SOURCE)
    (folder / "mine.yaml").write_text(RECIPE)
    (folder / "mine.txt").write_text("".join(f"a thing of kind {number}\n" for number in range(ITEMS)))
    (folder / "pictures").mkdir()
    for number in range(ITEMS):
        if number % 10:
            image = Image.linear_gradient("L").resize((32, 32)).rotate(9 * number).convert("RGB")
            image.save(folder / "pictures" / f"{number}.png")
    done = corl(folder, "--out", "whole", "--num-proc", "1")
    assert done.exit_code == 0, done.stderr
    assert "image missing" in done.stdout
    return folder


@pytest.fixture
def waiting(workplace: Path) -> Any:
    """Has the source stop at an item; `begin` starts a build and returns it when its first parts are there."""
    builds: list[subprocess.Popen[str]] = []

    def begin(out: str, at: int, parts: int, *words: str) -> subprocess.Popen[str]:
        (workplace / "wait").write_text(str(at))
        command = [sys.executable, "-m", "corl_cli", "prepare-data", "--recipe", "mine.yaml", "--out", out, *words]
        build = subprocess.Popen(
            command, cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        builds.append(build)
        while len(list((workplace / out / "parts").glob("part-*.json"))) < parts:
            assert build.poll() is None, build.communicate()[1]
            time.sleep(0.02)
        return build

    yield begin
    (workplace / "wait").unlink(missing_ok=True)
    for build in builds:
        build.kill()
        build.communicate()


def corl(folder: Path, *words: str, recipe: str | None = "mine.yaml") -> Result:
    """A build in this process, begun in a folder."""
    with contextlib.chdir(folder):
        return CliRunner().invoke(app, ["prepare-data", *(["--recipe", recipe] if recipe else []), *words])


def data(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "data").iterdir())}


def test_a_set_holds_what_it_promises(workplace: Path) -> None:
    whole = workplace / "whole"
    assert {path.name for path in whole.iterdir()} == {"README.md", "data", "manifest.json", "preview.html"}
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["total"]["offered"] == ITEMS
    assert manifest["total"]["kept"] == ITEMS - MISSING
    assert manifest["total"]["dropped"] == {"image missing": MISSING}
    assert [file["path"] for file in manifest["files"]] == ["mine.txt"]
    names = [name for split in ("train", "test") for name in ids(whole, split)]
    assert sorted(names) == sorted(f"mine-{number}" for number in range(ITEMS) if number % 10)
    assert {split: held["rows"] for split, held in manifest["splits"].items()} == {
        split: len(ids(whole, split)) for split in ("train", "test")
    }


def ids(folder: Path, split: str) -> list[str]:
    files = sorted((folder / "data").glob(f"{split}-*"))
    return [name for file in files for name in pq.read_table(file)["id"].to_pylist()]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_build_goes_on_and_makes_nothing_twice(workplace: Path, waiting: Any, workers: str) -> None:
    out = f"killed-{workers}"
    build = waiting(out, 26, 3, "--num-proc", workers)
    os.kill(build.pid, signal.SIGKILL)
    build.wait()
    finished = {int(file.stem[-6:]) for file in (workplace / out / "parts").glob("part-*.json")}
    assert 3 <= len(finished) < ITEMS // 4
    pictures = [workplace / "pictures" / f"{n}.png" for n in range(ITEMS) if n // 4 in finished and n % 10]
    (workplace / "wait").unlink()
    for picture in pictures:  # what is finished is not looked at again
        picture.rename(picture.with_suffix(".hidden"))
    try:
        done = corl(workplace, "--out", out, "--resume", "--num-proc", "1")
    finally:
        for picture in pictures:
            picture.with_suffix(".hidden").rename(picture)
    assert done.exit_code == 0, done.stderr
    assert data(workplace / out) == data(workplace / "whole")
    assert not (workplace / out / "parts").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_build_says_how_to_go_on(workplace: Path, waiting: Any, number: int, code: int) -> None:
    out = f"stopped-{code}"
    build = waiting(out, 18, 2, "--num-proc", "2")
    os.killpg(build.pid, number)  # as a terminal does: the workers get it too
    _, error = build.communicate(timeout=60)
    assert build.returncode == code
    assert f"error: Stopped by {signal.Signals(number).name}; finished parts are kept." in error
    assert f"hint: Go on with --out {out} --resume" in error
    assert "Traceback" not in error
    (workplace / "wait").unlink()
    done = corl(workplace, "--out", out, "--resume", "--num-proc", "1", recipe=None)  # its own recipe
    assert done.exit_code == 0, done.stderr
    assert data(workplace / out) == data(workplace / "whole")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the worker in /proc")
def test_a_killed_worker_ends_the_build_with_one_line(workplace: Path, waiting: Any) -> None:
    build = waiting("worker", 18, 1, "--num-proc", "2")
    children = Path(f"/proc/{build.pid}/task/{build.pid}/children").read_text().split()
    worker = next(pid for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text())
    os.kill(int(worker), signal.SIGKILL)
    (workplace / "wait").unlink()
    _, error = build.communicate(timeout=60)
    assert build.returncode == 1
    assert "error: A worker process was killed; most often memory ran out.\n" in error
    assert "hint: Go on with fewer of them: --out worker --resume --num-proc 1" in error
    assert "Traceback" not in error
    done = corl(workplace, "--out", "worker", "--resume", "--num-proc", "1")
    assert done.exit_code == 0, done.stderr
    assert data(workplace / "worker") == data(workplace / "whole")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the worker in /proc")
def test_workers_end_with_a_killed_build(workplace: Path, waiting: Any) -> None:
    build = waiting("orphans", 18, 1, "--num-proc", "2")
    children = Path(f"/proc/{build.pid}/task/{build.pid}/children").read_text().split()
    os.kill(build.pid, signal.SIGKILL)
    build.wait()
    deadline = time.monotonic() + 60
    while any(runs(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(runs(pid) for pid in children)


def runs(pid: str) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_shards_are_merged_to_the_same_bytes(workplace: Path) -> None:
    for shard in (1, 2):
        done = corl(workplace, "--out", f"s{shard}", "--shard", f"{shard}/2", "--num-proc", "1")
        assert done.exit_code == 0, done.stderr
        assert "corl data merge" in done.stderr
        assert not (workplace / f"s{shard}" / "data").exists()
    with pytest.raises(UsageError, match="Shards are missing: 2/2"):
        prepare.merge([workplace / "s1"], workplace / "merged", lambda *_: None)
    built = prepare.merge([workplace / "s2", workplace / "s1"], workplace / "merged", lambda *_: None)
    assert built.total["kept"] == ITEMS - MISSING
    assert data(workplace / "merged") == data(workplace / "whole")
    with pytest.raises(UsageError, match="not empty"):
        prepare.merge([workplace / "s2", workplace / "s1"], workplace / "merged", lambda *_: None)
    with pytest.raises(UsageError, match="holds no parts"):
        prepare.merge([workplace / "s1", workplace / "whole"], workplace / "again", lambda *_: None)


def test_shards_that_were_offered_other_items_are_not_merged(workplace: Path) -> None:
    for shard in (1, 2):
        assert corl(workplace, "--out", f"o{shard}", "--shard", f"{shard}/2", "--num-proc", "1").exit_code == 0
    note = workplace / "o2" / "parts" / "order.json"
    order = json.loads(note.read_text())
    note.write_text(json.dumps(order | {"items": "f" * 16}))
    with pytest.raises(UsageError, match=r"items: '[0-9a-f]{16}' there, 'ffffffffffffffff' now"):
        prepare.merge([workplace / "o1", workplace / "o2"], workplace / "om", lambda *_: None)
    note.write_text(json.dumps(order | {"files": []}))
    with pytest.raises(UsageError, match=r"file 1 mine\.txt"):
        prepare.merge([workplace / "o1", workplace / "o2"], workplace / "om", lambda *_: None)
    assert not (workplace / "om").exists()


def test_when_nothing_stays_nothing_is_left(workplace: Path) -> None:
    done = corl(workplace, "--out", "nothing", "--num-proc", "1", "--set", "prepare.filters.min_words=99")
    assert done.exit_code == 1
    assert "error: Nothing stays of 40 items: 40 prompt below min_words." in done.stderr
    assert not (workplace / "nothing").exists()


def test_an_unfinished_build_is_no_set_to_check(workplace: Path) -> None:
    assert corl(workplace, "--out", "half", "--shard", "1/2", "--num-proc", "1").exit_code == 0
    with contextlib.chdir(workplace):
        checked = CliRunner().invoke(app, ["data", "check", "half"])
    assert checked.exit_code == 1
    assert "error: half is no set yet: it holds shard 1 of 2." in checked.stderr


def test_the_command_that_trains_names_the_recipe(workplace: Path) -> None:
    done = corl(workplace, "--out", "named", "--num-proc", "1")
    assert "Train: corl train unified --recipe mine.yaml --set data.path=named" in done.stderr
    again = corl(workplace, "--out", "named", "--resume", recipe=None)
    assert "Train: corl train unified --recipe RECIPE --set data.path=named (RECIPE: the one" in again.stderr
    assert "corl train unified --recipe RECIPE --set data.path=DIR" in (workplace / "named" / "README.md").read_text()


def test_another_recipe_or_source_is_not_gone_on_with(workplace: Path, waiting: Any) -> None:
    build = waiting("other", 10, 1, "--num-proc", "1")
    build.kill()
    build.wait()
    (workplace / "wait").unlink()
    changed = corl(workplace, "--out", "other", "--resume", "--set", "prepare.filters.min_words=2", "--limit", "9")
    assert changed.exit_code == 2
    assert "  prepare.filters.min_words: None there, 2 now\n  limit: None there, 9 now\n" in changed.stderr
    again = corl(workplace, "--out", "other")
    assert again.exit_code == 2
    assert "hint: Go on with it: --out other --resume." in again.stderr
    text = (workplace / "mine.txt").read_text()
    (workplace / "mine.txt").write_text(text + "one more\n")
    try:
        moved = corl(workplace, "--out", "other", "--resume")
    finally:
        (workplace / "mine.txt").write_text(text)
    assert moved.exit_code == 2
    assert "file 1 mine.txt: '" in moved.stderr


def test_a_complete_set_is_left_as_it_is(workplace: Path) -> None:
    before = (workplace / "whole" / "manifest.json").read_bytes()
    again = corl(workplace, "--out", "whole", "--resume", "--json", recipe=None)
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["total"]["kept"] == ITEMS - MISSING
    assert (workplace / "whole" / "manifest.json").read_bytes() == before
    other = corl(workplace, "--out", "whole", "--resume", "--seed", "5")
    assert other.exit_code == 2
    assert "seed: 0 there, 5 now" in other.stderr
    fewer = corl(workplace, "--out", "whole", "--resume", "--limit", "9")
    assert fewer.exit_code == 2
    assert "limit: None there, 9 now" in fewer.stderr
    text = (workplace / "mine.txt").read_text()
    (workplace / "mine.txt").write_text(text + "one more\n")
    try:
        moved = corl(workplace, "--out", "whole", "--resume")
    finally:
        (workplace / "mine.txt").write_text(text)
    assert moved.exit_code == 2
    assert "file 1 mine.txt: '" in moved.stderr
    anew = corl(workplace, "--out", "whole")
    assert anew.exit_code == 2
    assert "whole exists and is not empty" in anew.stderr


def test_limit_counts_offered_items(workplace: Path) -> None:
    done = corl(workplace, "--out", "few", "--limit", "12", "--json", "--num-proc", "1")
    total = json.loads(done.stdout)["total"]
    assert (total["offered"], total["kept"], total["dropped"]) == (12, 10, {"image missing": 2})
    assert sorted(ids(workplace / "few", "train") + ids(workplace / "few", "test")) == sorted(
        f"mine-{number}" for number in range(12) if number % 10
    )


def test_the_plan_tells_and_writes_nothing(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    before = sorted(workplace.iterdir())
    near = ["--set", "prepare.filters.near_duplicates=0"]
    plan = CliRunner().invoke(app, ["prepare-data", "--recipe", "mine.yaml", "--dry-run", "--limit", "5", *near])
    assert plan.exit_code == 0, plan.output
    assert "mine.txt" in plan.stdout
    assert "the first 5" in plan.stdout
    assert "near_duplicates: 0, duplicates: True, contradictions: True" in plan.stdout
    assert sorted(workplace.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--shard", "3/2"], "this is not i/n"),
        (["--resume"], "no --out was given"),
        (["--shard", "1/2", "--rollouts", "world"], "not a shard"),
        (["--set", "prepare.sources=[{name: wrld}]"], "Did you mean world?"),
        (["--set", "prepare.sources=[{name: world, sise: 3}]"], "did you mean size?"),
        (["--set", "prepare.filters.min_coverage=2"], "prepare.filters.min_coverage"),
    ],
)
def test_a_wrong_command_is_one_line(words: list[str], line: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["prepare-data", *words])
    assert result.exit_code == 2
    assert line in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_as_typed_it_builds_the_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("prepare-world", "prepare-world-2"):
        result = CliRunner().invoke(app, ["prepare-data", "--limit", "40", "--num-proc", "1"])
        assert result.exit_code == 0, result.output
        assert "world" in result.stdout
        assert f"corl train unified --set data.path=data/{name}" in result.stderr
        assert json.loads((tmp_path / "data" / name / "manifest.json").read_text())["total"]["offered"] == 40
    assert data(tmp_path / "data" / "prepare-world") == data(tmp_path / "data" / "prepare-world-2")
