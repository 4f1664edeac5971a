"""LPIPS (arXiv 1801.03924) as a likeness: distances between features of a frozen network, weighed as people see them.

The linear heads are read from the installed lpips package without importing it. What differs from that package: pairs
come in batches, and the real image of a group is encoded once; the values are the same to 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import constants
from PIL import Image
from torch import Tensor

from corl_cli.core.errors import CorlError
from corl_cli.core.requirements import Requirement, Wanted, demand
from corl_cli.scoring.heatmap import heatmap
from corl_cli.scoring.lpips_network import KINDS, by_hand, download, read
from corl_cli.scoring.measure import Measured, failed

PIXELS = 2**20  # of the drawings in the network at once; up to 2 GB for vgg
FAINT = 0.1  # the largest local distance of a picture that is not yet shown as the brightest colour


class Lpips:
    """1 - LPIPS; 1 for equal images, without a lower bound. `network` is vgg, alex or squeeze.

    `backbone` is a torchvision checkpoint; None takes the torch hub's cache, and fills it where the net may be used.
    """

    def __init__(self, network: str, backbone: str | None) -> None:
        self.name, self.kind = f"lpips-{network}", KINDS[network]
        self.chosen = backbone is not None
        self.backbone = Path(backbone).expanduser() if backbone is not None else self.kind.cached
        self.heads = _heads_file(network)

    def requirements(self) -> list[Requirement]:
        """See measure.Model: the heads and the backbone."""
        return [self._heads_requirement(), self._backbone_requirement()]

    def load(self, device: torch.device) -> None:
        """See measure.Model; a backbone missing in the hub's cache is downloaded to it where that is allowed."""
        demand(self.requirements(), "LPIPS")
        # TF32, cuDNN's default, would make a value depend on its batch. The setting is the whole process', and rewards
        # may run in a thread beside the policy: so it is made once, and float32 convolutions are exact from here on.
        torch.backends.cudnn.allow_tf32 = False
        self.network = read(self.kind, self.backbone, self.heads).to(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, real: Sequence[Image.Image], drawn: Sequence[Image.Image]) -> Measured:
        """See measure.Likeness; NaN for images that are too small for the network."""
        values = torch.full((len(drawn),), torch.nan)
        details = [failed(self._too_small(image)) for image in drawn]
        for rows in _of_one_size(real, drawn):
            if self._sees(drawn[rows[0]]):
                distances = self._distances([real[row] for row in rows], [drawn[row] for row in rows])
                values[rows] = 1 - distances
                for row, distance in zip(rows, distances.tolist(), strict=True):
                    details[row] = {"LPIPS": f"{distance:.4f}"}
        return Measured(values, details)

    def differences(self, real: Image.Image, drawn: Image.Image) -> Image.Image:
        """See measure.Likeness; brightest is the largest local distance, or 0.1 where all are smaller."""
        local = self.local_distances(real, drawn)
        return heatmap(drawn, local, 0.0, max(FAINT, float(local.max())))

    @torch.no_grad()
    def local_distances(self, real: Image.Image, drawn: Image.Image) -> Tensor:
        """LPIPS at every place [H, W]: of every layer, enlarged bilinearly and summed (the lpips package's `spatial`).

        CorlError for images that are too small for the network.
        """
        if not self._sees(drawn):
            raise CorlError(f"No picture of differences: {self._too_small(drawn)}.", "Give larger images.")
        layers = self.network.compare(self._features([real]), self._features([drawn]))
        height_width = drawn.size[::-1]
        enlarged = [F.interpolate(layer, height_width, mode="bilinear") for layer in layers]
        return torch.stack(enlarged).sum((0, 1, 2)).cpu()

    def _distances(self, real: Sequence[Image.Image], drawn: Sequence[Image.Image]) -> Tensor:
        """LPIPS of pairs of one size, those of one real image side by side: [N], on the CPU."""
        most = max(1, PIXELS // (drawn[0].width * drawn[0].height))
        distances: list[Tensor] = []
        known: dict[int, list[Tensor]] = {}  # features of real images, by the image's identity
        for start in range(0, len(drawn), most):
            piece = slice(start, start + most)
            keys = [id(image) for image in real[piece]]
            fresh = {id(image): image for image in real[piece] if id(image) not in known}
            features = self._features([*fresh.values(), *drawn[piece]])
            known |= {key: [layer[index] for layer in features] for index, key in enumerate(fresh)}
            originals = [torch.stack(layer) for layer in zip(*(known[key] for key in keys), strict=True)]
            layers = self.network.compare(originals, [layer[len(fresh) :] for layer in features])
            distances.append(torch.stack([layer.mean((1, 2, 3)) for layer in layers]).sum(0).cpu())
            known = {keys[-1]: [layer.clone() for layer in known[keys[-1]]]}  # its group may go on in the next piece
        return torch.cat(distances)

    def _features(self, images: Sequence[Image.Image]) -> list[Tensor]:
        pixels = np.stack([np.asarray(image.convert("RGB"), np.float32) for image in images])
        features: list[Tensor] = self.network(torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2) / 127.5 - 1)
        return features

    def _sees(self, image: Image.Image) -> bool:
        return min(image.size) >= self.kind.smallest

    def _too_small(self, image: Image.Image) -> str:
        least = self.kind.smallest
        return f"the image is {image.width}x{image.height}, {self.name} needs at least {least}x{least} pixels"

    def _heads_requirement(self) -> Requirement:
        if self.heads.is_file():
            return Requirement(name=f"{self.name} heads", state="ok", detail=str(self.heads))
        return Requirement(
            name=f"{self.name} heads",
            state="missing",
            detail=f"the lpips package holds them as {self.heads}, which is not there",
            remedy="pip install --no-deps pycocoevalcap lpips",  # what they ask for could replace torch
        )

    def _backbone_requirement(self) -> Requirement:
        found = self._backbone_state()
        wanted = Wanted("file", self.kind.url, "", found.name, self._found, self._downloaded)
        return found if self.chosen else replace(found, wanted=wanted)

    def _found(self) -> Path | None:
        return self.backbone if self.backbone.is_file() else None

    def _downloaded(self) -> Path:
        download(self.kind.url, self.backbone)
        return self.backbone

    def _backbone_state(self) -> Requirement:
        path, url, name = self.backbone, self.kind.url, f"{self.name} backbone"
        if path.is_file():
            return Requirement(name=name, state="ok", detail=str(path))
        if self.chosen:
            detail = f"there is no file {path}"
            remedy = f"Name a torchvision checkpoint ({url}) as the reward's backbone, or leave it out."
            return Requirement(name=name, state="missing", detail=detail, remedy=remedy)
        if not constants.HF_HUB_OFFLINE:
            return Requirement(name=name, state="download", detail=f"{url} to {path}")
        return Requirement(
            name=name,
            state="missing",
            detail=f"there is no {path}, and HF_HUB_OFFLINE is set",
            remedy=by_hand(url, path),
        )


def _of_one_size(real: Sequence[Image.Image], drawn: Sequence[Image.Image]) -> list[list[int]]:
    """The rows of pairs of each size, those of one real image side by side."""
    first: dict[int, int] = {}
    for row, image in enumerate(real):
        first.setdefault(id(image), row)
    rows = sorted(range(len(drawn)), key=lambda row: (drawn[row].size, first[id(real[row])]))
    return [list(same) for _, same in groupby(rows, key=lambda row: drawn[row].size)]


def _heads_file(network: str) -> Path:
    """Where the lpips package keeps its heads; its folder is found without importing it, which needs torchvision."""
    spec = find_spec("lpips")
    folder = Path(spec.origin).parent if spec and spec.origin else Path("lpips")
    return folder / "weights" / "v0.1" / f"{network}.pth"
