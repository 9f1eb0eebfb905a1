"""The specification: the six steps in plain torch, batched, any order, any device, with gradients.

Every step computes in float64 with the decompositions of `torch.linalg` and casts its result at the end; clear and
accurate comes before fast. The other backends are judged against this file.

Gradients are those of torch where the singular values of an item are distinct and not zero. Where they are equal or
zero, a singular vector has no derivative: the terms that would divide by a zero count as 0, as do the derivatives of
`abs`, of the cut-off at 0 and of norms at 0, so that a gradient is finite everywhere (`gradients.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import N_ITER_MAX, TOL, HooiOptions, HooiResult, Method, Precision, map_noise, result_dtype
from .gradients import TIE, bounded, cast, eigh, norm, root, row_norms, svd
from .scaling import by_parts, centered, column_signs, per_item, scaled, unfold, unit_exponents

name = "reference"


def mode_gram(
    x: Tensor,  # [B, I_1, ..., I_N]
    mode: int,
    *,
    center: bool = False,
    precision: Precision = "auto",
) -> Tensor:
    """The Gram matrix of the mode-n unfolding, [B, I_n, I_n]; `center` first subtracts the mean over the last mode."""
    wide = centered(_wide(x)) if center else _wide(x)
    unfolded = unfold(wide, mode)
    return (unfolded @ unfolded.mT).to(result_dtype(x.dtype, precision))


def truncated_svd(
    gram: Tensor,  # [B, n, n]
    rank: int,
    *,
    precision: Precision = "auto",
) -> tuple[Tensor, Tensor]:
    """The leading singular values [B, R] and vectors [B, n, R] of a matrix, from its Gram matrix."""
    finite = _finite_items(gram)  # [B]
    wide = torch.where(per_item(finite, gram), _wide(gram), 0)
    eigenvalues, vectors = eigh((wide + wide.mT) / 2)
    eigenvalues, vectors = eigenvalues.flip(-1).clamp(min=0), vectors.flip(-1)[:, :, :rank]
    values = root(eigenvalues, TIE * eigenvalues[:, :1].detach())[:, :rank]
    vectors = vectors * column_signs(vectors)
    dtype = result_dtype(gram.dtype, precision)
    return _or_nan(values, finite).to(dtype), _or_nan(vectors, finite).to(dtype)


def core_contraction(
    x: Tensor,  # [B, I_1, ..., I_N]
    factors: Sequence[Tensor],  # [B, I_n, R_n] for each n in `modes`
    modes: Sequence[int],
    *,
    precision: Precision = "auto",
) -> Tensor:
    """`X x_n A_n^T` over the given modes."""
    core = _contract(_wide(x), [_wide(factor) for factor in factors], modes)
    return core.to(result_dtype(x.dtype, precision))


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
    """TensorLy's `tucker`, or with options its `partial_tucker`, for every item on its own.

    HOSVD start, then Gauss-Seidel sweeps over the modes. An item is frozen after the sweep, the third or a later one,
    at which its error moved by less than `tol`. A column of a factor is signed by the entry of largest magnitude of
    the left (`sign="u"`) or the right (`"v"`) singular vector it came from. Singular values are the norms of the
    slices of the core, in the order of the factor columns. An item of zeros has a zero core, the first columns of the
    identity as factors and error 0, and has converged after 1 sweep.
    """
    unit, exponent, finite = _unit_items(x)
    modes, given, padding = options or HooiOptions(range(unit.ndim - 1))
    total = norm(unit)  # [B]
    zero = finite & (total == 0)
    active = (total > 0).nonzero().flatten()

    factors = []
    for i, n in enumerate(modes):
        identity = torch.eye(unit.shape[n + 1], rank[n], dtype=unit.dtype, device=unit.device)
        start = _left_vectors(unfold(unit[active], n), rank[n], sign) if given is None else given[i][active]
        factors.append(identity.expand(len(unit), -1, -1).index_copy(0, active, start))

    errors = [torch.full_like(total, torch.nan)] * n_iter_max  # each [B]
    errors[0] = errors[0].masked_fill(zero, 0.0)
    n_sweeps, converged = zero.long(), zero.clone()
    for sweep in range(n_iter_max):
        if not len(active):
            break
        item, current = unit[active], [factor[active] for factor in factors]
        for i, n in enumerate(modes):
            projected = _contract(item, current[:i] + current[i + 1 :], [m for m in modes if m != n])
            found = _left_vectors(unfold(projected, n), rank[n], sign)
            if found.shape[2] < rank[n]:
                assert padding is not None, "only with options may a rank be infeasible"
                found = _padded(found, padding[active])
            current[i] = found
        factors = [factor.index_copy(0, active, new) for factor, new in zip(factors, current, strict=True)]

        core_norm = norm(_contract(item, current, modes))
        error = root((total[active] ** 2 - core_norm**2).abs()) / total[active]
        errors[sweep] = errors[sweep].index_copy(0, active, error)
        n_sweeps[active] = sweep + 1
        if sweep >= 2:
            stopped = (errors[sweep - 1] - errors[sweep])[active].abs() < tol
            converged[active] = stopped
            active = active[~stopped]

    core = _contract(unit, factors, modes)
    values = [row_norms(unfold(core, n)) for n in modes]
    dtype = result_dtype(x.dtype, precision)
    return HooiResult(
        core=_or_nan(scaled(bounded(core), exponent), finite).to(dtype),
        factors=[_or_nan(factor, finite).to(dtype) for factor in factors],
        singular_values=[_or_nan(scaled(bounded(value), exponent), finite).to(dtype) for value in values],
        errors=torch.stack(errors, 1),
        n_sweeps=n_sweeps,
        converged=converged,
        finite=finite,
    )


def saliency(
    x: Tensor,  # [B, C, H, W]
    method: Method,
    rank: Sequence[int] | None,
    *,
    center: bool,
    combine: str,
    sign: str,
    relu: bool = True,
    precision: Precision = "auto",
) -> tuple[Tensor, Tensor]:
    """Raw maps [B, H, W] and the finite items [B].

    With vectors `u_i` and values `sigma_i` of the (centred) mode-1 unfolding `F`, or of HOOI at `rank`:
    eigencam `max(F^T u_1, 0)`, tsm `abs(F^T u_1)`, multivec_eigencam and mtsm `abs(sum_i sigma_i F^T u_i)`, or
    `sum_i sigma_i abs(F^T u_i)` for `combine="absolute"`. Without `relu` what stands in `max` or `abs`, with its sign.
    """
    unit, exponent, finite = _unit_items(x)
    uncentered = unit.flatten(2)  # [B, C, S]
    centers = center and method in ("eigencam", "multivec_eigencam")
    unfolded = uncentered
    if centers:
        unfolded, left, _ = _unit_items(centered(uncentered))
        exponent = exponent + left
    if rank is None:
        vectors, values, _ = svd(unfolded)
    else:
        result = hooi(unit, rank, n_iter_max=N_ITER_MAX, tol=TOL, sign="u")
        vectors, values = result.factors[0], result.singular_values[0]
    projections = unfolded.mT @ vectors  # [B, S, R]

    single = method in ("eigencam", "tsm")
    if single:
        maps = projections[:, :, :1]
        maps = _single_signs(sign, uncentered, vectors[:, :, :1], maps) * maps
    elif combine == "absolute":
        maps = projections.abs() @ values[:, :, None]
    else:
        signs = column_signs(vectors if sign == "u" else projections)
        maps = (signs * projections) @ values[:, :, None]
    if relu:
        maps = maps.relu() if method == "eigencam" else maps.abs()

    power = 1 if single else 2
    maps = scaled(bounded(maps.view(len(x), *x.shape[2:])), exponent, power)
    return _or_nan(maps, finite).to(torch.float64 if precision == "float64" else torch.float32), finite


def _single_signs(
    sign: str,
    uncentered: Tensor,  # [B, C, S]
    vector: Tensor,  # [B, C, 1]
    projection: Tensor,  # [B, S, 1]
) -> Tensor:  # [B, 1, 1]
    """The entry of largest magnitude of the map ("absmax", "v") or of `u_1` ("u") is made positive, or ("sum") the
    total response of the uncentred features: that of centred ones is always 0.
    """
    if sign == "sum":
        total = (uncentered.mT @ vector).sum(1, keepdim=True)
        return torch.where(total < 0, -1.0, 1.0).to(total)
    return column_signs(vector if sign == "u" else projection)


def _left_vectors(unfolded: Tensor, rank: int, sign: str) -> Tensor:
    """Leading left singular vectors [B, M, R] of [B, M, K]."""
    u, _, vh = svd(unfolded)
    return (u * column_signs(u if sign == "u" else vh.mT))[:, :, :rank]


def _padded(
    u: Tensor,  # [B, M, K], orthonormal
    more: Tensor,  # [B, M, L]
) -> Tensor:  # [B, M, K + L]
    """What is left of the further columns, one after the other, beside those before them, at unit length."""
    left = torch.linalg.qr(more - u @ (u.mT @ more))[0]
    return torch.cat([u, left * column_signs(left)], 2)


def _contract(x: Tensor, factors: Sequence[Tensor], modes: Sequence[int]) -> Tensor:
    for factor, mode in zip(factors, modes, strict=True):  # [B, I_n, R_n]
        last = x.movedim(mode + 1, -1)
        product = last.flatten(1, -2) @ factor
        x = product.unflatten(1, last.shape[1:-1]).movedim(-1, mode + 1)
    return x


def finish(
    maps: Tensor,  # [B, H, W]
    size: tuple[int, int] | None,
    *,
    normalize: bool,
) -> Tensor:
    """The maps resized to [B, *size] (bilinear, `align_corners=False`), then `(m - min) / (max - min)` per item."""
    compute = partial(finished, size=size, normalize=normalize)
    return by_parts(compute, maps, 4 * prod(size or maps.shape[1:]))[0]


def finished(maps: Tensor, size: tuple[int, int] | None, normalize: bool) -> tuple[Tensor]:
    noise = map_noise(maps) * maps.nan_to_num(0).abs().amax((1, 2), keepdim=True)
    if size is not None:
        maps = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return (_normalized(maps, noise) if normalize else maps,)


def _normalized(maps: Tensor, noise: Tensor) -> Tensor:
    """Zeros where the spread is below the noise [B, 1, 1]."""
    lowest, highest = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    spread = highest - lowest
    constant = spread <= noise
    return torch.where(constant, 0.0, (maps - lowest) / torch.where(constant, 1.0, spread))


def _wide(x: Tensor) -> Tensor:
    return cast(x, torch.float64)


def _finite_items(x: Tensor) -> Tensor:
    return x.isfinite().flatten(1).all(1)


def _unit_items(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each item in float64 times the power of two that brings its largest magnitude into [1/2, 1), so that squares
    neither overflow nor vanish; the exponents [B] that undo it; and which items are finite [B] (the others become 0).
    """
    finite = _finite_items(x)
    wide = torch.where(per_item(finite, x), _wide(x), 0)
    exponent = unit_exponents(wide)
    return scaled(wide, -exponent), exponent, finite


def _or_nan(x: Tensor, finite: Tensor) -> Tensor:
    return torch.where(per_item(finite, x), x, torch.nan)
