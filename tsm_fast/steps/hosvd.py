"""The HOSVD, singular triplets and eigenpairs, over the steps of any backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .backend import Backend
from .choice import needs_grad
from .gradients import bounded, cast, instead, norm, root, row_norms, svd
from .gradients import eigh as differentiable_eigh
from .scaling import column_signs, per_item, scaled, straightened, unfold, unit_range

# The eigenvectors of a float64 Gram matrix give singular vectors that are orthonormal to about 1e-16 / ratio**2, with
# the ratio of the last singular value kept to the first: enough for float64 results above _STRAIGHT, and to be
# straightened above _WELL_CONDITIONED.
_STRAIGHT = 3e-2
_WELL_CONDITIONED = 1e-3
_SQUARABLE = 400  # float64 items of magnitude 2**-400 to 2**400 are spared a copy


def _differentiable(x: Tensor) -> Tensor:
    """x itself; in float64 where a gradient is to come back, so that its parts are added up there."""
    return cast(x, torch.float64) if needs_grad(x) else x


def hosvd(module: Backend, rank: Sequence[int], sign: str, dtype: torch.dtype, x: Tensor) -> tuple[Tensor, ...]:
    """The core, the errors [B, 1], the factors and the singular values."""
    unit, exponent = unit_range(_differentiable(x), _SQUARABLE)
    size = norm(unit)
    factors = [_hosvd_factor(module, unit, n, r, sign, dtype) for n, r in enumerate(rank)]
    factors = [torch.where(per_item(size == 0, a), _identity(a), a) for a in factors]
    core = module.core_contraction(unit, factors, range(len(rank)), precision="float64")
    error = root((size**2 - norm(core) ** 2).abs()) / torch.where(size == 0, 1.0, size)
    values = [scaled(bounded(row_norms(unfold(core, n))), exponent) for n in range(len(rank))]
    core = scaled(bounded(core), exponent)
    return core.to(dtype), error[:, None], *(a.to(dtype) for a in factors), *(v.to(dtype) for v in values)


def truncated_svd(module: Backend, rank: int, sign: str, dtype: torch.dtype, m: Tensor) -> tuple[Tensor, ...]:
    """U [B, M, R], S [B, R] and Vh [B, R, N]."""
    unit, exponent = unit_range(_differentiable(m), _SQUARABLE)
    u, s, v = _singular_triplets(module, unit, rank, dtype)
    signs = column_signs(u if sign == "u" else v)
    return (u * signs).to(dtype), scaled(bounded(s), exponent).to(dtype), (v * signs).mT.to(dtype)


def eigh(module: Backend, dtype: torch.dtype, a: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues [B, n], ascending, and eigenvectors [B, n, n] of symmetric matrices, by their lower triangles."""
    wide = _differentiable(a)
    symmetric = wide.detach().double().tril()
    symmetric = symmetric + symmetric.tril(-1).mT
    if needs_grad(a):  # the gradient is that of (a + a^T) / 2, as of torch.linalg.eigh
        unit, exponent = unit_range(instead((wide + wide.mT) / 2, symmetric))
        values, vectors = differentiable_eigh(unit)
        vectors = vectors * column_signs(vectors)
    else:
        unit, exponent = unit_range(symmetric) if a.dtype == torch.float64 else (symmetric, None)
        # The step takes Gram matrices, whose eigenvalues are squares: a shift makes them so.
        shift = torch.linalg.vector_norm(unit, dim=(1, 2))  # [B]
        unit.diagonal(dim1=1, dim2=2).add_(shift[:, None])
        roots, vectors = module.truncated_svd(unit, unit.shape[1], precision="float64")
        values, vectors = (roots**2 - shift[:, None]).flip(1), vectors.flip(2)
    return scaled(bounded(values), exponent).to(dtype), vectors.to(dtype)


def _hosvd_factor(module: Backend, x: Tensor, mode: int, rank: int, sign: str, dtype: torch.dtype) -> Tensor:
    """Leading left singular vectors [B, I_n, R] of the mode-n unfolding in float64, fit for results in dtype."""
    if needs_grad(x) or x.shape[mode + 1] ** 2 > x.shape[1:].numel():
        u, _, v = _singular_triplets(module, unfold(x, mode), rank, dtype)
        return u * column_signs(u if sign == "u" else v)
    gram = module.mode_gram(x, mode, precision="float64")
    _, vectors = module.truncated_svd(gram, rank, precision="float64")
    if sign == "v":
        right = module.core_contraction(x, [vectors], [mode], precision="float64")
        vectors = vectors * column_signs(unfold(right, mode).mT)
    return vectors


def _identity(like: Tensor) -> Tensor:
    return torch.eye(*like.shape[1:], dtype=like.dtype, device=like.device)


def _singular_triplets(module: Backend, m: Tensor, rank: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """U [B, M, R], S [B, R], V [B, N, R] of [B, M, N] in float64, fit for results in dtype, signs free."""
    if needs_grad(m):
        # The steps below have no gradients where singular values are equal or zero; all triplets, because the leading
        # ones turn with the others.
        u, s, vh = svd(m)
        return u[:, :, :rank], s[:, :rank], vh.mT[:, :, :rank]
    if m.shape[1] < m.shape[2]:
        v, s, u = _singular_triplets(module, m.mT, rank, dtype)
        return u, s, v
    gram = module.mode_gram(m, 1, precision="float64")
    values, v = module.truncated_svd(gram, rank, precision="float64")
    u, s = _columns(module.core_contraction(m, [v], [1], precision="float64"))
    if dtype == torch.float64:
        bent = (~(values[:, -1] > _STRAIGHT * values[:, 0])).nonzero().flatten()
        u = u.index_copy(0, bent, straightened(u[bent]))
    weak = (~(values[:, -1] > _WELL_CONDITIONED * values[:, 0])).nonzero().flatten()
    if not len(weak):
        return u, s, v
    # Small singular values are lost in the Gram matrix: take all its vectors and decompose m V, whose columns are
    # nearly orthogonal, without squaring.
    _, basis = module.truncated_svd(gram[weak], m.shape[2], precision="float64")
    q, r = torch.linalg.qr(module.core_contraction(m[weak], [basis], [1], precision="float64"))
    left, small, right = torch.linalg.svd(r)
    return (
        u.index_copy(0, weak, (q @ left)[:, :, :rank]),
        s.index_copy(0, weak, small[:, :rank]),
        v.index_copy(0, weak, (basis @ right.mT)[:, :, :rank]),
    )


def _columns(w: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of [B, M, R] with length 1, and their lengths [B, R]."""
    length = torch.linalg.vector_norm(w, dim=1)
    return w / torch.where(length == 0, 1.0, length)[:, None], length
