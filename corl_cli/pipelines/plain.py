"""The gradient work of an update as it is written first: what `corl bench update` compares the policy's own with.

Each completion has its prompt and its image to itself, transformers' own forward passes go over whole padded rows, and
the heads and one log_softmax over all states that predict a completion's tokens at once, as trainers commonly do:
nothing is shared, nothing comes in pieces.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from corl_cli.core.types import Experience, Rollout
from corl_cli.models import packing


def logps(model: Any, rollout: Rollout) -> Tensor:
    """Log-probs [N, L] of completions, 0 where they are padding; drawings are scored without guidance."""
    ids, mask = rollout.completion_ids, rollout.completion_mask
    seen = torch.cat([rollout.prompt_mask, mask.to(rollout.prompt_mask.dtype)], 1)
    logits = _drawing_logits(model, rollout, seen) if rollout.task == "t2i" else _word_logits(model, rollout, seen)
    scores = torch.log_softmax(logits.float() / (rollout.sampling.temperature or 1.0), -1)
    return scores.gather(-1, ids[..., None])[..., 0] * mask


def checkpoint_layers(model: Any) -> None:
    """Checkpoint the language model's layers whole, as transformers does: the backward pass computes them again."""
    packing.checkpoint_all(model.model.language_model, {"use_reentrant": False})


def loss(model: Any, experience: Experience, rows: int) -> Tensor:
    """GRPO's (arXiv 2402.03300) for rollouts used once: the mean over `rows` rows of means over tokens."""
    rollout = experience.rollout
    own, mask = logps(model, rollout), rollout.completion_mask
    ratio = torch.exp(own - own.detach())
    each = -(experience.advantages.to(own.device)[:, None] * ratio * mask).sum(1) / mask.sum(1)
    return each.sum() / rows


def _word_logits(model: Any, rollout: Rollout, seen: Tensor) -> Tensor:
    """Images are placed in prompts alone: a completion may have the token that stands for one."""
    assert rollout.pixel_values is not None
    pixels = rollout.pixel_values.repeat_interleave(rollout.sampling.group_size, 0)
    features = model.model.get_image_features(pixels).pooler_output
    prompts = model.get_input_embeddings()(rollout.prompt_ids)
    placed = (rollout.prompt_ids == model.config.image_token_id)[..., None]
    prompts = prompts.masked_scatter(placed, features.to(prompts.dtype))
    written = model.get_input_embeddings()(rollout.completion_ids.where(rollout.completion_mask, 0))
    logits: Tensor = model(
        inputs_embeds=torch.cat([prompts, written], 1),
        attention_mask=seen,
        use_cache=False,
        logits_to_keep=written.shape[1] + 1,  # from the prompt's last token on
    ).logits
    return logits[:, :-1]


def _drawing_logits(model: Any, rollout: Rollout, seen: Tensor) -> Tensor:
    prompts = model.get_input_embeddings()(rollout.prompt_ids)
    drawn = model.prepare_embeddings_for_image_generation(rollout.completion_ids)
    hidden = model.model.language_model(
        inputs_embeds=torch.cat([prompts, drawn.to(prompts.dtype)], 1), attention_mask=seen, use_cache=False
    ).last_hidden_state
    logits: Tensor = model.model.generation_head(hidden[:, prompts.shape[1] - 1 : -1])
    return logits
