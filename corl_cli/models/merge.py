"""Merging weights that have one ancestor: what is done to a tensor, and how far it moves. Pure tensor functions.

Throughout, base [M] is (a piece of) a tensor of the ancestor and changes [K, M] are d_k = w_k - w_base of K models, all
in float64; the result is rounded once, when it is written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Method = Literal["gaussian", "linear", "task-arithmetic"]
METHODS: tuple[Method, ...] = ("gaussian", "linear", "task-arithmetic")
WIDTH = 2.0  # of the band, in standard deviations on each side

KINDS = {  # the first that a tensor's name contains; norms before the attention that they may be in
    "norm": "norms",
    "lm_head": "lm_head",
    "embed": "embeddings",
    "attn": "attention",
    "attention": "attention",
    "mlp": "mlp",
}


def gaussian(changes: Tensor, centre: float, spread: float) -> tuple[Tensor, Tensor]:
    """What is added to the base [M], and which entries lie outside the band [K, M] (arXiv 2501.10661).

    With mu the mean of the K means of d_k over the whole tensor and sigma the smallest of their standard deviations,

        w = w_base + sum_k c_k,    c_k = d_k / K  where |d_k - mu| <= 2 sigma,    c_k = d_k  elsewhere,

    entry by entry and model by model: what lies inside is averaged, what lies outside is added in full. The paper
    merges K = 2 models; nothing in it asks for two. A model that left a tensor alone makes sigma 0: the others' changes
    are then added in full.
    """
    outside = (changes - centre).abs() > WIDTH * spread
    return torch.where(outside, changes, changes / len(changes)).sum(0), outside


def weighted(changes: Tensor, weights: Sequence[float]) -> Tensor:
    """sum_k a_k d_k [M].

    Weights that sum to 1 give the weighted mean of the models, whatever the base (linear); else it is task arithmetic,
    a_k = scale * weight_k (Ilharco et al. 2023).
    """
    return torch.tensor(weights, dtype=changes.dtype) @ changes


def factors(method: Method, weights: Sequence[float], scale: float) -> list[float]:
    """a_k of `weighted`: for linear the weights over their sum, for task arithmetic scaled."""
    total = sum(weights)
    return [weight / total if method == "linear" else scale * weight for weight in weights]


class Moments:
    """Means and standard deviations of the changes of K models, over a tensor that is seen piece by piece."""

    def __init__(self, num_models: int) -> None:
        self.count = 0
        self.means = torch.zeros(num_models, dtype=torch.float64)
        self.squares = torch.zeros(num_models, dtype=torch.float64)  # summed squared distances from the mean

    def add(self, changes: Tensor) -> None:
        """Take in a piece (Chan et al. 1979: sums of squares alone would cancel)."""
        count = changes.shape[1]
        means = changes.mean(1)
        squares = (changes - means[:, None]).square().sum(1)
        apart, total = means - self.means, self.count + count
        self.squares += squares + apart.square() * (self.count * count / total)
        self.means += apart * (count / total)
        self.count = total

    def band(self) -> tuple[float, float]:
        """mu and sigma: the mean of the means, and the smallest standard deviation (over all entries, uncorrected)."""
        return self.means.mean().item(), (self.squares / self.count).sqrt().min().item()


@dataclass(frozen=True, kw_only=True)
class Movement:
    """How far a tensor moved; that of a piece, or of several tensors, adds up.

    `products` [K + 1, K + 1] are the inner products of the K models' changes and of the merged one's, `length` is
    |base|^2, and `outside` [K] counts entries outside the band, None where the method has none.
    """

    entries: int
    length: float
    products: Tensor
    outside: Tensor | None

    @classmethod
    def of(cls, base: Tensor, changes: Tensor, merged: Tensor, outside: Tensor | None) -> Movement:
        """That of base and merged [M], changes and outside [K, M]."""
        moves = torch.cat([changes, (merged - base)[None]])
        return cls(
            entries=len(base),
            length=base.square().sum().item(),
            products=moves @ moves.T,
            outside=None if outside is None else outside.sum(1),
        )

    def __add__(self, other: Movement) -> Movement:
        return Movement(
            entries=self.entries + other.entries,
            length=self.length + other.length,
            products=self.products + other.products,
            outside=None if self.outside is None or other.outside is None else self.outside + other.outside,
        )

    @property
    def unmoved(self) -> bool:
        """Whether all models have the base's values."""
        return not self.products.diagonal().any()

    @property
    def merged(self) -> float:
        """|w - base| / |base| of the merged tensor."""
        return self._ratio(-1)

    def _ratio(self, index: int) -> float:
        moved = self.products[index, index].item()
        if moved == 0:
            return 0.0
        return math.sqrt(moved / self.length) if self.length else math.inf

    def cosine(self) -> float | None:
        """Between the changes of two models, the mean over all pairs of them; None where one of a pair is 0."""
        sizes = self.products.diagonal()[:-1].sqrt()
        pairs = torch.combinations(torch.arange(len(sizes)))
        first, second = pairs[:, 0], pairs[:, 1]
        lengths = sizes[first] * sizes[second]
        if not len(pairs) or not lengths.all():
            return None
        return (self.products[first, second] / lengths).mean().item()

    def readings(self, labels: Sequence[str]) -> dict[str, Any]:
        """Relative change of each model and of the merged one, shares outside the band, and the cosine.

        A model that did not move has no share outside: None.
        """
        found: dict[str, Any] = {label: self._ratio(index) for index, label in enumerate(labels)}
        found["merged"] = self.merged
        if self.outside is not None:
            shares = (self.outside.double() / max(1, self.entries)).tolist()
            found |= {
                f"{label} outside": share if found[label] else None for label, share in zip(labels, shares, strict=True)
            }
        return found | {"cosine": self.cosine()}


def kind(name: str) -> str:
    """The group of a tensor: embeddings, attention, mlp, norms, lm_head or others."""
    return next((group for word, group in KINDS.items() if word in name.lower()), "others")
