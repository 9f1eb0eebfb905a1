"""The compiled CUDA backend: the six steps of `steps.backend.Backend` on CUDA tensors, by `tsm_fast._cuda`.

Everything is launched on the current stream, and nothing waits for the device except what needs a library, above
n = 256. Sums are in float64, but for those of a few rows where a leading pair is wanted in float32; the eigensolver is
in float64 too, but for `precision="float32"`. Batches are cut so that the workspace stays near `WORKSPACE_BYTES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from .. import _cuda  # pyright: ignore[reportMissingModuleSource]
from .backend import N_ITER_MAX, TOL, HooiOptions, HooiResult, Method, Precision, map_noise, result_dtype
from .capture import refuse_above
from .cusolver import library_eigenpairs
from .scaling import centered, scaled, unfold, unit_exponents, unit_range

name = "cuda"

WORKSPACE_BYTES = 512 * 2**20

_DTYPES = {getattr(torch, name): code for name, code in _cuda.dtypes.items()}

_Array = tuple[int, int, tuple[int, ...], tuple[int, ...]]


def mode_gram(
    x: Tensor,  # [B, I_1, ..., I_N]
    mode: int,
    *,
    center: bool = False,
    precision: Precision = "auto",
) -> Tensor:
    """The Gram matrix of the mode-n unfolding, [B, I_n, I_n]; sums are in float64."""
    dtype = result_dtype(x.dtype, precision)
    size = x.shape[mode + 1]
    if not x.numel():
        return x.new_zeros(len(x), size, size, dtype=dtype)
    if center and mode != x.ndim - 2:
        x, center = centered(x), False
    gram = x.new_empty(len(x), size, size, dtype=torch.float64 if center else dtype)
    with _on(x):
        _mode_gram(x, mode, gram, center)
    return gram.to(dtype)


def truncated_svd(
    gram: Tensor,  # [B, n, n]
    rank: int,
    *,
    precision: Precision = "auto",
) -> tuple[Tensor, Tensor]:
    """The leading singular values [B, R] and vectors [B, n, R] of a matrix, from its Gram matrix."""
    dtype = result_dtype(gram.dtype, precision)
    refuse_above(_cuda.largest, gram.shape[1], gram)
    gram = (gram if gram.dtype in (torch.float32, torch.float64) else gram.float()).contiguous()
    values = gram.new_empty(len(gram), rank, dtype=dtype)
    vectors = gram.new_empty(len(gram), gram.shape[1], rank, dtype=dtype)
    if gram.numel():
        with _on(gram):
            for part in _parts(len(gram), _svd_bytes(gram.shape[1], precision != "float32")):
                _truncated_svd(gram[part], values[part], vectors[part], precision != "float32")
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
    shape = list(x.shape)
    for factor, mode in zip(factors, modes, strict=True):
        shape[mode + 1] = factor.shape[2]
    if not x.numel() or not prod(shape):
        return x.new_zeros(shape, dtype=dtype)
    if not factors:
        return x.to(dtype, copy=True, memory_format=torch.contiguous_format)
    # The products that shrink the tensor most come first.
    order = sorted(range(len(modes)), key=lambda i: factors[i].shape[2] / factors[i].shape[1])
    with _on(x):
        for i in order:
            factor = factors[i].double().contiguous()
            out_shape = list(x.shape)
            out_shape[modes[i] + 1] = factor.shape[2]
            out = x.new_empty(out_shape, dtype=dtype if i == order[-1] else torch.float64)
            wide = out.dtype == torch.float64
            how = {"factor": factor.data_ptr(), "rank": factor.shape[2], "wide": wide, "stream": _stream(x)}
            _cuda.core_contraction(_array(x), modes[i], out=out.data_ptr(), **how)
            x = out
    return x


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
    return _hooi(x, rank, n_iter_max, tol, sign == "v", result_dtype(x.dtype, precision), options)[0]


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
    """Raw maps [B, H, W] and the finite items [B] (see `reference.saliency`).

    Waits for nothing, except above n = 256: for all pairs, and for which items are without proof of their leading pair.
    """
    dtype = torch.float64 if precision == "float64" else torch.float32
    if rank is None:
        refuse_above(_cuda.largest, _smaller_side(x.shape[1], x.shape[2] * x.shape[3])[1], x)
    maps = x.new_empty(len(x), x.shape[2] * x.shape[3], dtype=dtype)
    finite = torch.ones(len(x), dtype=torch.bool, device=x.device)
    if len(x):
        with _on(x):
            _saliency(x, method, rank, center, combine, sign, relu, precision, maps, finite)
    return maps.view(len(x), *x.shape[2:]), finite


def finish(
    maps: Tensor,  # [B, H, W]
    size: tuple[int, int] | None,
    *,
    normalize: bool,
) -> Tensor:
    """The maps resized to [B, *size] and normalised (see `reference.finish`), in one launch; waits for nothing."""
    out = maps.new_empty(len(maps), *(size or maps.shape[1:]))
    if len(maps):
        maps = maps.contiguous()
        with _on(maps):
            _cuda.finish(
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
                stream=_stream(maps),
            )
    return out


def _saliency(
    x: Tensor,
    method: Method,
    rank: Sequence[int] | None,
    center: bool,
    combine: str,
    sign: str,
    relu: bool,
    precision: Precision,
    maps: Tensor,  # [B, S]
    finite: Tensor,  # [B]
) -> None:
    unit, exponent = unit_range(x)
    single = method in ("eigencam", "tsm")
    if rank is not None:
        _at_rank(unit, rank, combine, sign, relu, single, maps, finite)
    else:
        centers = center and method in ("eigencam", "multivec_eigencam")
        uncentered = unit.flatten(2)  # [B, C, S]
        features = uncentered
        if centers and exponent is not None:  # what the mean leaves has its own range
            features = centered(uncentered)
            left = unit_exponents(features)
            features, exponent = scaled(features, -left), exponent + left
        if single:
            _leading_maps(features, centers, precision, maps, finite)
        else:
            how = combine if relu or combine == "absolute" else "uncut"
            _combined_maps(features, centers, how, sign, precision, maps, finite, None)
        if method == "eigencam" or (single and not relu):
            wide = maps.dtype == torch.float64
            how = {"center": centers, "sign": _cuda.signs[sign], "relu": relu, "maps": maps.data_ptr(), "wide": wide}
            _cuda.sign_single(_array(uncentered), **how, stream=_stream(x))
    if method == "tsm" and relu:
        maps.abs_()
    if exponent is not None:
        maps.copy_(scaled(maps.double(), exponent, 1 if single else 2))  # a factor may be no float32


def _leading_maps(x: Tensor, center: bool, precision: Precision, maps: Tensor, finite: Tensor) -> None:
    """sigma_1 v_1 of features [B, C, S], sign free; where the fast way proves no pair, from the full solver."""
    settled = torch.empty(len(x), dtype=torch.bool, device=x.device)
    wide = maps.dtype == torch.float64
    if x.shape[2] <= _cuda.small:
        _cuda.leading_small(
            _array(x),
            center=center,
            maps=maps.data_ptr(),
            wide=wide,
            settled=settled.data_ptr(),
            finite=finite.data_ptr(),
            stream=_stream(x),
        )
    else:
        per_item_bytes = _cuda.leading_workspace(x.shape[1], x.shape[2])
        for part in _parts(len(x), per_item_bytes):
            items = x[part]
            workspace = _workspace(x, len(items) * per_item_bytes)
            _cuda.leading_large(
                _array(items),
                center=center,
                maps=maps[part].data_ptr(),
                wide=wide,
                settled=settled[part].data_ptr(),
                finite=finite[part].data_ptr(),
                workspace=workspace.data_ptr(),
                bytes=workspace.numel(),
                stream=_stream(x),
            )
    if _smaller_side(*x.shape[1:])[1] <= _cuda.largest:
        _combined_maps(x, center, "leading", "v", precision, maps, finite, settled)
        return
    # A library cannot leave items alone: those without proof are gathered.
    left = (~settled).nonzero().flatten()
    for part in _parts(len(left), x[0].numel() * x.element_size()):
        items = left[part]
        found, fine = maps[items], finite[items]
        _combined_maps(x[items], center, "leading", "v", precision, found, fine, None)
        maps[items], finite[items] = found, fine


def _smaller_side(channels: int, positions: int) -> tuple[bool, int]:
    """Whether the Gram matrix that is decomposed is that of the positions, and its side."""
    by_position = positions <= max(channels, _cuda.small)
    return by_position, positions if by_position else channels


def _combined_maps(
    x: Tensor,  # [B, C, S]
    center: bool,
    how: str,  # one of `_cuda.combinations`
    sign: str,
    precision: Precision,
    maps: Tensor,
    finite: Tensor,
    settled: Tensor | None,  # [B], items to leave alone; None above n = 256
) -> None:
    """Maps from the eigenpairs of the smaller Gram matrix, and one pass over the features where signs need it."""
    channels, positions = x.shape[1:]
    by_position, n = _smaller_side(channels, positions)
    columns = 1 if how == "leading" else n
    needs_signs = how in ("signed", "uncut") and by_position == (sign == "u")
    wide = maps.dtype == torch.float64
    copied = 8 * channels * positions if center and not by_position else 0
    for part in _parts(len(x), 8 * n * (n + columns) + _svd_bytes(n, True) + copied):
        items, skip = x[part], 0 if settled is None else settled[part].data_ptr()
        if copied:
            items = centered(items)
        gram = x.new_empty(len(items), n, n, dtype=torch.float64)
        _mode_gram(items, 1 if by_position else 0, gram, center and by_position, skip)
        values, vectors = gram.new_empty(len(items), columns), gram.new_empty(len(items), n, columns)
        _truncated_svd(gram, values, vectors, precision != "float32", skip)
        signs = None
        if needs_signs:
            signs = gram.new_empty(len(items), n)
            _cuda.extremes(
                _array(items),
                transposed=not by_position,
                center=center and by_position,
                vectors=vectors.data_ptr(),
                n=n,
                out=signs.data_ptr(),
                skip=skip,
                stream=_stream(x),
            )
        made = {
            "values": values.data_ptr(),
            "vectors": vectors.data_ptr(),
            "signs": _address(signs),
            "n": columns,
            "how": _cuda.combinations[how],
            "maps": maps[part].data_ptr(),
            "wide": wide,
            "finite": finite[part].data_ptr(),
            "skip": skip,
            "stream": _stream(x),
        }
        if by_position:
            _cuda.combine_positions(batch=len(items), positions=positions, **made)
        else:
            _cuda.combine_channels(_array(items), **made)


def _at_rank(
    x: Tensor, rank: Sequence[int], combine: str, sign: str, relu: bool, single: bool, maps: Tensor, finite: Tensor
) -> None:
    """tsm and mtsm from the responses F^T a_i of the columns of A_1 that HOOI finds."""
    result, responses = _hooi(x, rank, N_ITER_MAX, TOL, False, torch.float64)
    if responses is None:
        responses = core_contraction(x, [result.factors[0]], [0], precision="float64").flatten(2).mT  # [B, S, R]
    finite.copy_(result.finite)
    responses = responses[:, :, :1] if single else responses
    if combine == "absolute" and not single:
        responses = responses.abs()
    elif sign in ("v", "absmax"):
        index = responses.abs().argmax(1, keepdim=True)
        responses = torch.where(responses.gather(1, index) < 0, -responses, responses)
    combined = responses if single else responses @ result.singular_values[0][:, :, None]
    maps.copy_((combined.abs() if relu else combined)[:, :, 0])


def _hooi(
    x: Tensor,
    rank: Sequence[int],
    n_iter_max: int,
    tol: float,
    sign_v: bool,
    dtype: torch.dtype,
    options: HooiOptions | None = None,
) -> tuple[HooiResult, Tensor | None]:
    """HOOI, and X_(1)^T A_1 [B, S, R_1] in float64 where that came up on the way."""
    modes, start, padding = options or HooiOptions(range(x.ndim - 1))
    shape, rank, size = tuple(x.shape[1:]), list(rank), len(x)
    new = x.new_empty
    core = new(size, *rank, dtype=dtype)
    factors = [new(size, shape[n], rank[n], dtype=dtype) for n in modes]
    values = [new(size, rank[n], dtype=dtype) for n in modes]
    errors = new(size, n_iter_max, dtype=torch.float64)
    n_sweeps = new(size, dtype=torch.int64)
    converged, finite = new(size, dtype=torch.bool), new(size, dtype=torch.bool)
    how = {"given": start is not None, "pads": padding is not None}
    big, item_bytes = _cuda.hooi_needs(shape, rank, modes=list(modes), **how)
    others = prod(shape) // shape[big] if big >= 0 else 0
    responses = new(size, others, rank[0], dtype=torch.float64) if big == 0 else None
    result = HooiResult(core, factors, values, errors, n_sweeps, converged, finite)
    if not size:
        return result, responses
    unit, exponent = unit_range(x)
    matrix = unfold(unit, big) if big >= 0 else unit  # [B, I_big, S]
    per_item_bytes = item_bytes + 8 * others * others
    with _on(x):
        for part in _parts(size, per_item_bytes):
            items = unit[part]
            gram = new(len(items), others, others, dtype=torch.float64)
            if others:
                _mode_gram(matrix[part], 1, gram, False)
            workspace = _workspace(x, len(items) * item_bytes)
            _cuda.hooi(
                _array(items),
                rank,
                modes=list(modes),
                start=[_shared(factor[part]) for factor in start or ()],
                padding=(0, 0) if padding is None else _shared(padding[part]),
                n_iter_max=n_iter_max,
                tol=tol,
                sign_v=sign_v,
                gram=gram.data_ptr(),
                core=core[part].data_ptr(),
                factors=[factor[part].data_ptr() for factor in factors],
                singular_values=[value[part].data_ptr() for value in values],
                responses=_address(None if responses is None else responses[part]),
                wide=dtype == torch.float64,
                errors=errors[part].data_ptr(),
                n_sweeps=n_sweeps[part].data_ptr(),
                converged=converged[part].data_ptr(),
                finite=finite[part].data_ptr(),
                workspace=workspace.data_ptr(),
                bytes=workspace.numel(),
                stream=_stream(x),
            )
    if exponent is not None:
        core, *values = (scaled(result.double(), exponent).to(dtype) for result in (core, *values))
        result = result._replace(core=core, singular_values=values)
        responses = None if responses is None else scaled(responses, exponent)
    return result, responses


def _mode_gram(x: Tensor, mode: int, gram: Tensor, center: bool, skip: int = 0) -> None:
    out, wide = gram.data_ptr(), gram.dtype == torch.float64
    _cuda.mode_gram(_array(x), mode, center=center, out=out, wide=wide, skip=skip, stream=_stream(x))


def _truncated_svd(gram: Tensor, values: Tensor, vectors: Tensor, wide: bool, skip: int = 0) -> None:
    n, rank = vectors.shape[1:]
    if n > _cuda.largest:
        assert not skip, "a library leaves no items alone"
        _library_svd(gram, values, vectors, wide)
        return
    workspace = _workspace(gram, _cuda.truncated_svd_workspace(n, len(gram), wide))
    _cuda.truncated_svd(
        gram.data_ptr(),
        wide_gram=gram.dtype == torch.float64,
        batch=len(gram),
        n=n,
        rank=rank,
        wide=wide,
        values=values.data_ptr(),
        vectors=vectors.data_ptr(),
        wide_out=values.dtype == torch.float64,
        skip=skip,
        workspace=workspace.data_ptr(),
        bytes=workspace.numel(),
        stream=_stream(gram),
    )


def _library_svd(gram: Tensor, values: Tensor, vectors: Tensor, wide: bool) -> None:
    found, basis = library_eigenpairs(gram, values.shape[1], torch.float64 if wide else torch.float32)
    values.copy_(found.clamp(min=0).sqrt())
    vectors.copy_(basis)


def _svd_bytes(n: int, wide: bool) -> int:
    return _cuda.truncated_svd_workspace(n, 1, wide) if n <= _cuda.largest else 32 * n * n


def _parts(batch: int, bytes_per_item: int) -> Iterator[slice]:
    """The batch in parts whose workspace is near WORKSPACE_BYTES."""
    size = max(1, WORKSPACE_BYTES // max(1, bytes_per_item))
    return (slice(start, start + size) for start in range(0, batch, size))


def _workspace(x: Tensor, size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, device=x.device)


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _array(x: Tensor) -> _Array:
    return x.data_ptr(), _DTYPES[x.dtype], tuple(x.shape), x.stride()


def _shared(x: Tensor) -> tuple[int, int]:
    return x.data_ptr(), x.stride(0)


def _stream(x: Tensor) -> int:
    return torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0


def _on(x: Tensor) -> torch.cuda.device:
    """Launches go to the device of x, whatever the current one is."""
    return torch.cuda.device(x.device if x.is_cuda else -1)
