"""What the backends share item by item: unfoldings, powers of two, column signs, and batches in parts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_PART = 2**21  # numbers: 16 MB in float64


def by_parts(compute: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor, numbers: int) -> tuple[Tensor, ...]:
    """`compute(x)`, part by part of the batch, so that what it holds stays small at any batch size.

    `numbers` is how many numbers it holds for an item; each of its results has the batch first.
    """
    parts = x.split(max(1, _PART // numbers))
    first = compute(parts[0])
    if len(parts) == 1:
        return first
    results = tuple(result.new_empty(len(x), *result.shape[1:]) for result in first)
    start = 0
    for i, part in enumerate(parts):
        for whole, result in zip(results, first if i == 0 else compute(part), strict=True):
            whole[start : start + len(part)] = result
        start += len(part)
    return results


def unfold(x: Tensor, mode: int) -> Tensor:
    """The mode-n unfolding [B, I_n, rest] in TensorLy's column order."""
    return x.movedim(mode + 1, 1).flatten(2)


def per_item(values: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ..., 1], to broadcast against `like` [B, ...]."""
    return values.view(-1, *(1,) * (like.ndim - 1))


def centered(x: Tensor) -> Tensor:
    """In float64, less its mean over the last mode; the shift makes a constant channel exactly 0."""
    wide = x.double()
    shifted = wide - wide[..., :1]
    return shifted - shifted.mean(-1, keepdim=True)


def scaled(x: Tensor, exponent: Tensor | None, power: int = 1) -> Tensor:
    """`x * 2 ** (power * exponent)` item by item, exact, x for None; in steps because 2 ** 1074 is no float64."""
    if exponent is None:
        return x
    half = exponent.div(2, rounding_mode="floor")
    for part in (half, exponent - half) * power:
        factor = ((part + 1023) << 52).view(torch.float64)
        x = x * per_item(factor.to(x.dtype), x)
    return x


def peaks(x: Tensor) -> Tensor:
    """The largest magnitude [B] of each item, NaN where it holds NaN; no copy of x, whatever its strides."""
    x, modes = x.detach(), tuple(range(1, x.ndim))  # an infinity norm takes twenty times as long
    return torch.maximum(x.amax(modes), -x.amin(modes))


def unit_exponents(x: Tensor) -> Tensor:
    """The exponents [B] (int64) that bring each item's largest magnitude into [1/2, 1): `scaled(x, -exponents)`."""
    return torch.frexp(peaks(x).double()).exponent.long()


def unit_range(x: Tensor, beyond: int = 0) -> tuple[Tensor, Tensor | None]:
    """float64 items times the power of two that brings their largest magnitude into [1/2, 1), so that squares neither
    overflow nor vanish, and the exponents [B] that undo it; x and None for other dtypes, whose squares float64 holds.
    With `beyond`, which waits for the device, items with exponents up to it are left alone, and x where all are.
    """
    if x.dtype != torch.float64 or not len(x):
        return x, None
    exponent = unit_exponents(x)
    if beyond:
        exponent = torch.where(exponent.abs() > beyond, exponent, 0)
        if not exponent.any():
            return x, None
    return scaled(x, -exponent), exponent


def column_signs(columns: Tensor) -> Tensor:
    """The sign [B, 1, R] of the entry of largest magnitude of each column of [B, n, R], the first on ties; 0 has +1."""
    index = columns.abs().argmax(1, keepdim=True)
    return torch.where(columns.gather(1, index) < 0, -1.0, 1.0).to(columns)


def straightened(columns: Tensor) -> Tensor:
    """Nearly orthonormal columns [B, M, R] made orthonormal up to the square of what they lacked, each to those before
    it."""
    lacking = columns.mT @ columns - torch.eye(columns.shape[2], dtype=columns.dtype, device=columns.device)
    return columns - columns @ (lacking.triu() - torch.diag_embed(lacking.diagonal(dim1=1, dim2=2) / 2))
