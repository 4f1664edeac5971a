"""R_TIM (paper): how well a drawing and its prompt match, token by token, in the policy's own hidden states."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from corl_cli.core.types import Rollout
from corl_cli.models.base import UnifiedPolicy
from corl_cli.rewards.base import Reward, Scores

ROWS = 32  # embedded at once; bounds memory, not the scores


class Matching(Reward):
    """Bidirectional matching of image and text tokens, in [-1, 1]."""

    task = "t2i"

    def score(self, rollout: Rollout, policy: UnifiedPolicy) -> Scores:
        """See Reward.score."""
        images = [image for image in rollout.outputs if isinstance(image, Image)]
        prompts = [triplet.prompt for triplet in rollout.triplets]
        scores = [
            matching_score(*policy.embed(images[start : start + ROWS], prompts[start : start + ROWS]))
            for start in range(0, len(images), ROWS)
        ]
        return Scores(values=torch.cat(scores))


def matching_score(image_hidden: Tensor, text_hidden: Tensor, text_mask: Tensor) -> Tensor:
    """R_TIM = 1/2 (mean_j max_k cos(i_j, t_k) + mean_k max_j cos(t_k, i_j)), in float32.

    `image_hidden` [N, K, D], `text_hidden` [N, T, D], `text_mask` [N, T] -> [N]; NaN for a row without text tokens.
    Source: arXiv 2505.17534, text-image matching reward.
    """
    mask = text_mask.bool()
    images, texts = F.normalize(image_hidden.float(), dim=-1), F.normalize(text_hidden.float(), dim=-1)
    cosines = images @ texts.transpose(1, 2)  # [N, K, T]
    of_images = cosines.masked_fill(~mask[:, None], -torch.inf).amax(2).mean(1)
    of_texts = cosines.amax(1).masked_fill(~mask, 0.0).sum(1) / mask.sum(1)
    return ((of_images + of_texts) / 2).masked_fill(~mask.any(1), torch.nan)
