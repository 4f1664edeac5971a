"""What is evaluated: the checkpoint, the recipe that fits it, and where its results belong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from corl_cli import world
from corl_cli.core.loader import Draft, examine
from corl_cli.core.recipe import Instruction, Recipe
from corl_cli.core.requirements import Requirement
from corl_cli.core.run_dir import RunDir
from corl_cli.eval.store import Store
from corl_cli.models import lora
from corl_cli.pipelines import build
from corl_cli.scoring import checkpoints

FILES = ("*.safetensors", "*.bin", "config.json", "adapter_config.json", "tokenizer.json")  # what outputs depend on


@dataclass(frozen=True)
class Checkpoint:
    """Weights by the name that they were asked for, where they are, and the run that they are of, if any."""

    asked: str
    path: str
    run: RunDir | None

    @classmethod
    def find(cls, asked: str) -> Checkpoint:
        """The checkpoint of this name: 'world', a run, RUN@best, a folder or a hub id; CorlError as of build.locate."""
        path = build.locate(asked)
        folder = Path(asked.removesuffix("@best"))
        return cls(asked, path, RunDir(folder) if (folder / "recipe.yaml").exists() else None)

    @property
    def name(self) -> str:
        """What a result calls it: a run with its step."""
        return f"{self.asked} ({Path(self.path).name})" if self.run else self.asked

    @property
    def results(self) -> Path:
        """The folder of its results: in its run's, or else among the runs."""
        if self.run:
            return self.run.path / "eval" / Path(self.path).name
        return Path("runs") / "eval" / self.asked.strip("/").replace("/", "--")

    def requirements(self) -> list[Requirement]:
        """What the weights of a hub id need from this machine; a folder was looked into before."""
        if Path(self.path).expanduser().is_dir():
            return []
        return [checkpoints.requirement("the policy's weights", self.path, "JanusForConditionalGeneration")]

    def digest(self) -> str:
        """A sha256 of its weights, configuration and tokenizer, and of the weights that adapters stand on."""
        return _digest(self.path)

    @cached_property  # two tokenizers are parsed for it
    def of_world(self) -> bool:
        """Whether it speaks the embedded world's language and no other."""
        return _words(Path(self.path)) == _words(world.checkpoint())


def draft(
    recipe: str | None, overrides: Sequence[str], asked: str | None, store: Store | None, *, generating: bool
) -> tuple[Draft, Checkpoint]:
    """The recipe to evaluate with, and the checkpoint, which its `model` section then is about.

    A recipe that was named is taken; else that of a result which is gone on with; else the one for the checkpoint: the
    embedded world's where it speaks its language, or Janus-Pro's. A run's own family, precision and instruction hold.
    Where nothing is generated, the weights of a result need not be on this machine.
    """
    if store and store.exists:
        recipe = recipe or str(store.recipe_file)
        if asked is None and not generating:
            found = examine(recipe, overrides)
            return found, Checkpoint(found.recipe.model.checkpoint, "", None)
        asked = asked or examine(store.recipe_file).recipe.model.checkpoint
    if asked is None:
        asked = examine(recipe).recipe.model.checkpoint if recipe else "world"
    checkpoint = Checkpoint.find(asked)
    own = checkpoint.run.recipe() if checkpoint.run else None
    changes = [f"model.checkpoint={json.dumps(asked)}"]
    if own:
        changes += [f"model.{name}={getattr(own.model, name)}" for name in ("family", "dtype", "attention")]
    found = examine(recipe or ("eval/world" if checkpoint.of_world else "eval/janus-pro-1b"), [*changes, *overrides])
    return found, checkpoint


def instruction(recipe: Recipe, checkpoint: Checkpoint) -> Instruction:
    """What stands after each question: the recipe's word, else what the run was trained with, else nothing."""
    if recipe.eval.instruction:
        return recipe.eval.instruction
    return checkpoint.run.recipe().data.instruction if checkpoint.run else Instruction()


@cache
def _digest(path: str) -> str:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        folder = checkpoints.newest("policy's weights", path)
    digest = hashlib.sha256()
    for file in sorted({file for pattern in FILES for file in folder.glob(pattern)}):
        digest.update(file.name.encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    if (base := lora.base_of(folder)) != str(folder):
        digest.update(_digest(base).encode())
    return digest.hexdigest()


def _words(folder: Path) -> object:
    """The vocabulary of a folder's tokenizer; None where there is none to be read."""
    try:
        return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
