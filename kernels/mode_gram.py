"""`mode_gram`: Gram matrices of unfoldings, one read of the features for n <= 64."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..steps.backend import Precision, result_dtype
from ..steps.scaling import centered, unfold
from .launch import MAX_TILE, Arithmetic, arithmetic, on_device, tile
from .widening import widened


@on_device
def mode_gram(
    x: Tensor,  # [B, I_1, ..., I_N]
    mode: int,
    *,
    center: bool = False,
    precision: Precision = "auto",
) -> Tensor:
    """The Gram matrix of the mode-n unfolding, [B, I_n, I_n]; `center` first subtracts the mean over the last mode."""
    dtype = result_dtype(x.dtype, precision)
    order = x.ndim - 1
    if center and order > 2 and mode != order - 1:
        # The mean differs along both sides of the unfolding: one centred copy.
        x, center = centered(x), False
    wide = dtype == torch.float64
    rows = unfold(x, mode)
    return gram(rows, wide=wide, center=("rows" if mode == order - 1 else "depth") if center else None).to(dtype)


def gram(
    matrix: Tensor,  # [B, n, K]
    *,
    wide: bool,
    center: str | None = None,  # subtract the mean over the "rows" (n) or over the "depth" (K)
    only: Tensor | None = None,  # [B] bool: the items that are wanted
    out: Tensor | None = None,  # [B, n, n] float64, where the items that are not wanted stay as they are
) -> Tensor:
    """`M M^T` [B, n, n] in float64, its sums too; products in float64 where `wide`."""
    batch, n, depth = matrix.shape
    result = matrix.new_empty(batch, n, n, dtype=torch.float64) if out is None else out
    if not result.numel():
        return result
    means = None
    if center == "depth" or (center == "rows" and n > MAX_TILE):
        means = _means(matrix, 2 if center == "depth" else 1)
    how = arithmetic(matrix, wide, exact=center is None)
    blocks = triton.cdiv(n, gram_tile(n))
    gram_kernel[(batch * (blocks * (blocks + 1) // 2),)](
        matrix,
        result,
        means,
        None if only is None else only.view(torch.uint8),
        n,
        depth,
        *matrix.stride(),
        *((0, 0, 0) if means is None else means.stride()),
        **gram_meta(n, how, matrix.element_size()),
        CENTER_TILE=center == "rows" and means is None,
    )
    return result


def gram_tile(n: int) -> int:
    return tile(n)


def gram_meta(n: int, how: Arithmetic, element_size: int) -> dict:
    """The meta-parameters of `gram_kernel` for n rows."""
    side = gram_tile(n)
    return {
        "SINGLE": n <= side,
        "N": side,
        "K": 32 if side == MAX_TILE else 64,
        "WIDE": how.wide,
        "INPUT_PRECISION": how.input_precision,
        "num_warps": 8 if how.wide and n > side else 4 if side >= 32 else 2,
        "num_stages": 2 if how.wide and (element_size == 8 or n > side) else 3,
    }


@triton.jit
def gram_kernel(
    matrix,  # [B, n, depth]
    gram,  # [B, n, n] float64
    means,  # None, or the mean to subtract, with strides as the matrix
    only,  # None, or [B]
    n,
    depth,
    stride_b,
    stride_n,
    stride_k,
    mean_b,
    mean_n,
    mean_k,
    SINGLE: tl.constexpr,  # n <= N
    N: tl.constexpr,
    K: tl.constexpr,
    WIDE: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    CENTER_TILE: tl.constexpr,
):
    """A program makes one N x N tile on or below the diagonal of one item's Gram matrix, and writes it twice."""
    blocks = tl.cdiv(n, N)
    tiles = blocks * (blocks + 1) // 2
    item = tl.program_id(0) // tiles
    row = 0
    column = 0
    if not SINGLE:
        column = tl.program_id(0) % tiles
        while column > row:
            column -= row + 1
            row += 1
    wanted = True
    if only is not None:
        wanted = tl.load(only + item) != 0
    if wanted:
        b = item.to(tl.int64)
        base = matrix + b * stride_b
        r = row * N + tl.arange(0, N)
        c = column * N + tl.arange(0, N)
        r_at = r.to(tl.int64) * stride_n
        c_at = c.to(tl.int64) * stride_n
        total = tl.zeros([N, N], dtype=tl.float64)
        for start in range(0, depth, K):
            k = start + tl.arange(0, K)
            k_at = k.to(tl.int64) * stride_k
            # [K, N]
            inside = (k < depth)[:, None] & (r < n)[None, :]
            a = tl.load(base + k_at[:, None] + r_at[None, :], mask=inside, other=0.0)
            if WIDE:
                a = widened(a, depth)
            other = (k < depth)[:, None] & (c < n)[None, :]
            d = a
            if not SINGLE:
                d = tl.load(base + k_at[:, None] + c_at[None, :], mask=other, other=0.0)
                if WIDE:
                    d = widened(d, depth)
            if means is not None:
                mean = means + b * mean_b + k.to(tl.int64)[:, None] * mean_k
                a = a.to(tl.float64) - tl.load(mean + r.to(tl.int64)[None, :] * mean_n, mask=inside, other=0.0)
                d = d.to(tl.float64) - tl.load(mean + c.to(tl.int64)[None, :] * mean_n, mask=other, other=0.0)
            if CENTER_TILE:
                # All rows are here. The shift by the first makes constant columns exactly 0.
                first = tl.sum(tl.where((r == 0)[None, :], a.to(tl.float64), 0.0), 1)
                a = tl.where(inside, a.to(tl.float64) - first[:, None], 0.0)
                a = tl.where(inside, a - (tl.sum(a, 1) / n)[:, None], 0.0)
                d = a
            if WIDE:
                total += tl.dot(tl.trans(a), d, out_dtype=tl.float64)
            else:
                product = tl.dot(tl.trans(a.to(tl.float32)), d.to(tl.float32), input_precision=INPUT_PRECISION)
                total += product.to(tl.float64)
        if SINGLE or row == column:
            total = (total + tl.trans(total)) * 0.5
        out = gram + b * n * n
        inside = (r < n)[:, None] & (c < n)[None, :]
        tl.store(out + r[:, None] * n + c[None, :], total, mask=inside)
        if not SINGLE:
            tl.store(out + c[None, :] * n + r[:, None], total, mask=inside)


def _means(matrix: Tensor, dim: int) -> Tensor:
    """The mean over n or K, expanded to [B, n, K], in float64; exact for constants."""
    if matrix.dtype == torch.float64:
        first = matrix.narrow(dim, 0, 1)
        means = first + (matrix - first).mean(dim, keepdim=True)
    else:
        means = matrix.mean(dim, keepdim=True, dtype=torch.float64)
    return means.expand_as(matrix)
