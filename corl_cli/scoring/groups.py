"""Statistics within groups: N = B * G rows, group-major; `rows` [N] says which count."""

from torch import Tensor

STD_EPS = 1e-4  # as in TRL; keeps a group of equal rewards at 0


def standardise(values: Tensor, rows: Tensor, group_size: int, *, scale: bool = True) -> Tensor:
    """(v - mean) / (std + 1e-4) within each group, [N] -> [N]; 0 for rows that do not count.

    std carries Bessel's correction. Without `scale` only the mean is taken off.
    """
    counted = rows.view(-1, group_size).double()
    grouped = values.masked_fill(~rows, 0.0).double().view(-1, group_size)
    number = counted.sum(1, keepdim=True)
    centred = (grouped - (grouped * counted).sum(1, keepdim=True) / number.clamp(min=1)) * counted
    if scale:
        variance = centred.square().sum(1, keepdim=True) / (number - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + STD_EPS)
    return centred.flatten().to(values.dtype)


def comparable(rows: Tensor, group_size: int) -> Tensor:
    """Which groups [B] have two counted rows or more."""
    return rows.view(-1, group_size).sum(1) > 1


def zero_variance(values: Tensor, rows: Tensor, group_size: int) -> Tensor:
    """Which groups [B] hold no two counted values that differ: nothing can be learnt from them."""
    return standardise(values, rows, group_size, scale=False).view(-1, group_size).abs().amax(1) < 1e-6
