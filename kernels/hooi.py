"""`hooi`: TensorLy's tucker for every item on its own.

Feature maps with H * W <= 64 take all their sweeps inside one program, from the position Gram matrix, after one read of
the features. Other items sweep together through the steps, and those that stop leave the batch; that asks the device
after every sweep. Passes over the features multiply in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..steps.backend import N_ITER_MAX, TOL, HooiOptions, HooiResult, Precision, result_dtype
from ..steps.capture import refuse
from ..steps.scaling import column_signs as signs_of
from ..steps.scaling import scaled, unfold, unit_range
from .core_contraction import contract, mode_product
from .jacobi import column_signs, descending, eigenpairs
from .launch import MIN_TILE, ON_CHIP, on_device
from .mode_gram import gram
from .orthonormalize import orthonormalize
from .products import extremes
from .truncated_svd import eigh


class Sweeps(NamedTuple):
    """What the sweeps leave, float64; the factor of the first mode is `X_(1) weights` where it is None."""

    factors: list[Tensor | None]  # for each mode that has one [B, I_n, R_n]
    weights: Tensor | None  # [B, S, R_1]
    responses: Tensor | None  # [B, S, R_1], X_(1)^T A_1
    errors: Tensor  # [B, n_iter_max]
    n_sweeps: Tensor  # [B] int64
    converged: Tensor  # [B] bool
    norm: Tensor  # [B], of the item; not finite where it holds NaN or Inf


@on_device
def hooi(
    x: Tensor,  # [B, I_1, ..., I_N]
    rank: Sequence[int],
    *,
    n_iter_max: int,
    tol: float,
    sign: str,
    precision: Precision = "auto",
    options: HooiOptions | None = None,
) -> HooiResult:
    """TensorLy's `tucker` or `partial_tucker`, for every item on its own (see `reference.hooi`)."""
    dtype = result_dtype(x.dtype, precision)
    unit, exponent = unit_range(x)
    modes = range(x.ndim - 1) if options is None else options.modes
    if options is None:
        swept = _sweeps(unit, rank, n_iter_max, tol, sign)
    else:
        swept = _by_steps(unit, rank, n_iter_max, tol, sign, options)
    finite, zero = swept.norm.isfinite(), swept.norm == 0
    factors = [_blank(factor, zero, finite) for factor in _explicit(unit, swept, sign)]
    core = contract(unit, factors, modes, torch.float64)
    core = torch.where(finite.view(-1, *(1,) * (core.ndim - 1)), core, torch.nan)
    values = [scaled(torch.linalg.vector_norm(unfold(core, n), dim=2), exponent) for n in modes]
    return HooiResult(
        scaled(core, exponent).to(dtype),
        [factor.to(dtype).contiguous() for factor in factors],
        [value.to(dtype) for value in values],
        swept.errors,
        swept.n_sweeps,
        swept.converged,
        finite,
    )


def responses(x: Tensor, rank: Sequence[int]) -> tuple[Tensor, Tensor]:
    """`X_(1)^T A_1` as [B, R_1, S], signed by `u`, and the mode-1 singular values [B, R_1] of HOOI at `rank`."""
    swept = _sweeps(x, rank, N_ITER_MAX, TOL, "u")
    features, (batch, _, height, width) = x.flatten(2), x.shape
    finite, zero = swept.norm.isfinite(), swept.norm == 0
    if swept.responses is None:
        first = _blank(swept.factors[0], zero, finite)
        projections = mode_product(features, first, 0, torch.float64)
    else:
        flip = torch.where(extremes(features, swept.weights) < 0, -1.0, 1.0)
        projections = (swept.responses * flip[:, None]).mT.contiguous()
        projections = torch.where((zero | ~finite)[:, None, None], features[:, : rank[0], :1] * 0.0, projections)
    pictures = projections.view(batch, rank[0], height, width)
    others = [_blank(factor, zero, finite) for factor in swept.factors[1:]]
    core = contract(pictures, others, (1, 2), torch.float64)
    return projections, torch.linalg.vector_norm(core.flatten(2), dim=2)


def _blank(factor: Tensor, zero: Tensor, finite: Tensor) -> Tensor:
    """The first columns of the identity for items of zeros, NaN for those that are not finite."""
    identity = torch.eye(*factor.shape[1:], dtype=factor.dtype, device=factor.device)
    factor = torch.where(zero[:, None, None], identity, factor)
    return torch.where(finite[:, None, None], factor, torch.nan)


