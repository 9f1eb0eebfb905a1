"""Tucker decompositions of batches, `tucker`, `hosvd` and `truncated_svd`, and their eigenpairs, `eigh`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any, Generic, NoReturn, SupportsIndex, cast

import torch
from torch import Tensor

from . import modes as mode_products
from .steps import checks, starts
from .steps import hosvd as triplets
from .steps.arrays import Array, as_tensor
from .steps.backend import N_ITER_MAX, TOL, Backend, HooiResult, Precision, result_dtype
from .steps.capture import is_captured, refuse
from .steps.choice import needs_grad, resolve
from .steps.memory import readable, untraced
from .steps.operators import operator, wanted
from .steps.scaling import by_parts, peaks

_ROOM = 1000  # sweeps whose errors find room at first


@dataclass(frozen=True, eq=False)
class TuckerResult(Generic[Array]):
    """A batch of Tucker decompositions, `X ~ core x_1 A_1 x_2 A_2 ...`, as arrays of the kind that went in.

    `result[i]` is item i as `(core, factors)`, which is what TensorLy takes; `len(result)` is the batch size. The
    result itself does not unpack: it is a batch, also one of two.

    >>> import torch, tsm_fast
    >>> x = torch.rand(4, 32, 7, 7, generator=torch.Generator().manual_seed(0))
    >>> result = tsm_fast.tucker(x, rank=(8, 4, 4))
    >>> result
    TuckerResult(4 items of rank (8, 4, 4), error 0.4 to 0.41, 4 of 4 converged in at most 9 sweeps)
    >>> core, factors = result[0]
    >>> core.shape, [factor.shape for factor in factors]
    (torch.Size([8, 4, 4]), [torch.Size([32, 8]), torch.Size([7, 4]), torch.Size([7, 4])])
    """

    core: Array  # [B, R_1, ..., R_N], I_n for a mode that is not decomposed
    factors: list[Array]  # for each of `modes` [B, I_n, R_n], orthonormal columns
    singular_values: list[
        Array
    ]  # for each of `modes` [B, R_n]: norms of the slices of the core, in the order of the factor columns
    rank: tuple[int, ...]  # the effective rank, for each of `modes`
    errors: Array  # [B, K] float64: relative error after each sweep; NaN after an item's last sweep
    n_sweeps: Array  # [B] int64
    converged: Array  # [B] bool
    modes: tuple[int, ...]  # those that are decomposed

    def __len__(self) -> int:
        return self.core.shape[0]

    def __repr__(self) -> str:
        parts = [f"{len(self)} item{'s' * (len(self) != 1)} of rank {self.rank}"]
        if len(self):
            error, sweeps = as_tensor("error", self.error)[0].detach(), int(max(cast(Any, self.n_sweeps)))
            parts.append("error " + " to ".join(dict.fromkeys(f"{float(e):.2g}" for e in (error.min(), error.max()))))
            done = (
                f"{int(sum(map(bool, cast(Any, self.converged))))} of {len(self)} converged in at most {sweeps} sweeps"
            )
            parts.append(done if sweeps else "without sweeps")
        return f"TuckerResult({', '.join(parts)})"

    def _repr_html_(self) -> str:
        """A table of the modes, for notebooks."""
        rows = "".join(
            f"<tr><td>{mode}</td><td>{factor.shape[1]}</td><td>{factor.shape[2]}</td></tr>"
            for mode, factor in zip(self.modes, self.factors, strict=True)
        )
        return (
            f"<div>{escape(repr(self))}</div><table><thead><tr><th>mode</th><th>size</th><th>rank</th></tr></thead>"
            f"<tbody>{rows}</tbody></table>"
        )

    @property
    def error(self) -> Array:  # [B]
        """The relative error of each item, `|X - reconstruction| / |X|`, float64: that after its last sweep."""
        errors, restore = as_tensor("errors", self.errors)
        if not errors.numel():
            return restore(errors.reshape(-1), exact=False)
        last = (~errors.isnan()).sum(1, keepdim=True) - 1
        return restore(errors.gather(1, last)[:, 0], exact=False)

    def __getitem__(self, item: SupportsIndex) -> tuple[Array, list[Array]]:
        number = checks.item(item, len(self))
        core, factors = cast(Any, self.core), cast(Any, self.factors)
        return core[number], [factor[number] for factor in factors]

    def __iter__(self) -> NoReturn:
        # Without it Python would go through the items, and a batch of two would unpack as core and factors.
        raise TypeError("a TuckerResult is a batch: take core, factors = result[i], or result.core and result.factors")

    def reconstruct(self) -> Array:  # [B, I_1, ..., I_N]
        """The tensors that the decompositions stand for, `[B, I_1, ..., I_N]`."""
        return mode_products.multi_mode_dot(self.core, self.factors, self.modes)


@untraced
def tucker(
    x: Array,  # [B, I_1, ..., I_N]
    rank: checks.Rank = None,
    *,
    modes: Sequence[int] | None = None,
    init: Any = "svd",
    random_state: Any = None,
    pad: bool = False,
    n_iter_max: int = N_ITER_MAX,
    tol: float = TOL,
    sign: str = "u",
    precision: Precision = "auto",
    backend: str | None = None,
) -> TuckerResult[Array]:
    """Tucker decomposition by HOOI, the algorithm of TensorLy's `tucker`, for every item of a batch on its own.

    It starts from the HOSVD, or from `init`, and sweeps over the modes; an item stops after the sweep, the third or a
    later one, at which its relative error `sqrt(| |X|^2 - |core|^2 |) / |X|` (in float64) moved by less than `tol`. An
    item's result does not depend on the rest of the batch. (De Lathauwer, De Moor and Vandewalle, 2000.)

    Args:
        x: tensors `[B, I_1, ..., I_N]`, N in 2..5, torch, NumPy or DLPack, any float dtype, any strides. The first
            dimension is always the batch: a single tensor goes in as `x[None]`.
        rank: one number in `1..I_n` per mode; an int is used for all modes, `None` keeps every mode. Where `r_n` is
            more than the product of the other ranks there are no such many singular vectors: the effective rank, in
            `result.rank`, is `min(r_n, product of the other effective ranks)`.
        modes: those to decompose, rising, as in TensorLy's `partial_tucker`; `rank`, `factors` and `singular_values`
            have an entry for each. The others are left as they are: the core keeps their size, which counts as their
            rank. `None` for all.
        init: what the sweeps start from: `"svd"` for the HOSVD, `"random"` for uniform numbers in [0, 1), or factors
            `[I_n, R_n]`, or `[B, I_n, R_n]`, for each of `modes`; also as the second of a pair `(core, factors)`, or a
            `TuckerResult`. They are not changed, need not be orthonormal, and get no gradients.
        random_state: of `"random"` and `pad`: an int, a `numpy.random.RandomState`, or `None` for NumPy's own. The
            numbers are those that TensorLy draws from it, the same ones for every item of the batch.
        pad: fill a factor up to `rank` where there are no such many singular vectors, as TensorLy does, by what is left
            of random columns: orthonormal ones, the same in every sweep. `result.rank` is then `rank`.
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
        RuntimeError: the named backend cannot run, the memory of x was freed, or `torch.jit.trace` traces the call.

    >>> import torch, tsm_fast
    >>> x = torch.rand(4, 32, 7, 7)
    >>> result = tsm_fast.tucker(x, rank=(8, 7, 7))
    >>> result.core.shape, result.rank
    (torch.Size([4, 8, 7, 7]), (8, 7, 7))
    >>> bool((result.reconstruct() - x).norm() < x.norm())
    True

    A partial decomposition, and another one that starts where it ended:

    >>> result = tsm_fast.tucker(x, rank=(3, 3), modes=(1, 2))
    >>> result.core.shape, [factor.shape for factor in result.factors]
    (torch.Size([4, 32, 3, 3]), [torch.Size([4, 7, 3]), torch.Size([4, 7, 3])])
    >>> again = tsm_fast.tucker(x + 0.01, rank=(3, 3), modes=(1, 2), init=result)
    >>> again.n_sweeps.max() <= 100
    tensor(True)
    """
    checks.choice("sign", sign, ("u", "v"))
    checks.precision(precision)
    checks.flag("pad", pad)
    limit, tolerance = checks.stopping(n_iter_max, tol)
    tensor, restore = as_tensor("x", x)
    checks.tensor("x", tensor)
    sizes = tensor.shape[1:]
    numbers = checks.decomposed(modes, len(sizes))
    effective = checks.rank(rank, sizes, "x", modes=None if modes is None else numbers, pad=pad)
    kind, given = _start(init, tensor, numbers, effective)
    state = checks.random_state(random_state)
    how = effective, numbers, limit, tolerance, kind, pad
    if wanted(tensor, *given):
        if state is not None and not isinstance(state, int):
            raise TypeError("random_state must be an int where a call is compiled or mapped, got a RandomState")
        core, errors, n_sweeps, converged, *rest = _tucker_operator(
            [tensor, *given], *how, state, sign, precision, backend
        )
        errors = torch.where(errors < 0, torch.nan, errors)
    else:
        core, errors, n_sweeps, converged, *rest = _tucker(tensor, given, *how, state, sign, precision, backend)
    return TuckerResult(
        core=restore(core),
        factors=[restore(factor) for factor in rest[: len(effective)]],
        singular_values=[restore(values) for values in rest[len(effective) :]],
        rank=effective,
        errors=restore(errors, exact=False),
        n_sweeps=restore(n_sweeps, exact=False),
        converged=restore(converged),
        modes=numbers,
    )


def _start(init: Any, x: Tensor, modes: Sequence[int], rank: Sequence[int]) -> tuple[str, list[Tensor]]:
    """ "svd", "random", or "given" and the factors [B, I_n, R_n]."""
    if isinstance(init, str):
        checks.choice("init", init, ("svd", "random"))
        return init, []
    if isinstance(init, TuckerResult):
        init = init.factors
    elif isinstance(init, tuple) and len(init) == 2 and isinstance(init[1], list | tuple):
        init = init[1]
    if not isinstance(init, Iterable):
        raise TypeError(f"init must be 'svd', 'random' or factors, got {init!r}")
    factors = [as_tensor(f"init[{i}]", factor)[0].detach() for i, factor in enumerate(init)]
    if len(factors) != len(modes):
        raise ValueError(f"init must have a factor for each of {len(modes)} modes, got {len(factors)}")
    whole = []
    for i, (factor, mode, r) in enumerate(zip(factors, modes, rank, strict=True)):
        shape, one = tuple(factor.shape), (x.shape[mode + 1], r)
        if shape not in (one, (x.shape[0], *one)):
            need = f"{one} or {(x.shape[0], *one)}"
            raise ValueError(f"init[{i}] must have shape {need} for mode {mode}, got {shape}")
        if factor.device != x.device:
            raise ValueError(f"init[{i}] must be on {x.device}, the device of x, got {factor.device}")
        whole.append(factor if factor.ndim == 3 else factor.expand(x.shape[0], *one))
    return "given", whole


def _tucker(
    x: Tensor,
    given: Sequence[Tensor],
    rank: Sequence[int],
    modes: Sequence[int],
    limit: int,
    tol: float,
    init: str,
    pad: bool,
    state: Any,
    sign: str,
    precision: Precision,
    backend: str | None,
) -> tuple[Tensor, ...]:
    """The core, the errors [B, K] of as many sweeps as there were, their number, what converged, factors, values."""
    module = _resolved("x", x, backend)
    for i, factor in enumerate(given):
        readable(f"init[{i}]", factor, module.name)
        checks.finite(f"init[{i}]", peaks(factor).isfinite())
    whole = list(x.shape[1:])
    for mode, r in zip(modes, rank, strict=True):
        whole[mode] = r
    options = starts.options(module, x, rank, modes, given if init == "given" else None, init == "random", state)
    hooi = partial(module.hooi, x, whole, tol=tol, sign=sign, precision=precision, options=options)
    captured = is_captured(x)
    result = hooi(n_iter_max=limit) if captured else _with_more_room(hooi, limit)
    checks.finite("x", result.finite)
    most = limit if captured else int(result.n_sweeps.max()) if x.shape[0] else 0
    errors = result.errors[:, :most].contiguous()
    return result.core, errors, result.n_sweeps, result.converged, *result.factors, *result.singular_values


def _like_tucker(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    rank, modes, limit, *_, precision, _ = rest[-10:]
    dtype, batch = result_dtype(x.dtype, precision), x.shape[0]
    sizes = list(x.shape[1:])
    factors = [x.new_empty(batch, sizes[mode], r, dtype=dtype) for mode, r in zip(modes, rank, strict=True)]
    values = [x.new_empty(batch, r, dtype=dtype) for r in rank]
    for mode, r in zip(modes, rank, strict=True):
        sizes[mode] = r
    errors = x.new_empty(batch, limit, dtype=torch.float64)
    counts = x.new_empty(batch, dtype=torch.int64), x.new_empty(batch, dtype=torch.bool)
    return x.new_empty(batch, *sizes, dtype=dtype), errors, *counts, *factors, *values


@operator(
    "tucker",
    "SymInt[] rank, int[] modes, SymInt n_iter_max, float tol, str init, bool pad, SymInt? random_state, str sign, "
    "str precision, str? backend",
    _like_tucker,
)
def _tucker_operator(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    """`_tucker` with room for the errors of all sweeps, -1 for none: their number must not depend on x."""
    given, (rank, modes, limit, tol, init, pad, *options) = rest[:-10], rest[-10:]
    checks.tensor("x", x)
    numbers = checks.decomposed(modes, x.ndim - 1)
    effective = checks.rank(rank, x.shape[1:], modes=numbers, pad=pad)
    if init == "given":
        _start(given, x, numbers, effective)
    room = checks.stopping(limit, tol)[0]
    core, errors, *found = _tucker(x, given, effective, numbers, room, tol, init, pad, *options)
    padded = torch.cat([errors, errors.new_full((len(x), limit - errors.shape[1]), torch.nan)], 1)
    return core, padded.nan_to_num(-1.0), *found


def _with_more_room(hooi: Callable[..., HooiResult], limit: int) -> HooiResult:
    """HOOI with room for the errors of few sweeps, then of more: a limit of a million costs nothing where ten do."""
    room = min(limit, _ROOM)
    while True:
        result = hooi(n_iter_max=room)
        if room == limit or (result.converged | ~result.finite).all():
            return result
        room = min(10 * room, limit)


@untraced
def hosvd(
    x: Array,  # [B, I_1, ..., I_N]
    rank: checks.Rank = None,
    *,
    sign: str = "u",
    precision: Precision = "auto",
    backend: str | None = None,
) -> TuckerResult[Array]:
    """The truncated higher-order SVD: `A_n` holds the leading left singular vectors of the mode-n unfolding.

    It is the start of `tucker` (De Lathauwer, De Moor and Vandewalle, 2000), without sweeps.

    Args:
        x: tensors `[B, I_1, ..., I_N]`, N in 2..5, torch, NumPy or DLPack, any float dtype, any strides; a single
            tensor goes in as `x[None]`.
        rank: one number in `1..I_n` per mode; an int is used for all modes, `None` keeps every mode. The effective
            rank, in `result.rank`, is at most the product of the other effective ranks, as in `tucker`.
        sign: the entry of largest magnitude of each left (`"u"`, as in TensorLy) or right (`"v"`) singular vector is
            positive.
        precision: `"auto"` is the fastest within the accuracy contract; `"float32"`, `"float64"` fix it.
        backend: `None` chooses; `"reference"`, `"cpu"`, ... as listed by `tsm_fast.backends()`.

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
    checks.choice("sign", sign, ("u", "v"))
    checks.precision(precision)
    tensor, restore = as_tensor("x", x)
    checks.tensor("x", tensor)
    effective = checks.rank(rank, tensor.shape[1:], "x")
    how = effective, sign, precision, backend
    core, error, *rest = _hosvd_operator([tensor], *how) if wanted(tensor) else _hosvd(tensor, *how)
    batch = core.shape[0]
    return TuckerResult(
        core=restore(core),
        factors=[restore(factor) for factor in rest[: len(effective)]],
        singular_values=[restore(values) for values in rest[len(effective) :]],
        rank=effective,
        errors=restore(error, exact=False),
        n_sweeps=restore(torch.zeros(batch, dtype=torch.int64, device=core.device), exact=False),
        converged=restore(torch.ones(batch, dtype=torch.bool, device=core.device)),
        modes=tuple(range(len(effective))),
    )


