"""TensorLy's Tucker decomposition: the same functions, signatures and results, computed here where that is the same.

from tensorly.decomposition import tucker        ->  from tsm_fast.integrations.tensorly import tucker
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import decomposition as engine
from ..steps import checks
from ..steps.arrays import as_tensor
from ..steps.choice import needs_grad
from ..steps.scaling import peaks
from ._peer import peer
from ._rebind import rebind

peer("tensorly", "tensorly", "0.10", "tensorly")

import tensorly as tl  # noqa: E402
from tensorly.decomposition import _tucker as stock  # noqa: E402
from tensorly.tucker_tensor import TuckerTensor, validate_tucker_rank  # noqa: E402

_SMALLEST = 1e-100  # of the largest entries, whose squares are numbers still

# Under no names of this module, which would be replaced too.
_STOCK = {"tucker": stock.tucker, "partial_tucker": stock.partial_tucker}


@dataclass
class Counts:
    """How many decompositions were computed here, and how many by TensorLy, by the reason."""

    accelerated: int = 0
    fallback: Counter[str] = field(default_factory=Counter)


counts: Counts = Counts()  # of this process
_counting = [counts]  # and of the contexts that are open
_turn = threading.Lock()


def tucker(
    tensor: Any,  # [I_1, ..., I_N]
    rank: Any,
    fixed_factors: Any = None,
    n_iter_max: int = 100,
    init: Any = "svd",
    return_errors: bool = False,
    svd: Any = "truncated_svd",
    tol: float | None = 10e-5,
    random_state: Any = None,
    mask: Any = None,
    verbose: Any = False,
) -> Any:
    """TensorLy's `tucker`: signature, results and errors are its own; see `tsm_fast.tucker` for the algorithm.

    Computed here for NumPy and PyTorch tensors of float32 and float64 and order 2 to 5, whatever `init`; also where a
    rank is more than the product of the others, which TensorLy pads with random columns. TensorLy itself computes what
    has a `mask`, `fixed_factors` or gradients, and what is not finite; `counts` says how often and why.

    >>> import numpy as np
    >>> from tsm_fast.integrations.tensorly import tucker
    >>> (core, factors), errors = tucker(np.random.rand(8, 7, 6), rank=[3, 3, 3], return_errors=True)
    >>> core.shape, [factor.shape for factor in factors]
    ((3, 3, 3), [(8, 3), (7, 3), (6, 3)])
    """
    how = {"n_iter_max": n_iter_max, "init": init, "svd": svd, "tol": tol}
    how |= {"random_state": random_state, "mask": mask, "verbose": verbose}
    if fixed_factors:
        _count("fixed_factors")
        return _STOCK["tucker"](tensor, rank, fixed_factors=fixed_factors, return_errors=return_errors, **how)
    rank = validate_tucker_rank(tl.shape(tensor), rank=rank)
    (core, factors), errors = partial_tucker(tensor, rank, **how)
    result = TuckerTensor((core, factors))
    return (result, errors) if return_errors else result


def partial_tucker(
    tensor: Any,  # [I_1, ..., I_N]
    rank: Any,
    modes: Any = None,
    n_iter_max: int = 100,
    init: Any = "svd",
    tol: float | None = 10e-5,
    svd: Any = "truncated_svd",
    random_state: Any = None,
    verbose: Any = False,
    mask: Any = None,
    svd_mask_repeats: int = 5,
) -> Any:
    """TensorLy's `partial_tucker`: signature, results and errors are its own; computed here as in `tucker`.

    >>> import numpy as np
    >>> from tsm_fast.integrations.tensorly import partial_tucker
    >>> (core, factors), errors = partial_tucker(np.random.rand(8, 7, 6), rank=[3, 2], modes=[1, 2])
    >>> core.shape, [factor.shape for factor in factors]
    ((8, 3, 2), [(7, 3), (6, 2)])
    """
    numbers = list(range(tl.ndim(tensor))) if modes is None else list(modes)
    ranks = _ranks(tensor, rank, numbers)
    if isinstance(init, Iterator):
        init = list(init)
    reason, x = _reason(tensor, ranks, numbers, n_iter_max, init, svd, random_state, mask), None
    if reason is None:
        x = as_tensor("tensor", tensor)[0]
        reason = "gradient" if needs_grad(x) else None if _in_range(tensor) else "range"
    _count(reason)
    if reason is not None or x is None:
        options = {"n_iter_max": n_iter_max, "tol": tol, "svd": svd, "random_state": random_state}
        options |= {"verbose": verbose, "mask": mask, "svd_mask_repeats": svd_mask_repeats}
        return _STOCK["partial_tucker"](tensor, rank, modes=modes, init=init, **options)
    _warn_of(rank, ranks, tl.shape(tensor), numbers)
    limit = max(float(tol or 0), 0.0)
    start = init if isinstance(init, str) else _factors(init)
    how = {"init": start, "random_state": random_state, "pad": True, "n_iter_max": n_iter_max, "tol": limit}
    result = engine.tucker(x[None], ranks, modes=numbers, **how)
    core, found, errors = result.core[0], [factor[0] for factor in result.factors], result.errors[0].tolist()
    if verbose:
        _tell(errors, limit)
    if isinstance(tensor, Tensor):
        return (core, found), [tensor.new_tensor(error) for error in errors]
    return (core.numpy(), [factor.numpy() for factor in found]), [tensor.dtype.type(error) for error in errors]


class Tucker(stock.Tucker):
    """TensorLy's `Tucker`, over the `tucker` of this module.

    >>> import numpy as np
    >>> from tsm_fast.integrations.tensorly import Tucker
    >>> core, factors = Tucker(rank=[3, 3, 3]).fit_transform(np.random.rand(8, 7, 6))
    >>> core.shape
    (3, 3, 3)
    """

    def fit_transform(self, tensor: Any) -> Any:
        self.decomposition_: Any = tucker(
            tensor,
            rank=self.rank,
            fixed_factors=self.fixed_factors,
            n_iter_max=self.n_iter_max,
            init=self.init,
            return_errors=self.return_errors,
            svd=self.svd,
            tol=self.tol,
            random_state=self.random_state,
            mask=self.mask,
            verbose=self.verbose,
        )
        return self.decomposition_


def batched_tucker(
    tensors: Any,  # [B, I_1, ..., I_N]
    rank: Any,
    n_iter_max: int = 100,
    return_errors: bool = False,
    tol: float | None = 10e-5,
) -> Any:  # B times TuckerTensor
    """TensorLy's `tucker` of every tensor of a batch, all at once: what `[tucker(x, rank) for x in tensors]` gives.

    Args:
        tensors: `[B, I_1, ..., I_N]`, or a list of B tensors of one shape, NumPy or PyTorch, float32 or float64.
        rank: as in `tucker`; the effective rank where it is not feasible, as in `tsm_fast.tucker`.
        n_iter_max, tol: as in `tucker`.
        return_errors: also return B lists with the error after each sweep.

    Returns:
        B times `TuckerTensor`; with `return_errors` a pair of these and the errors.

    Raises:
        TypeError, ValueError: as in `tsm_fast.tucker`.

    >>> import numpy as np
    >>> from tsm_fast.integrations.tensorly import batched_tucker
    >>> results = batched_tucker(np.random.rand(4, 8, 7, 6), rank=[3, 3, 3])
    >>> len(results), results[0].core.shape
    (4, (3, 3, 3))
    """
    if isinstance(tensors, list | tuple):
        tensors = torch.stack(list(tensors)) if isinstance(tensors[0], Tensor) else np.stack(tensors)
    ranks: Any = validate_tucker_rank(tuple(tensors.shape[1:]), rank=rank)
    limit: Any = 0.0 if tol is None or (isinstance(tol, int | float) and tol < 0) else tol  # both never stop it
    result = engine.tucker(tensors, ranks, n_iter_max=n_iter_max, tol=limit)
    found = [TuckerTensor(result[i]) for i in range(len(result))]
    _count(None)
    if not return_errors:
        return found
    return found, [list(errors[: int(n)]) for errors, n in zip(result.errors, result.n_sweeps, strict=True)]


# ---- scripts left untouched ----


@contextmanager
def use_tsm_fast() -> Iterator[Counts]:
    """TensorLy's own `tucker`, `partial_tucker` and `Tucker` computed here, in scripts left untouched.

    `partial_tucker`, through which all of them go, is replaced wherever it is bound, and put back at the end, also
    after an exception. Contexts may lie within one another. `tensorly.contrib.sparse` keeps its own.

    Yields:
        The counts of the calls within.

    >>> import numpy as np, tensorly.decomposition
    >>> from tsm_fast.integrations.tensorly import use_tsm_fast
    >>> with use_tsm_fast() as counts:
    ...     core, factors = tensorly.decomposition.tucker(np.random.rand(8, 7, 6), rank=[3, 3, 3])
    >>> core.shape, counts.accelerated
    ((3, 3, 3), 1)
    """
    own = Counts()
    with _turn:
        _counting.append(own)
        rebind(_MADE)
    try:
        yield own
    finally:
        with _turn:
            _counting[:] = [each for each in _counting if each is not own]
            if len(_counting) == 1:
                rebind({new: old for old, new in _MADE.items()})


def _ours() -> Callable[..., Any]:
    """A function for the place of TensorLy's: our own is also under its name here, where nothing is to be replaced."""

    @wraps(stock.partial_tucker)
    def inserted(*args: Any, **options: Any) -> Any:
        return partial_tucker(*args, **options)

    return inserted