def _explicit(x: Tensor, swept: Sweeps, sign: str) -> list[Tensor]:
    """All factors, the first one from the features where only its weights are known."""
    factors = list(swept.factors)
    if factors[0] is None:
        first = orthonormalize(mode_product(x.flatten(2), swept.weights, 1, torch.float64))
        factors[0] = first * signs_of(first)
    return factors


def _sweeps(x: Tensor, rank: Sequence[int], n_iter_max: int, tol: float, sign: str) -> Sweeps:
    if x.ndim == 4 and sign == "u" and len(x):
        meta = sweeps_meta(x.shape[2], x.shape[3], rank)
        if meta is not None:
            return _on_chip(x, rank, n_iter_max, tol, meta)
    return _by_steps(x, rank, n_iter_max, tol, sign, HooiOptions(range(x.ndim - 1)))


# ---- all sweeps in one program ----


def sweeps_meta(height: int, width: int, rank: Sequence[int]) -> dict | None:
    """Powers of two for height, width and their ranks; None where the position Gram matrix is too large."""
    h, w = (max(2, triton.next_power_of_2(size)) for size in (height, width))
    while h * w < MIN_TILE:
        h, w = (2 * h, w) if h <= w else (h, 2 * w)
    if h * w > ON_CHIP:
        return None
    # Matrix products have sides of 16 at least.
    p, q = (max(triton.next_power_of_2(r), MIN_TILE if n >= MIN_TILE else 1) for r, n in ((rank[1], h), (rank[2], w)))
    while p * q < MIN_TILE:
        p, q = (2 * p, q) if p < h and (p <= q or q == w) else (p, 2 * q)
    return {"H": h, "W": w, "P": p, "Q": q, "num_warps": 8 if h * w > 32 else 4}


