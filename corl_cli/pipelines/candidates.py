"""A checkpoint to be tried by hand: the settings it was trained with, and the words it knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from corl_cli.core.errors import CorlError
from corl_cli.core.recipe import Instruction, Recipe
from corl_cli.core.requirements import demand
from corl_cli.core.run_dir import RunDir
from corl_cli.models import fitness
from corl_cli.models.prompts import Frame
from corl_cli.pipelines import build
from corl_cli.pipelines.evaluated import Checkpoint, draft
from corl_cli.world import checker

if TYPE_CHECKING:
    from PIL.Image import Image

    from corl_cli.models.base import UnifiedPolicy


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A checkpoint to be tried, with the recipe that it was trained with, or one for its kind.

    `instruction` is what stands after its questions: a run's own, else nothing, as in evaluation.
    """

    checkpoint: Checkpoint
    recipe: Recipe
    instruction: Instruction
    frame: Frame

    @classmethod
    def find(cls, name: str) -> Candidate:
        """The checkpoint of this name (Checkpoint.find); CorlError where it cannot be loaded, told before it is."""
        found, checkpoint = draft(None, [], name, None, generating=True)
        demand(checkpoint.requirements(), checkpoint.name)
        if Path(checkpoint.path).expanduser().is_dir():
            fitness.check(checkpoint.path)
        own = _run(checkpoint)
        return cls(
            checkpoint=checkpoint,
            recipe=own or found.recipe,
            instruction=own.data.instruction if own else Instruction(),
            frame=Frame.load(checkpoint.path),
        )

    @property
    def name(self) -> str:
        """See Checkpoint.name."""
        return self.checkpoint.name

    def load(self) -> UnifiedPolicy:
        """The policy, where evaluation would have it; torch's own attention, so that no machine lacks a kernel."""
        model = self.recipe.model.model_copy(update={"attention": "sdpa"})
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return build.build_policy(model, self.checkpoint.path).to(device).requires_grad_(False).eval()

    def spelt(self, text: str) -> str:
        """The text with words that the model does not know in lower case, where it knows them so."""
        for start, end in reversed(self._strange(text)):
            lower = text[start:end].lower()
            if not self._strange(lower):
                text = text[:start] + lower + text[end:]
        return text

    def unknown(self, text: str) -> list[str]:
        """The words that the model has no token for."""
        return list(dict.fromkeys(text[start:end] for start, end in self._strange(text)))

    def _strange(self, text: str) -> list[tuple[int, int]]:
        tokenizer = self.frame.prompts.tokenizer
        read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        places = zip(read["input_ids"], read["offset_mapping"], strict=True)
        return [place for token, place in places if token == tokenizer.unk_token_id]

    def verdict(self, prompt: str, drawing: Image) -> bool | None:
        """Whether the prompt is true of a drawing, by the embedded world's checker; None where it cannot judge."""
        if not self.checkpoint.of_world:
            return None
        try:
            return checker.check(prompt, drawing).correct
        except CorlError:  # not in the world's language
            return None


def _run(checkpoint: Checkpoint) -> Recipe | None:
    """The recipe of the run that a checkpoint is of, also where the checkpoint's own folder was named."""
    if checkpoint.run:
        return checkpoint.run.recipe()
    folder = Path(checkpoint.path).expanduser().resolve()
    run = RunDir(folder.parent.parent)
    return run.recipe() if folder.parent == run.checkpoints and run.recipe_file.exists() else None