_MADE = {stock.partial_tucker: _ours()}


def _count(reason: str | None) -> None:
    with _turn:
        for each in _counting:
            if reason is None:
                each.accelerated += 1
            else:
                each.fallback[reason] += 1


# ---- what is computed here ----


def _ranks(tensor: Any, rank: Any, modes: Sequence[int]) -> tuple[int, ...]:
    if rank is None:
        return tuple(tl.shape(tensor)[mode] for mode in modes)
    return (rank,) * len(modes) if isinstance(rank, int) else tuple(rank)


def _factors(init: Any) -> list[Any]:
    """Of a start that is one: `(core, factors)`, a `TuckerTensor`, or factors."""
    return list(init[1] if isinstance(init, tuple | TuckerTensor) else init)


def _warn_of(rank: Any, ranks: Sequence[int], sizes: Sequence[int], modes: Sequence[int]) -> None:
    """TensorLy's own warnings."""
    for r, effective in zip(ranks, checks.rank(ranks, sizes, modes=modes), strict=True):
        if effective < r:
            text = f"Trying to compute SVD with n_eigenvecs={r}, which is larger than min(matrix.shape)={effective}. "
            warnings.warn(f"{text}Setting n_eigenvecs to {effective}.", UserWarning, stacklevel=3)
    if rank is None:
        text = "No value given for 'rank'. The decomposition will preserve the original size."
        warnings.warn(text, Warning, stacklevel=3)
    elif isinstance(rank, int):
        text = f"Given only one int for 'rank' instead of a list of {len(modes)} modes. Using this rank for all modes."
        warnings.warn(text, Warning, stacklevel=3)