def _on_chip(x: Tensor, rank: Sequence[int], n_iter_max: int, tol: float, meta: dict) -> Sweeps:
    batch, _, height, width = x.shape
    positions = height * width
    g = gram(x.flatten(2).mT, wide=True)

    def room(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return x.new_empty(shape, dtype=dtype)

    second, third = room(batch, height, rank[1]), room(batch, width, rank[2])
    weights, answers = room(batch, positions, rank[0]), room(batch, positions, rank[0])
    errors, norm = room(batch, n_iter_max).fill_(torch.nan), room(batch)
    n_sweeps, converged = room(batch, dtype=torch.int64), room(batch, dtype=torch.uint8)
    out = (second, third, weights, answers, errors, norm, n_sweeps, converged)
    sweeps_kernel[(batch,)](g, *out, height, width, *rank, n_iter_max, tol, **meta)
    return Sweeps([None, second, third], weights, answers, errors, n_sweeps, converged.bool(), norm)


@triton.jit
def sweeps_kernel(
    gram,  # [B, S, S], S = height * width
    second,  # [B, height, rank_2]
    third,  # [B, width, rank_3]
    weights,  # [B, S, rank_1]
    responses,  # [B, S, rank_1]
    errors,  # [B, n_iter_max]
    norm,  # [B]
    n_sweeps,  # [B]
    converged,  # [B]
    height,
    width,
    rank_1,
    rank_2,
    rank_3,
    n_iter_max,
    tol,
    H: tl.constexpr,
    W: tl.constexpr,
    P: tl.constexpr,  # >= rank_2
    Q: tl.constexpr,  # >= rank_3
):
    """A program decomposes one item. Position s is row (h, w) of a tile of H x W rows, its column (p, q) of P x Q."""
    b = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, H * W)
    h = tl.arange(0, H)
    w = tl.arange(0, W)
    positions = height * width
    real = (s // W < height) & (s % W < width)
    at = (s // W) * width + s % W
    from_gram = gram + b * positions * positions + at[:, None] * positions + at[None, :]
    g = tl.load(from_gram, mask=real[:, None] & real[None, :], other=0.0)
    trace = tl.sum(tl.sum(tl.where(s[:, None] == s[None, :], g, 0.0), 1), 0)
    finite = tl.abs(trace) < float("inf")
    unit = tl.where(finite & (trace > 0), trace, 1.0)
    g = tl.where(finite, g, 0.0) / unit  # ||X|| = 1 from here on

    # HOSVD of height and width: partial traces of G
    same_w = tl.where(w[:, None] == w[None, :], 1.0, 0.0).to(tl.float64)
    same_h = tl.where(h[:, None] == h[None, :], 1.0, 0.0).to(tl.float64)
    a, _ = _leading(_over_width(g, same_w, H, W), height, rank_2, H, P)
    c, last_sum = _leading(_over_height(g, same_h, H, W), width, rank_3, W, Q)
    to_weights = tl.zeros([H * W, P * Q], dtype=tl.float64)
    t = tl.zeros([H * W, P * Q], dtype=tl.float64)
    place = tl.zeros([P * Q], dtype=tl.int32)
    error = tl.full([], 0.0, dtype=tl.float64)
    done = 0
    sweep = 0
    active = finite & (trace > 0)
    while active & (sweep < n_iter_max):
        # mode 1: (lambda, V) of P^T G P; T = G P V lambda^-1/2
        kron = tl.reshape(a[:, None, :, None] * c[None, :, None, :], (H * W, P * Q))
        projected = tl.dot(g, kron, out_dtype=tl.float64)
        value, v = eigenpairs(tl.dot(tl.trans(kron), projected, out_dtype=tl.float64), P * Q)
        place = descending(value, P * Q, P * Q)
        kept = (place < rank_1) & (value > 1e-15 * positions * tl.max(value, 0))
        v = v * tl.where(kept, 1 / tl.sqrt(tl.where(kept, value, 1.0)), 0.0)[None, :]
        to_weights = tl.dot(kron, v, out_dtype=tl.float64)
        t = tl.dot(projected, v, out_dtype=tl.float64)
        # modes 2 and 3: Gram matrices of T contracted with the other factor
        k = tl.dot(t, tl.trans(t), out_dtype=tl.float64)
        a, _ = _leading(_over_width(k, _projector(c, W, Q), H, W), height, rank_2, H, P)
        c, last_sum = _leading(_over_height(k, _projector(a, H, P), H, W), width, rank_3, W, Q)
        before = error
        error = tl.sqrt(tl.abs(1 - last_sum))
        tl.store(errors + b * n_iter_max + sweep, error)
        sweep += 1
        if (sweep > 2) & (tl.abs(before - error) < tol):
            done = 1
            active = False
    if finite & (trace == 0):
        done = 1
        sweep = 1
        tl.store(errors + b * n_iter_max, 0.0)
    tl.store(norm + b, tl.where(finite, tl.sqrt(trace), float("nan")))
    tl.store(n_sweeps + b, sweep)
    tl.store(converged + b, done)
    p = tl.arange(0, P)
    q = tl.arange(0, Q)
    a = a * column_signs(a, H)[None, :]
    c = c * column_signs(c, W)[None, :]
    tl.store(
        second + (b * height + h[:, None]) * rank_2 + p[None, :], a, mask=(h < height)[:, None] & (p < rank_2)[None, :]
    )
    tl.store(
        third + (b * width + w[:, None]) * rank_3 + q[None, :], c, mask=(w < width)[:, None] & (q < rank_3)[None, :]
    )
    to = (b * positions + at[:, None]) * rank_1 + place[None, :]
    stored = real[:, None] & (place < rank_1)[None, :]
    tl.store(weights + to, to_weights / tl.sqrt(unit), mask=stored)
    tl.store(responses + to, t * tl.sqrt(unit), mask=stored)


@triton.jit
def _leading(matrix, n, rank, N: tl.constexpr, R: tl.constexpr):
    """The `rank` leading eigenvectors of `matrix` [N, N] as [N, R], zeros behind them, and the sum of their values."""
    value, v = eigenpairs(matrix, N)
    place = descending(value, n, N)
    i = tl.arange(0, N)
    r = tl.arange(0, R)
    from_column = tl.sum(tl.where(place[:, None] == r[None, :], i[:, None], 0), 0)
    vectors = tl.gather(v, tl.broadcast_to(from_column[None, :], (N, R)), 1)
    vectors = tl.where((r < rank)[None, :], vectors, 0.0)
    return vectors, tl.sum(tl.where(place < rank, value, 0.0), 0)


@triton.jit
def _projector(vectors, N: tl.constexpr, R: tl.constexpr):
    if N >= 16:
        return tl.dot(vectors, tl.trans(vectors), out_dtype=tl.float64)
    else:
        return tl.sum(vectors[:, None, :] * vectors[None, :, :], 2)


@triton.jit
def _over_width(matrix, weight, H: tl.constexpr, W: tl.constexpr):
    """`sum_{w, w'} matrix[(h, w), (h', w')] weight[w, w']`, [H, H]."""
    weighted = tl.reshape(matrix, (H, W, H, W)) * weight[None, :, None, :]
    return tl.sum(tl.sum(weighted, 3), 1)


@triton.jit
def _over_height(matrix, weight, H: tl.constexpr, W: tl.constexpr):
    """`sum_{h, h'} matrix[(h, w), (h', w')] weight[h, h']`, [W, W]."""
    weighted = tl.reshape(matrix, (H, W, H, W)) * weight[:, None, :, None]
    return tl.sum(tl.sum(weighted, 2), 0)


# ---- steps composed over the batch ----


def _by_steps(x: Tensor, rank: Sequence[int], n_iter_max: int, tol: float, sign: str, options: HooiOptions) -> Sweeps:
    refuse(x, "HOOI after every sweep (in this backend: but for feature maps of up to 64 positions)")
    batch, (modes, start, padding) = len(x), options
    norm = torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), dtype=torch.float64)
    zero = norm == 0
    active = ((norm > 0) & norm.isfinite()).nonzero().flatten()
    item, length = x[active] if len(active) < batch else x, norm[active]
    factors = [norm.new_zeros(batch, x.shape[n + 1], rank[n]) for n in modes]
    if start is None:
        current = [_left_vectors(item, n, rank[n], sign) for n in modes]
    else:
        current = [factor[active] for factor in start]
    errors = norm.new_full((batch, n_iter_max), torch.nan)
    errors[:, 0].masked_fill_(zero, 0.0)
    n_sweeps, converged = zero.long(), zero.clone()
    previous = length
    for sweep in range(n_iter_max):
        if not len(active):
            break
        for i, n in enumerate(modes):
            others = [m for m in modes if m != n]
            projected = contract(item, current[:i] + current[i + 1 :], others, torch.float64)
            found = min(rank[n], projected[0].numel() // projected.shape[n + 1])
            current[i] = _left_vectors(projected, n, found, sign)
            if found < rank[n]:
                assert padding is not None, "only with options may a rank be infeasible"
                current[i] = _padded(current[i], padding[active])
        # The last projection is on all factors but the last.
        core = mode_product(projected, current[-1], modes[-1], torch.float64)
        share = (torch.linalg.vector_norm(core.flatten(1), dim=1) / length) ** 2
        error = (1 - share).abs().sqrt()
        errors[active, sweep] = error
        n_sweeps[active] = sweep + 1
        stopped = (previous - error).abs() < tol if sweep >= 2 else torch.zeros_like(error, dtype=torch.bool)
        converged[active] = stopped
        for factor, new in zip(factors, current, strict=True):
            factor[active] = new
        previous = error
        if stopped.any():
            on = (~stopped).nonzero().flatten()
            active, item, length, previous = active[on], item[on], length[on], error[on]
            current = [factor[on] for factor in current]
    return Sweeps(list(factors), None, None, errors, n_sweeps, converged, norm)


def _padded(vectors: Tensor, more: Tensor) -> Tensor:
    """Behind orthonormal columns [B, n, R] what is left of further ones beside those before them."""
    whole = orthonormalize(torch.cat([vectors, more], 2))[:, :, vectors.shape[2] :]
    return torch.cat([vectors, whole * signs_of(whole)], 2)


def _left_vectors(y: Tensor, mode: int, rank: int, sign: str) -> Tensor:
    """Leading left singular vectors [B, I_n, R] of the mode-n unfolding, from the Gram matrix of its shorter side."""
    matrix = unfold(y, mode)
    if matrix.shape[1] <= matrix.shape[2]:
        vectors = eigh(gram(matrix, wide=True), rank)[1]
        if sign == "u":
            return vectors
        return torch.where((extremes(matrix.mT, vectors) < 0)[:, None], -vectors, vectors)
    right = eigh(gram(matrix.mT, wide=True), rank)[1]
    vectors = orthonormalize(mode_product(matrix, right, 1, torch.float64))
    return vectors * signs_of(vectors) if sign == "u" else vectors
