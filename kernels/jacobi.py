"""Symmetric eigenproblems inside a program: one-sided Jacobi in registers, in float64.

Rounds pair column i with column i xor m, m = 1 .. N - 1: a tournament in which every pair meets once a sweep, whose
partners are one gather away, and which needs no barrier and no moving of columns.
"""

from __future__ import annotations

import triton
import triton.language as tl

SWEEPS: tl.constexpr = tl.constexpr(24)  # a limit: 6 to 10 do, the last of which finds nothing to turn


@triton.jit
def eigenpairs(a, N: tl.constexpr):
    """Eigenvalues [N] and eigenvectors [N, N] (columns) of the symmetric positive semidefinite tile `a` [N, N].

    In no order. Rows and columns of zeros give zeros and unit vectors. A pair of columns x_i = A v_i is turned while
    v_i^T A v_j = x_i^T x_j / lambda_i is above the rounding of the trace.
    """
    i = tl.arange(0, N)
    eye = tl.where(i[:, None] == i[None, :], 1.0, 0.0).to(tl.float64)
    trace = tl.sum(tl.sum(a * eye, 1), 0)
    unit = tl.where(trace > 0, trace, 1.0)
    x = a / unit
    v = eye
    sweep = 0
    turned = 1
    while (turned > 0) & (sweep < SWEEPS):
        turned = 0
        for m in range(1, N):
            partner = i ^ m
            index = tl.broadcast_to(partner[None, :], (N, N))
            y = tl.gather(x, index, 1)
            w = tl.gather(v, index, 1)
            alpha = tl.sum(x * x, 0)
            beta = tl.sum(y * y, 0)
            gamma = tl.sum(x * y, 0)
            largest = tl.where(alpha > beta, alpha, beta)
            turn = gamma * gamma > 1e-33 * largest
            zeta = (beta - alpha) / tl.where(turn, 2 * gamma, 1.0)
            sign = tl.where(zeta == 0, tl.where(i < partner, 1.0, -1.0), tl.where(zeta < 0, -1.0, 1.0))
            t = tl.where(turn, sign / (tl.abs(zeta) + tl.sqrt(1 + zeta * zeta)), 0.0)
            c = 1 / tl.sqrt(1 + t * t)
            s = c * t
            x = c[None, :] * x - s[None, :] * y
            v = c[None, :] * v - s[None, :] * w
            turned += tl.sum(turn.to(tl.int32), 0)
        sweep += 1
    return tl.sum(x * v, 0) * unit, v


@triton.jit
def descending(values, n, N: tl.constexpr):
    """The place [N] of each of the first `n` values in descending order, ties in their own order; N for the others."""
    i = tl.arange(0, N)
    key = tl.where(i < n, values, float("-inf"))
    ahead = (key[:, None] > key[None, :]) | ((key[:, None] == key[None, :]) & (i[:, None] < i[None, :]))
    place = tl.sum(ahead.to(tl.int32), 0)
    return tl.where(i < n, place, N)


@triton.jit
def column_signs(v, N: tl.constexpr):
    """The sign [columns] of the entry of largest magnitude of each column of `v` [N, columns], the first on ties."""
    size = tl.abs(v)
    most = tl.max(size, 0)
    row = tl.arange(0, N)[:, None]
    first = tl.min(tl.where(size == most[None, :], row, N), 0)
    entry = tl.sum(tl.where(row == first[None, :], v, 0.0), 0)
    return tl.where(entry < 0, -1.0, 1.0)
