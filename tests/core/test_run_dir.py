import errno
import json
import os
import resource
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.loader import load
from corl_cli.core.run_dir import RunDir, write_atomic, writing


@pytest.fixture
def recipe():
    return load("world/unified")


def create(path, recipe) -> RunDir:
    return RunDir.create(path, recipe, command=["corl", "train", "unified"], facts={"data": {"triplets": 3}})


def test_a_run_keeps_its_recipe_and_where_it_came_from(tmp_path, recipe):
    run = create(tmp_path / "runs" / "a", recipe)
    assert run.recipe() == recipe
    assert all(folder.is_dir() for folder in (run.samples, run.rollouts, run.checkpoints))
    provenance = run.provenance()
    assert provenance["command"] == ["corl", "train", "unified"]
    assert provenance["data"] == {"triplets": 3}
    assert provenance["python"].startswith("3.")
    assert provenance["torch"]
    assert os.uname().nodename not in run.provenance_file.read_text()


def test_a_commit_is_recorded_inside_a_repository_only(tmp_path, recipe, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    run = create(tmp_path / "a", recipe)
    assert json.loads(run.provenance_file.read_text())["commit"] is None


def test_a_used_folder_is_never_overwritten(tmp_path, recipe):
    create(tmp_path / "a", recipe)
    with pytest.raises(UsageError) as caught:
        create(tmp_path / "a", load("world/checker"))
    assert "--resume" in caught.value.hint
    assert str(tmp_path / "a-2") in caught.value.hint
    assert RunDir(tmp_path / "a").recipe() == recipe


def test_a_folder_of_something_else_is_refused_without_offering_to_resume(tmp_path, recipe):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UsageError) as caught:
        create(tmp_path, recipe)
    assert "--resume" not in caught.value.hint


def test_an_empty_folder_and_a_half_made_run_can_be_taken(tmp_path, recipe):
    run = create(tmp_path, recipe)
    run.recipe_file.unlink()  # as after a kill while it was made
    assert create(tmp_path, recipe).recipe() == recipe


def test_a_path_that_is_a_file_is_refused(tmp_path, recipe):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CorlError, match="cannot be written"):
        create(tmp_path / "file", recipe)


def test_resuming_wants_the_same_recipe_and_says_what_differs(tmp_path, recipe):
    create(tmp_path / "a", recipe)
    assert RunDir.open(tmp_path / "a", load("world/unified", ["notes=other words"])).recipe() == recipe
    with pytest.raises(UsageError) as caught:
        RunDir.open(tmp_path / "a", load("world/unified", ["optim.lr=1.0", "seed=3"]))
    assert caught.value.message.splitlines()[1:] == ["  seed: 0 there, 3 now", "  optim.lr: 0.0002 there, 1.0 now"]


def test_a_folder_without_a_recipe_is_no_run(tmp_path, recipe):
    with pytest.raises(UsageError, match="not a run"):
        RunDir.open(tmp_path, recipe)


def test_next_free_counts_up(tmp_path):
    assert RunDir.next_free(tmp_path, "a") == tmp_path / "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").mkdir()
    assert RunDir.next_free(tmp_path, "a") == tmp_path / "a-3"


@given(
    steps=st.lists(st.integers(0, 20), max_size=12).map(sorted),
    last=st.integers(-1, 20),
    torn=st.sampled_from(["", "{", '{"step": 1', '{"step": 1}']),
)
def test_truncating_keeps_whole_lines_up_to_a_step(tmp_path_factory, steps, last, torn):
    run = RunDir(tmp_path_factory.mktemp("run"))
    for step in steps:
        run.append_metrics({"step": step, "x": 0.5})
    with run.metrics_file.open("a") as file:
        file.write(torn)
    run.truncate_after(last)
    run.append_metrics({"step": 99, "x": None})
    assert [line["step"] for line in run.read_metrics()] == [step for step in steps if step <= last] + [99]


def test_metrics_that_json_cannot_say_are_refused(tmp_path):
    with pytest.raises(ValueError):
        RunDir(tmp_path).append_metrics({"step": 1, "loss": float("nan")})
    assert RunDir(tmp_path).read_metrics() == []


def test_a_damaged_line_in_the_middle_is_reported(tmp_path):
    run = RunDir(tmp_path)
    run.metrics_file.write_text('{"step": 1}\n{"st\n{"step": 2}\n')
    with pytest.raises(CorlError, match="damaged"):
        run.read_metrics()


@pytest.mark.parametrize("content", ["text ü", b"\x00bytes"])
def test_an_atomic_write_replaces_the_file_and_leaves_nothing_beside_it(tmp_path, content):
    path = tmp_path / "new" / "file"
    write_atomic(path, "old")
    write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [inside.name for inside in path.parent.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file_whole(tmp_path):
    """A limit on the size of files stands for a disk that fills up in the middle of a write."""
    path = tmp_path / "file"
    write_atomic(path, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(CorlError, match="cannot be written: File too large"):
            write_atomic(path, "x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "old"
    assert [inside.name for inside in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_named(tmp_path):
    with pytest.raises(CorlError, match="No space left") as caught, writing(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.exit_code == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_the_metrics_is_named(tmp_path):
    run = RunDir(tmp_path)
    run.metrics_file.symlink_to("/dev/full")
    with pytest.raises(CorlError, match="No space left"):
        run.append_metrics({"step": 1})
