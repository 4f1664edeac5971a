"""LPIPS (arXiv 1801.03924) as a likeness: distances between features of a frozen network, weighed as people see them.

The networks are torchvision's by their state dicts, not by its code: corl must run without torchvision, which breaks
transformers where its build does not fit torch. The linear heads, version 0.1, are read from the installed lpips
package without importing it. What differs from that package: pairs come in batches, and the real image of a group is
encoded once; the values are the same to 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import constants
from PIL import Image
from torch import Tensor, nn

from corl_cli.core.errors import CorlError
from corl_cli.core.requirements import Requirement, demand
from corl_cli.scoring.measure import Measured, failed

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of RGB in -1..1, where the heads were fitted
EPS = 1e-10  # under the length of a feature vector
PIXELS = 2**20  # of the drawings in the network at once; up to 2 GB for vgg
FAINT = 0.1  # the largest local distance of a picture that is not yet shown as white


def vgg16() -> nn.Sequential:
    """torchvision's vgg16.features as far as relu5_3; 0 is a pool."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2)]
        channels = width or channels
    return nn.Sequential(*layers)


def alexnet() -> nn.Sequential:
    """torchvision's alexnet.features as far as relu5."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


def squeezenet() -> nn.Sequential:
    """torchvision's squeezenet1_1.features."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(Fire(64, 16, 64), Fire(128, 16, 64), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(Fire(128, 32, 128), Fire(256, 32, 128), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
    )


