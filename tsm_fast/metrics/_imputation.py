"""The noisy linear imputation of ROAD: missing pixels from those around them."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

_TOLERANCE = 1e-5  # of the right side
_MOST = 100  # iterations
_COARSEST, _SWEEPS = 4, 20


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
    grid = _Grid(missing[:, None].to(inputs.dtype))
    right = grid.holes * _around(inputs * (1 - grid.holes))
    return torch.where(missing[:, None], _solved(grid, right), inputs)


class _Grid:
    """The equations of the missing pixels, and those of the coarser grids that speed up their solution."""

    def __init__(self, holes: Tensor) -> None:  # [B, 1, H, W], 1 where a pixel is missing
        self.holes = holes
        self.weight = _around(torch.ones_like(holes[:1]))  # of the neighbours that there are
        sizes = holes.shape[2:]
        self.coarser: _Grid | None = None
        if min(sizes) > _COARSEST:
            self.down = [_halving(size, holes) for size in sizes]
            # A coarse pixel is missing where all of its pixels are.
            pad = (0, sizes[1] % 2, 0, sizes[0] % 2)
            there = functional.max_pool2d(functional.pad(1 - holes, pad), 2)
            self.coarser = _Grid(1 - there)

    def apply(self, x: Tensor) -> Tensor:
        return self.holes * (self.weight * x - _around(x))

    def smoothed(self, x: Tensor, right: Tensor) -> Tensor:
        """A step of Jacobi's iteration, which takes what changes from pixel to pixel to a third at least."""
        return self.holes * (right + _around(x)) / self.weight

    def corrected(self, right: Tensor) -> Tensor:
        """About the solution, by a V-cycle: symmetric, as conjugate gradients need it."""
        x = right / self.weight
        if self.coarser is None:
            for _ in range(_SWEEPS):
                x = self.smoothed(x, right)
            return x
        rows, columns = self.down
        left = right - self.apply(x)
        coarse = self.coarser.corrected(self.coarser.holes * (rows @ left @ columns.mT))
        return self.smoothed(x + self.holes * (rows.mT @ coarse @ columns), right)


def _solved(grid: _Grid, right: Tensor) -> Tensor:
    """By conjugate gradients, each plane until its own residual is small."""
    size = _dot(right, right)
    x, left = torch.zeros_like(right) + 0 * size, right  # NaN where a plane holds any
    guess = grid.corrected(left)
    step, slope = guess, _dot(left, guess)
    enough = _TOLERANCE**2 * size
    for _ in range(_MOST):
        going = _dot(left, left) > enough
        if not bool(going.any()):
            break
        moved = grid.apply(step)
        length = torch.where(going, slope / _dot(step, moved), 0)
        x, left = x + length * step, left - length * moved
        guess = grid.corrected(left)
        new = _dot(left, guess)
        step, slope = guess + torch.where(going, new / slope, 0) * step, new
    return x


def _halving(size: int, like: Tensor) -> Tensor:  # [size / 2, size]
    """The adjoint of linear interpolation between pixels of twice the size."""
    half = (size + 1) // 2
    fine, coarse = (torch.arange(pixels, device=like.device, dtype=torch.float64) for pixels in (size, half))
    place = ((fine + 0.5) / 2 - 0.5).clamp(0, half - 1)
    near = 1 - (place - coarse[:, None]).abs()
    return near.clamp(min=0).to(like)


def _around(x: Tensor) -> Tensor:  # [B, C, H, W]
    """The weighted sum of the eight neighbours."""
    rows = 2 * x
    rows[:, :, 1:] += x[:, :, :-1]
    rows[:, :, :-1] += x[:, :, 1:]
    both = 2 * rows
    both[..., 1:] += rows[..., :-1]
    both[..., :-1] += rows[..., 1:]
    return both.div_(12).sub_(x, alpha=1 / 3)


def _dot(one: Tensor, two: Tensor) -> Tensor:  # [B, C, 1, 1]
    return (one * two).sum((2, 3), keepdim=True)
