"""Recipes from YAML files: `base:` chains, `--set`, and every fault at once.

YAML 1.2 is read (4e-6 is a number, `no` is a string, a key given twice is an error), unlike PyYAML's 1.1.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from corl_cli.core.errors import UsageError
from corl_cli.core.faults import explain
from corl_cli.core.recipe import Recipe

LIST_HINT = "List the shipped recipes with: corl recipe ls"


# What the faults between sections are about (Recipe._agree).
BETWEEN = ("train.tasks", "train.method", "train.cycle", "rewards", "algo.credit", "eval.probes", "checkpoint.best")


class _Loose(Recipe):
    """A recipe whose sections need not agree."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        return self


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A recipe as far as it can be read, so that the rest of it can be checked too: one line for each of its faults.

    What was faulty and is `dropped` (paths of keys) has its default.
    """

    source: str
    recipe: Recipe
    faults: list[str]
    dropped: list[tuple[int | str, ...]]

    def tells(self, *keys: str) -> bool:
        """Whether these dotted keys, and what is inside of them, are as they were written."""
        paths = [tuple(key.split(".")) for key in keys]
        return not any(path[: len(lost)] == lost[: len(path)] for path in paths for lost in self.dropped)


def load(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a file or a shipped name, its bases and `key=value` overrides applied.

    UsageError with one line per fault: the dotted key and what is wrong with it.
    """
    draft = examine(source, overrides)
    if draft.faults:
        raise refuse(draft.source, draft.faults)
    return draft.recipe


def examine(source: str | Path, overrides: Sequence[str] = ()) -> Draft:
    """What `load` loads, faults and all; UsageError where there is no such file, or it holds no mapping."""
    raw = _read_chain(locate(str(source)))
    faults: list[str] = []
    dropped: list[tuple[int | str, ...]] = []
    for override in overrides:
        try:
            raw = _override(raw, override)
        except ValueError as fault:
            faults.append(str(fault))
            dropped.append(tuple(override.partition("=")[0].split(".")))
    while True:
        try:
            recipe, disagreements = Recipe.model_validate(raw), []
            break
        except ValidationError as error:
            found = explain(error, raw)
            if not error.errors()[0]["loc"]:  # all sections can be read
                recipe, disagreements = _Loose.model_validate(raw), found
                break
            faults += found
            raw = _mend(raw, error, dropped)
    draft = Draft(source=str(source), recipe=recipe, faults=faults, dropped=dropped)
    faults += disagreements if draft.tells(*BETWEEN) else []
    return draft


def derive(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with some keys changed, given as mappings within mappings; UsageError as of `load`."""
    raw = _merge(recipe.model_dump(), changes)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise refuse(str(raw["name"]), explain(error, raw)) from error


def refuse(source: str, faults: Sequence[str], hint: str = "See every key with: corl recipe schema") -> UsageError:
    """The error that says all faults of a recipe, a line each."""
    count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
    lines = "\n".join(f"  {fault}" for fault in faults)
    return UsageError(f"The recipe {source} has {count}:\n{lines}", hint)


def dump(recipe: Recipe) -> str:
    """The whole recipe, defaults included, as YAML that `load` reads back to an equal recipe."""
    yaml = _yaml()
    yaml.default_flow_style = None  # innermost lists and mappings on one line
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 120
    yaml.Representer = _Representer
    text = io.StringIO()
    yaml.dump(recipe.model_dump(mode="json"), text)
    return text.getvalue()


def names() -> list[str]:
    """The shipped recipes, such as `world/unified`; bases (folders that begin with `_`) are left out."""
    found = (path.relative_to(_shipped()).with_suffix("").as_posix() for path in _shipped().glob("**/*.yaml"))
    return sorted(name for name in found if not name.startswith("_"))


def locate(source: str) -> Path:
    """The file of a recipe: a path when there is such a file, else a shipped name; UsageError when it is neither."""
    path = _find(source, Path())
    if path is None:
        near = difflib.get_close_matches(source.removesuffix(".yaml"), names(), n=1, cutoff=0.4)
        raise UsageError(
            f"There is no recipe '{source}'.", f"Did you mean {near[0]}? {LIST_HINT}" if near else LIST_HINT
        )
    return path


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Dotted keys and their values; items of a list that have a name go by it."""
    return dict(_leaves(recipe.model_dump(mode="json"), ""))


def diff(left: Recipe, right: Recipe) -> dict[str, tuple[Any, Any]]:
    """Dotted keys on which two recipes differ, with both values; None where one of them lacks the key."""
    ours, theirs = flatten(left), flatten(right)
    keys = [*ours, *(key for key in theirs if key not in ours)]
    return {key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)}


def schema() -> dict[str, Any]:
    """The JSON schema of a recipe file: a `Recipe`, whose keys may also come from a `base`."""
    content = Recipe.model_json_schema()
    base = {"type": "string", "description": "a recipe whose keys this one takes over and changes"}
    content["properties"] = {"base": base, **content["properties"]}
    content["anyOf"] = [{"required": content.pop("required")}, {"required": ["base"]}]
    return content


class _Representer(SafeRepresenter):
    """Writes 4e-06 as 4.0e-06, a number for every YAML reader."""

    def represent_float(self, data: float) -> ScalarNode:
        text = repr(data)
        if "e" in text and "." not in text:
            text = text.replace("e", ".0e")
        return self.represent_scalar("tag:yaml.org,2002:float", text)


_Representer.add_representer(float, _Representer.represent_float)


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)


