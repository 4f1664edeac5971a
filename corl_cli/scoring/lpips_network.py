"""The networks of LPIPS (arXiv 1801.03924) and their weights.

They are torchvision's by their state dicts, not by its code: corl must run without torchvision, which breaks
transformers where its build does not fit torch. The linear heads are those of the lpips package, version 0.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corl_cli.core.errors import CorlError

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of RGB in -1..1, where the heads were fitted
EPS = 1e-10  # under the length of a feature vector


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


def read(kind: Kind, backbone: Path, heads: Path) -> Network:
    """A frozen network from both files, the backbone downloaded to its place if it is not there.

    CorlError when that fails or a file holds other weights.
    """
    if not backbone.is_file():
        download(kind.url, backbone)
    network = Network(kind)
    _fill(network.features, backbone, {name: f"features.{name}" for name in network.features.state_dict()})
    _fill(network.heads, heads, {name: f"lin{name}.model.1.weight" for name in network.heads.state_dict()})
    return network.eval().requires_grad_(False)


def download(url: str, path: Path) -> None:
    """Bring a checkpoint to the hub's cache; whole or not at all, so that ranks may do so at once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = path.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=False)
    except (OSError, RuntimeError) as error:  # no network, no place; another digest
        raise CorlError(f"{url} cannot be downloaded to {path}: {error}", by_hand(url, path)) from error


def by_hand(url: str, path: Path) -> str:
    """What to do where a checkpoint cannot be downloaded."""
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
