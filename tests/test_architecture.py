"""The shape of the code: who may import whom, what stays light, how long a module may be."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "corl_cli"
MODULES = sorted(PACKAGE.glob("**/*.py"))
HEAVY = {"torch", "transformers", "accelerate", "datasets", "PIL"}
LAYERS = [
    {"core"},
    {"models"},
    {"world"},
    {"scoring"},
    {"trainer", "rewards", "data", "eval"},
    {"pipelines"},
    {"cli"},
    {"__main__"},
]
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(nodes: Iterator[ast.AST]) -> Iterator[tuple[int, str]]:
    """Line and full name of every import among the nodes; `from a import b` counts as a.b."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the module is imported: not inside functions, not for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not (typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            yield node
            yield from at_import(node)


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name != "__init__.py" or path.parent != PACKAGE], ids=names
)
def test_imports_go_down_and_never_across(path):
    own = layer(path)
    for line, target in imports(ast.walk(ast.parse(path.read_text()))):
        parts = target.split(".")
        if parts[0] != "corl_cli" or parts[1] not in HEIGHT or parts[1] == own:
            continue
        assert HEIGHT[parts[1]] < HEIGHT[own], f"{path.name}:{line}: {own} may not import {target}"


def test_every_package_has_a_layer():
    assert {folder.name for folder in PACKAGE.iterdir() if list(folder.glob("*.py"))} <= set(HEIGHT)


@pytest.mark.parametrize("path", [path for path in MODULES if layer(path) in {"cli", "core"}], ids=names)
def test_the_command_line_and_the_core_start_light(path):
    heavy = [name for _, name in imports(at_import(ast.parse(path.read_text()))) if name.split(".")[0] in HEAVY]
    assert not heavy


@pytest.mark.parametrize("path", MODULES, ids=names)
def test_modules_are_short(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("arguments", ["--help", "train unified --help", "recipe ls", "recipe show world/unified"])
def test_commands_that_only_talk_load_nothing_heavy(arguments):
    code = f"""
import sys
from corl_cli.cli.app import app
app({arguments.split()!r}, standalone_mode=False)
loaded = {HEAVY!r} & set(sys.modules)
assert not loaded, loaded
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
