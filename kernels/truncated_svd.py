"""`truncated_svd`: leading or all eigenpairs of Gram matrices, in float64.

n <= 64 in registers: the leading pair by squaring with a bound on the second eigenvalue, all pairs by Jacobi. Up to 256
by the tridiagonal form; that asks the device whether an item failed its test, and gives such items to the library
(cuSOLVER's `XsyevBatched` where present, else `torch.linalg.eigh`), which also solves all that is larger.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..steps.backend import Precision, result_dtype
from ..steps.capture import refuse_above
from ..steps.cusolver import library_eigenpairs
from ..steps.scaling import column_signs as signs_of
from . import lanczos, tridiagonal
from .jacobi import column_signs, descending, eigenpairs
from .launch import BY_KERNELS, ON_CHIP, on_device, tile


@on_device
def truncated_svd(
    gram: Tensor,  # [B, n, n]
    rank: int,
    *,
    precision: Precision = "auto",
) -> tuple[Tensor, Tensor]:
    """The leading singular values [B, R] and vectors [B, n, R] of a matrix, from its Gram matrix."""
    dtype = result_dtype(gram.dtype, precision)
    refuse_above(ON_CHIP, gram.shape[1], gram)
    values, vectors = eigh(gram.double(), rank)
    return values.clamp(min=0).sqrt().to(dtype), vectors.to(dtype)


def eigh(
    gram: Tensor,  # [B, n, n] float64
    rank: int,
) -> tuple[Tensor, Tensor]:
    """Eigenvalues [B, R], descending, and signed eigenvectors [B, n, R]; NaN for items that hold NaN or Inf."""
    batch, n, _ = gram.shape
    values, vectors = gram.new_empty(batch, rank), gram.new_empty(batch, n, rank)
    if batch and n <= ON_CHIP:
        meta = jacobi_meta(n)
        jacobi_kernel[(batch,)](gram, values, vectors, n, rank, *gram.stride(), **meta)
        return values, vectors
    return library_eigenpairs(gram, rank, torch.float64) if n > BY_KERNELS or not batch else _tridiagonal(gram, rank)


def _tridiagonal(gram: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)
    finite = gram.abs().amax((1, 2)).isfinite() & trace.isfinite()
    unit = torch.where(finite & (trace > 0), trace, 1.0)[:, None, None]
    matrices = torch.where(finite[:, None, None], gram, 0.0) / unit
    values, vectors, good = tridiagonal.eigenpairs((matrices + matrices.mT) / 2, rank)
    failed = (~good).nonzero().flatten()
    if len(failed):
        values[failed], vectors[failed] = library_eigenpairs(matrices[failed], rank, torch.float64)
    return _finished(values * unit[:, 0], vectors, finite)


def _finished(values: Tensor, vectors: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
    """Signed vectors, and NaN for items that are not finite."""
    vectors = vectors * signs_of(vectors)
    return torch.where(finite[:, None], values, torch.nan), torch.where(finite[:, None, None], vectors, torch.nan)


def jacobi_meta(n: int) -> dict:
    """Two tiles of N x N and what was gathered of both lie in registers."""
    side = tile(n, least=2)
    return {"N": side, "num_warps": {64: 8, 32: 4}.get(side, 1)}


@triton.jit
def jacobi_kernel(
    gram,  # [B, n, n]
    values,  # [B, rank]
    vectors,  # [B, n, rank]
    n,
    rank,
    stride_b,
    stride_i,
    stride_j,
    N: tl.constexpr,
):
    """A program solves one item."""
    b = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, N)
    at = gram + b * stride_b
    inside = (i < n)[:, None] & (i < n)[None, :]
    a = tl.load(at + i[:, None] * stride_i + i[None, :] * stride_j, mask=inside, other=0.0)
    a += tl.load(at + i[None, :] * stride_i + i[:, None] * stride_j, mask=inside, other=0.0)
    a = a * 0.5
    # NaN and Inf leave a trace that is not finite.
    total = tl.sum(tl.sum(tl.abs(a), 1), 0)
    finite = total < float("inf")
    a = tl.where(finite, a, 0.0)
    value, v = eigenpairs(a, N)
    v = v * column_signs(v, N)[None, :]
    place = descending(value, n, N)
    kept = place < rank
    blank = float("nan")
    tl.store(values + b * rank + place, tl.where(finite, value, blank), mask=kept)
    to = vectors + b * n * rank + i[:, None] * rank + place[None, :]
    tl.store(to, tl.where(finite, v, blank), mask=(i < n)[:, None] & kept[None, :])


class Leading(NamedTuple):
    """The leading eigenpair, and a proof of it."""

    value: Tensor  # [B]
    vector: Tensor  # [B, n]
    second: Tensor  # [B], the second eigenvalue is at most that


def leading_pair(gram: Tensor, only: Tensor | None = None, out: Leading | None = None) -> Leading:
    """The leading eigenpair of every item of `gram` [B, n, n] float64; NaN for items that hold NaN or Inf."""
    batch, n, _ = gram.shape
    if n > ON_CHIP:
        return _leading_large(gram)
    pair = out or Leading(gram.new_empty(batch), gram.new_empty(batch, n), gram.new_empty(batch))
    if batch:
        flags = None if only is None else only.view(torch.uint8)
        leading_kernel[(batch,)](gram, *pair, flags, n, **leading_meta(n))
    return pair


def _leading_large(gram: Tensor) -> Leading:
    """By Lanczos steps; items whose pair these do not prove, and all above 256, by the first two of all pairs."""
    batch, n, _ = gram.shape
    if n > BY_KERNELS or not batch:
        values, vectors = eigh(gram, 2)
        return Leading(values[:, 0], vectors[:, :, 0], values[:, 1])
    value, vector, second, proved = lanczos.leading_pairs(gram)
    left = (~proved).nonzero().flatten()
    if len(left):
        values, vectors = eigh(gram[left], 2)
        value[left], vector[left], second[left] = values[:, 0], vectors[:, :, 0], values[:, 1]
    return Leading(value, vector * signs_of(vector[:, :, None])[:, :, 0], second)


def leading_meta(n: int) -> dict:
    side = tile(n)
    return {"N": side, "num_warps": {64: 8, 32: 4}.get(side, 1)}


SQUARINGS: tl.constexpr = tl.constexpr(48)


@triton.jit
def leading_kernel(
    gram,  # [B, n, n]
    value,  # [B]
    vector,  # [B, n]
    second,  # [B]
    only,  # None, or [B]
    n,
    N: tl.constexpr,
):
    """A program squares one item at unit trace until one eigenvalue is left: P = sum_i p_i v_i v_i^T with p_1 near 1.

    Two equal leading eigenvalues leave a projector on their space, any column of which is a leading vector.
    """
    b = tl.program_id(0).to(tl.int64)
    wanted = True
    if only is not None:
        wanted = tl.load(only + b) != 0
    if wanted:
        i = tl.arange(0, N)
        inside = (i < n)[:, None] & (i < n)[None, :]
        g = tl.load(gram + b * n * n + i[:, None] * n + i[None, :], mask=inside, other=0.0)
        on_diagonal = i[:, None] == i[None, :]
        trace = tl.sum(tl.sum(tl.where(on_diagonal, g, 0.0), 1), 0)
        finite = tl.abs(trace) < float("inf")
        unit = tl.where(finite & (trace > 0), trace, 1.0)
        g = tl.where(finite, g, 0.0) / unit
        p = g
        impure = tl.full([], 1.0, dtype=tl.float64)
        rounds = 0
        while (impure > 1e-15) & (rounds < SQUARINGS):
            p = tl.dot(p, p, out_dtype=tl.float64)
            size = tl.sum(tl.sum(tl.where(on_diagonal, p, 0.0), 1), 0)
            p = p / tl.where(size > 0, size, 1.0)
            impure = tl.where(size > 0, 1 - tl.sum(tl.sum(p * p, 1), 0), 0.0)
            rounds += 1
        diagonal = tl.sum(tl.where(on_diagonal, p, 0.0), 0)
        most = tl.max(diagonal, 0)
        first = tl.min(tl.where(diagonal == most, i, N), 0)
        v = tl.sum(tl.where(i[None, :] == first, p, 0.0), 1)  # a column
        v = tl.sum(g * _unit(v)[None, :], 1)  # one more product takes the rounding of the squares away
        v = _unit(v)
        v = tl.where(tl.sum(v * v, 0) > 0, v, tl.where(i == 0, 1.0, 0.0))
        gv = tl.sum(g * v[None, :], 1)
        theta = tl.sum(v * gv, 0)
        # The other eigenvalues: their fourth powers together bound the largest of them.
        rest = g - theta * v[:, None] * v[None, :]
        square = tl.dot(rest, rest, out_dtype=tl.float64)
        bound = tl.sqrt(tl.sqrt(tl.sum(tl.sum(square * square, 1), 0)))
        size = tl.abs(v)
        top = tl.max(size, 0)
        at = tl.min(tl.where(size == top, i, N), 0)
        sign = tl.where(tl.sum(tl.where(i == at, v, 0.0), 0) < 0, -1.0, 1.0)
        blank = tl.where(finite, 0.0, float("nan"))
        tl.store(value + b, theta * unit + blank)
        tl.store(second + b, bound * unit + blank)
        tl.store(vector + b * n + i, v * sign + blank, mask=i < n)


@triton.jit
def _unit(v):
    length = tl.sqrt(tl.sum(v * v, 0))
    return v / tl.where(length > 0, length, 1.0)