class Fire(nn.Module):
    """SqueezeNet's block: few channels, then `wide` by 1x1 and as many by 3x3."""

    def __init__(self, channels: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, wide, 1)
        self.expand3x3 = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, channels, h, w] -> [N, 2 wide, h, w]."""
        hidden = F.relu(self.squeeze(hidden))
        return F.relu(torch.cat([self.expand1x1(hidden), self.expand3x3(hidden)], 1))


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A backbone: its layers, torchvision's file of its weights, the layers that are compared, the least image side."""

    features: Callable[[], nn.Sequential]
    file: str
    taps: tuple[int, ...]
    channels: tuple[int, ...]
    smallest: int

    @property
    def url(self) -> str:
        """Where torchvision offers the weights; the file's name ends in the beginning of its SHA-256."""
        return f"https://download.pytorch.org/models/{self.file}"

    @property
    def cached(self) -> Path:
        """Where the torch hub keeps them."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file


KINDS = {
    "vgg": Kind(
        features=vgg16,
        file="vgg16-397923af.pth",
        taps=(3, 8, 15, 22, 29),
        channels=(64, 128, 256, 512, 512),
        smallest=16,
    ),
    "alex": Kind(
        features=alexnet,
        file="alexnet-owt-7be5be79.pth",
        taps=(1, 4, 7, 9, 11),
        channels=(64, 192, 384, 256, 256),
        smallest=31,
    ),
    "squeeze": Kind(
        features=squeezenet,
        file="squeezenet1_1-b8a52dc0.pth",
        taps=(1, 4, 7, 9, 10, 11, 12),
        channels=(64, 128, 256, 384, 384, 512, 512),
        smallest=17,
    ),
}


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
        if not self.backbone.is_file():
            _download(self.kind.url, self.backbone)
        network = Network(self.kind)
        _fill(network.features, self.backbone, {name: f"features.{name}" for name in network.features.state_dict()})
        _fill(network.heads, self.heads, {name: f"lin{name}.model.1.weight" for name in network.heads.state_dict()})
        self.network = network.to(device).eval().requires_grad_(False)
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

    @torch.no_grad()
    def differences(self, real: Image.Image, drawn: Image.Image) -> Image.Image:
        """See measure.Likeness; white is the largest local distance, or 0.1 where all are smaller.

        Local distances are those of every layer, enlarged bilinearly and summed (the lpips package's `spatial`).
        CorlError for images that are too small for the network.
        """
        if not self._sees(drawn):
            raise CorlError(f"No picture of differences: {self._too_small(drawn)}.", "Give larger images.")
        with _full_precision():
            layers = self.network.compare(self._features([real]), self._features([drawn]))
        height_width = drawn.size[::-1]
        local = torch.stack([F.interpolate(layer, height_width, mode="bilinear") for layer in layers]).sum((0, 1, 2))
        grey = local / local.max().clamp(min=FAINT) * 255
        return Image.fromarray(grey.clamp(min=0).round().byte().cpu().numpy())

    def _distances(self, real: Sequence[Image.Image], drawn: Sequence[Image.Image]) -> Tensor:
        """LPIPS of pairs of one size, those of one real image side by side: [N], on the CPU."""
        most = max(1, PIXELS // (drawn[0].width * drawn[0].height))
        distances: list[Tensor] = []
        known: dict[int, list[Tensor]] = {}  # features of real images, by the image's identity
        for start in range(0, len(drawn), most):
            piece = slice(start, start + most)
            keys = [id(image) for image in real[piece]]
            fresh = {id(image): image for image in real[piece] if id(image) not in known}
            with _full_precision():
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
            remedy=_by_hand(url, path),
        )


class Network(nn.Module):
    """The backbone's features and the heads that weigh their differences."""

    shift: Tensor
    scale: Tensor

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.taps = kind.taps
        self.features = kind.features()
        self.heads = nn.ParameterList(torch.empty(1, channels, 1, 1) for channels in kind.channels)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """RGB in -1..1 [N, 3, H, W] -> the unit features of every tap, [N, C, h, w] each."""
        hidden = (images - self.shift) / self.scale
        found = []
        for index, layer in enumerate(self.features):
            hidden = layer(hidden)
            if index in self.taps:
                found.append(unit(hidden))
        return found

    def compare(self, one: Sequence[Tensor], other: Sequence[Tensor]) -> list[Tensor]:
        """Local distances at every tap, [N, 1, h, w] each; LPIPS is the sum of their means."""
        return [local_distance(a, b, head) for a, b, head in zip(one, other, self.heads, strict=True)]


def unit(features: Tensor) -> Tensor:
    """[N, C, h, w] with the channels of every place brought to length 1."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + EPS)


def local_distance(one: Tensor, other: Tensor, head: Tensor) -> Tensor:
    """sum_c head_c (one_c - other_c)^2 of unit features: [N, C, h, w] twice and [1, C, 1, 1] -> [N, 1, h, w]."""
    return F.conv2d((one - other).square(), head)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Without TF32, cuDNN's default, under which a value would depend on its batch."""
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


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


def _download(url: str, path: Path) -> None:
    """Bring a checkpoint to the hub's cache; whole or not at all, so that ranks may do so at once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=False)
    except (OSError, RuntimeError) as error:  # no network, no place; another digest
        raise CorlError(f"{url} cannot be downloaded to {path}: {error}", _by_hand(url, path)) from error


def _by_hand(url: str, path: Path) -> str:
    return f"Download {url} to {path}, or name a torchvision checkpoint as the reward's backbone."


def _fill(module: nn.Module, path: Path, names: Mapping[str, str]) -> None:
    """Load a module from a file of weights that go by other `names` there; CorlError when they are not in it."""
    wanted = f"{len(names)} weights {next(iter(names.values()))} to {list(names.values())[-1]}"
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict({ours: weights[theirs] for ours, theirs in names.items()})
    except Exception as error:  # torch says it in many ways: damaged, another network's, no weights at all
        raise CorlError(
            f"{path} cannot be read as the {wanted} of LPIPS.", "Give torchvision's own file, or fetch it again."
        ) from error
    if not all(bool(value.isfinite().all()) for value in module.state_dict().values()):
        raise CorlError(f"{path} holds weights that are not finite.", "Fetch it again.")
