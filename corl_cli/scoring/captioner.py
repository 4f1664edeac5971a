"""What a drawing shows, in words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from corl_cli.core.errors import CorlError
from corl_cli.core.requirements import Requirement
from corl_cli.core.types import Sampling, Triplet
from corl_cli.models.base import UnifiedPolicy
from corl_cli.scoring import checkpoints

IMAGES = 32  # captioned at once; bounds memory


class PolicyCaptioner:
    """A frozen policy that is asked for a caption: the learning one would soon collude with itself."""

    def __init__(self, policy: UnifiedPolicy, prompt: str, max_new_tokens: int) -> None:
        self.policy = policy
        self.prompt = prompt
        self.sampling = Sampling(group_size=1, temperature=0.0, max_new_tokens=max_new_tokens)

    def requirements(self) -> list[Requirement]:
        """See measure.Model."""
        return []

    def load(self, device: torch.device) -> None:
        """The policy stands where it was put."""

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """See measure.Captioner."""
        questions = [
            Triplet(
                id=str(index),
                image=image,
                prompt="",
                question=self.prompt,
                answer="",
                answer_type="oe",
                source="recaption",
            )
            for index, image in enumerate(images)
        ]
        return [str(text) for text in self.policy.sample("mm2t", questions, self.sampling, key="recaption").outputs]


class Blip:
    """BLIP's greedy captions, from any `BlipForConditionalGeneration` checkpoint (arXiv 2201.12086).

    Always float32: rounding depends on the size of the batch, and bfloat16's is coarse enough to turn near-ties, and
    with them captions. An image that stands in several places (the same object) is captioned once.
    """

    def __init__(self, checkpoint: str, max_new_tokens: int) -> None:
        self.checkpoint = checkpoint
        self.max_new_tokens = max_new_tokens

    def requirements(self) -> list[Requirement]:
        """See measure.Model."""
        return [checkpoints.requirement("BLIP captioner", self.checkpoint, "BlipForConditionalGeneration")]

    def load(self, device: torch.device) -> None:
        """See measure.Model."""
        with checkpoints.reading("BLIP captioner", self.checkpoint, "BlipForConditionalGeneration") as folder:
            from transformers import (
                AutoTokenizer,
                BlipForConditionalGeneration,
                BlipImageProcessorPil,
                GenerationConfig,
            )

            model = checkpoints.weights(BlipForConditionalGeneration.from_pretrained, folder)
            self.pixels = BlipImageProcessorPil.from_pretrained(folder)
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        longest = model.config.text_config.max_position_embeddings - 1
        if self.max_new_tokens > longest:
            raise CorlError(
                f"{self.checkpoint} writes at most {longest} tokens, not {self.max_new_tokens}.",
                f"Set the captioner's max_new_tokens to {longest} or less.",
            )
        # in place of the checkpoint's own settings, which may hold beams or penalties
        model.text_decoder.generation_config = GenerationConfig(
            max_new_tokens=self.max_new_tokens, do_sample=False, num_beams=1
        )
        self.model = model.to(device)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """See measure.Captioner."""
        distinct = list({id(image): image for image in images}.values())
        captions: list[str] = []
        for start in range(0, len(distinct), IMAGES):
            captions += self._captions(distinct[start : start + IMAGES])
        said = {id(image): caption for image, caption in zip(distinct, captions, strict=True)}
        return [said[id(image)] for image in images]

    def _captions(self, images: Sequence[Image.Image]) -> list[str]:
        pixels = self.pixels([image.convert("RGB") for image in images], return_tensors="pt").pixel_values
        tokens = self.model.generate(pixel_values=pixels.to(self.model.device))  # [N, 1 + L], the start token first
        return [text.strip() for text in self.tokenizer.batch_decode(tokens[:, 1:], skip_special_tokens=True)]
