"""The compiled CPU backend: the six steps of `steps.backend.Backend` on CPU tensors, by `tsm_fast._cpu`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _cpu
from .backend import N_ITER_MAX, TOL, HooiOptions, HooiResult, Method, Precision, map_noise, peak_range, result_dtype

name = "cpu"

_DTYPES = {getattr(torch, name): code for name, code in _cpu.dtypes.items()}

_CPU = torch.device("cpu")  # said to every new tensor, whatever torch takes for the default
_LARGE = 4 * 2**20  # bytes; from here on NumPy asks for large pages too

_Array = tuple[int, int, tuple[int, ...], tuple[int, ...]]


def simd_level() -> str:
    """The SIMD level in use: the best this machine supports, or the one TSM_FAST_SIMD named at import."""
    return _cpu.simd_level()


def simd_levels() -> list[str]:
    """The SIMD levels this machine supports, the best last."""
    return _cpu.simd_levels()


def mode_gram(
    x: Tensor,  # [B, I_1, ..., I_N]
    mode: int,
    *,
    center: bool = False,
    precision: Precision = "auto",
) -> Tensor:
    """The Gram matrix of the mode-n unfolding, [B, I_n, I_n]; float32 sums are kept in float64 between panels."""
    dtype = result_dtype(x.dtype, precision)
    wide = dtype == torch.float64
    shape = len(x), x.shape[mode + 1], x.shape[mode + 1]
    if not x.numel():
        return torch.zeros(shape, dtype=dtype, device=_CPU)
    # Not zeros(): PyTorch's threads would spin for a while after it, on the cores that ours are about to use.
    gram = _empty(*shape, dtype=dtype)
    out, threads = gram.data_ptr(), torch.get_num_threads()
    _cpu.mode_gram(_array(x), mode, center=center, wide=wide, out=out, wide_out=wide, threads=threads)
    return gram


def truncated_svd(
    gram: Tensor,  # [B, n, n]
    rank: int,
    *,
    precision: Precision = "auto",
) -> tuple[Tensor, Tensor]:
    """The leading singular values [B, R] and vectors [B, n, R] of a matrix, from its Gram matrix."""
    return _eigenpairs(gram, rank, result_dtype(gram.dtype, precision), roots=True, wide=precision != "float32")


def eigenpairs(a: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:  # [B, n, n]
    """All eigenvalues [B, n], ascending, and vectors [B, n, n] of symmetric matrices, by their lower triangles, and the
    finite items [B].
    """
    values, vectors = _eigenpairs(a, a.shape[1], dtype, roots=False, wide=True)
    return values, vectors, ~values[:, :1].isnan().any(1)


def _eigenpairs(gram: Tensor, rank: int, dtype: torch.dtype, *, roots: bool, wide: bool) -> tuple[Tensor, Tensor]:
    gram = gram if gram.dtype in (torch.float32, torch.float64) else gram.float()
    values = torch.empty(len(gram), rank, dtype=dtype, device=_CPU)
    vectors = _empty(len(gram), gram.shape[1], rank, dtype=dtype)
    if gram.numel():
        _cpu.truncated_svd(
            _array(gram),
            rank,
            roots=roots,
            wide=wide,
            values=values.data_ptr(),
            vectors=vectors.data_ptr(),
            wide_out=dtype == torch.float64,
            threads=torch.get_num_threads(),
        )
    return values, vectors


def core_contraction(
    x: Tensor,  # [B, I_1, ..., I_N]
    factors: Sequence[Tensor],  # [B, I_n, R_n] for each n in `modes`
    modes: Sequence[int],
    *,
    precision: Precision = "auto",
) -> Tensor:
    """`X x_n A_n^T` over the given modes."""
    dtype = result_dtype(x.dtype, precision)
    shape = list(x.shape[1:])
    arrays: list[_Array | None] = [None] * len(shape)
    for factor, mode in zip(factors, modes, strict=True):
        arrays[mode] = _array(factor)
        shape[mode] = factor.shape[2]
    if not x.numel():
        return torch.zeros(len(x), *shape, dtype=dtype, device=_CPU)
    out = _empty(len(x), *shape, dtype=dtype)
    if out.numel():
        wide, threads = dtype == torch.float64, torch.get_num_threads()
        _cpu.core_contraction(_array(x), arrays, out=out.data_ptr(), wide=wide, threads=threads)
    return out


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
    return _decomposed(x, rank, n_iter_max, tol, sign, precision, options or HooiOptions(range(x.ndim - 1)))


def hosvd(x: Tensor, rank: Sequence[int], *, sign: str, precision: Precision = "auto") -> HooiResult:
    """What `hooi` starts from, at a feasible rank: `errors` [B, 1] are its own, and `n_sweeps` counts it as a sweep."""
    return _decomposed(x, rank, 0, 0.0, sign, precision, HooiOptions(range(x.ndim - 1)))


def singular_triplets(m: Tensor, rank: int, sign: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # [B, M, N]
    """U [B, M, R], S [B, R], Vh [B, R, N] in float32 and the finite items [B], from Gram matrices in float where the
    last singular value allows, else in float64, and from products with the matrix.
    """
    batch, rows, columns = m.shape
    u, vh = _empty(batch, rows, rank, dtype=torch.float32), _empty(batch, rank, columns, dtype=torch.float32)
    s = torch.empty(batch, rank, device=_CPU, dtype=torch.float32)
    finite = torch.ones(batch, dtype=torch.bool, device=_CPU)
    turned = rows < columns
    if batch:
        left, right = (vh, u) if turned else (u, vh)
        _cpu.singular_triplets(
            _array(m.mT if turned else m),
            rank,
            turned=turned,
            sign_right=(sign == "v") != turned,
            left=left.data_ptr(),
            values=s.data_ptr(),
            right=right.data_ptr(),
            finite=finite.data_ptr(),
            threads=torch.get_num_threads(),
        )
    return u, s, vh, finite


def _decomposed(
    x: Tensor,
    rank: Sequence[int],
    n_iter_max: int,
    tol: float,
    sign: str,
    precision: Precision,
    options: HooiOptions,
) -> HooiResult:
    modes, start, padding = options
    dtype, batch = result_dtype(x.dtype, precision), x.shape[0]
    core = _empty(batch, *rank, dtype=dtype)
    factors = [_empty(batch, x.shape[n + 1], rank[n], dtype=dtype) for n in modes]
    values = [torch.empty(batch, rank[n], dtype=dtype, device=_CPU) for n in modes]
    errors = _empty(batch, n_iter_max or 1, dtype=torch.float64)
    n_sweeps = torch.empty(batch, dtype=torch.int64, device=_CPU)
    converged, finite = (torch.empty(batch, dtype=torch.bool, device=_CPU) for _ in range(2))
    if batch:
        _cpu.hooi(
            _array(x),
            list(rank),
            modes=list(modes),
            start=[_shared(factor) for factor in start or ()],
            padding=(0, 0) if padding is None else _shared(padding),
            n_iter_max=n_iter_max,
            tol=tol,
            sign_v=sign == "v",
            refine=dtype == torch.float64,
            guard=precision == "auto",
            wide=_passes_wide(x.dtype, precision),
            core=core.data_ptr(),
            factors=[factor.data_ptr() for factor in factors],
            singular_values=[value.data_ptr() for value in values],
            errors=errors.data_ptr(),
            n_sweeps=n_sweeps.data_ptr(),
            converged=converged.data_ptr(),
            finite=finite.data_ptr(),
            wide_out=dtype == torch.float64,
            threads=torch.get_num_threads(),
        )
    return HooiResult(core, factors, values, errors, n_sweeps, converged, finite)


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
    """Raw maps [B, H, W] and the finite items [B] (see `reference.saliency`)."""
    dtype = torch.float64 if precision == "float64" else torch.float32
    maps = torch.empty(len(x), *x.shape[2:], dtype=dtype, device=_CPU)
    finite = torch.ones(len(x), dtype=torch.bool, device=_CPU)
    if len(x):
        _cpu.saliency(
            _array(x),
            _cpu.methods[method],
            [] if rank is None else list(rank),
            **_map_options(x.dtype, center, combine, sign, relu, precision),
            maps=maps.data_ptr(),
            finite=finite.data_ptr(),
            threads=torch.get_num_threads(),
        )
    return maps, finite


def finished_maps(
    x: Tensor,  # [B, C, H, W]
    method: Method,
    rank: Sequence[int] | None,
    center: bool,
    combine: str,
    sign: str,
    relu: bool,
    precision: Precision,
    size: Sequence[int] | None,  # (h, w)
    normalize: bool,
    faint: float,
) -> tuple[Tensor, Tensor | None]:
    """`saliency` and `finish` in one call, and None, where all items are finite and, if the maps are resized or
    normalised, `are_ordinary`; else what `saliency` gives.
    """
    run = finishing(
        x.shape[1:],
        x.dtype,
        method,
        None if rank is None else tuple(rank),
        center,
        combine,
        sign,
        relu,
        precision,
        None if size is None else tuple(size),
        normalize,
        faint,
    )
    return finished(run, x)


class Finishing(NamedTuple):
    """What is known of `finished_maps` beside the features."""

    run: _cpu.FinishedMaps
    raw: tuple[int, ...]  # shape of a raw map
    size: tuple[int, ...] | None  # of one that is resized
    dtype: torch.dtype


@lru_cache(maxsize=256)
def finishing(
    shape: tuple[int, int, int],  # (C, H, W)
    features: torch.dtype,
    method: Method,
    rank: tuple[int, ...] | None,
    center: bool,
    combine: str,
    sign: str,
    relu: bool,
    precision: Precision,
    size: tuple[int, ...] | None,
    normalize: bool,
    faint: float,
) -> Finishing:
    _, height, width = shape
    dtype = torch.float64 if precision == "float64" else torch.float32
    rows, columns = size or (height, width)
    run = _cpu.FinishedMaps(
        _cpu.methods[method],
        shape,
        rank or (),
        **_map_options(features, center, combine, sign, relu, precision),
        rows=rows,
        columns=columns,
        normalize=normalize,
        ordinary=(*_limits(dtype, height * width), faint),
    )
    return Finishing(run, (height, width), size, dtype)


def finished(how: Finishing, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """`finished_maps` of features of the shape and dtype that `how` is for."""
    run, raw, size, dtype = how
    batch = x.shape[0]
    maps = torch.empty(batch, *raw, dtype=dtype, device=_CPU)
    out = maps if size is None else _empty(batch, *size, dtype=dtype)
    if not batch:
        return out, None
    finite = run(_array(x), maps.data_ptr(), out.data_ptr(), torch.get_num_threads())
    return (out, None) if finite is None else (maps, torch.tensor(finite, device=_CPU))


@lru_cache(maxsize=256)
def _limits(dtype: torch.dtype, positions: int) -> tuple[float, float, float]:
    """Of ordinary maps: the least and the largest peak, and what is noise beside it."""
    return *peak_range(dtype), map_noise(torch.empty(0, positions, 1, dtype=dtype, device=_CPU))


def finish(
    maps: Tensor,  # [B, H, W]
    size: tuple[int, int] | None,
    *,
    normalize: bool,
) -> Tensor:
    """The maps resized to [B, *size] and normalised (see `reference.finish`), in two passes over what is written."""
    out = _empty(len(maps), *(size or maps.shape[1:]), dtype=maps.dtype)
    if len(maps):
        maps = maps.contiguous()
        _cpu.finish(
            maps.data_ptr(),
            out.data_ptr(),
            batch=len(maps),
            height=maps.shape[1],
            width=maps.shape[2],
            rows=out.shape[1],
            columns=out.shape[2],
            normalize=normalize,
            noise=map_noise(maps),
            wide=maps.dtype == torch.float64,
            threads=torch.get_num_threads(),
        )
    return out


def are_ordinary(maps: Tensor, faint: float) -> bool:  # [B, H, W]
    """Whether of all maps the largest magnitude is in range, and the spread is a share `faint` of it or more, or no
    more than noise; maps of NaN are ordinary too. One pass, for what most batches are.
    """
    maps = maps.contiguous()
    smallest, largest, noise = _limits(maps.dtype, maps.shape[1] * maps.shape[2])
    return _are_ordinary(maps, smallest, largest, faint, noise, nan=True)


def are_in_range(x: Tensor, smallest: float, largest: float) -> bool:  # [B, ...], contiguous
    """Whether the largest magnitude of every item lies between the two; that of one with NaN does not."""
    return _are_ordinary(x, smallest, largest, 0, 0, nan=False)


def _are_ordinary(x: Tensor, smallest: float, largest: float, faint: float, noise: float, *, nan: bool) -> bool:
    return not x.numel() or _cpu.are_ordinary(
        x.data_ptr(),
        batch=len(x),
        size=x.numel() // len(x),
        smallest=smallest,
        largest=largest,
        faint=faint,
        noise=noise,
        nan=nan,
        wide=x.dtype == torch.float64,
        threads=torch.get_num_threads(),
    )


def _passes_wide(dtype: torch.dtype, precision: Precision) -> bool:
    """Whether passes over input of this dtype run in float64; float64 input needs it for its range."""
    return dtype == torch.float64 or precision == "float64"


def _map_options(
    features: torch.dtype, center: bool, combine: str, sign: str, relu: bool, precision: Precision
) -> dict[str, Any]:
    """What the compiled module asks of every map, beside method, rank and where results go."""
    return {
        "center": center,
        "absolute": combine == "absolute",
        "sign": _cpu.signs[sign],
        "relu": relu,
        "n_iter_max": N_ITER_MAX,
        "tol": TOL,
        "refine": precision == "float64",
        "guard": precision == "auto",
        "wide": _passes_wide(features, precision),
        "wide_out": precision == "float64",
    }


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """A result to fill; a large one in large pages where the system has them."""
    out = torch.empty(shape, dtype=dtype, device=_CPU)
    if out.nbytes >= _LARGE:
        _cpu.prefer_large_pages(out.data_ptr(), out.nbytes)
    return out


def _shared(x: Tensor) -> tuple[int, int]:
    return x.data_ptr(), x.stride(0)


def _array(x: Tensor) -> _Array:
    return x.data_ptr(), _DTYPES[x.dtype], tuple(x.shape), x.stride()
