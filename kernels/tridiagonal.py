"""Symmetric eigenproblems of 64 < n <= 256 by the tridiagonal form, in float64, leading or all pairs.

Householder reduction with the matrix in the L2 cache, one program an item; eigenvalues by bisection and their vectors
by inverse iteration, one lane an eigenvalue; the reflectors applied to blocks of vectors in registers. Inverse
iteration leaves close vectors orthogonal to 1e-16 / gap only: two Newton-Schulz steps heal that, which mixes them
within a residual of 1e-16. Residual and orthonormality of every item are tested at the end.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .core_contraction import mode_product
from .launch import tile
from .mode_gram import gram as gram_of

WORKSPACE = 2**26  # numbers: 512 MB in float64
BISECTIONS: tl.constexpr = tl.constexpr(58)  # from 1 to below the rounding of a sum of n terms near 1
TOLERANCE = 1e-13  # of residuals, at a trace of 1, and of orthonormality


def eigenpairs(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues [B, R], descending, unsigned vectors [B, n, R] and whether they hold [B]; matrices [B, n, n] float64
    of trace 1, symmetric and positive semidefinite.
    """
    n = matrices.shape[1]
    parts = [_part(part, rank) for part in matrices.split(max(1, WORKSPACE // (n * (2 * n + 7 * rank))))]
    values, vectors, good = (torch.cat(part) if len(parts) > 1 else part[0] for part in zip(*parts, strict=True))
    return values, vectors, good


def _part(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    batch, n, _ = matrices.shape

    def room(*shape: int) -> Tensor:
        return matrices.new_empty(batch, *shape)

    work = matrices.clone()
    diagonal, beside, reflectors, pending = room(n), room(n), room(n, n), room(n)
    reduce_kernel[(batch,)](work, diagonal, beside, reflectors, pending, n, **reduce_meta(n))
    shifts, lanes = room(rank), lanes_meta(rank)
    grid = (batch * triton.cdiv(rank, lanes["R"]),)
    bisect_kernel[grid](diagonal, beside, shifts, n, rank, **lanes)
    # Equal eigenvalues are told apart by a few units in the last place, as their vectors must be.
    steps = 4 * torch.finfo(torch.float64).eps * torch.arange(rank, device=shifts.device)
    shifts = (shifts + steps).cummin(1).values - steps
    factors, vectors = room(5, n, rank), room(n, rank)
    inverse_kernel[grid](diagonal, beside, shifts, factors, vectors, n, rank, **lanes)
    columns = back_meta(n)
    grid = (batch * triton.cdiv(rank, columns["R"]),)
    back_kernel[grid](reflectors, vectors, n, rank, **columns)
    for _ in range(2):
        vectors = mode_product(vectors, _half_inverse(vectors), 1, torch.float64)
    images = mode_product(matrices, vectors, 1, torch.float64)  # [B, n, R]
    values = (vectors * images).sum(1)
    residual = (images - vectors * values[:, None]).abs().amax((1, 2))
    skew = gram_of(vectors.mT, wide=True).sub_(torch.eye(rank, dtype=vectors.dtype, device=vectors.device))
    good = (residual <= TOLERANCE) & (skew.abs().amax((1, 2)) <= TOLERANCE)
    values, order = values.sort(1, descending=True)
    return values, vectors.gather(2, order[:, None].expand(-1, n, -1)), good


def _half_inverse(vectors: Tensor) -> Tensor:
    """`(3 I - V^T V) / 2`, near `(V^T V)^(-1/2)`."""
    identity = torch.eye(vectors.shape[2], dtype=vectors.dtype, device=vectors.device)
    return 1.5 * identity - 0.5 * gram_of(vectors.mT, wide=True)


def reduce_meta(n: int) -> dict:
    return {"N": tile(n, most=256), "ROWS": 32, "num_warps": 8}


def lanes_meta(rank: int) -> dict:
    side = tile(rank, most=128, least=32)
    return {"R": side, "num_warps": side // 32}


def back_meta(n: int) -> dict:
    return {"N": tile(n, most=256), "R": 16, "num_warps": 4}


@triton.jit
def reduce_kernel(
    work,  # [B, n, n], overwritten
    diagonal,  # [B, n]
    beside,  # [B, n]
    reflectors,  # [B, n, n], row k: the unit vector v_k of I - 2 v v^T, or zeros
    pending,  # [B, n], w of the update -v w^T - w v^T that the next pass makes
    n,
    N: tl.constexpr,
    ROWS: tl.constexpr,
):
    """A program reduces one item. Every pass over the matrix makes the last update and the next product at once."""
    b = tl.program_id(0).to(tl.int64)
    a = work + b * n * n
    to = reflectors + b * n * n
    i = tl.arange(0, N)
    v = tl.zeros([N], dtype=tl.float64)
    w = tl.zeros([N], dtype=tl.float64)
    for k in range(n):
        column = tl.load(a + i * n + k, mask=i < n, other=0.0)
        column -= v * tl.sum(tl.where(i == k, w, 0.0), 0) + w * tl.sum(tl.where(i == k, v, 0.0), 0)
        tl.store(diagonal + b * n + k, tl.sum(tl.where(i == k, column, 0.0), 0))
        x = tl.where((i > k) & (i < n), column, 0.0)
        first = tl.sum(tl.where(i == k + 1, x, 0.0), 0)
        rest = tl.sum(tl.where(i == k + 1, 0.0, x * x), 0)
        norm = tl.sqrt(first * first + rest)
        turns = rest > 0
        image = tl.where(turns, tl.where(first > 0, -norm, norm), first)
        tl.store(beside + b * n + k, image)
        u = tl.where(i == k + 1, x - image, x)
        length = tl.sqrt(tl.sum(u * u, 0))
        u = tl.where(turns, u / tl.where(length > 0, length, 1.0), 0.0)
        tl.store(to + k * n + i, u, mask=i < n)
        tl.store(pending + b * n + i, w, mask=i < n)
        tl.debug_barrier()
        p = tl.zeros([N], dtype=tl.float64)
        before = tl.maximum(k - 1, 0)
        for start in range((k + 1) // ROWS * ROWS, n, ROWS):
            r = start + tl.arange(0, ROWS)
            # [ROWS, N]
            inside = (r < n)[:, None] & (i < n)[None, :]
            at = a + r[:, None] * n + i[None, :]
            rows = tl.load(at, mask=inside, other=0.0)
            v_rows = tl.load(to + before * n + r, mask=(r < n) & (k > 0), other=0.0)
            w_rows = tl.load(pending + b * n + r, mask=r < n, other=0.0)
            rows -= v_rows[:, None] * w[None, :] + w_rows[:, None] * v[None, :]
            tl.store(at, rows, mask=inside)
            u_rows = tl.load(to + k * n + r, mask=r < n, other=0.0)
            p += tl.sum(rows * u_rows[:, None], 0)
        p = tl.where(i > k, p, 0.0)
        v = u
        w = 2 * (p - tl.sum(u * p, 0) * u)
        tl.debug_barrier()


@triton.jit
def bisect_kernel(
    diagonal,  # [B, n]
    beside,  # [B, n]
    values,  # [B, rank]
    n,
    rank,
    R: tl.constexpr,
):
    """A lane finds one of the `rank` largest eigenvalues of one item, all within [-1, 2], by Sturm counts."""
    blocks = tl.cdiv(rank, R)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    r = (tl.program_id(0) % blocks) * R + tl.arange(0, R)
    low = tl.full([R], -1.0, dtype=tl.float64)
    high = tl.full([R], 2.0, dtype=tl.float64)
    for _ in range(BISECTIONS):
        x = (low + high) * 0.5
        q = tl.load(diagonal + b * n) - x
        below = (q < 0).to(tl.int32)
        for i in range(1, n):
            e = tl.load(beside + b * n + i - 1)
            q = tl.where(tl.abs(q) < 1e-300, -1e-300, q)
            q = tl.load(diagonal + b * n + i) - x - e * e / q
            below += (q < 0).to(tl.int32)
        # `below` eigenvalues are less than x; that of lane r has n - 1 - r below it.
        above = below <= n - 1 - r
        low = tl.where(above, x, low)
        high = tl.where(above, high, x)
    tl.store(values + b * rank + r, (low + high) * 0.5, mask=r < rank)


@triton.jit
def inverse_kernel(
    diagonal,  # [B, n]
    beside,  # [B, n]
    shifts,  # [B, rank]
    factors,  # [B, 5, n, rank]: inverse pivot, upper, second, factor, swapped
    vectors,  # [B, n, rank]
    n,
    rank,
    R: tl.constexpr,
):
    """A lane finds one eigenvector: T - shift = L U with partial pivoting, three solves from an irregular start."""
    blocks = tl.cdiv(rank, R)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    r = (tl.program_id(0) % blocks) * R + tl.arange(0, R)
    lane = r < rank
    d = diagonal + b * n
    e = beside + b * n
    y = vectors + b * n * rank + r
    inverse = factors + b * 5 * n * rank + r
    upper = inverse + n * rank
    second = upper + n * rank
    factor = second + n * rank
    swapped = factor + n * rank
    shift = tl.load(shifts + b * rank + r, mask=lane, other=0.0)

    p = tl.load(d) - shift
    q = tl.load(e) + tl.zeros([R], dtype=tl.float64)
    for i in range(n):
        at = i * rank
        last = i == n - 1
        below = tl.where(last, 0.0, tl.load(e + i))
        following = tl.load(d + i + 1, mask=i + 1 < n, other=0.0) - shift
        after = tl.load(e + i + 1, mask=i + 2 < n, other=0.0)
        swap = tl.abs(below) > tl.abs(p)
        pivot = tl.where(swap, below, p)
        pivot = tl.where(tl.abs(pivot) < 2.3e-16, 2.3e-16, pivot)
        m = tl.where(swap, p, below) / pivot
        u = tl.where(swap, following, q)
        u = tl.where(last, 0.0, u)
        tl.store(inverse + at, 1 / pivot, mask=lane)
        tl.store(upper + at, u, mask=lane)
        tl.store(second + at, tl.where(swap, after, 0.0), mask=lane)
        tl.store(factor + at, m, mask=lane)
        tl.store(swapped + at, tl.where(swap, 1.0, 0.0), mask=lane)
        p = tl.where(swap, q, following) - m * u
        q = tl.where(swap, -m * after, after)
        # an irregular start in [-1, 1)
        bits = (at + r + 1).to(tl.uint32) * 2654435761
        bits = (bits ^ (bits >> 15)) * 2246822519
        bits = bits ^ (bits >> 13)
        tl.store(y + at, bits.to(tl.float64) * (1.0 / 2147483648.0) - 1.0, mask=lane)

    for solve in range(3):
        tl.debug_barrier()
        if solve > 0:
            carried = tl.load(y, mask=lane, other=0.0)
            for i in range(n - 1):
                at = i * rank
                following = tl.load(y + at + rank, mask=lane, other=0.0)
                swap = tl.load(swapped + at, mask=lane, other=0.0) != 0
                kept = tl.where(swap, following, carried)
                tl.store(y + at, kept, mask=lane)
                carried = tl.where(swap, carried, following) - tl.load(factor + at, mask=lane, other=0.0) * kept
            tl.store(y + (n - 1) * rank, carried, mask=lane)
            tl.debug_barrier()
        one = tl.zeros([R], dtype=tl.float64)
        two = tl.zeros([R], dtype=tl.float64)
        square = tl.zeros([R], dtype=tl.float64)
        for back in range(n):
            at = (n - 1 - back) * rank
            x = tl.load(y + at, mask=lane, other=0.0) - tl.load(second + at, mask=lane, other=0.0) * two
            x = (x - tl.load(upper + at, mask=lane, other=0.0) * one) * tl.load(inverse + at, mask=lane, other=0.0)
            tl.store(y + at, x, mask=lane)
            square += x * x
            two = one
            one = x
        scale = 1 / tl.sqrt(tl.where(lane, square, 1.0))
        tl.debug_barrier()
        for i in range(n):
            tl.store(y + i * rank, tl.load(y + i * rank, mask=lane, other=0.0) * scale, mask=lane)


@triton.jit
def back_kernel(
    reflectors,  # [B, n, n]
    vectors,  # [B, n, rank], overwritten
    n,
    rank,
    N: tl.constexpr,
    R: tl.constexpr,
):
    """A program takes R vectors of the tridiagonal matrix back to those of the full one."""
    blocks = tl.cdiv(rank, R)
    b = (tl.program_id(0) // blocks).to(tl.int64)
    r = (tl.program_id(0) % blocks) * R + tl.arange(0, R)
    i = tl.arange(0, N)
    inside = (i < n)[:, None] & (r < rank)[None, :]
    at = vectors + b * n * rank + i[:, None] * rank + r[None, :]
    z = tl.load(at, mask=inside, other=0.0)  # [N, R]
    for back in range(n):
        v = tl.load(reflectors + b * n * n + (n - 1 - back) * n + i, mask=i < n, other=0.0)
        z -= 2 * v[:, None] * tl.sum(v[:, None] * z, 0)[None, :]
    tl.store(at, z, mask=inside)