def _shipped() -> Path:
    """The folder of shipped recipes: inside the installed package, or beside it in a source checkout."""
    package = Path(__file__).parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def _find(source: str, folder: Path) -> Path | None:
    candidates = [folder / source, _shipped() / f"{source}.yaml"]
    return next((path for path in candidates if path.suffix in {".yaml", ".yml"} and path.is_file()), None)


def _find_base(base: str, folder: Path) -> Path | None:
    beside = folder / f"{base}.yaml"
    return beside if beside.is_file() else _find(base, folder)


def _read_chain(path: Path) -> dict[str, Any]:
    """The mapping of a file merged over its bases."""
    chain: list[Path] = []
    layers: list[dict[str, Any]] = []
    while True:
        if path.resolve() in chain:
            names = " -> ".join(step.stem for step in [*chain, path])
            raise UsageError(f"{chain[0].name}: the bases go round in a circle: {names}.", "Remove one `base:` line.")
        chain.append(path.resolve())
        layer = _read(path)
        layers.append(layer)
        base = layer.pop("base", None)
        if base is None:
            break
        found = _find_base(base, path.parent) if isinstance(base, str) else None
        if found is None:
            raise UsageError(
                f"{path}: base: there is no recipe '{base}'.",
                f"A base is a file beside this one or a name. {LIST_HINT}",
            )
        path = found
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged = _merge(merged, layer)
    return merged


def _read(path: Path) -> dict[str, Any]:
    try:
        content = _yaml().load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise UsageError(f"{path}{_place(error)}: {_problem(error)}.", "Mend the YAML there.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{path}: a recipe is a mapping of sections, not a {type(content).__name__}.", LIST_HINT)
    return content


def _place(error: YAMLError) -> str:
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    return f", line {mark.line + 1}" if mark else ""


def _problem(error: YAMLError) -> str:
    problem = error.problem if isinstance(error, MarkedYAMLError) else None
    return re.sub(r" \(original value: .*", "", str(problem or error).splitlines()[0], flags=re.DOTALL)


def _merge(base: dict[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """`layer` over `base`: mappings merge, anything else (lists included) replaces."""
    merged = dict(base)
    for key, value in layer.items():
        ours = merged.get(key)
        merged[key] = _merge(ours if isinstance(ours, dict) else {}, value) if isinstance(value, dict) else value
    return merged


def _override(raw: dict[str, Any], override: str) -> dict[str, Any]:
    """The mapping with one `key=value` put in; ValueError says in a line what is wrong with it."""
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise ValueError(f"--set {override}: this is not of the form key=value")
    try:
        value = _yaml().load(text)
    except YAMLError as error:
        raise ValueError(f"{key}: the value '{text}' is not YAML: {_problem(error)}") from error
    changed: dict[str, Any] = _put(raw, key.split("."), 0, value)
    return changed


def _put(node: Any, key: Sequence[str], depth: int, value: Any) -> Any:
    """A copy of `node` with `value` at key[depth:]; a copy, because YAML aliases may share it."""
    if depth == len(key):
        return value
    node = {} if node is None else node
    if not isinstance(node, dict | list):
        raise ValueError(f"{'.'.join(key)}: {'.'.join(key[:depth])} has no parts; it is {node!r}")
    place: Any = key[depth]
    if isinstance(node, list):
        place, depth = _item(node, key, depth)
    below = node.get(place) if isinstance(node, dict) else node[place]
    copy = node.copy()
    copy[place] = _put(below, key, depth + 1, value)
    return copy


def _mend(raw: dict[str, Any], error: ValidationError, dropped: list[tuple[int | str, ...]]) -> dict[str, Any]:
    """A copy without the faulty keys, which are noted in `dropped`; where an item of a list lacks one, the list goes.

    Only the name of a recipe has no default.
    """
    raw = deepcopy(raw)
    for details in reversed(error.errors()):  # from the ends of lists, so that numbers of items stay right
        path = details["loc"]
        if any(path[: len(lost)] == lost for lost in dropped):
            continue
        holder, depth = None, 0
        node: Any = raw
        for level, part in enumerate(path):
            if isinstance(node, dict) and part in node:
                holder, depth = node, level
            try:
                node = node[part]
            except (LookupError, TypeError):
                break
        dropped.append(path[: depth + 1])
        if holder is not None:
            del holder[path[depth]]
    return {"name": "unnamed", **raw}


def _item(items: list[Any], key: Sequence[str], depth: int) -> tuple[int, int]:
    """The position that key[depth] means in a list, a number or the name of an item, and the depth where it ends.

    A name may hold dots itself: my_pkg.module:MyReward.
    """
    part = key[depth]
    if part.isdecimal() and int(part) < len(items):
        return int(part), depth
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    for end in range(len(key), depth, -1):
        if (name := ".".join(key[depth:end])) in names:
            return names.index(name), end - 1
    known = ", ".join(str(name) for name in names if name is not None)
    listed = f" ({known})" if known else ""
    raise ValueError(f"{'.'.join(key)}: {'.'.join(key[:depth])} has no item '{part}' among its {len(items)}{listed}")


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        items = {str(key): value for key, value in node.items()}
    elif isinstance(node, list) and node and all(isinstance(item, dict) and "name" in item for item in node):
        items = {item["name"]: {key: item[key] for key in item if key != "name"} for item in node}
    else:
        yield prefix, node
        return
    for key, value in items.items():
        yield from _leaves(value, f"{prefix}.{key}" if prefix else key)
