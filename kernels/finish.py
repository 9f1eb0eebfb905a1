"""`finish`: maps resized and normalised by one program an item, in one pass for the extremes and one that writes."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..steps.backend import map_noise
from .launch import on_device

TILE = 1024  # entries of the result at a time


@on_device
def finish(
    maps: Tensor,  # [B, H, W]
    size: tuple[int, int] | None,
    *,
    normalize: bool,
) -> Tensor:
    """The maps resized to [B, *size] and normalised (see `reference.finish`)."""
    maps = maps.contiguous()
    (height, width), (rows, columns) = maps.shape[1:], size or maps.shape[1:]
    out = maps.new_empty(len(maps), rows, columns)
    if len(maps):
        resize = (height, width) != (rows, columns)
        noise = map_noise(maps)
        finish_kernel[(len(maps),)](
            maps, out, height, width, rows, columns, noise, NORMALIZE=normalize, RESIZE=resize, TILE=TILE, num_warps=4
        )
    return out


@triton.jit
def _source(i, source, size):
    """The entries that entry i of `size` lies between, of `source`, and the weight of the second: pixels are areas."""
    at = (i.to(tl.float64) + 0.5) * (source.to(tl.float64) / size) - 0.5
    inside = tl.maximum(at, 0.0)
    first = tl.minimum(inside.to(tl.int32), source - 1)
    return first, tl.minimum(first + 1, source - 1), inside - first


@triton.jit
def _resized(own, i, height, width, rows, columns, RESIZE: tl.constexpr):
    """Entries i of the result, those beyond its end like the last one."""
    at = tl.minimum(i, rows * columns - 1)
    if RESIZE:
        upper, lower, t = _source(at // columns, height + tl.zeros_like(at), rows)
        left, right, u = _source(at % columns, width + tl.zeros_like(at), columns)
        a = tl.load(own + upper * width + left)
        b = tl.load(own + lower * width + left)
        a += (tl.load(own + upper * width + right) - a) * u.to(a.dtype)
        b += (tl.load(own + lower * width + right) - b) * u.to(a.dtype)
        return a + (b - a) * t.to(a.dtype)
    return tl.load(own + at)


@triton.jit
def finish_kernel(
    maps,  # [B, height, width]
    out,  # [B, rows, columns]
    height,
    width,
    rows,
    columns,
    noise,
    NORMALIZE: tl.constexpr,
    RESIZE: tl.constexpr,
    TILE: tl.constexpr,
):
    """A program finishes one item."""
    b = tl.program_id(0).to(tl.int64)
    own = maps + b * height * width
    to = out + b * rows * columns
    lane = tl.arange(0, TILE)
    if NORMALIZE:
        low = _resized(own, lane, height, width, rows, columns, RESIZE)
        high = low
        odd = tl.zeros([TILE], dtype=tl.int32)
        for start in range(0, rows * columns, TILE):
            x = _resized(own, start + lane, height, width, rows, columns, RESIZE)
            low = tl.where(x < low, x, low)
            high = tl.where(x > high, x, high)
            odd = tl.where(x == x, odd, 1)
        lowest = tl.min(low, 0)
        highest = tl.max(high, 0)
        spread = highest - lowest
        is_nan = tl.max(odd, 0) > 0
        peak = tl.maximum(highest, -lowest)
        if RESIZE:
            largest = tl.abs(tl.load(own + tl.minimum(lane, height * width - 1)))
            for start in range(TILE, height * width, TILE):
                x = tl.load(own + tl.minimum(start + lane, height * width - 1))
                largest = tl.maximum(largest, tl.abs(x))
            peak = tl.max(largest, 0)
        constant = spread <= noise * peak
        for start in range(0, rows * columns, TILE):
            i = start + lane
            x = _resized(own, i, height, width, rows, columns, RESIZE)
            x = tl.where(constant, 0.0, (x - lowest) / tl.where(constant, 1.0, spread))
            tl.store(to + i, tl.where(is_nan, float("nan"), x).to(out.dtype.element_ty), mask=i < rows * columns)
    else:
        for start in range(0, rows * columns, TILE):
            i = start + lane
            x = _resized(own, i, height, width, rows, columns, RESIZE)
            tl.store(to + i, x, mask=i < rows * columns)
