"""Sampling noise that depends on a row's identity and position, not on the batch it is in.

A generator's stream changes with every row added to a batch, so results would depend on batch size, resume and number
of processes. Here each number is a hash of (row key, position, token): same seed, same run. Tokens are chosen by
Gumbel-max, argmax(logits + gumbel), because inverse-CDF sampling flips far more tokens under float noise.
"""

from collections.abc import Iterable
from hashlib import blake2b

import torch
from torch import Tensor

# The constants of splitmix64 (Steele, Lea, Flood 2014), as signed 64-bit integers: torch has no unsigned shifts.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX2 = 0x94D049BB133111EB - (1 << 64)
_UNIFORM_BITS = 23  # (k + 0.5) / 2^23 is exact in float32 and never 0 or 1
_BLOCK = 1 << 20  # numbers made at once on a CPU: fewer, larger calls where the vocabulary is small


def row_keys(labels: Iterable[str], device: torch.device) -> Tensor:
    """A 64-bit key for each label [R]."""
    digests = [
        int.from_bytes(blake2b(label.encode(), digest_size=8).digest(), "little", signed=True) for label in labels
    ]
    return torch.tensor(digests, dtype=torch.int64, device=device)


def gumbel(keys: Tensor, positions: Tensor, width: int) -> Tensor:
    """Standard Gumbel noise [positions, R, width] in float32 for some positions [P] of each row."""
    counter = positions[:, None] * width + torch.arange(width, device=keys.device)
    bits = _mix(keys[:, None] + counter[:, None] * _GOLDEN)
    uniform = _shift(bits, 64 - _UNIFORM_BITS).float().add_(0.5).div_(1 << _UNIFORM_BITS)
    return uniform.log_().neg_().log_().neg_()


class Noise:
    """Gumbel noise [R, width] for one position after the other, up to `limit` of them."""

    def __init__(self, keys: Tensor, width: int, limit: int) -> None:
        self.keys, self.width, self.limit = keys, width, limit
        # a recorded step reads its position on the GPU, so it makes its own noise
        self._ahead = 1 if keys.is_cuda else max(1, _BLOCK // (len(keys) * width))
        self._made = gumbel(keys, torch.arange(0, device=keys.device), width)
        self._start = 0

    def at(self, place: int, position: Tensor) -> Tensor:
        """The noise of a position, which is told twice: to this process and [1] on the device."""
        if self._ahead == 1:
            return gumbel(self.keys, position, self.width)[0]
        if not self._start <= place < self._start + len(self._made):
            self._start = place
            ahead = torch.arange(place, min(place + self._ahead, self.limit))
            self._made = gumbel(self.keys, ahead, self.width)
        return self._made[place - self._start]

    def take(self, rows: Tensor) -> "Noise":
        """The noise of some rows."""
        some = Noise(self.keys[rows], self.width, self.limit)
        some._made, some._start = self._made[:, rows], self._start
        return some


def _mix(z: Tensor) -> Tensor:
    z = _shift(z, 30).bitwise_xor_(z).mul_(_MIX1)
    z = _shift(z, 27).bitwise_xor_(z).mul_(_MIX2)
    return _shift(z, 31).bitwise_xor_(z)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of signed 64-bit integers."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)
