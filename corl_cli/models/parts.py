"""The parts of a Janus that can learn, and which tasks touch them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from corl_cli.core.recipe import Part
from corl_cli.core.types import Task
from corl_cli.models import lora

TOUCHED: dict[Part, tuple[Task, ...]] = {
    "language_model": ("t2i", "mm2t"),
    "vision_model": ("mm2t",),
    "aligner": ("mm2t",),
    "generation_embeddings": ("t2i",),
    "generation_aligner": ("t2i",),
    "generation_head": ("t2i",),
}


def prepare(model: Any, train: Collection[Part], dtype: torch.dtype) -> None:
    """Let the parts in `train` learn, or adapters where there are some, in float32; freeze and hold the rest in dtype.

    A frozen language model keeps its embeddings, norms and rotations in float32: the residual stream is, and so the
    scores of a frozen one are on a CPU to the bit those of the learning one whose weights it has.
    """
    model.requires_grad_(False)
    inner = model.model
    inner.vqmodel.to(dtype)
    for name in TOUCHED:
        if name in train and not (name == "language_model" and lora.attached(model)):
            learn(model, [name], ("t2i", "mm2t"))
        elif name != "language_model":
            getattr(inner, name).to(dtype)
        else:
            for own, module in [*inner.language_model.named_modules(), ("lm_head", model.lm_head)]:
                if isinstance(module, nn.Linear) and not lora.is_adapter(own):
                    module.to(dtype)
    if lora.attached(model):
        for own, parameter in model.named_parameters():
            parameter.requires_grad_(lora.is_adapter(own))


def learn(model: Any, train: Collection[Part], tasks: Sequence[Task]) -> None:
    """Let those of the parts in `train` learn that the tasks touch; drawing touches no lm_head."""
    for name in train:
        getattr(model.model, name).requires_grad_(bool(set(TOUCHED[name]) & set(tasks)))
        if name == "language_model":
            model.lm_head.requires_grad_("mm2t" in tasks)
