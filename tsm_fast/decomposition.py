"""Tucker decompositions and mode products on batches: `tucker`, `hosvd`, `truncated_svd` and TensorLy's helpers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from . import plan
from ._arrays import (
    FLOAT_DTYPES,
    as_tensor,
    by_parts,
    column_signs,
    dtype_name,
    peaks,
    per_item,
    scaled,
    unit_exponents,
)
from ._memory import readable, untraced
from .dispatch import N_ITER_MAX, TOL, Backend, Precision, needs_grad, resolve, result_dtype
from .gradients import bounded, cast, root, row_norms, svd

# The eigenvectors of a float64 Gram matrix give singular vectors that are orthonormal to about 1e-16 / ratio**2, with
# the ratio of the last singular value kept to the first: enough for float64 results above _STRAIGHT, and to be
# straightened above _WELL_CONDITIONED.
_STRAIGHT = 3e-2
_WELL_CONDITIONED = 1e-3


@dataclass(frozen=True, eq=False)
class TuckerResult:
    """A batch of Tucker decompositions, `X ~ core x_1 A_1 x_2 A_2 ...`, as arrays of the kind that went in.

    `result[i]` is item i as `(core, factors)`, which is what TensorLy takes; `len(result)` is the batch size. The
    result itself does not unpack: it is a batch, also one of two.

    >>> import torch, tsm_fast
    >>> result = tsm_fast.tucker(torch.rand(4, 32, 7, 7), rank=(8, 4, 4))
    >>> core, factors = result[0]
    >>> core.shape, [factor.shape for factor in factors]
    (torch.Size([8, 4, 4]), [torch.Size([32, 8]), torch.Size([7, 4]), torch.Size([7, 4])])
    """

    core: Any  # [B, R_1, ..., R_N]
    factors: list[Any]  # N times [B, I_n, R_n], orthonormal columns
    singular_values: list[Any]  # N times [B, R_n]: norms of the slices of the core, in the order of the factor columns
    rank: tuple[int, ...]  # the effective rank
    errors: Any  # [B, K] float64: relative error after each sweep; NaN after an item's last sweep
    n_sweeps: Any  # [B] int64
    converged: Any  # [B] bool

    def __len__(self) -> int:
        return self.core.shape[0]

    def __getitem__(self, item: int) -> tuple[Any, list[Any]]:
        return self.core[item], [factor[item] for factor in self.factors]

    def __iter__(self) -> NoReturn:
        # Without it Python would go through the items, and a batch of two would unpack as core and factors.
        raise TypeError("a TuckerResult is a batch: take core, factors = result[i], or result.core and result.factors")

    def reconstruct(self) -> Any:  # [B, I_1, ..., I_N]
        """The tensors that the decompositions stand for, `[B, I_1, ..., I_N]`."""
        return multi_mode_dot(self.core, self.factors)


@untraced
def tucker(
    x: Any,  # [B, I_1, ..., I_N]
    rank: plan.Rank = None,
    *,
    n_iter_max: int = N_ITER_MAX,
    tol: float = TOL,
    sign: str = "u",
    precision: Precision = "auto",
    backend: str | None = None,
) -> TuckerResult:
    """Tucker decomposition by HOOI, the algorithm of TensorLy's `tucker`, for every item of a batch on its own.

    It starts from the HOSVD and sweeps over the modes; an item stops after the sweep, the third or a later one, at
    which its relative error `sqrt(| |X|^2 - |core|^2 |) / |X|` (in float64) moved by less than `tol`. An item's
    result does not depend on the rest of the batch. (De Lathauwer, De Moor and Vandewalle, 2000.)

    Args:
        x: tensors `[B, I_1, ..., I_N]`, N in 2..5, torch, NumPy or DLPack, any float dtype, any strides. The first
            dimension is always the batch: a single tensor goes in as `x[None]`.
        rank: one number in `1..I_n` per mode; an int is used for all modes, `None` keeps every mode. Where `r_n` is
            more than the product of the other ranks there are no such many singular vectors: the effective rank, in
            `result.rank`, is `min(r_n, product of the other effective ranks)`.
        n_iter_max: the most sweeps.
        tol: absolute change of the error at which an item stops; 0 for never.
        sign: the entry of largest magnitude of each left (`"u"`, as in TensorLy) or right (`"v"`) singular vector is
            positive.
        precision: `"auto"` is the fastest within the accuracy contract; `"float32"`, `"float64"` fix it.
        backend: `None` chooses; `"reference"`, `"cpu"`, ... as listed by `tsm_fast.backends()`.

    Returns:
        A `TuckerResult`; its core, factors and singular values are float64 for float64 input or
        `precision="float64"`, and float32 otherwise. An item of zeros has a zero core, error 0, and the first columns
        of the identity as factors. The error of an exact fit is the root of the rounding of two squares: at most 3e-7,
        or 1e-8 times the root of the numbers of an item where that is more; 3e-3 for `precision="float32"`.

    Gradients are finite: at equal singular values and at zeros the terms that do not exist count as 0.

    Raises:
        TypeError: x is no float array, or one without memory or values (fake, meta, a DTensor), or an option has the
            wrong type.
        ValueError: wrong order, a rank out of range, NaN or Inf in x, or an unknown option.
        RuntimeError: the named backend cannot run, the memory of x was freed, or the call is traced.

    >>> import torch, tsm_fast
    >>> x = torch.rand(4, 32, 7, 7)
    >>> result = tsm_fast.tucker(x, rank=(8, 7, 7))
    >>> result.core.shape, result.rank
    (torch.Size([4, 8, 7, 7]), (8, 7, 7))
    >>> bool((result.reconstruct() - x).norm() < x.norm())
    True
    """
    plan.choice("sign", sign, ("u", "v"))
    plan.precision(precision)
    limit, tolerance = plan.stopping(n_iter_max, tol)
    tensor, restore = as_tensor("x", x)
    plan.tensor("x", tensor)
    effective = plan.rank(rank, tensor.shape[1:], "x")
    module = resolve(backend, tensor)
    readable("x", tensor, module.name)
    result = module.hooi(tensor, effective, n_iter_max=limit, tol=tolerance, sign=sign, precision=precision)
    plan.finite("x", result.finite)
    return TuckerResult(
        core=restore(result.core),
        factors=[restore(factor) for factor in result.factors],
        singular_values=[restore(values) for values in result.singular_values],
        rank=effective,
        errors=restore(result.errors, exact=False),
        n_sweeps=restore(result.n_sweeps, exact=False),
        converged=restore(result.converged),
    )


@untraced
def hosvd(
    x: Any,  # [B, I_1, ..., I_N]
    rank: plan.Rank = None,
    *,
    sign: str = "u",
    precision: Precision = "auto",
    backend: str | None = None,
) -> TuckerResult:
    """The truncated higher-order SVD: `A_n` holds the leading left singular vectors of the mode-n unfolding.

    It is the start of `tucker` (De Lathauwer, De Moor and Vandewalle, 2000), without sweeps.

    Args:
        x, rank, sign, precision, backend: as in `tucker`.

    Returns:
        A `TuckerResult` with `n_sweeps` 0, `errors` [B, 1], the error of the HOSVD itself, and `converged` True.

    Gradients are finite: at equal singular values and at zeros the terms that do not exist count as 0.

    Raises:
        TypeError, ValueError, RuntimeError: as in `tucker`.

    >>> import torch, tsm_fast
    >>> result = tsm_fast.hosvd(torch.rand(4, 32, 7, 7), rank=(8, 4, 4))
    >>> result.core.shape, result.errors.shape, result.n_sweeps.tolist()
    (torch.Size([4, 8, 4, 4]), torch.Size([4, 1]), [0, 0, 0, 0])
    """
    plan.choice("sign", sign, ("u", "v"))
    plan.precision(precision)
    tensor, restore = as_tensor("x", x)
    plan.tensor("x", tensor)
    effective = plan.rank(rank, tensor.shape[1:], "x")
    dtype = result_dtype(tensor.dtype, precision)
    module = resolve(backend, tensor)
    readable("x", tensor, module.name)
    compute = partial(_hosvd, module, effective, sign, dtype)
    core, error, *rest = by_parts(compute, _checked("x", tensor), 2 * tensor.shape[1:].numel())
    return TuckerResult(
        core=restore(core),
        factors=[restore(factor) for factor in rest[: len(effective)]],
        singular_values=[restore(values) for values in rest[len(effective) :]],
        rank=effective,
        errors=restore(error, exact=False),
        n_sweeps=restore(torch.zeros(len(core), dtype=torch.int64, device=core.device), exact=False),
        converged=restore(torch.ones(len(core), dtype=torch.bool, device=core.device)),
    )


@untraced
def truncated_svd(
    m: Any,  # [B, M, N]
    rank: int | None = None,
    *,
    sign: str = "u",
    precision: Precision = "auto",
    backend: str | None = None,
) -> tuple[Any, Any, Any]:
    """The leading singular triplets of each matrix of a batch, from the float64 Gram matrix of its smaller side.

    Args:
        m: matrices `[B, M, N]`, torch, NumPy or DLPack, any float dtype, any strides.
        rank: the number of triplets R in `1..min(M, N)`; `None` for all.
        sign: the entry of largest magnitude of each column of `U` (`"u"`) or row of `Vh` (`"v"`) is positive.
        precision, backend: as in `tucker`.

    Returns:
        `U` [B, M, R], `S` [B, R] (non-increasing), `Vh` [B, R, N], with `U diag(S) Vh` the best approximation of rank
        R; orthonormal also where singular values are 0. float64 for float64 input or `precision="float64"`, else
        float32.

    Gradients are finite: at equal singular values and at zeros the terms that do not exist count as 0, so that
    `(u * s[:, None]) @ vh` of tied triplets has no right one; `u @ u.mT @ m` is the same matrix, and has.

    Raises:
        TypeError, ValueError, RuntimeError: as in `tucker`.

    >>> import torch, tsm_fast
    >>> u, s, vh = tsm_fast.truncated_svd(torch.rand(4, 512, 49), rank=3)
    >>> u.shape, s.shape, vh.shape
    (torch.Size([4, 512, 3]), torch.Size([4, 3]), torch.Size([4, 3, 49]))
    """
    plan.choice("sign", sign, ("u", "v"))
    plan.precision(precision)
    tensor, restore = as_tensor("m", m)
    plan.matrices("m", tensor)
    r = plan.matrix_rank(rank, *tensor.shape[1:])
    dtype = result_dtype(tensor.dtype, precision)
    module = resolve(backend, tensor)
    readable("m", tensor, module.name)
    compute = partial(_truncated_svd, module, r, sign, dtype)
    u, s, vh = by_parts(compute, _checked("m", tensor), 2 * tensor.shape[1:].numel())
    return restore(u), restore(s), restore(vh)


def unfold(x: Any, mode: int) -> Any:  # [B, I_1, ..., I_N] -> [B, I_n, rest]
    """The mode-n unfolding of every item, `[B, I_n, product of the others]`, in TensorLy's column order.

    Args:
        x: tensors `[B, I_1, ..., I_N]`.
        mode: the item mode that becomes the rows, counted from 0.

    Raises:
        TypeError: x is no float array, or mode no integer.
        ValueError: wrong order, or a mode out of range.

    >>> import numpy as np, tsm_fast
    >>> x = np.arange(12.0).reshape(1, 2, 3, 2)
    >>> tsm_fast.unfold(x, 1)[0]
    array([[ 0.,  1.,  6.,  7.],
           [ 2.,  3.,  8.,  9.],
           [ 4.,  5., 10., 11.]])
    """
    tensor, restore = as_tensor("x", x)
    plan.tensor("x", tensor)
    return restore(_unfold(tensor, plan.mode(mode, tensor.ndim - 1)))


def fold(unfolded: Any, mode: int, shape: Sequence[int]) -> Any:  # [B, I_n, rest] -> [B, I_1, ..., I_N]
    """The inverse of `unfold`: tensors of the given shape, batch included, from their mode-n unfoldings.

    Args:
        unfolded: `[B, I_n, product of the others]`.
        mode: the item mode that is in the rows, counted from 0.
        shape: the shape `(B, I_1, ..., I_N)` of the result.

    Raises:
        TypeError: unfolded is no float array, or mode no integer.
        ValueError: the shapes do not belong together, or a mode is out of range.

    >>> import torch, tsm_fast
    >>> x = torch.rand(4, 32, 7, 5)
    >>> bool((tsm_fast.fold(tsm_fast.unfold(x, 2), 2, x.shape) == x).all())
    True
    """
    tensor, restore = as_tensor("unfolded", unfolded)
    full = plan.shape(shape)
    number = plan.mode(mode, len(full) - 1)
    moved = [full[0], full.pop(number + 1), *full[1:]]
    expected = (*moved[:2], torch.Size(moved[2:]).numel())
    if tuple(tensor.shape) != expected:
        raise ValueError(f"unfolded must be {expected} for shape {tuple(shape)}, got {tuple(tensor.shape)}")
    return restore(tensor.reshape(moved).movedim(1, number + 1))


@untraced
def mode_dot(
    x: Any,  # [B, I_1, ..., I_N]
    matrix: Any,  # [J, I_n] or [B, J, I_n]
    mode: int,
    transpose: bool = False,
    *,
    precision: Precision = "auto",
    backend: str | None = None,
) -> Any:  # [B, I_1, ..., J, ..., I_N]
    """The mode-n product `X x_n M` of every item with one matrix for all, or with one matrix each.

    Args:
        x: tensors `[B, I_1, ..., I_N]`.
        matrix: `[J, I_n]` or `[B, J, I_n]`; `[I_n, J]` or `[B, I_n, J]` with `transpose=True`.
        mode: the item mode, counted from 0.
        transpose: multiply by the transposed matrix.
        precision, backend: as in `tucker`.

    Returns:
        `[B, I_1, ..., J, ..., I_N]`, float64 for float64 x or `precision="float64"`, else float32.

    Raises:
        TypeError, ValueError, RuntimeError: as in `tucker`; ValueError also for a matrix of the wrong shape or device.

    >>> import torch, tsm_fast
    >>> tsm_fast.mode_dot(torch.rand(4, 32, 7, 7), torch.rand(3, 32), 0).shape
    torch.Size([4, 3, 7, 7])
    """
    return multi_mode_dot(x, [matrix], [mode], transpose, precision=precision, backend=backend)


@untraced
def multi_mode_dot(
    x: Any,  # [B, I_1, ..., I_N]
    matrices: Iterable[Any],  # [J_n, I_n] or [B, J_n, I_n] each
    modes: Iterable[int] | None = None,
    transpose: bool = False,
    *,
    precision: Precision = "auto",
    backend: str | None = None,
) -> Any:  # [B, J_1, ..., J_N]
    """The products `X x_n M_n` over several distinct modes.

    Args:
        x: tensors `[B, I_1, ..., I_N]`.
        matrices: one `[J_n, I_n]` or `[B, J_n, I_n]` per mode; transposed shapes with `transpose=True`.
        modes: the item modes, counted from 0, in any order; `None` for the first ones.
        transpose: multiply by the transposed matrices.
        precision, backend: as in `tucker`.

    Returns:
        `[B, J_1, ..., J_N]`, float64 for float64 x or `precision="float64"`, else float32.

    Raises:
        TypeError, ValueError, RuntimeError: as in `mode_dot`.

    >>> import torch, tsm_fast
    >>> x = torch.rand(4, 32, 7, 7)
    >>> tsm_fast.multi_mode_dot(x, [torch.rand(3, 32), torch.rand(2, 7)], modes=[0, 2]).shape
    torch.Size([4, 3, 7, 2])
    """
    plan.precision(precision)
    plan.flag("transpose", transpose)
    tensor, restore = as_tensor("x", x)
    plan.tensor("x", tensor)
    matrices = list(matrices)
    numbers = plan.modes(modes, len(matrices), tensor.ndim - 1)
    factors = [_factor(matrix, tensor, n, transpose, precision) for matrix, n in zip(matrices, numbers, strict=True)]
    module = resolve(backend, tensor, *factors)
    readable("x", tensor, module.name)
    for factor in factors:
        readable("matrix", factor, module.name)
    product = module.core_contraction(tensor, factors, numbers, precision=precision)
    return restore(_in_range(product, module, tensor, factors, numbers))


def _factor(matrix: Any, x: Tensor, mode: int, transpose: bool, precision: Precision) -> Tensor:
    """A matrix of a mode product as a factor [B, I_n, J] in the result dtype."""
    factor, _ = as_tensor("matrix", matrix)
    if factor.device != x.device:
        raise ValueError(f"matrix must be on {x.device}, the device of x, got {factor.device}")
    dtype = result_dtype(x.dtype, precision)
    if torch.promote_types(factor.dtype, dtype) != dtype:
        fitting = ", ".join(dtype_name(d) for d in FLOAT_DTYPES if torch.promote_types(d, dtype) == dtype)
        raise TypeError(
            f"matrix must have dtype {fitting} for a {dtype_name(dtype)} result, got {dtype_name(factor.dtype)}"
        )
    if not transpose:
        factor = factor.mT if factor.ndim >= 2 else factor
    batched = factor.ndim == 3 and factor.shape[0] == x.shape[0]
    if not (batched or factor.ndim == 2) or factor.shape[-2] != x.shape[mode + 1] or factor.shape[-1] == 0:
        need = f"{x.shape[mode + 1]}, J" if transpose else f"J, {x.shape[mode + 1]}"
        raise ValueError(
            f"matrix must be [{need}] or [{x.shape[0]}, {need}] for mode {mode}, got shape {tuple(matrix.shape)}"
        )
    return factor.to(dtype).expand(x.shape[0], -1, -1)


def _in_range(product: Tensor, module: Backend, x: Tensor, factors: Sequence[Tensor], modes: Sequence[int]) -> Tensor:
    """The products, with those that a sum on the way may have lost to overflow or underflow computed again in float64
    from x and factors of magnitude about 1.
    """
    limits = torch.finfo(product.dtype)
    peak = peaks(product)
    lost = (~((peak >= limits.tiny / limits.eps) & (peak <= limits.max))).nonzero().flatten()
    sources = [x[lost], *(factor[lost] for factor in factors)]
    usable = torch.stack([peaks(source) for source in sources]).isfinite().all(0)
    if not usable.any():
        return product
    sources = [source[usable].double() for source in sources]
    exponents = [unit_exponents(source) for source in sources]
    units = [scaled(source, -exponent) for source, exponent in zip(sources, exponents, strict=True)]
    again = module.core_contraction(units[0], units[1:], modes, precision="float64")
    # Beyond these bounds all is 0 or Inf: entries lie between 2**-1074 and 2**60.
    exponent = torch.stack(exponents).sum(0).clamp(-1200, 2044)
    return product.index_copy(0, lost[usable], scaled(again, exponent).to(product.dtype))


def _checked(name: str, x: Tensor) -> Tensor:
    """x itself; ValueError for items with NaN or Inf."""
    plan.finite(name, peaks(x).isfinite())
    return x


def _differentiable(x: Tensor) -> Tensor:
    """x itself; in float64 where a gradient is to come back, so that its parts are added up there."""
    return cast(x, torch.float64) if needs_grad(x) else x


def _unit_range(x: Tensor) -> tuple[Tensor, Tensor]:
    """The tensors with float64 items whose squares would overflow or vanish times a power of two, and the exponents
    [B] that undo it.
    """
    if x.dtype != torch.float64:
        return x, torch.zeros(len(x), dtype=torch.int64, device=x.device)
    exponent = unit_exponents(x)
    exponent = torch.where(exponent.abs() > 400, exponent, 0)
    return (scaled(x, -exponent) if exponent.any() else x), exponent


def _hosvd(module: Backend, rank: Sequence[int], sign: str, dtype: torch.dtype, x: Tensor) -> tuple[Tensor, ...]:
    """The core, the errors [B, 1], the factors and the singular values."""
    unit, exponent = _unit_range(_differentiable(x))
    norm = _norm(unit)
    factors = [_hosvd_factor(module, unit, n, r, sign, dtype) for n, r in enumerate(rank)]
    factors = [torch.where(per_item(norm == 0, a), _identity(a), a) for a in factors]
    core = module.core_contraction(unit, factors, range(len(rank)), precision="float64")
    error = root((norm**2 - _norm(core) ** 2).abs()) / torch.where(norm == 0, 1.0, norm)
    values = [scaled(bounded(row_norms(_unfold(core, n))), exponent) for n in range(len(rank))]
    core = scaled(bounded(core), exponent)
    return core.to(dtype), error[:, None], *(a.to(dtype) for a in factors), *(v.to(dtype) for v in values)


def _truncated_svd(module: Backend, rank: int, sign: str, dtype: torch.dtype, m: Tensor) -> tuple[Tensor, ...]:
    """U [B, M, R], S [B, R] and Vh [B, R, N]."""
    unit, exponent = _unit_range(_differentiable(m))
    u, s, v = _singular_triplets(module, unit, rank, dtype)
    signs = column_signs(u if sign == "u" else v)
    return (u * signs).to(dtype), scaled(bounded(s), exponent).to(dtype), (v * signs).mT.to(dtype)


def _hosvd_factor(module: Backend, x: Tensor, mode: int, rank: int, sign: str, dtype: torch.dtype) -> Tensor:
    """Leading left singular vectors [B, I_n, R] of the mode-n unfolding in float64, fit for results in dtype."""
    if needs_grad(x) or x.shape[mode + 1] ** 2 > x.shape[1:].numel():
        u, _, v = _singular_triplets(module, _unfold(x, mode), rank, dtype)
        return u * column_signs(u if sign == "u" else v)
    gram = module.mode_gram(x, mode, precision="float64")
    _, vectors = module.truncated_svd(gram, rank, precision="float64")
    if sign == "v":
        right = module.core_contraction(x, [vectors], [mode], precision="float64")
        vectors = vectors * column_signs(_unfold(right, mode).mT)
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
        u = u.index_copy(0, bent, _straightened(u[bent]))
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


def _straightened(u: Tensor) -> Tensor:
    """Nearly orthonormal columns [B, M, R] made orthonormal up to the square of what they lacked."""
    lacking = u.mT @ u - torch.eye(u.shape[2], dtype=u.dtype, device=u.device)
    return u - u @ (lacking.triu() - torch.diag_embed(lacking.diagonal(dim1=1, dim2=2) / 2))


def _norm(x: Tensor) -> Tensor:  # [B] float64
    # `vector_norm` adds one square after the other, and the error of an exact fit would be the rounding of that.
    return root(x.double().flatten(1).square().sum(1))


def _unfold(x: Tensor, mode: int) -> Tensor:
    return x.movedim(mode + 1, 1).flatten(2)
