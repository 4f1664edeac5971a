"""`corl train` as a user types it, on the embedded world."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from commands import corl, overrides, process, started, wait_for
from datasets import Dataset
from recorded import metrics
from safetensors.torch import load_file

from corl_cli.core.kinds import KINDS, Kind
from corl_cli.world import checkpoint

SMALL = {
    "train.batch_size": 2,
    "sampling.group_size": 2,
    "sampling.mm2t.max_new_tokens": 8,
    "eval.probes.items": 4,
    "tracking.samples_every": 4,
    "tracking.rollouts_every": 2,
    "checkpoint.every": 2,
}


def training(command: str, out: str, steps: int, *words: str | Path) -> list[str | Path]:
    settings = SMALL | {"train.max_steps": steps}
    sets = overrides(settings)
    return ["train", *command.split(), "--out", out, *sets, *words]


def unified(out: str, steps: int, *words: str | Path) -> list[str | Path]:
    return training("unified", out, steps, *words)


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    return load_file(newest / "model.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of six steps."""
    folder = tmp_path_factory.mktemp("runs")
    done = process(*unified("whole", 6), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "drawing: checker" in done.stdout
    assert "answering: accuracy (mc)" in done.stdout
    assert "6 steps in" in done.stderr
    lines = done.stderr.splitlines()
    assert [line.split(": ")[0] for line in lines if "held out" in line] == ["step 0, held out", "step 6, held out"]
    assert any(line.startswith("training 6/6, 0:00 left, reward t2i ") for line in lines)
    assert "\x1b" not in done.stderr
    assert [line.split() for line in lines[-4:-1]] == [
        ["open", "whole/report.html"],
        ["picture", "whole/picture.png"],
        ["samples", "whole/samples"],
    ]
    return folder / "whole"


def test_a_run_leaves_what_it_promises(finished: Path) -> None:
    assert {"recipe.yaml", "provenance.json", "metrics.jsonl", "report.html", "picture.png"} <= {
        p.name for p in finished.iterdir()
    }
    assert sorted(p.name for p in (finished / "checkpoints").iterdir()) == ["step-000004", "step-000006"]
    assert {p.name for p in (finished / "samples").iterdir()} >= {"step-000000.png", "step-000006.jsonl"}
    rows = (finished / "rollouts" / "step-000006" / "rows.jsonl").read_text().splitlines()
    assert len(rows) == 2 * 2 * 2  # triplets x samples x tasks
    assert json.loads(rows[0])["rewards"].keys() >= {"cycle", "cycle.pixel", "cycle.scene_graph", "matching"}
    steps = [line["step"] for line in metrics(finished) if "lr" in line]
    assert steps == [1, 2, 3, 4, 5, 6]
    provenance = json.loads((finished / "provenance.json").read_text())
    assert provenance["command"][:3] == ["corl", "train", "unified"]


def test_resuming_a_finished_run_prints_its_table_again(finished: Path) -> None:
    before = (finished / "metrics.jsonl").read_text()
    again = corl(*unified("whole", 6), "--resume", "--json", cwd=finished.parent)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)[0]["step"] == 6
    assert (finished / "metrics.jsonl").read_text() == before


