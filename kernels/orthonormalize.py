"""Orthonormal columns that span what given columns span, in their order; what spans nothing is replaced."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .launch import tile, warps

MOST_ROWS = 8192


def orthonormalize(columns: Tensor) -> Tensor:
    """[B, n, R] -> [B, n, R] float64, R <= n: Gram-Schmidt, each column twice, its direction kept."""
    batch, n, rank = columns.shape
    out = columns.new_empty(batch, rank, n)  # a column's entries together
    if out.numel():
        orthonormalize_kernel[(batch,)](columns, out, n, rank, *columns.stride(), **orthonormalize_meta(n))
    return out.mT


def orthonormalize_meta(n: int) -> dict:
    side = tile(n, most=MOST_ROWS)
    return {"N": side, "num_warps": warps(side, 8)}


@triton.jit
def orthonormalize_kernel(
    columns,  # [B, n, rank]
    out,  # [B, rank, n]
    n,
    rank,
    stride_b,
    stride_n,
    stride_r,
    N: tl.constexpr,
):
    """A program does one item, a column at a time in blocks of N entries, of which there is one below 8192 rows."""
    b = tl.program_id(0).to(tl.int64)
    to = out + b * n * rank
    for j in range(rank):
        before = tl.full([], 0.0, dtype=tl.float64)
        for start in range(0, n, N):
            i = start + tl.arange(0, N)
            a = tl.load(columns + b * stride_b + i.to(tl.int64) * stride_n + j * stride_r, mask=i < n, other=0.0)
            before += tl.sum(a * a, 0)
            tl.store(to + j * n + i, a, mask=i < n)
        tl.debug_barrier()
        after = _less_earlier(to, j, n, N)
        # Nothing is left of a column of zeros or of one that the earlier ones span: a unit vector takes its place,
        # the one that they hold least of.
        if (after <= 1e-24 * before) | (before == 0):
            _put_unit(to, j, n, N)
            after = _less_earlier(to, j, n, N)
        scale = 1 / tl.sqrt(after)
        for start in range(0, n, N):
            i = start + tl.arange(0, N)
            a = tl.load(to + j * n + i, mask=i < n, other=0.0)
            tl.store(to + j * n + i, a * scale, mask=i < n)
        tl.debug_barrier()


@triton.jit
def _less_earlier(to, j, n, N: tl.constexpr):
    """Takes from column j its parts along the earlier ones, twice; the square of what is left."""
    for k in range(2 * j):
        other = k % j
        dot = tl.full([], 0.0, dtype=tl.float64)
        for start in range(0, n, N):
            i = start + tl.arange(0, N)
            a = tl.load(to + j * n + i, mask=i < n, other=0.0)
            dot += tl.sum(a * tl.load(to + other * n + i, mask=i < n, other=0.0), 0)
        for start in range(0, n, N):
            i = start + tl.arange(0, N)
            a = tl.load(to + j * n + i, mask=i < n, other=0.0)
            a -= dot * tl.load(to + other * n + i, mask=i < n, other=0.0)
            tl.store(to + j * n + i, a, mask=i < n)
        tl.debug_barrier()
    left = tl.full([], 0.0, dtype=tl.float64)
    for start in range(0, n, N):
        i = start + tl.arange(0, N)
        a = tl.load(to + j * n + i, mask=i < n, other=0.0)
        left += tl.sum(a * a, 0)
    return left


@triton.jit
def _put_unit(to, j, n, N: tl.constexpr):
    """Column j becomes the unit vector of which columns 0 .. j - 1 hold least."""
    least = tl.full([], float("inf"), dtype=tl.float64)
    where = 0
    for start in range(0, n, N):
        i = start + tl.arange(0, N)
        held = tl.where(i < n, 0.0, float("inf")).to(tl.float64)
        for k in range(j):
            a = tl.load(to + k * n + i, mask=i < n, other=0.0)
            held += a * a
        low = tl.min(held, 0)
        if low < least:
            least = low
            where = tl.min(tl.where(held == low, i, n), 0)
    for start in range(0, n, N):
        i = start + tl.arange(0, N)
        tl.store(to + j * n + i, tl.where(i == where, 1.0, 0.0).to(tl.float64), mask=i < n)
    tl.debug_barrier()
