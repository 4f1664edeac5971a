"""The rewards there are: what each pays for, what it needs, and whether that is here."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from corl_cli.core.errors import UsageError
from corl_cli.core.recipe import RewardSpec
from corl_cli.core.requirements import Requirement
from corl_cli.core.types import Task
from corl_cli.pipelines.samples import OUTPUT
from corl_cli.rewards import REWARDS, bind, resolve
from corl_cli.rewards.base import Reward

# A choice that an option leaves open, with one of its values.
OPEN_CHOICES = {("cycle", "captioner"): ("policy", "Salesforce/blip-image-captioning-base")}


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a reward; one that is required has no default."""

    name: str
    required: bool
    default: Any
    values: str
    description: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One value of an option, and what it needs from the machine; all other options are at their defaults."""

    option: str
    value: str
    requirements: list[Requirement]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A reward by name. `choices` are the values of those options on which the needs depend.

    What it needs is told of its default options; of a reward with required ones nothing is told.
    """

    name: str
    task: Task | None
    docstring: str
    columns: list[str] = field(default_factory=list)
    optional: list[str] = field(default_factory=list)
    options: list[Option] = field(default_factory=list)
    policy: str | None = None
    requirements: list[Requirement]
    choices: list[Choice] = field(default_factory=list)

    @property
    def pays_for(self) -> str:
        """The first line of the class's docstring."""
        return self.docstring.partition("\n")[0]


def entries() -> list[Entry]:
    """Every registered reward; one that cannot be imported is there too, and says why."""
    return [_entry_or_reason(name) for name in REWARDS]


def entry(name: str) -> Entry:
    """A registered reward or the user's own `my_pkg.module:Class`; UsageError when there is none."""
    cls = resolve(name)
    options = [_option(key, info) for key, info in cls.Options.model_fields.items()]
    reward = None if any(option.required for option in options) else bind(RewardSpec(name=name), cls.task)
    return Entry(
        name=name,
        task=cls.task,
        docstring=inspect.cleandoc(cls.__doc__ or ""),
        columns=list(dict.fromkeys((OUTPUT[cls.task], *cls.columns))),
        optional=list(cls.optional),
        options=options,
        policy=_policy(reward) if reward else None,
        requirements=requirements(reward) if reward else [],
        choices=list(_choices(name, cls)) if reward else [],
    )


def state(found: list[Requirement]) -> str:
    """The worst state of some requirements: broken, missing, download or ok."""
    order = ("broken", "missing", "download", "ok")
    return min((requirement.state for requirement in found), key=order.index, default="ok")


def requirements(reward: Reward) -> list[Requirement]:
    """What a reward needs; one whose needs cannot be found out is broken, and says why."""
    try:
        return reward.requirements()
    except Exception as error:  # a user's reward may raise anything, and must not hide the others
        return [_broken(type(reward).__name__, f"{type(error).__name__}: {error}")]


def _entry_or_reason(name: str) -> Entry:
    try:
        return entry(name)
    except UsageError as error:
        return Entry(name=name, task=None, docstring="", requirements=[_broken(f"reward {name}", error.message)])


def _broken(what: str, reason: str) -> Requirement:
    return Requirement(name=what, state="broken", detail=reason, remedy="Install corl again, or mend the class.")


def _policy(reward: Reward) -> str | None:
    """Whose weights the reward reads."""
    if reward.needs_reference:
        return "frozen policy"
    return "policy" if reward.needs_policy else None


def _option(name: str, info: FieldInfo) -> Option:
    return Option(
        name=name,
        required=info.is_required(),
        default=None if info.is_required() else info.get_default(call_default_factory=True),
        values=" | ".join([_shown(value) for value in _literals(info.annotation)] or _types(info.annotation)),
        description=info.description or "",
    )


def _choices(name: str, cls: type[Reward]) -> Iterator[Choice]:
    for key, info in cls.Options.model_fields.items():
        values = OPEN_CHOICES.get((name, key)) or [value for value in _literals(info.annotation) if value is not None]
        rewards = [bind(RewardSpec.model_validate({"name": name, key: value}), cls.task) for value in values]
        found = [requirements(reward) for reward in rewards]
        if any(found):
            yield from (
                Choice(option=key, value=_shown(value), requirements=needs)
                for value, needs in zip(values, found, strict=True)
            )


def _literals(annotation: Any) -> list[Any]:
    """The values of a Literal, or of one that may be null (None)."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if NoneType in (inner := get_args(annotation)):
        found = [value for part in inner for value in _literals(part)]
        return [*found, None] if found else []
    return []


def _shown(value: Any) -> str:
    """A value as it is written in a recipe."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _types(annotation: Any) -> list[str]:
    """The names of the types in an annotation; what only bounds a type is left out."""
    if get_origin(annotation) is Annotated:
        return _types(annotation.__origin__)
    if get_origin(annotation) in (Union, UnionType):
        return [name for part in get_args(annotation) for name in _types(part)]
    return ["null" if annotation is NoneType else getattr(annotation, "__name__", str(annotation))]
