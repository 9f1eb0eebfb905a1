"""Mode products and unfoldings of batches, under TensorLy's names."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .steps import checks, scaling
from .steps.arrays import FLOAT_DTYPES, Array, as_tensor, dtype_name
from .steps.backend import Backend, Precision, result_dtype
from .steps.choice import resolve
from .steps.gradients import instead
from .steps.memory import readable, untraced
from .steps.operators import operator, wanted
from .steps.scaling import peaks, scaled, unit_exponents


def unfold(x: Array, mode: int) -> Array:  # [B, I_1, ..., I_N] -> [B, I_n, rest]
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
    checks.tensor("x", tensor)
    return restore(scaling.unfold(tensor, checks.mode(mode, tensor.ndim - 1)))


def fold(unfolded: Array, mode: int, shape: Sequence[int]) -> Array:  # [B, I_n, rest] -> [B, I_1, ..., I_N]
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
    full = checks.shape(shape)
    number = checks.mode(mode, len(full) - 1)
    moved = [full[0], full.pop(number + 1), *full[1:]]
    expected = (*moved[:2], torch.Size(moved[2:]).numel())
    if tuple(tensor.shape) != expected:
        raise ValueError(f"unfolded must be {expected} for shape {tuple(shape)}, got {tuple(tensor.shape)}")
    return restore(tensor.reshape(moved).movedim(1, number + 1))


@untraced
def mode_dot(
    x: Array,  # [B, I_1, ..., I_N]
    matrix: Any,  # [J, I_n] or [B, J, I_n]
    mode: int,
    transpose: bool = False,
    *,
    precision: Precision = "auto",
    backend: str | None = None,
) -> Array:  # [B, I_1, ..., J, ..., I_N]
    """The mode-n product `X x_n M` of every item with one matrix for all, or with one matrix each.

    Args:
        x: tensors `[B, I_1, ..., I_N]`.
        matrix: `[J, I_n]` or `[B, J, I_n]`; `[I_n, J]` or `[B, I_n, J]` with `transpose=True`.
        mode: the item mode, counted from 0.
        transpose: multiply by the transposed matrix.
        precision: `"auto"` is the fastest within the accuracy contract; `"float32"`, `"float64"` fix it.
        backend: `None` chooses; `"reference"`, `"cpu"`, ... as listed by `tsm_fast.backends()`.

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
    x: Array,  # [B, I_1, ..., I_N]
    matrices: Iterable[Any],  # [J_n, I_n] or [B, J_n, I_n] each
    modes: Iterable[int] | None = None,
    transpose: bool = False,
    *,
    precision: Precision = "auto",
    backend: str | None = None,
) -> Array:  # [B, J_1, ..., J_N]
    """The products `X x_n M_n` over several distinct modes.

    Args:
        x: tensors `[B, I_1, ..., I_N]`.
        matrices: one `[J_n, I_n]` or `[B, J_n, I_n]` per mode; transposed shapes with `transpose=True`.
        modes: the item modes, counted from 0, in any order; `None` for the first ones.
        transpose: multiply by the transposed matrices.
        precision: `"auto"` is the fastest within the accuracy contract; `"float32"`, `"float64"` fix it.
        backend: `None` chooses; `"reference"`, `"cpu"`, ... as listed by `tsm_fast.backends()`.

    Returns:
        `[B, J_1, ..., J_N]`, float64 for float64 x or `precision="float64"`, else float32.

    Raises:
        TypeError, ValueError, RuntimeError: as in `mode_dot`.

    >>> import torch, tsm_fast
    >>> x = torch.rand(4, 32, 7, 7)
    >>> tsm_fast.multi_mode_dot(x, [torch.rand(3, 32), torch.rand(2, 7)], modes=[0, 2]).shape
    torch.Size([4, 3, 7, 2])
    """
    checks.precision(precision)
    checks.flag("transpose", transpose)
    tensor, restore = as_tensor("x", x)
    checks.tensor("x", tensor)
    matrices = list(matrices)
    numbers = checks.modes(modes, len(matrices), tensor.ndim - 1)
    factors = [_factor(matrix, tensor, n, transpose, precision) for matrix, n in zip(matrices, numbers, strict=True)]
    how = numbers, precision, backend
    tensors = tensor, *factors
    (product,) = _product_operator(tensors, *how) if wanted(*tensors) else _product(*tensors, *how)
    return restore(product)


def _product(x: Tensor, *arguments: Any) -> tuple[Tensor]:
    """The products with factors [B, I_n, J_n], one for each of the modes."""
    *factors, modes, precision, backend = arguments
    module = resolve(backend, x, *factors)
    readable("x", x, module.name)
    for factor in factors:
        readable("matrix", factor, module.name)
    product = module.core_contraction(x, factors, modes, precision=precision)
    return (_in_range(product, module, x, factors, modes),)


def _like_product(x: Tensor, *arguments: Any) -> tuple[Tensor]:
    *factors, modes, precision, _ = arguments
    shape = list(x.shape)
    for factor, mode in zip(factors, modes, strict=True):
        shape[mode + 1] = factor.shape[2]
    return (x.new_empty(shape, dtype=result_dtype(x.dtype, precision)),)


@operator("multi_mode_dot", "int[] modes, str precision, str? backend", _like_product)
def _product_operator(x: Tensor, *arguments: Any) -> tuple[Tensor]:
    *factors, modes, precision, backend = arguments
    checks.tensor("x", x)
    numbers = checks.modes(modes, len(factors), x.ndim - 1)
    fitting = [_factor(factor, x, n, True, precision) for factor, n in zip(factors, numbers, strict=True)]
    return _product(x, *fitting, numbers, precision, backend)


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
    least, most = limits.tiny / limits.eps, limits.max
    quick: Any = getattr(module, "are_in_range", None)  # of the compiled steps on the CPU, by their own threads
    if quick is not None and quick(product, least, most):
        return product
    peak = peaks(product)
    lost = (~((peak >= least) & (peak <= most))).nonzero().flatten()
    sources = [source.detach()[lost] for source in (x, *factors)]
    usable = torch.stack([peaks(source) for source in sources]).isfinite().all(0)
    if not usable.any():
        return product
    sources = [source[usable].double() for source in sources]
    exponents = [unit_exponents(source) for source in sources]
    units = [scaled(source, -exponent) for source, exponent in zip(sources, exponents, strict=True)]
    again = module.core_contraction(units[0], units[1:], modes, precision="float64")
    # Beyond these bounds all is 0 or Inf: entries lie between 2**-1074 and 2**60.
    exponent = torch.stack(exponents).sum(0).clamp(-1200, 2044)
    lost = lost[usable]
    return product.index_copy(0, lost, instead(product[lost], scaled(again, exponent).to(product.dtype)))
