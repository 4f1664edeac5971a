"""CLIPScore: how well a drawing fits its prompt in CLIP's common space; a reward of the paper's pilot study."""

from __future__ import annotations

import torch
from PIL.Image import Image
from pydantic import Field

from corl_cli.core.requirements import Requirement
from corl_cli.core.types import Samples
from corl_cli.models.base import UnifiedPolicy
from corl_cli.rewards.base import Options, Reward, Scores
from corl_cli.scoring.clip import Clip
from corl_cli.scoring.measure import note

SCALE = 2.5  # of CLIPScore; torchmetrics has 100


class ClipScoreOptions(Options):
    """Which CLIP."""

    checkpoint: str = Field("openai/clip-vit-large-patch14", min_length=1, description="a CLIP model: hub id or folder")


class ClipScore(Reward):
    """2.5 max(cos(image, prompt), 0), in [0, 2.5].

    The prompt is read as it is, without CLIPScore's optional "A photo depicts", and cut to the model's context; the
    note says so where it happens. An empty prompt has no score. Source: arXiv 2104.08718, section 3.
    """

    task = "t2i"
    Options = ClipScoreOptions
    options: ClipScoreOptions
    columns = ("prompt", "image")
    needs_policy = False

    def requirements(self) -> list[Requirement]:
        """See Reward.requirements."""
        return self._clip().requirements()

    def load(self, device: torch.device, reference: UnifiedPolicy | None) -> None:
        """See Reward.load."""
        self.clip = self._clip()
        self.clip.load(device)

    def score(self, samples: Samples, policy: UnifiedPolicy | None) -> Scores:
        """See Reward.score; the notes hold the cosine."""
        images = [image for image in samples.outputs if isinstance(image, Image)]
        found = self.clip(images, [triplet.prompt for triplet in samples.triplets])
        return Scores(values=SCALE * found.values.clamp(min=0), notes=[note(details) for details in found.details])

    def _clip(self) -> Clip:
        return Clip(self.options.checkpoint)