def _hosvd(x: Tensor, rank: Sequence[int], sign: str, precision: Precision, backend: str | None) -> tuple[Tensor, ...]:
    """The core, the errors [B, 1], the factors and the singular values."""
    dtype = result_dtype(x.dtype, precision)
    refuse(x, "hosvd")
    module = _resolved("x", x, backend)
    own: Any = getattr(module, "hosvd", None)  # of the compiled steps on the CPU, without gradients
    if own is not None and not needs_grad(x):
        result = own(x, rank, sign=sign, precision=precision)
        checks.finite("x", result.finite)
        return result.core, result.errors, *result.factors, *result.singular_values
    compute = partial(triplets.hosvd, module, rank, sign, dtype)
    return by_parts(compute, _checked("x", x), 2 * x.shape[1:].numel())


def _like_hosvd(
    x: Tensor, rank: Sequence[int], sign: str, precision: Precision, backend: str | None
) -> tuple[Tensor, ...]:
    dtype, batch = result_dtype(x.dtype, precision), x.shape[0]
    core = x.new_empty(batch, *rank, dtype=dtype)
    factors = [x.new_empty(batch, size, r, dtype=dtype) for size, r in zip(x.shape[1:], rank, strict=True)]
    values = [x.new_empty(batch, r, dtype=dtype) for r in rank]
    return core, x.new_empty(batch, 1, dtype=torch.float64), *factors, *values


