"""Pictures as the tokens of Janus' VQ model, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

PIXELS = 1 << 21  # decoded or encoded at once: 14 images of Janus-Pro


@torch.no_grad()
def decode(vq: Any, tokens: Tensor, size: int) -> list[Image.Image]:
    """VQ tokens [N, L] to N RGB images of size x size pixels."""
    images: list[Image.Image] = []
    for chunk in tokens.split(max(1, PIXELS // size**2)):
        decoded = vq.decode(chunk).permute(0, 2, 3, 1).float().clamp(-1, 1)  # [n, H, W, 3]
        arrays = ((decoded + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
        images += [Image.fromarray(array) for array in arrays]
    return images


@torch.no_grad()
def encode(vq: Any, images: Sequence[Image.Image], size: int, prepare: Callable[..., Tensor]) -> Tensor:
    """N images to VQ tokens [N, L]: nearest code by cosine, as in Janus' original VQ model.

    `prepare` makes pixel values [n, C, size, size] of n images. (transformers' encode leaves out the normalisation of
    latents and codes that its decode applies.)
    """
    codes = F.normalize(vq.quantize.embedding.weight, dim=-1)
    step = max(1, PIXELS // size**2)
    tokens = []
    for start in range(0, len(images), step):
        latents = vq.quant_conv(vq.encoder(prepare(images[start : start + step])))  # [n, E, h, w]
        latents = F.normalize(latents.flatten(2).transpose(1, 2), dim=-1)
        tokens.append((latents @ codes.T).argmax(-1))
    return torch.cat(tokens)