def _reason(
    tensor: Any,
    ranks: Sequence[int],
    modes: Sequence[int],
    n_iter_max: int,
    init: Any,
    svd: Any,
    random_state: Any,
    mask: Any,
) -> str | None:
    """Why TensorLy is to compute it, or None."""
    sizes = tl.shape(tensor)
    known = all(type(mode) is int and 0 <= mode < len(sizes) for mode in modes)
    reasons = {
        "mask": mask is not None,
        "array": not _is_ours(tensor),
        "order": not checks.MIN_ORDER <= len(sizes) <= checks.MAX_ORDER or 0 in sizes,
        "modes": not known or not modes or modes != sorted({*modes}),
        "n_iter_max": n_iter_max < 1,
        "svd": isinstance(init, str) and init == "svd" and svd != "truncated_svd",
        "random_state": not _is_state(random_state),
    }
    for reason, holds in reasons.items():
        if holds:
            return reason
    if len(ranks) != len(modes) or not all(1 <= r <= sizes[mode] for r, mode in zip(ranks, modes, strict=True)):
        return "rank"
    known = init in ("svd", "random") if isinstance(init, str) else _is_start(init, tensor, ranks, modes)
    return None if known else "init"


def _in_range(tensor: Any) -> bool:
    """Not of zeros, NaN and Inf either."""
    if isinstance(tensor, np.ndarray):  # PyTorch's threads would wake, and spin beside ours
        peak = max(abs(float(tensor.max())), abs(float(tensor.min())))
    else:
        peak = float(peaks(tensor[None]))
    return _SMALLEST < peak < 1 / _SMALLEST


def _is_state(random_state: Any) -> bool:
    if isinstance(random_state, int):
        return 0 <= random_state < 2**32
    return random_state is None or isinstance(random_state, np.random.RandomState)


def _is_start(init: Any, tensor: Any, ranks: Sequence[int], modes: Sequence[int]) -> bool:
    """Whether it holds factors of the tensor's kind, and of the ranks."""
    pair = isinstance(init, TuckerTensor) or (isinstance(init, tuple) and len(init) == 2)
    if not (isinstance(init[1], Iterable) if pair else isinstance(init, Iterable) and not isinstance(init, tuple)):
        return False
    factors, sizes = _factors(init), tl.shape(tensor)
    return len(factors) == len(modes) and all(
        type(factor) is type(tensor)
        and factor.dtype == tensor.dtype
        and tuple(factor.shape) == (sizes[mode], r)
        and not needs_grad(torch.as_tensor(factor))
        and bool(peaks(torch.as_tensor(factor)[None]).isfinite())
        for factor, mode, r in zip(factors, modes, ranks, strict=True)
    )


def _is_ours(tensor: Any) -> bool:
    if tl.get_backend() == "numpy":
        return type(tensor) is np.ndarray and tensor.dtype in (np.float32, np.float64) and tensor.dtype.isnative
    return tl.get_backend() == "pytorch" and type(tensor) is Tensor and tensor.dtype in (torch.float32, torch.float64)


def _tell(errors: Sequence[float], tol: float) -> None:
    """What TensorLy prints sweep by sweep with `verbose`."""
    for sweep in range(2, len(errors)):
        print(f"reconstruction error={errors[sweep]}, variation={errors[sweep - 1] - errors[sweep]}.")
        if abs(errors[sweep - 1] - errors[sweep]) < tol:
            print(f"converged in {sweep} iterations.")
