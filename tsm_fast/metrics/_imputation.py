"""The noisy linear imputation of ROAD: missing pixels from those around them."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

_TOLERANCE = 1e-5  # of the right side
_MOST = 2000  # iterations


def imputed(
    inputs: Tensor,  # [B, C, H, W]
    missing: Tensor,  # [B, H, W] bool
) -> Tensor:  # [B, C, H, W]
    """Inputs whose missing pixels are the weighted mean of their neighbours, missing ones too (Rong et al., 2022):
    neighbours over an edge weigh 1/6, those over a corner 1/12, those outside nothing.

    Args:
        inputs: `[B, C, H, W]`.
        missing: `[B, H, W]`, True where a pixel is to be replaced; some pixel of each item must be there.

    Raises:
        ValueError: missing does not belong to the inputs, or all pixels of an item are missing.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> inputs = torch.arange(5.0).expand(1, 1, 5, 5)
    >>> missing = torch.zeros(1, 5, 5, dtype=torch.bool)
    >>> missing[:, 1:4, 1:4] = True
    >>> bool((metrics.imputed(inputs, missing) - inputs).abs().max() < 1e-4)
    True
    """
    if inputs.ndim != 4 or missing.shape != (len(inputs), *inputs.shape[2:]) or missing.dtype != torch.bool:
        need = f"bool [B, H, W] of inputs [B, C, H, W], {tuple(inputs.shape)}"
        raise ValueError(f"missing must be {need}, got {missing.dtype} {tuple(missing.shape)}")
    if bool(missing.flatten(1).all(1).any()):
        raise ValueError("missing must leave some pixel of each item, got an item without any")
    holes = missing[:, None].to(inputs.dtype)
    known = inputs * (1 - holes)
    weight = _around(torch.ones_like(holes[:1]))
    right = holes * _around(known)
    x = holes * inputs.mean((2, 3), keepdim=True)
    left = right - holes * (weight * x - _around(x))
    step, size = left, _dot(left, left)
    enough = _TOLERANCE**2 * _dot(right, right)
    for _ in range(_MOST):
        going = size > enough
        if not bool(going.any()):
            break
        moved = holes * (weight * step - _around(step))
        length = torch.where(going, size / _dot(step, moved), 0)
        x, left = x + length * step, left - length * moved
        new = _dot(left, left)
        step = left + torch.where(going, new / size, 0) * step
        size = torch.where(going, new, size)
    return torch.where(missing[:, None], x, inputs)


def _around(x: Tensor) -> Tensor:  # [B, C, H, W]
    """The weighted sum of the eight neighbours."""
    rows = functional.pad(x, (0, 0, 1, 1))
    rows = rows[:, :, :-2] + 2 * x + rows[:, :, 2:]
    both = functional.pad(rows, (1, 1))
    return (both[..., :-2] + 2 * rows + both[..., 2:]) / 12 - x / 3


def _dot(one: Tensor, two: Tensor) -> Tensor:  # [B, C, 1, 1]
    return (one * two).sum((2, 3), keepdim=True)
