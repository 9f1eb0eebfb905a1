"""The leading eigenpair of a Gram matrix of 64 < n <= 256 by Lanczos steps, with a proof that it is the leading one."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .launch import tile

STEPS = 32  # of a cycle; the next one starts from the vector of the last
CYCLES: tl.constexpr = tl.constexpr(4)
ACCURACY: tl.constexpr = tl.constexpr(1e-12)  # of the vector: residual over gap


def leading_pairs(gram: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eigenvalues [B], unsigned vectors [B, n], bounds [B] on the second eigenvalues and whether that is proved [B], of
    Gram matrices [B, n, n] float64. NaN, and proved, for items that hold NaN or Inf.
    """
    batch, n, _ = gram.shape
    value, vector, second = gram.new_empty(batch), gram.new_empty(batch, n), gram.new_empty(batch)
    proved = gram.new_empty(batch)
    basis = gram.new_empty(batch, STEPS, n)
    lanczos_kernel[(batch,)](gram, basis, value, vector, second, proved, n, **lanczos_meta(n))
    return value, vector, second, proved != 0


def lanczos_meta(n: int) -> dict:
    return {"N": tile(n, most=256), "K": STEPS, "ROWS": 32, "num_warps": 16}


@triton.jit
def lanczos_kernel(
    gram,  # [B, n, n]
    basis,  # [B, K, n]
    value,  # [B]
    vector,  # [B, n]
    second,  # [B]
    proved,  # [B], 0 or 1
    n,
    N: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
):
    """A program does one item, a pass over its matrix a step, every vector orthogonal to all before it.

    All eigenvalues but the first have squares that sum to ||G||^2 - lambda_1^2: what bounds the second one.
    """
    b = tl.program_id(0).to(tl.int64)
    g = gram + b * n * n
    q_at = basis + b * K * n
    i = tl.arange(0, N)
    k = tl.arange(0, K)
    diagonal = tl.load(g + i * n + i, mask=i < n, other=0.0)
    trace = tl.sum(diagonal, 0)
    squares = tl.zeros([N], dtype=tl.float64)
    for start in range(0, n, ROWS):
        r = start + tl.arange(0, ROWS)
        rows = tl.load(g + r[:, None] * n + i[None, :], mask=(r < n)[:, None] & (i < n)[None, :], other=0.0)
        squares += tl.sum(rows * rows, 0)
    total = tl.sum(squares, 0)
    finite = total < float("inf")
    unit = tl.where(finite & (trace > 0), trace, 1.0)
    total = tl.where(finite, total / unit / unit, 0.0)
    # All ones is near the leading vector of features without negative values; the rest keeps it from being orthogonal.
    bits = (i + 1).to(tl.uint32) * 2654435761
    bits = (bits ^ (bits >> 15)) * 2246822519
    q = tl.where(i < n, 0.75 + (bits >> 8).to(tl.float64) / 33554432.0, 0.0)
    q = q / tl.sqrt(tl.sum(q * q, 0))
    v = q
    theta = tl.full([], 0.0, dtype=tl.float64)
    bound = tl.full([], 0.0, dtype=tl.float64)
    settled = (trace == 0) | (finite == 0)
    closed = settled  # also where the pair is found and the bound proves nothing
    cycle = 0
    while (closed == 0) & (cycle < CYCLES):
        alpha = tl.zeros([K], dtype=tl.float64)
        beta = tl.zeros([K], dtype=tl.float64)
        step = 0
        going = closed == 0
        while going & (step < K):
            tl.store(q_at + step * n + i, q, mask=i < n)
            tl.debug_barrier()
            w = tl.zeros([N], dtype=tl.float64)
            for start in range(0, n, ROWS):
                r = start + tl.arange(0, ROWS)
                rows = tl.load(g + r[:, None] * n + i[None, :], mask=(r < n)[:, None] & (i < n)[None, :], other=0.0)
                w += tl.sum(rows * tl.load(q_at + step * n + r, mask=r < n, other=0.0)[:, None], 0)
            w = w / unit
            alpha = tl.where(k == step, tl.sum(q * w, 0), alpha)
            # [K, N]
            earlier = tl.load(
                q_at + k[:, None] * n + i[None, :], mask=(k <= step)[:, None] & (i < n)[None, :], other=0.0
            )
            for _ in range(2):
                w -= tl.sum(earlier * tl.sum(earlier * w[None, :], 1)[:, None], 0)
            length = tl.sqrt(tl.sum(w * w, 0))
            beta = tl.where(k == step, length, beta)
            q = w / tl.where(length > 0, length, 1.0)
            ended = length < 1e-14
            if (step % 4 == 3) | ended:
                s = _leading_of_tridiagonal(alpha, beta, step, K)
                last = tl.sum(tl.where(k == step, s, 0.0), 0)
                before = tl.sum(tl.where(k[:, None] == k[None, :] - 1, s[:, None], 0.0), 0)
                beside = tl.sum(tl.where(k[:, None] == k[None, :] - 1, beta[:, None], 0.0), 0)
                theta = tl.sum(alpha * s * s + 2 * beside * s * before, 0)
                rest = total - theta * theta
                bound = tl.sqrt(tl.where(rest > 0, rest, 0.0)) + 1e-15
                v = tl.sum(earlier * s[:, None], 0)
                residual = length * tl.abs(last)
                settled = residual <= ACCURACY * (theta - bound)
                closed = settled | (residual <= ACCURACY * theta)
                going = (closed == 0) & (ended == 0)
            step += 1
        q = v / tl.sqrt(tl.sum(v * v, 0))
        cycle += 1
    blank = tl.where(finite, 0.0, float("nan"))
    v = tl.where(trace == 0, tl.where(i == 0, 1.0, 0.0), v / tl.sqrt(tl.sum(v * v, 0)))
    tl.store(value + b, theta * unit + blank)
    tl.store(second + b, bound * unit + blank)
    tl.store(vector + b * n + i, v + blank, mask=i < n)
    tl.store(proved + b, tl.where(settled, 1.0, 0.0))


@triton.jit
def _leading_of_tridiagonal(alpha, beta, last, K: tl.constexpr):
    """The leading eigenvector [K] of the tridiagonal matrix (alpha, beta) of rows 0 .. last, by squaring."""
    i = tl.arange(0, K)[:, None]
    j = tl.arange(0, K)[None, :]
    t = tl.where(i == j, alpha[:, None], 0.0)
    t += tl.where((i == j - 1) & (j <= last), beta[:, None], 0.0) + tl.where(
        (j == i - 1) & (i <= last), beta[None, :], 0.0
    )
    p = t
    left = tl.full([], 2.0, dtype=tl.float64)
    rounds = 0
    while (left > 1e-15) & (rounds < 48):
        p = tl.dot(p, p, out_dtype=tl.float64)
        size = tl.sum(tl.sum(tl.where(i == j, p, 0.0), 1), 0)
        p = p / tl.where(size > 0, size, 1.0)
        left = tl.where(size > 0, 1 - tl.sum(tl.sum(p * p, 1), 0), 0.0)
        rounds += 1
    column = tl.sum(tl.where(i == j, p, 0.0), 0)
    row = tl.arange(0, K)
    first = tl.min(tl.where(column == tl.max(column, 0), row, K), 0)
    s = tl.sum(tl.where(j == first, p, 0.0), 1)
    s = tl.sum(t * s[None, :], 1)
    length = tl.sqrt(tl.sum(s * s, 0))
    return s / tl.where(length > 0, length, 1.0)
