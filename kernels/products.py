"""Products of the features with many vectors that are never written: their extremes, or sums of their magnitudes."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .launch import tile
from .widening import widened


def extremes(matrix: Tensor, vectors: Tensor, shift: Tensor | None = None) -> Tensor:
    """The entry of largest magnitude [B, R], the first on ties, of each column of `M V - shift`: matrix
    [B, rows, depth], V [B, depth, R], shift [B, 1, R].
    """
    batch, rows, depth = matrix.shape
    columns = vectors.shape[2]
    out = vectors.new_empty(batch, columns)
    meta = product_meta(depth, columns)
    grid = (batch * triton.cdiv(columns, meta["R"]),)
    extremes_kernel[grid](
        matrix, vectors, shift, out, rows, depth, columns, *matrix.stride(), *vectors.stride(), **meta
    )
    return out


def absolute_sum(matrix: Tensor, vectors: Tensor, weights: Tensor, shift: Tensor | None) -> Tensor:
    """`sum_j w_j |M v_j - shift_j|` [B, rows]: matrix [B, rows, depth], V [B, depth, R], w [B, R], shift [B, 1, R]."""
    batch, rows, depth = matrix.shape
    columns = vectors.shape[2]
    out = vectors.new_empty(batch, rows)
    meta = product_meta(depth, columns)
    grid = (batch * triton.cdiv(rows, meta["ROWS"]),)
    absolute_kernel[grid](
        matrix, vectors, weights, shift, out, rows, depth, columns, *matrix.stride(), *vectors.stride(), **meta
    )
    return out


def product_meta(depth: int, columns: int) -> dict:
    """The tiles of `M V`: ROWS x D of M by D x R of V, float64."""
    return {"ROWS": 32, "D": tile(depth), "R": tile(columns), "num_warps": 4, "num_stages": 2}


@triton.jit
def extremes_kernel(
    matrix,  # [B, rows, depth]
    vectors,  # [B, depth, columns]
    shift,  # None, or [B, columns]
    out,  # [B, columns]
    rows,
    depth,
    columns,
    stride_b,
    stride_r,
    stride_d,
    vectors_b,
    vectors_d,
    vectors_r,
    ROWS: tl.constexpr,
    D: tl.constexpr,
    R: tl.constexpr,
):
    """A program goes over all rows of one item for R columns."""
    blocks = tl.cdiv(columns, R)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    r = (tl.program_id(0) % blocks) * R + tl.arange(0, R)
    entry = tl.zeros([R], dtype=tl.float64)
    place = 2 * tl.arange(0, ROWS)[:, None]
    for start in range(0, rows, ROWS):
        row = start + tl.arange(0, ROWS)
        product = _product(
            matrix + b * stride_b, vectors + b * vectors_b, row, r, rows, depth, columns,
            stride_r, stride_d, vectors_d, vectors_r, ROWS, D, R,
        )  # fmt: skip
        if shift is not None:
            product -= tl.load(shift + b * columns + r, mask=r < columns, other=0.0)[None, :]
            product = tl.where((row < rows)[:, None], product, 0.0)
        size = tl.abs(product)
        most = tl.max(size, 0)
        # The first row of those, and whether its entry is negative.
        first = tl.min(tl.where(size == most[None, :], place + (product < 0).to(tl.int32), 2 * ROWS), 0)
        entry = tl.where(most > tl.abs(entry), tl.where(first % 2 == 1, -most, most), entry)
    tl.store(out + b * columns + r, entry, mask=r < columns)


@triton.jit
def absolute_kernel(
    matrix,  # [B, rows, depth]
    vectors,  # [B, depth, columns]
    weights,  # [B, columns]
    shift,  # None, or [B, columns]
    out,  # [B, rows]
    rows,
    depth,
    columns,
    stride_b,
    stride_r,
    stride_d,
    vectors_b,
    vectors_d,
    vectors_r,
    ROWS: tl.constexpr,
    D: tl.constexpr,
    R: tl.constexpr,
):
    """A program goes over all columns for ROWS rows of one item."""
    blocks = tl.cdiv(rows, ROWS)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    row = (tl.program_id(0) % blocks) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros([ROWS], dtype=tl.float64)
    for start in range(0, columns, R):
        r = start + tl.arange(0, R)
        product = _product(
            matrix + b * stride_b, vectors + b * vectors_b, row, r, rows, depth, columns,
            stride_r, stride_d, vectors_d, vectors_r, ROWS, D, R,
        )  # fmt: skip
        if shift is not None:
            product -= tl.load(shift + b * columns + r, mask=r < columns, other=0.0)[None, :]
        weight = tl.load(weights + b * columns + r, mask=r < columns, other=0.0)
        total += tl.sum(tl.abs(product) * weight[None, :], 1)
    tl.store(out + b * rows + row, total, mask=row < rows)


@triton.jit
def _product(
    matrix, vectors, row, r, rows, depth, columns, stride_r, stride_d, vectors_d, vectors_r,
    ROWS: tl.constexpr, D: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """The tile [ROWS, R] of M V in float64."""
    row_at = matrix + row.to(tl.int64) * stride_r
    column_at = vectors + r.to(tl.int64) * vectors_r
    product = tl.zeros([ROWS, R], dtype=tl.float64)
    for start in range(0, depth, D):
        d = (start + tl.arange(0, D)).to(tl.int64)
        inside = d < depth
        m = tl.load(
            row_at[:, None] + d[None, :] * stride_d, mask=(row < rows)[:, None] & inside[None, :], other=0.0
        )  # [ROWS, D]
        v = tl.load(
            column_at[None, :] + d[:, None] * vectors_d, mask=inside[:, None] & (r < columns)[None, :], other=0.0
        )  # [D, R]
        product += tl.dot(widened(m, depth), widened(v, depth), out_dtype=tl.float64)
    return product