def test_a_run_killed_at_any_moment_resumes_exactly(finished: Path) -> None:
    folder = finished.parent
    killed = started(*unified("killed", 6), cwd=folder, stderr=subprocess.DEVNULL)
    wait_for(folder / "killed", killed, lambda line: line.get("step") == 3 and "lr" in line)
    killed.kill()
    killed.wait()
    with (folder / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "torn')  # what a kill in the middle of a write leaves
    resumed = corl(*unified("killed", 6), "--resume", cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    assert metrics(folder / "killed") == metrics(finished)
    for name, value in weights(finished).items():
        assert torch.equal(weights(folder / "killed")[name], value), name


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_leaves(tmp_path: Path, number: signal.Signals, code: int) -> None:
    words = unified("run", 500, "--set", "checkpoint.every=400", "--set", "eval.probes=null")
    stopped = started(*words, cwd=tmp_path, stderr=subprocess.PIPE)
    wait_for(tmp_path / "run", stopped, lambda line: line.get("step") == 1 and "lr" in line)
    stopped.send_signal(number)
    _, talk = stopped.communicate(timeout=120)
    assert stopped.returncode == code, talk
    assert "the state is saved" in talk
    assert "--resume" in talk
    steps = [line["step"] for line in metrics(tmp_path / "run") if "lr" in line]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{steps[-1]:06d}"]


def test_two_processes_train_as_one(finished: Path) -> None:
    folder = finished.parent
    launch = ("torch.distributed.run", "--nproc-per-node=2", "--master-port=29517", "-m")
    done = process(*unified("two", 6), cwd=folder, launch=launch)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held out") == 1, "one process prints"
    assert json.loads((folder / "two" / "provenance.json").read_text())["processes"] == 2
    one, two = metrics(finished), metrics(folder / "two")
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for ours, theirs in zip(one, two, strict=True):
        if "probe" in ours:
            assert theirs["probe"]["items"] == ours["probe"]["items"]
        if ours["step"] == 1 and "lr" in ours:
            assert theirs["reward/t2i/total"] == pytest.approx(ours["reward/t2i/total"], abs=1e-4)
            assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-3)
    start = load_file(checkpoint() / "model.safetensors")
    moved = [_flat(weights(run), start) for run in (finished, folder / "two")]
    assert torch.cosine_similarity(*moved, dim=0) > 0.99
    assert moved[0].norm() > 0


def test_drawing_alone_trains_on_two_processes(tmp_path: Path) -> None:
    launch = ("torch.distributed.run", "--nproc-per-node=2", "--master-port=29518", "-m")
    done = process(*training("separate --task t2i", "run", 2, "--set", "eval.probes=null"), cwd=tmp_path, launch=launch)
    assert done.returncode == 0, done.stderr
    assert {key.split("/")[1] for line in metrics(tmp_path / "run") for key in line if "reward/" in key} == {"t2i"}


def test_a_weight_can_be_changed_from_the_command_line(tmp_path: Path) -> None:
    done = corl(*unified("run", 1, "--set", "rewards.t2i.cycle.weight=2"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    line = next(line for line in metrics(tmp_path / "run") if "lr" in line)
    parts = 2 * line["reward/t2i/cycle"] + line["reward/t2i/matching"]
    assert line["reward/t2i/total"] == pytest.approx(parts, abs=1e-4)


def test_without_out_a_new_name_is_taken(tmp_path: Path) -> None:
    words = [word for word in unified("x", 1) if word not in ("--out", "x")]
    for expected in ("world-unified", "world-unified-2"):
        assert corl(*words, cwd=tmp_path).returncode == 0
        assert (tmp_path / "runs" / expected / "picture.png").exists()


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    done = corl(*unified("run", 3), "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 of 2 triplets" in done.stdout
    assert "1 x cycle + 1 x matching" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.command)
def test_every_command_has_a_plan(kind: Kind, tmp_path: Path) -> None:
    words = ["train", *kind.command.split(), "--dry-run", "--json", "--num-processes", "2"]
    done = corl(*words, cwd=tmp_path, code=0)
    (plan,) = json.loads(done.stdout)
    assert plan["command"] == f"corl train {kind.command}"
    assert plan["processes"] == "2 (ddp)"
    assert plan["start"].startswith("world (")
    if kind.command.startswith("refined"):
        assert plan["samples"].startswith("G = 16: 96 a step, 9,600 in all")
        assert (plan["KL"], plan["credit"]) == ("beta 0.02 (k3) to the start", "per_task")
    assert ("turns" in plan) == kind.cycle
    assert ("credit" in plan) == (kind.method == "rl")
    assert ("of type mc" in plan["data"]) == (kind.answer_types == ("mc",))


def test_refining_goes_on_from_a_run_and_watches_the_same_items(finished: Path) -> None:
    folder = finished.parent
    done = corl(*training("refined --task mcq", "mcq", 2, "--from", "whole", "--seed", 3), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "--from mcq" in done.stderr
    assert json.loads((folder / "mcq" / "provenance.json").read_text())["start"].startswith(
        f"{folder}/whole/checkpoints/"
    )
    lines = metrics(folder / "mcq")
    assert any("kl/mm2t" in line for line in lines)
    rows = [json.loads(line) for line in (folder / "mcq/rollouts/step-000002/rows.jsonl").read_text().splitlines()]
    assert {(row["task"], row["answer_type"]) for row in rows} == {("mm2t", "mc")}
    read = [
        {(p["task"], p["answer_type"], p["items"]) for line in one if (p := line.get("probe"))}
        for one in (lines, metrics(finished))
    ]
    assert read[0] == read[1]
    again = corl("train", "refined", "--out", "mcq", "--resume", cwd=folder)
    assert (again.returncode, "is complete" in again.stderr) == (0, True), again.stderr


def test_a_run_goes_on_from_anywhere_and_without_a_start_that_it_does_not_need(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "first")
    words = ["--from", "first", "--set", "checkpoint.every=1", "--set", "distributed.strategy=fsdp"]
    words += ["--set", "rewards.t2i=[{name: matching}]"]
    done = corl(*unified("second", 2, *words), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "preflight: one process, nothing to shard" in done.stderr
    shutil.rmtree(tmp_path / "second" / "checkpoints" / "step-000002")
    (tmp_path / "first").rename(tmp_path / "moved")
    again = corl("train", "unified", "--out", tmp_path / "second", "--resume", cwd=finished)
    assert again.returncode == 0, again.stderr
    assert "going on after step 1" in again.stderr
    other = ["--set", "algo.beta=0.1", "--out", tmp_path / "second", "--resume"]
    gone = corl("train", "unified", *words[2:], *other, cwd=finished)
    assert gone.returncode == 2, gone.stderr
    assert f"still needs the weights that it started from, and {tmp_path}/first/checkpoints" in gone.stderr
    (tmp_path / "second/checkpoints/step-000002/model.safetensors").write_bytes(b"")
    damaged = corl("train", "unified", "--out", tmp_path / "second", "--resume", cwd=finished)
    assert damaged.returncode == 2, damaged.stderr
    assert "step-000002 is damaged" in damaged.stderr
    assert "resume from the one before it" in damaged.stderr


def test_imitation_needs_neither_rewards_nor_samples(tmp_path: Path) -> None:
    done = corl(*training("sft", "run", 2), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = [line for line in metrics(tmp_path / "run") if "lr" in line]
    assert all(line["nll/t2i"] > 0 and line["nll/mm2t"] > 0 for line in steps)
    assert not [key for line in steps for key in line if key.startswith("reward")]


def test_a_cycle_trains_one_task_a_step(tmp_path: Path) -> None:
    done = corl(*training("cycle", "run", 2, "--set", "train.cycle.every=1"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = [line for line in metrics(tmp_path / "run") if "lr" in line]
    assert [[task for task in ("t2i", "mm2t") if f"reward/{task}/total" in line] for line in steps] == [
        ["t2i"],
        ["mm2t"],
    ]


def _flat(after: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([(after[name].float() - before[name].float()).flatten() for name in sorted(after)])


class TestBadInput:
    """Each fault is one clear line with the remedy and the right exit code, and nothing is lost."""

    def test_an_existing_folder_is_not_overwritten(self, finished: Path) -> None:
        before = sorted((p, p.stat().st_mtime) for p in finished.rglob("*"))
        done = corl(*unified("whole", 6), cwd=finished.parent)
        assert done.returncode == 2
        assert "exists and is not empty" in done.stderr
        assert "--resume" in done.stderr
        assert sorted((p, p.stat().st_mtime) for p in finished.rglob("*")) == before

    def test_resuming_with_another_recipe_says_what_differs(self, finished: Path) -> None:
        done = corl(*unified("whole", 6, "--set", "optim.lr=0.5"), "--resume", cwd=finished.parent)
        assert done.returncode == 2
        assert "optim.lr" in done.stderr

    def test_a_damaged_checkpoint(self, finished: Path, tmp_path: Path) -> None:
        shutil.copytree(finished, tmp_path / "run")
        newest = tmp_path / "run" / "checkpoints" / "step-000006"
        shutil.rmtree(newest)
        (tmp_path / "run" / "checkpoints" / "step-000004" / "optimizer.pt").write_bytes(b"junk")
        done = corl(*unified("run", 6), "--resume", cwd=tmp_path)
        assert done.returncode == 1
        assert "is damaged" in done.stderr

    @pytest.mark.parametrize(
        ("setting", "code", "words"),
        [
            ("sampling.group_size=1", 2, "sampling.group_size"),
            ("model.checkpoint=nowhere/at-all", 2, "No Janus checkpoint could be read from nowhere/at-all"),
            ("data.path=nowhere.parquet", 2, "No triplets could be read from nowhere.parquet"),
            ("rewards.t2i.cycle.text=spise", 2, "rewards.t2i.cycle.text"),
            ("rewards.t2i.cycle.perceptual=lpips-vgg", 2, "world-unified cannot run here"),
            ("rewards.t2i.cycle.captioner=nowhere/at-all", 2, "nowhere/at-all"),
            ("rewards.t2i.cycle.name=cycl", 2, "Did you mean cycle?"),
            ("train.batch_size=99999", 2, "fewer than one batch"),
            ("sampling.mm2t.max_new_tokens=4000", 1, "exceed the model's context"),
        ],
    )
    def test_settings_that_cannot_be(self, tmp_path: Path, setting: str, code: int, words: str) -> None:
        done = corl(*unified("run", 2, "--set", setting), cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert "hint:" in done.stderr

    def test_everything_is_said_at_once(self, tmp_path: Path) -> None:
        data = Dataset.from_dict({"image": ["a.png"], "prompt": ["a wall"]})
        data.to_parquet(tmp_path / "drawn.parquet")
        janus = shutil.copytree(checkpoint(), tmp_path / "janus")
        (janus / "model.safetensors").unlink()
        (janus / "chat_template.jinja").unlink()
        faulty = {
            "sampling.group_size": 1,
            "train.micro_batch_size": 2,
            "checkpoint.best": "mm2t/matching",
            "rewards.mm2t.accuracy.weigth": 1,
            "data.path": "drawn.parquet",
        }
        sets = overrides(faulty)
        words = ["refined", "--task", "t2i", "--recipe", "world/unified", "--from", "janus", "--num-processes", "4"]
        done = corl("train", *words, "--set", "train.batch_size=12", *sets, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        told = [line.strip() for line in done.stderr.partition("hint:")[0].splitlines() if line.startswith("  ")]
        for part in (
            "sampling.group_size: this should be greater than or equal to 2, not 1",
            "checkpoint.best: mm2t/matching",
            "rewards.mm2t.accuracy.weigth",
            "The recipe world-unified is not one for corl train refined --task t2i",
            "janus has no weights",
            "janus has no chat template",
            "train.micro_batch_size: 2 does not divide the 3 triplets",
            "drawn.parquet lacks question (column 'question'), answer (column 'answer'), answer_type",
        ):
            assert sum(part in line for line in told) == 1, (part, told)
        assert not list(tmp_path.glob("run*"))

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["refined"], "needs a task: t2i, mcq, oe"),
            (["separate", "--task", "oe"], "'oe' is not one of 't2i', 'mm2t'"),
            (["unified", "--recipe", "world/cycle"], "corl train cycle"),
            (["unified", "--num-processes", "5"], "12 triplets cannot be shared evenly by 5 processes"),
            (
                ["unified", "--num-processes", "3", "--set", "train.batch_size=5", "--set", "train.micro_batch_size=2"],
                "train.micro_batch_size: 2 does not divide the 5 triplets either.\nhint: Use a multiple of 6",
            ),
            (["unified", "--from", "."], "there is no config.json in it"),
            (["unified", "--from", "/no/such"], "'/no/such' is neither a folder here nor the id of a model"),
            (["unified", "--from", ""], "'' is neither a folder here nor"),
            (["unified", "--from", "x@best"], "'x@best' is neither a folder here nor"),
        ],
    )
    def test_a_command_that_cannot_be(self, tmp_path: Path, words: list[str], told: str) -> None:
        (tmp_path / "somewhere").touch()
        done = corl("train", *words, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert told in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_run_without_a_checkpoint_is_nothing_to_start_from(self, finished: Path, tmp_path: Path) -> None:
        shutil.copytree(finished, tmp_path / "run")
        shutil.rmtree(tmp_path / "run" / "checkpoints")
        done = corl("train", "refined", "--task", "oe", "--from", "run", "--dry-run", cwd=tmp_path)
        assert done.returncode == 2
        assert "The run run has no checkpoint yet" in done.stderr
        done = corl("train", "unified", "--from", "run@newest", "--dry-run", cwd=tmp_path)
        assert done.returncode == 2
        assert "run@newest: a run takes @best only" in done.stderr

    def test_what_a_new_run_begins_from_is_said(self, tmp_path: Path) -> None:
        done = corl("train", "refined", "--task", "oe", "--out", "never", "--resume", "--dry-run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines() == [
            "There is no run in never yet: starting one.",
            "refined starts from world, not from a run of stage 1: --from RUN",
        ]

    def test_a_reward_that_is_not_a_number(self, tmp_path: Path) -> None:
        (tmp_path / "late.py").write_text(
            "import torch\nfrom corl_cli.rewards.base import Reward, Scores\n\n\n"
            "class Late(Reward):\n    task = 't2i'\n    calls = 0\n\n"
            "    def score(self, rollout, policy):\n        self.calls += 1\n"
            "        return Scores(values=torch.full([len(rollout)], float('nan') if self.calls > 3 else 1.0))\n"
        )
        recipe = tmp_path / "mine.yaml"
        recipe.write_text("base: world/unified\nname: mine\nrewards: {t2i: [{name: 'late:Late'}]}\n")
        done = corl(*unified("run", 6, "--recipe", recipe), cwd=tmp_path)
        assert done.returncode == 1
        assert "Reward 'late:Late' gave nan for sample 0" in done.stderr
        assert "on_error=mask" in done.stderr
        assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