@operator("hosvd", "SymInt[] rank, str sign, str precision, str? backend", _like_hosvd)
def _hosvd_operator(x: Tensor, rank: Sequence[int], *options: Any) -> tuple[Tensor, ...]:
    checks.tensor("x", x)
    return _hosvd(x, checks.rank(rank, x.shape[1:]), *options)


@untraced
def truncated_svd(
    m: Array,  # [B, M, N]
    rank: int | None = None,
    *,
    sign: str = "u",
    precision: Precision = "auto",
    backend: str | None = None,
) -> tuple[Array, Array, Array]:
    """The leading singular triplets of each matrix of a batch, from the Gram matrix of its smaller side.

    Args:
        m: matrices `[B, M, N]`, torch, NumPy or DLPack, any float dtype, any strides.
        rank: the number of triplets R in `1..min(M, N)`; `None` for all.
        sign: the entry of largest magnitude of each column of `U` (`"u"`) or row of `Vh` (`"v"`) is positive.
        precision: `"auto"` is the fastest within the accuracy contract; `"float32"`, `"float64"` fix it.
        backend: `None` chooses; `"reference"`, `"cpu"`, ... as listed by `tsm_fast.backends()`.

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
    checks.choice("sign", sign, ("u", "v"))
    checks.precision(precision)
    tensor, restore = as_tensor("m", m)
    checks.matrices("m", tensor)
    r = checks.matrix_rank(rank, *tensor.shape[1:])
    how = r, sign, precision, backend
    u, s, vh = _svd_operator([tensor], *how) if wanted(tensor) else _svd(tensor, *how)
    return restore(u), restore(s), restore(vh)


def _svd(m: Tensor, rank: int, sign: str, precision: Precision, backend: str | None) -> tuple[Tensor, ...]:
    dtype = result_dtype(m.dtype, precision)
    refuse(m, "truncated_svd")
    module = _resolved("m", m, backend)
    own: Any = getattr(module, "singular_triplets", None)  # of the compiled steps on the CPU, without gradients
    if own is not None and not needs_grad(m) and torch.float64 not in (dtype, m.dtype):
        u, s, vh, finite = own(m, rank, sign)
        checks.finite("m", finite)
        return u, s, vh
    compute = partial(triplets.truncated_svd, module, rank, sign, dtype)
    return by_parts(compute, _checked("m", m), 2 * m.shape[1:].numel())


def _like_svd(m: Tensor, rank: int, sign: str, precision: Precision, backend: str | None) -> tuple[Tensor, ...]:
    dtype, (batch, rows, columns) = result_dtype(m.dtype, precision), m.shape
    shapes = (batch, rows, rank), (batch, rank), (batch, rank, columns)
    return tuple(m.new_empty(shape, dtype=dtype) for shape in shapes)


@operator("truncated_svd", "SymInt rank, str sign, str precision, str? backend", _like_svd)
def _svd_operator(m: Tensor, rank: int, *options: Any) -> tuple[Tensor, ...]:
    checks.matrices("m", m)
    return _svd(m, checks.matrix_rank(rank, *m.shape[1:]), *options)


@untraced
def eigh(
    a: Any,  # [B, n, n]
    *,
    precision: Precision = "auto",
    backend: str | None = None,
) -> tuple[Any, Any]:
    """All eigenpairs of every symmetric matrix of a batch, as `torch.linalg.eigh` gives them; for many small matrices.

    For one small matrix at a time `torch.linalg.eigh` is faster: its call checks less.

    Args:
        a: symmetric matrices `[B, n, n]`, torch, NumPy or DLPack, any float dtype, any strides; only the lower triangle
            is read.
        precision, backend: as in `tucker`; the problem is solved in float64. Where the result is float32, the CPU takes
            the first step, to a tridiagonal matrix, and the last one of the vectors in float32: eigenvalues are good to
            3e-6 of the largest then, as PyTorch's.

    Returns:
        The eigenvalues `[B, n]`, ascending, and the eigenvectors `[B, n, n]`, one a column, in which the entry of
        largest magnitude is positive: `a = V diag(L) V^T`. float64 for float64 input or `precision="float64"`, else
        float32.

    Gradients are those of `torch.linalg.eigh` where eigenvalues are distinct, and finite everywhere: at equal ones the
    terms that do not exist count as 0.

    Raises:
        TypeError, ValueError, RuntimeError: as in `tucker`; ValueError also for matrices that are not square.

    >>> import torch, tsm_fast
    >>> m = torch.rand(4, 100, 8)
    >>> values, vectors = tsm_fast.eigh(m.mT @ m)
    >>> values.shape, vectors.shape
    (torch.Size([4, 8]), torch.Size([4, 8, 8]))
    """
    checks.precision(precision)
    tensor, restore = as_tensor("a", a)
    checks.symmetric("a", tensor)
    values, vectors = (
        _eigh_operator([tensor], precision, backend) if wanted(tensor) else _eigh(tensor, precision, backend)
    )
    return restore(values), restore(vectors)


def _eigh(a: Tensor, precision: Precision, backend: str | None) -> tuple[Tensor, ...]:
    module = _resolved("a", a, backend)
    dtype = result_dtype(a.dtype, precision)
    # Of the compiled steps on the CPU: holds nothing beside, and wakes none of PyTorch's threads, which would spin on
    # the cores that the solver takes.
    own: Any = getattr(module, "eigenpairs", None)
    if own is not None and not needs_grad(a):
        values, vectors, finite = own(a, dtype)
        checks.finite("a", finite)
        return values, vectors
    return by_parts(partial(triplets.eigh, module, dtype), _checked("a", a), 32 * a.shape[1:].numel())


def _like_eigh(a: Tensor, precision: Precision, backend: str | None) -> tuple[Tensor, Tensor]:
    dtype = result_dtype(a.dtype, precision)
    return a.new_empty(a.shape[:2], dtype=dtype), a.new_empty(a.shape, dtype=dtype)


@operator("eigh", "str precision, str? backend", _like_eigh)
def _eigh_operator(a: Tensor, *options: Any) -> tuple[Tensor, ...]:
    checks.symmetric("a", a)
    return _eigh(a, *options)


def _resolved(name: str, x: Tensor, backend: str | None) -> Backend:
    module = resolve(backend, x)
    readable(name, x, module.name)
    if module.name == "reference":
        refuse(x, "backend 'reference'", "use backend='cuda' or 'triton', on tensors without gradients")
    return module


def _checked(name: str, x: Tensor) -> Tensor:
    """x itself; ValueError for items with NaN or Inf."""
    checks.finite(name, peaks(x).isfinite())
    return x
