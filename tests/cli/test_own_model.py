"""A model class of the user's own takes the place of corl's by name."""

import json
import shutil
from pathlib import Path

from commands import corl

from corl_cli import world

OWN = '''
from corl_cli.models.janus import JanusPolicy


class Hushed(JanusPolicy):
    """Answers nothing but its first word."""

    def sample(self, task, triplets, sampling, *, key):
        rollout = super().sample(task, triplets, sampling, key=key)
        if task == "mm2t":
            rollout.outputs[:] = ["hush"] * len(rollout.outputs)
        return rollout
'''
FEW = ["train.max_steps=1", "train.batch_size=2", "sampling.group_size=2", "eval.probes.items=2"]


def test_a_class_of_ones_own_is_trained(tmp_path: Path) -> None:
    (tmp_path / "own_model.py").write_text(OWN)
    overrides = [word for change in [*FEW, "model.family=own_model:Hushed"] for word in ("--set", change)]
    corl("train", "unified", *overrides, "--out", "run", cwd=tmp_path, code=0)
    look = json.loads((tmp_path / "run/samples/step-000001.jsonl").read_text().splitlines()[0])
    assert set(look["answers"]) == {"hush"}


def test_a_class_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no_model.py").write_text("class Plain: ...\n")
    for name, words in [("no_model:Plain", "'no_model:Plain' is not a model family"), ("janos", "did you mean janus?")]:
        done = corl("train", "unified", "--dry-run", "--set", f"model.family={name}", cwd=tmp_path, code=2)
        assert words.lower() in done.stderr.lower()


def test_a_checkpoint_that_a_janus_of_ones_own_cannot_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own_janus.py").write_text(
        "from corl_cli.models.janus import JanusPolicy\n\nclass Own(JanusPolicy): ...\n"
    )
    broken = shutil.copytree(world.checkpoint(), tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"torn")
    changes = ["model.family=own_janus:Own", "model.checkpoint=broken"]
    overrides = [word for change in changes for word in ("--set", change)]
    done = corl("train", "unified", "--dry-run", *overrides, cwd=tmp_path, code=2)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "broken has a damaged model.safetensors" in line
