"""Images and texts in the common space of a CLIP model (arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from corl_cli.core.requirements import Requirement
from corl_cli.scoring import checkpoints
from corl_cli.scoring.measure import Measured, failed

ROWS = 64  # images or texts embedded at once; bounds memory, not the scores


class Clip:
    """Cosines of images and texts, in float32, from any `CLIPModel` checkpoint."""

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def requirements(self) -> list[Requirement]:
        """See measure.Model."""
        return [checkpoints.requirement("CLIP model", self.checkpoint, "CLIPModel")]

    def load(self, device: torch.device) -> None:
        """See measure.Model."""
        with checkpoints.reading("CLIP model", self.checkpoint, "CLIPModel") as folder:
            from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

            model = checkpoints.weights(CLIPModel.from_pretrained, folder)
            self.pixels = CLIPImageProcessorPil.from_pretrained(folder)
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.context: int = model.config.text_config.max_position_embeddings
        self.model = model.to(device)

    def __call__(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Measured:
        """The cosine of each pair, in -1..1; NaN for an empty text. Each distinct text is embedded once."""
        distinct = list(dict.fromkeys(texts))
        place = {text: index for index, text in enumerate(distinct)}
        read = self.embed_texts(distinct)[[place[text] for text in texts]]
        cosines = (self.embed_images(images) * read).sum(1)
        empty = torch.tensor([not text.strip() for text in texts], dtype=torch.bool)
        values = cosines.masked_fill(empty, torch.nan)
        return Measured(values, [self._details(*row) for row in zip(values.tolist(), texts, strict=True)])

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """[N, D] of length 1, on the CPU."""
        pieces = [torch.empty(0, self.model.config.projection_dim)]
        for start in range(0, len(images), ROWS):
            rgb = [image.convert("RGB") for image in images[start : start + ROWS]]
            pixels = self.pixels(rgb, return_tensors="pt").pixel_values.to(self.model.device)
            pieces.append(self.model.visual_projection(self.model.vision_model(pixels).pooler_output).cpu())
        return F.normalize(torch.cat(pieces), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """[N, D] of length 1, on the CPU; a text longer than the model's context loses its end."""
        pieces = [torch.empty(0, self.model.config.projection_dim)]
        for start in range(0, len(texts), ROWS):
            batch = self.tokenizer(
                list(texts[start : start + ROWS]),
                padding=True,
                padding_side="right",
                truncation=True,
                max_length=self.context,
                return_tensors="pt",
            ).to(self.model.device)
            read = self.model.text_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            pieces.append(self.model.text_projection(read.pooler_output).cpu())
        return F.normalize(torch.cat(pieces), dim=-1)

    def _details(self, cosine: float, text: str) -> dict[str, str]:
        if not text.strip():
            return failed("the prompt is empty")
        details = {"cosine": f"{cosine:.4f}"}
        length = len(self.tokenizer(text, verbose=False).input_ids)
        if length > self.context:
            details["cut short"] = f"the prompt's last {length - self.context} of {length} tokens are not read"
        return details
