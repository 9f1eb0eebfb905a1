"""`core_contraction`: one mode after another, each a batch of matrix products read in any strides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..steps.backend import Precision, result_dtype
from .launch import Arithmetic, arithmetic, on_device, tile
from .widening import widened


@on_device
def core_contraction(
    x: Tensor,  # [B, I_1, ..., I_N]
    factors: Sequence[Tensor],  # [B, I_n, R_n] for each n in `modes`
    modes: Sequence[int],
    *,
    precision: Precision = "auto",
) -> Tensor:
    """`X x_n A_n^T` over the given modes."""
    dtype = result_dtype(x.dtype, precision)
    if not modes:
        return x.to(dtype, copy=True)
    return contract(x, factors, modes, dtype)


def contract(x: Tensor, factors: Sequence[Tensor], modes: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The product over the modes in `dtype`, float64 products for float64; the modes that shrink most come first."""
    ratio = [factor.shape[2] / factor.shape[1] for factor in factors]
    for i in sorted(range(len(modes)), key=ratio.__getitem__):
        x = mode_product(x, factors[i], modes[i], dtype)
    return x


def mode_product(x: Tensor, factor: Tensor, mode: int, dtype: torch.dtype) -> Tensor:
    """`X x_n A^T` in `dtype`: x [B, ..., I_n, ...], factor [B, I_n, R]."""
    batch, size, rank = len(x), x.shape[mode + 1], factor.shape[2]
    shape = [*x.shape[: mode + 1], rank, *x.shape[mode + 2 :]]
    out = x.new_empty(shape, dtype=dtype)
    if not out.numel():
        return out
    outer = 1
    for number in x.shape[1 : mode + 1]:
        outer *= number
    view = x.reshape(batch, outer, size, -1)  # a view where the strides allow it, else one copy
    inner = view.shape[3]
    how = arithmetic(x, dtype == torch.float64)
    meta = contraction_meta(outer * inner, size, rank, how)
    grid = (batch * triton.cdiv(outer * inner, meta["Q"]) * triton.cdiv(rank, meta["R"]),)
    contraction_kernel[grid](
        view, factor, out, outer * inner, inner, size, rank, *view.stride(), *factor.stride(), **meta
    )
    return out


def contraction_meta(rows: int, size: int, rank: int, how: Arithmetic) -> dict:
    return {
        "Q": tile(rows),
        "K": tile(size, most=32),
        "R": tile(rank),
        "WIDE": how.wide,
        "INPUT_PRECISION": how.input_precision,
        "num_warps": 4,
        "num_stages": 2,
    }


@triton.jit
def contraction_kernel(
    x,  # [B, outer, size, inner]
    factor,  # [B, size, rank]
    out,  # [B, outer, rank, inner] dense
    rows,  # outer * inner
    inner,
    size,
    rank,
    stride_b,
    stride_o,
    stride_m,
    stride_i,
    factor_b,
    factor_m,
    factor_r,
    Q: tl.constexpr,
    K: tl.constexpr,
    R: tl.constexpr,
    WIDE: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
):
    """A program makes Q rows (outer, inner) times R columns of one item."""
    columns = tl.cdiv(rank, R)
    blocks = tl.cdiv(rows, Q) * columns
    b = (tl.program_id(0) // blocks).to(tl.int64)
    left = tl.program_id(0) % blocks
    q = (left // columns) * Q + tl.arange(0, Q)
    r = (left % columns) * R + tl.arange(0, R)
    o = (q // inner).to(tl.int64)
    i = (q % inner).to(tl.int64)
    x_at = x + b * stride_b + o * stride_o + i * stride_i
    factor_at = factor + b * factor_b + r.to(tl.int64) * factor_r
    total = tl.zeros([Q, R], dtype=tl.float64 if WIDE else tl.float32)
    for start in range(0, size, K):
        k = (start + tl.arange(0, K)).to(tl.int64)
        inside = k < size
        # [Q, K] and [K, R]
        a = tl.load(x_at[:, None] + k[None, :] * stride_m, mask=(q < rows)[:, None] & inside[None, :], other=0.0)
        f = tl.load(factor_at[None, :] + k[:, None] * factor_m, mask=inside[:, None] & (r < rank)[None, :], other=0.0)
        if WIDE:
            total += tl.dot(widened(a, size), widened(f, size), out_dtype=tl.float64)
        else:
            total += tl.dot(a.to(tl.float32), f.to(tl.float32), input_precision=INPUT_PRECISION)
    to = out + b * rows * rank + (o * rank * inner + i)[:, None] + r.to(tl.int64)[None, :] * inner
    tl.store(to, total, mask=(q < rows)[:, None] & (r < rank)[None, :])
