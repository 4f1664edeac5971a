"""Each case runs in a process of its own, because a package is imported once."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = "from corl_cli.models import torchvision_guard as guard; guard.check(); guard.check()"


def python(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*paths, ROOT)))}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


def torchvision(folder: Path, code: str) -> Path:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(code)
    (folder / "torchvision" / "_C.so").write_bytes(b"built for another torch")
    return folder


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed here")
def test_absent_is_fine():
    assert python(f"{CHECK}; import sys; assert 'torchvision' not in sys.modules").returncode == 0


@pytest.mark.parametrize("name", ["nms", "qnms"])
def test_missing_operators_are_declared_before_the_import(tmp_path, name):
    # what torchvision does at import: RuntimeError "operator torchvision::nms does not exist" when undeclared
    code = f"import torch\n@torch.library.register_fake('torchvision::{name}')\ndef shape(dets, scores, threshold): ..."
    folder = torchvision(tmp_path, code)
    assert "does not exist" in python("import torchvision", folder).stderr
    result = python(f"{CHECK}; import torchvision", folder)
    assert result.returncode == 0, result.stderr


def test_one_that_stays_broken_is_named_with_the_remedy(tmp_path):
    folder = torchvision(tmp_path, "raise RuntimeError('torch is too old')")
    catch = "from corl_cli.core.errors import CorlError\ntry:\n    {}\nexcept CorlError as e: print(e.message, e.hint)"
    result = python(catch.format(CHECK), folder)
    assert "torch is too old" in result.stdout
    assert "pip uninstall torchvision" in result.stdout
