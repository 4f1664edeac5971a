"""`corl env`: enough for an issue, and nothing that tells whose machine it is."""

import getpass
import json
import platform
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from commands import corl, process

from corl_cli import __version__
from corl_cli.pipelines.environment import NAMES, SWITCHES, environment

HOME = "/home/zaphod"
SECRET = "sk-hush0123456789"


def test_it_says_what_runs_here(tmp_path):
    found = json.loads(corl("env", "--json", cwd=tmp_path, code=0).stdout)
    assert found["corl"]["version"] == __version__
    assert found["machine"]["python"].startswith(platform.python_version())
    assert found["machine"]["cpus"] >= 1
    assert found["machine"]["memory_gib"] > 0
    assert found["torch"]["version"] == torch.__version__
    assert found["torch"]["threads"] == torch.get_num_threads()
    assert len(found["torch"]["gpus"]) == torch.cuda.device_count()
    assert found["libraries"]["transformers"] == version("transformers")
    assert found["settings"]["hub_offline"] is True
    if (Path(__file__).parents[2] / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found["corl"]["commit"])


def test_as_text_it_is_markdown_that_leaves_out_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    text = corl("env", cwd=tmp_path, code=0).stdout
    assert text.startswith("### Environment\n")
    assert "OMP_NUM_THREADS `3`" in text
    assert f"- torch: version `{torch.__version__}`" in text
    assert "None" not in text
    assert len(text.splitlines()) < 12


@pytest.mark.parametrize("value", [SECRET + "/x", f"{HOME}/cache", "a b", "x" * 100, "http://me:you@host", ""])
@pytest.mark.parametrize("words", [[], ["--json"]])
def test_no_secret_and_no_folder_is_told(tmp_path, monkeypatch, value, words):
    for name in SWITCHES:
        monkeypatch.setenv(name, value)
    for name in NAMES:
        monkeypatch.setenv(name, SECRET)
    for name in ("HOME", "USER", "LOGNAME", "HOSTNAME", "MY_KEY"):
        monkeypatch.setenv(name, HOME)
    text = corl("env", *words, cwd=tmp_path, code=0).stdout
    for told in (SECRET, HOME, "zaphod", str(tmp_path), str(Path.cwd()), "MY_KEY"):
        assert told not in text
    assert not re.search(r"[\s\"`'=:]/\w", text), "a path"
    assert {getpass.getuser(), platform.node()}.isdisjoint(re.findall(r"[\w.-]+", text))
    settings = environment()["settings"]
    assert {settings[name] for name in (*SWITCHES, *NAMES)} == {"set"}


def test_a_torch_that_does_not_load_is_told_of(tmp_path, monkeypatch):
    (tmp_path / "first" / "torch").mkdir(parents=True)
    (tmp_path / "first" / "torch" / "__init__.py").write_text(
        f"raise ImportError('{HOME}/libcudnn.so.9: no such file')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "first"))
    done = process("env", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"- torch: version `{version('torch')}`, state `does not import: ImportError`" in done.stdout
    assert f"transformers `{version('transformers')}`" in done.stdout
    assert HOME not in done.stdout
