"""The contract between the trainer and a model that both draws and answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL.Image import Image
from torch import Tensor, nn

from corl_cli.core.recipe import Lora, Part
from corl_cli.core.types import Rollout, Sampling, Task, Triplet


class Embedded(NamedTuple):
    """Last hidden states of images [N, K, D] and of the texts that follow them [N, T, D], with mask and ids [N, T].

    The mask marks the texts' own tokens: templates, special tokens and padding are left out.
    """

    images: Tensor
    texts: Tensor
    mask: Tensor
    ids: Tensor


class Scored(NamedTuple):
    """Log-probs of completion tokens and entropies of the distributions that they are of, [N, L] in float32.

    0 where masked; entropies carry no gradient.
    """

    logps: Tensor
    entropies: Tensor


class Count(NamedTuple):
    """Parameters of a policy: how many learn, how many are frozen, and of how many the sampler holds a copy."""

    learn: int
    frozen: int
    copied: int


class UnifiedPolicy(nn.Module, ABC):
    """One network that draws images from prompts (t2i) and answers questions about images (mm2t)."""

    @classmethod
    @abstractmethod
    def load(
        cls,
        path: str | Path,
        *,
        dtype: str = "float32",
        attention: str = "sdpa",
        train: Sequence[Part] = ("language_model",),
        adapters: Lora | None = None,
        resume: bool = False,
    ) -> UnifiedPolicy:
        """The policy saved at `path` (a folder or a hub id); CorlError when it is missing or damaged.

        The parts in `train` learn, or fresh `adapters`. Adapters that are saved at `path` are folded into the weights,
        or learn on with `resume`.
        """

    @classmethod
    @abstractmethod
    def count(
        cls, path: str | Path, *, train: Sequence[Part] = ("language_model",), adapters: Lora | None = None
    ) -> Count:
        """How many parameters `load` would hold, from the configuration alone."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The weights that `save` writes, by name: adapters alone where their base is saved elsewhere."""

    @abstractmethod
    def save(self, path: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write weights (its own unless given), configuration and processor to a folder that `load` and transformers
        can read.
        """

    @abstractmethod
    def sample(self, task: Task, triplets: Sequence[Triplet], sampling: Sampling, *, key: str) -> Rollout:
        """Draw `sampling.group_size` completions for each triplet: N = B * G rows, group-major.

        The noise depends on (task, key, triplet id, sample index, position) alone, so a row is the same whatever batch
        it is in. Runs in eval mode without gradients and restores the mode afterwards.
        """

    @abstractmethod
    def encode(self, task: Task, triplets: Sequence[Triplet], targets: Sequence[str] | Sequence[Image]) -> Rollout:
        """Rows whose completions are given (texts, or images through the VQ encoder) instead of sampled."""

    @abstractmethod
    def forward(self, rollout: Rollout) -> Scored:
        """Log-probs of the completions under the scoring distribution.

        It is forward itself, so that the hooks of DDP and FSDP fire.
        """

    @abstractmethod
    def embed(self, images: Sequence[Image], prompts: Sequence[str]) -> Embedded:
        """Hidden states of each image, read as an understanding input, and of the prompt behind it (paper, R_TIM)."""

    @abstractmethod
    def words(self, ids: Tensor) -> list[str]:
        """The text of each of T tokens [T]."""

    @abstractmethod
    def checkpoint_layers(self) -> None:
        """Compute activations of learning layers again in the backward pass where that saves memory, in training mode
        only.
        """

    @abstractmethod
    def learn(self, tasks: Sequence[Task]) -> None:
        """Of the parts that learn, freeze what these tasks do not touch."""

    @abstractmethod
    def trainable(self) -> list[nn.Parameter]:
        """The parameters that learn."""
