"""Trains the tiny Janus's image tokenizer: 32 x 32 pixels to 4 x 4 tokens of a codebook of 128 and back.

What differs from the textbook: it starts as a plain autoencoder, and the codebook then starts from latents that are
far from each other, so that few codes die; codes have unit length, because transformers decodes normalised rows but
encodes with raw ones; and the straight-through step is made here, because `JanusVQVAE.forward` decodes from indices
and gives its encoder no gradient from the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import JanusVQVAE

from corl_cli.world.checker import check
from corl_cli.world.drawing import BACKGROUND

Report = Callable[[int, int, str], None]  # steps done, steps at most, and what to tell

BATCH_SIZE = 8
LEARNING_RATE = 1.2e-3
AUTOENCODER_STEPS = 150
REVIVAL_STEPS = 40  # how often codes that are not used restart from a latent
COMMITMENT = 0.25


def train_vq(vq: JanusVQVAE, images: Sequence[Image.Image], *, seed: int, num_steps: int, report: Report) -> None:
    """Train a JanusVQVAE in place on 32 x 32 images, as plain autoencoder first, then with its codebook."""
    generator = torch.Generator().manual_seed(seed)
    pixels = to_pixels(images)
    for module in vq.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()  # transformers' standard deviation of 0.02 is too small at this width
    codes = vq.quantize.embedding.weight
    optimiser = torch.optim.AdamW(vq.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    usage = torch.zeros(len(codes))
    vq.train()
    for step in range(num_steps):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / 20) * max(0.03, 1 - step / num_steps)
        batch = pixels[torch.randint(len(pixels), (BATCH_SIZE,), generator=generator)]
        if step == AUTOENCODER_STEPS:
            spread_codes(codes, _latents(vq, pixels[:320]))
            optimiser.state.pop(codes, None)
            usage.fill_(0.05)
        # transformers' VQ blocks multiply in place, which autograd refuses without this
        with torch.autograd.graph.allow_mutation_on_saved_tensors():
            latents = _encode(vq, batch)
            quantised, pull = latents, latents.new_zeros(())
            if step >= AUTOENCODER_STEPS:
                quantised, pull, chosen = _quantise(latents, codes)
                usage.mul_(0.99).add_(torch.bincount(chosen, minlength=len(codes)), alpha=0.01)
            error = _error(_decode(vq, quantised), batch)
            optimiser.zero_grad()
            (error + pull).backward()
        nn.utils.clip_grad_norm_(vq.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            codes.copy_(F.normalize(codes, dim=-1))
            if step > AUTOENCODER_STEPS and step % REVIVAL_STEPS == 0 and step < 0.7 * num_steps:
                _revive(codes, usage, _latents(vq, batch), generator)
        report(step + 1, num_steps, f"error {error.item():.3f}")
    vq.eval()


def to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Images to pixel values [N, 3, H, W] in -1..1, as the image processor makes them."""
    arrays = np.stack([np.asarray(image.convert("RGB"), np.float32) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2) / 127.5 - 1


@torch.no_grad()
def reconstruct(vq: JanusVQVAE, images: Sequence[Image.Image]) -> list[Image.Image]:
    """Images through their tokens and back."""
    quantised, _, _ = _quantise(_encode(vq, to_pixels(images)), vq.quantize.embedding.weight)
    arrays = ((_decode(vq, quantised).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(array) for array in arrays.permute(0, 2, 3, 1).numpy()]


def faithful(vq: JanusVQVAE, prompts: Sequence[str], images: Sequence[Image.Image]) -> float:
    """Share of images that still show their prompts after a round through the tokens."""
    drawn = reconstruct(vq, images)
    return sum(check(prompt, image).correct for prompt, image in zip(prompts, drawn, strict=True)) / len(drawn)


@torch.no_grad()
def spread_codes(codes: Tensor, latents: Tensor) -> None:
    """Set the codes [K, E] to unit latents [N, E] far from each other (farthest point first), then to their means."""
    chosen = latents[:1]
    nearest = (latents @ chosen.T)[:, 0]  # cosine to the nearest code so far
    while len(chosen) < len(codes):
        farthest = latents[nearest.argmin()][None]
        chosen = torch.cat([chosen, farthest])
        nearest = torch.maximum(nearest, (latents @ farthest.T)[:, 0])
    for _ in range(8):  # k-means on the sphere
        sums = torch.zeros_like(chosen).index_add_(0, (latents @ chosen.T).argmax(-1), latents)
        chosen = torch.where(sums.norm(dim=-1, keepdim=True) > 0, F.normalize(sums, dim=-1), chosen)
    codes.copy_(chosen)


def _encode(vq: JanusVQVAE, pixels: Tensor) -> Tensor:
    """Unit latents [N, E, h, w]."""
    return F.normalize(vq.quant_conv(vq.encoder(pixels)), dim=1)


def _decode(vq: JanusVQVAE, latents: Tensor) -> Tensor:
    return vq.decoder(vq.post_quant_conv(latents))


@torch.no_grad()
def _latents(vq: JanusVQVAE, pixels: Tensor) -> Tensor:
    return torch.cat([_encode(vq, chunk).permute(0, 2, 3, 1).flatten(0, 2) for chunk in pixels.split(64)])


def _quantise(latents: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Latents replaced by their codes with a straight-through gradient, the pull between both, and the tokens."""
    flat = latents.permute(0, 2, 3, 1).flatten(0, 2)  # [N h w, E]
    tokens = (flat.detach() @ codes.detach().T).argmax(-1)
    nearest = codes[tokens]
    pull = (nearest - flat.detach()).pow(2).sum(-1).mean()
    pull = pull + COMMITMENT * (nearest.detach() - flat).pow(2).sum(-1).mean()
    size = latents.shape
    quantised = nearest.detach().view(size[0], size[2], size[3], size[1]).permute(0, 3, 1, 2)
    return latents + (quantised - latents).detach(), pull, tokens


def _error(drawn: Tensor, pixels: Tensor) -> Tensor:
    """Squared and absolute error, five times heavier on objects and around them: corners tell shapes apart."""
    background = torch.tensor(BACKGROUND).view(1, 3, 1, 1) / 127.5 - 1
    objects = (pixels - background).abs().amax(1, keepdim=True)
    weight = 1 + 4 * (F.max_pool2d(objects, 5, 1, 2) > 0.1).float()
    difference = drawn - pixels
    return (weight * (difference.pow(2) + 0.3 * difference.abs())).mean()


def _revive(codes: Tensor, usage: Tensor, latents: Tensor, generator: torch.Generator) -> None:
    dead = (usage < 0.01).nonzero()[:, 0]
    codes[dead] = latents[torch.randint(len(latents), (len(dead),), generator=generator)]
    usage[dead] = 0.05
