"""The saliency maps as pure functions on feature maps: no labels, no gradients, no model output."""

import os
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from .steps import checks, orders
from .steps.arrays import FLOAT_DTYPES, Array, as_tensor
from .steps.backend import Backend, Precision, map_noise, peak_range
from .steps.capture import is_captured, refuse
from .steps.choice import loaded, needs_grad, resolve
from .steps.gradients import cast
from .steps.memory import is_plain, readable, untraced
from .steps.operators import operator, wanted
from .steps.scaling import peaks, per_item, scaled, unit_exponents

# Of the features' scale, in that of the map.
_POWER = {"eigencam": 1, "tsm": 1, "multivec_eigencam": 2, "mtsm": 2, "mean_activation": 1}
_FAINT = 2**-6  # of the largest entry: at less spread some roundings of float32 are over 1e-5 of it


@untraced
def eigencam(
    features: Array,  # [B, C, *positions]
    *,
    center: bool = True,
    sign: str = "absmax",
    relu: bool = True,
    nan: str = "raise",
    normalize: bool = True,
    size: checks.Size = None,
    precision: Precision = "auto",
    backend: str | None = None,
) -> Array:  # [B, *positions] or [B, *size]
    """Eigen-CAM: the features projected on their first singular vector, negative part cut off.

    Features are `[B, C, *positions]` with one to three position modes: `[B, C, N]` of tokens or sequences,
    `[B, C, H, W]` of pictures, `[B, C, T, H, W]` of video or volumes. With `F` [C, S] the unfolded features of an item
    over its S positions, less the mean of each channel for `center=True`, and `u_1` its
    first left singular vector, the map is `max(F^T u_1, 0)`. pytorch-grad-cam centres; the paper (Muhammad and Yeasin,
    2020) does not. Where the first two singular values are nearly equal, the map is as arbitrary as the vector.

    Args:
        features: feature maps `[B, C, *positions]`, torch, NumPy or DLPack, any float dtype, any strides.
        center: subtract from each channel its mean over positions.
        sign: singular vectors have no sign of their own. `"absmax"` makes the entry of largest magnitude of the map
            positive, so that the object is never the hole (the same as `"v"`, the right singular vector); `"u"` the
            entry of largest magnitude of `u_1`; `"sum"` the total response of the (uncentred) features to `u_1`.
        relu: cut off the negative part; False for the signed projection `F^T u_1` (pytorch-grad-cam's
            `get_2d_projection`, captum's attributions), best taken with `normalize=False`.
        nan: what to do with items that hold NaN or Inf: `"raise"` a ValueError that names them, `"zero"` counts those
            values as 0, `"propagate"` gives a map of NaN for that item and leaves the others untouched.
        normalize: `(m - min) / (max - min)` per item, into [0, 1]; a constant map becomes zeros. After resizing.
        size: to resize the maps to, one number per position mode: `(h, w)` for pictures; linear in each
            (`align_corners=False`).
        precision: `"auto"` is the fastest within the accuracy contract; `"float32"`, `"float64"` fix it.
        backend: `None` chooses; `"reference"`, `"cpu"`, ... as listed by `tsm_fast.backends()`.

    Returns:
        Maps `[B, *positions]` or `[B, *size]`, float32 (float64 for `precision="float64"`), the same kind
        of array on the same device as the features.

    Gradients are finite: at equal singular values and at zeros the terms that do not exist count as 0.

    Raises:
        TypeError: features are no float array, or one without memory or values (fake, meta, a DTensor), or an option
            has the wrong type.
        ValueError: features are not `[B, C, *positions]`, hold NaN or Inf (`nan="raise"`), or an option is unknown.
        RuntimeError: the named backend cannot run, the memory of the features was freed, or `torch.jit.trace` traces
            the call.

    >>> import torch, tsm_fast
    >>> features = torch.rand(8, 64, 7, 7, generator=torch.Generator().manual_seed(0))
    >>> tsm_fast.eigencam(features, size=(224, 224)).shape
    torch.Size([8, 224, 224])
    """
    checks.choice("sign", sign, ("absmax", "sum", "u", "v"))
    how = relu, nan, normalize, size, precision, backend
    return _saliency(features, "eigencam", how, center=center, sign=sign)


@untraced
def tsm(
    features: Array,  # [B, C, *positions]
    rank: checks.Rank = None,
    *,
    relu: bool = True,
    nan: str = "raise",
    normalize: bool = True,
    size: checks.Size = None,
    precision: Precision = "auto",
    backend: str | None = None,
) -> Array:  # [B, *positions] or [B, *size]
    """Tensor saliency map: the features projected on the first channel factor of their Tucker decomposition.

    The map is `abs(X x_1 a_1^T)`, `a_1` the first column of the channel factor `A_1` that HOOI finds at `rank`. At full
    rank (`rank=None`) `a_1` is the first left singular vector of the uncentred unfolding, and the map the absolute
    value of `eigencam(center=False)`: against the usual Eigen-CAM the centring, the absolute value and the fixed sign
    differ. A `rank` truncates every mode.

    Args:
        features: feature maps `[B, C, *positions]`, torch, NumPy or DLPack, any float dtype, any strides.
        rank: `None` (full), or one number for the channels and one per position mode: `(r_1, r_2, r_3)` for
            pictures; an int is used for all.
        relu: take the absolute value; False for the signed response, its entry of largest magnitude positive.
        nan: what to do with items that hold NaN or Inf: `"raise"` a ValueError that names them, `"zero"` counts those
            values as 0, `"propagate"` gives a map of NaN for that item and leaves the others untouched.
        normalize: `(m - min) / (max - min)` per item, into [0, 1]; a constant map becomes zeros. After resizing.
        size: to resize the maps to, one number per position mode: `(h, w)` for pictures; linear in each
            (`align_corners=False`).
        precision: `"auto"` is the fastest within the accuracy contract; `"float32"`, `"float64"` fix it.
        backend: `None` chooses; `"reference"`, `"cpu"`, ... as listed by `tsm_fast.backends()`.

    Returns:
        Maps `[B, *positions]` or `[B, *size]`, float32 (float64 for `precision="float64"`), the same kind
        of array on the same device as the features.

    Gradients are finite: at equal singular values and at zeros the terms that do not exist count as 0.

    Raises:
        TypeError: features are no float array, or one without memory or values (fake, meta, a DTensor), or an option
            has the wrong type.
        ValueError: features are not `[B, C, *positions]`, hold NaN or Inf (`nan="raise"`), or an option is unknown or a
            rank out of range.
        RuntimeError: the named backend cannot run, the memory of the features was freed, or the call is traced.

    >>> import torch, tsm_fast
    >>> features = torch.rand(8, 64, 7, 7, generator=torch.Generator().manual_seed(0))
    >>> tsm_fast.tsm(features, rank=(8, 4, 4)).shape
    torch.Size([8, 7, 7])
    """
    how = relu, nan, normalize, size, precision, backend
    return _saliency(features, "tsm", how, rank=rank, sign="absmax")


@untraced
def multivec_eigencam(
    features: Array,  # [B, C, *positions]
    *,
    center: bool = True,
    combine: str = "signed",
    sign: str = "u",
    relu: bool = True,
    nan: str = "raise",
    normalize: bool = True,
    size: checks.Size = None,
    precision: Precision = "auto",
    backend: str | None = None,
) -> Array:  # [B, *positions] or [B, *size]
    """Eigen-CAM over all singular vectors, each weighted by its singular value.

    With `F`, `u_i`, `sigma_i` the (centred) unfolding and its singular vectors and values, the map is
    `abs(sum_i sigma_i F^T u_i)`, or `sum_i sigma_i abs(F^T u_i)` for `combine="absolute"`.

    Args:
        features: feature maps `[B, C, *positions]`, torch, NumPy or DLPack, any float dtype, any strides.
        center: subtract from each channel its mean over positions.
        combine: `"signed"` sums first and takes the absolute value last, as published; it depends on the signs of
            the vectors. `"absolute"` does not, and costs less.
        sign: for `"signed"`: the entry of largest magnitude of every `u_i` (`"u"`) or of every `F^T u_i` (`"v"`) is
            positive.
        relu: take the absolute value of the sum; False for the sum itself (that of `"absolute"` is never negative).
        nan: what to do with items that hold NaN or Inf: `"raise"` a ValueError that names them, `"zero"` counts those
            values as 0, `"propagate"` gives a map of NaN for that item and leaves the others untouched.
        normalize: `(m - min) / (max - min)` per item, into [0, 1]; a constant map becomes zeros. After resizing.
        size: to resize the maps to, one number per position mode: `(h, w)` for pictures; linear in each
            (`align_corners=False`).
        precision: `"auto"` is the fastest within the accuracy contract; `"float32"`, `"float64"` fix it.
        backend: `None` chooses; `"reference"`, `"cpu"`, ... as listed by `tsm_fast.backends()`.

    Returns:
        Maps `[B, *positions]` or `[B, *size]`, float32 (float64 for `precision="float64"`), the same kind
        of array on the same device as the features.

    Gradients are finite: at equal singular values and at zeros the terms that do not exist count as 0.

    Raises:
        TypeError: features are no float array, or one without memory or values (fake, meta, a DTensor), or an option
            has the wrong type.
        ValueError: features are not `[B, C, *positions]`, hold NaN or Inf (`nan="raise"`), or an option is unknown.
        RuntimeError: the named backend cannot run, the memory of the features was freed, or the call is traced.

    >>> import torch, tsm_fast
    >>> features = torch.rand(8, 64, 7, 7, generator=torch.Generator().manual_seed(0))
    >>> tsm_fast.multivec_eigencam(features, combine="absolute").shape
    torch.Size([8, 7, 7])
    """
    checks.choice("combine", combine, ("signed", "absolute"))
    checks.choice("sign", sign, ("u", "v"))
    how = relu, nan, normalize, size, precision, backend
    return _saliency(features, "multivec_eigencam", how, center=center, combine=combine, sign=sign)


@untraced
def mtsm(
    features: Array,  # [B, C, *positions]
    rank: checks.Rank = None,
    *,
    combine: str = "signed",
    sign: str = "u",
    relu: bool = True,
    nan: str = "raise",
    normalize: bool = True,
    size: checks.Size = None,
    precision: Precision = "auto",
    backend: str | None = None,
) -> Array:  # [B, *positions] or [B, *size]
    """Multivector tensor saliency map: all columns of the channel factor, weighted by the mode-1 singular values.

    The map is `abs(sum_i sigma_i (X x_1 a_i^T))` over the columns `a_i` of the channel factor that HOOI finds at
    `rank`, or `sum_i sigma_i abs(X x_1 a_i^T)` for `combine="absolute"`; at full rank (`rank=None`) these are the
    left singular vectors and the singular values of the uncentred unfolding.

    Args:
        features: feature maps `[B, C, *positions]`, torch, NumPy or DLPack, any float dtype, any strides.
        rank: `None` (full), or one number for the channels and one per position mode: `(r_1, r_2, r_3)` for
            pictures; an int is used for all.
        combine: `"signed"` sums first and takes the absolute value last, as published; it depends on the signs of
            the vectors. `"absolute"` does not, and costs less.
        sign: for `"signed"`: the entry of largest magnitude of every `a_i` (`"u"`) or of every `X x_1 a_i^T` (`"v"`)
            is positive.
        relu: take the absolute value of the sum; False for the sum itself (that of `"absolute"` is never negative).
        nan: what to do with items that hold NaN or Inf: `"raise"` a ValueError that names them, `"zero"` counts those
            values as 0, `"propagate"` gives a map of NaN for that item and leaves the others untouched.
        normalize: `(m - min) / (max - min)` per item, into [0, 1]; a constant map becomes zeros. After resizing.
        size: to resize the maps to, one number per position mode: `(h, w)` for pictures; linear in each
            (`align_corners=False`).
        precision: `"auto"` is the fastest within the accuracy contract; `"float32"`, `"float64"` fix it.
        backend: `None` chooses; `"reference"`, `"cpu"`, ... as listed by `tsm_fast.backends()`.

    Returns:
        Maps `[B, *positions]` or `[B, *size]`, float32 (float64 for `precision="float64"`), the same kind
        of array on the same device as the features.

    Gradients are finite: at equal singular values and at zeros the terms that do not exist count as 0.

    Raises:
        TypeError: features are no float array, or one without memory or values (fake, meta, a DTensor), or an option
            has the wrong type.
        ValueError: features are not `[B, C, *positions]`, hold NaN or Inf (`nan="raise"`), or an option is unknown or a
            rank out of range.
        RuntimeError: the named backend cannot run, the memory of the features was freed, or the call is traced.

    >>> import torch, tsm_fast
    >>> features = torch.rand(8, 64, 7, 7, generator=torch.Generator().manual_seed(0))
    >>> maps = tsm_fast.mtsm(features, rank=(8, 4, 4), size=(14, 14))
    >>> maps.shape, float(maps.min()), float(maps.max())
    (torch.Size([8, 14, 14]), 0.0, 1.0)
    """
    checks.choice("combine", combine, ("signed", "absolute"))
    checks.choice("sign", sign, ("u", "v"))
    how = relu, nan, normalize, size, precision, backend
    return _saliency(features, "mtsm", how, rank=rank, combine=combine, sign=sign)


@untraced
def mean_activation(
    features: Array,  # [B, C, *positions]
    *,
    nan: str = "raise",
    normalize: bool = True,
    size: checks.Size = None,
    precision: Precision = "auto",
    backend: str | None = None,
) -> Array:  # [B, *positions] or [B, *size]
    """The mean of the channels (LaFAM, arXiv 2407.06059): the baseline of the others, without any decomposition.

    After a ReLU it is often close to `tsm` at full rank.

    Args:
        features: feature maps `[B, C, *positions]`, torch, NumPy or DLPack, any float dtype, any strides.
        nan: what to do with items that hold NaN or Inf: `"raise"` a ValueError that names them, `"zero"` counts those
            values as 0, `"propagate"` gives a map of NaN for that item and leaves the others untouched.
        normalize: `(m - min) / (max - min)` per item, into [0, 1]; a constant map becomes zeros. After resizing.
        size: to resize the maps to, one number per position mode: `(h, w)` for pictures; linear in each
            (`align_corners=False`).
        precision: `"auto"` is the fastest within the accuracy contract; `"float32"`, `"float64"` fix it. Sums are in
            float64; but for `"float64"`, of 32 channels at a time, which are added in float32 on the CPU: of channels
            that cancel each other its rounding stays.
        backend: `None` chooses; `"reference"`, `"cpu"`, ... as listed by `tsm_fast.backends()`.

    Returns:
        Maps `[B, *positions]` or `[B, *size]`, float32 (float64 for `precision="float64"`), the same kind
        of array on the same device as the features.

    Raises:
        TypeError: features are no float array, or one without memory or values (fake, meta, a DTensor), or an option
            has the wrong type.
        ValueError: features are not `[B, C, *positions]`, hold NaN or Inf (`nan="raise"`), or an option is unknown.
        RuntimeError: the named backend cannot run, the memory of the features was freed, or the call is traced.

    >>> import torch, tsm_fast
    >>> features = torch.rand(8, 64, 7, 7, generator=torch.Generator().manual_seed(0))
    >>> tsm_fast.mean_activation(features).shape
    torch.Size([8, 7, 7])
    """
    return _saliency(features, "mean_activation", (False, nan, normalize, size, precision, backend))


_Finished = Callable[[Tensor], tuple[Tensor, Tensor | None]]
# relu, nan, normalize, size, precision, backend: the options that every map has
_How = tuple[bool, str, bool, checks.Size, Precision, str | None]


def _saliency(
    features: Any,
    method: str,
    how: _How,
    *,
    rank: checks.Rank = None,
    center: bool = False,
    combine: str = "signed",
    sign: str = "u",
) -> Any:
    relu, nan, normalize, size, precision, backend = how
    had = None
    if rank is None and size is None and is_plain(features) and not is_captured(features):
        what = method, relu, nan, normalize, precision, backend, center, combine, sign
        where = os.environ.get("TSM_FAST_BACKEND"), loaded("cpu")
        try:
            usual = _usual(features.shape, features.dtype, *what, *where)
        except TypeError:  # of an option, as below
            usual = None
        if usual is not None:
            had = usual(features)
            if had[1] is None:
                return had[0]
    _check(nan, precision, center, relu, normalize)
    x, restore = as_tensor("features", features)
    checks.features(x)
    size = checks.sizes(size, x.ndim - 2)
    effective = None if rank is None else checks.rank(rank, x.shape[1:])
    what = method, effective, center, combine, sign, relu, nan, normalize, size, precision, backend
    (maps,) = _maps_operator([x], *what) if wanted(x) else _maps(x, *what, had)
    return restore(maps)


def _check(nan: Any, precision: Any, center: Any, relu: Any, normalize: Any) -> None:
    checks.choice("nan", nan, ("raise", "zero", "propagate"))
    checks.precision(precision)
    checks.flag("center", center)
    checks.flag("relu", relu)
    checks.flag("normalize", normalize)


@lru_cache(maxsize=256, typed=True)
def _usual(
    shape: torch.Size,
    dtype: torch.dtype,
    method: str,
    relu: bool,
    nan: str,
    normalize: bool,
    precision: Precision,
    backend: str | None,
    center: bool,
    combine: str,
    sign: str,
    environment: str | None,
    cpu: Any,  # the module, where it is loaded
) -> _Finished | None:
    """Maps of pictures [B, C, H, W] as the compiled steps of the CPU finish them, where these are what a call takes,
    and nothing is wrong with it: what is the same for every call like it is looked at once.
    """
    _check(nan, precision, center, relu, normalize)
    if len(shape) != 4 or 0 in shape or dtype not in FLOAT_DTYPES or (backend or environment or "cpu") != "cpu":
        return None
    if cpu is None or resolve(backend, torch.empty(0, device="cpu")) is not cpu:
        return None
    how = method, None, center, combine, sign, relu, precision, None, normalize
    return partial(cpu.finished, cpu.finishing(shape[1:], dtype, *how, _faint(normalize, precision)))


def _faint(normalize: bool, precision: Precision) -> float:
    return _FAINT if normalize and precision == "auto" else 0


def _maps(
    x: Tensor,
    method: str,
    rank: Sequence[int] | None,
    center: bool,
    combine: str,
    sign: str,
    relu: bool,
    nan: str,
    normalize: bool,
    size: Sequence[int] | None,
    precision: Precision,
    backend: str | None,
    had: Any = None,  # raw maps and finite items, of the compiled steps of the CPU
) -> tuple[Tensor]:
    positions = x.shape[2:]
    planar = len(positions) == 2
    module = resolve(backend, x)
    readable("features", x, module.name, looks=nan != "propagate" or normalize or bool(size or rank))
    gpu = module.name in ("cuda", "triton")
    if not gpu:
        refuse(x, f"backend {module.name!r}", "use backend='cuda' or 'triton', on features without gradients")
    elif nan == "zero" and is_captured(x):
        x = _zeroed(x)
    if not planar and rank is None:
        x = x.flatten(2)[..., None]  # one matrix, whatever its columns stand for
    faint = _faint(normalize, precision)
    own: Any = getattr(module, "finished_maps", None)  # all of it in one call of the compiled steps on the CPU
    if had is None and own is not None and (planar or (rank is None and size is None)):
        had = own(x, method, rank, center, combine, sign, relu, precision, size, normalize, faint)
        if had[1] is None:
            return (had[0] if planar else had[0].view(len(x), *positions),)
    step: Any = module.saliency
    if method == "mean_activation" and module.name != "cpu":  # its compiled steps have means too
        step = _mean
    elif not planar and rank is not None:
        step = partial(orders.saliency, module)
    what = {"method": method, "rank": rank, "center": center, "combine": combine, "sign": sign, "relu": relu}
    raw = partial(step, **what, precision=precision)
    if gpu:
        maps, finite = _at_once(module, raw, positions, x, size=size, normalize=normalize, faint=faint)
        if finite is None:
            return (maps.view(len(maps), *(size or positions)),)
    else:
        maps, finite = raw(x) if had is None else had
    if nan == "raise":
        checks.finite("features", finite, "; nan='zero' counts them as 0, nan='propagate' makes those maps NaN")
    elif nan == "zero" and not finite.all():
        bad = (~finite).nonzero().flatten()
        maps = maps.index_copy(0, bad, raw(_zeroed(x[bad]))[0])
    if not normalize and size is None:
        return (maps.reshape(len(maps), *positions),)
    exponent = None
    quick: Any = getattr(module, "are_ordinary", None)  # the compiled steps on the CPU tell it in one pass
    if quick is None or not quick(maps, faint):
        maps, exponent = _in_range(maps, x, raw, method, center)
        if faint:
            maps = _contrasted(maps, x, exponent, raw)
    maps = orders.finish(module, maps, positions, size, normalize=normalize)
    if exponent is not None and not normalize:
        maps = cast(scaled(cast(maps, torch.float64), exponent, _POWER[method]), maps.dtype)
    return (maps,)


def _at_once(
    module: Backend,
    raw: Callable[[Tensor], tuple[Tensor, Tensor]],
    positions: Sequence[int],
    x: Tensor,
    *,
    size: Sequence[int] | None,
    normalize: bool,
    faint: float,
) -> tuple[Tensor, Tensor | None]:
    """As `steps.cpu.finished_maps`: the host waits for a GPU once, for all that it has to know of the maps. Where it
    cannot, while a CUDA graph is captured, maps are NaN that it would raise about or have computed again.
    """
    maps, finite = raw(x)
    if not len(x):
        return maps, finite
    ordinary, out = finite, maps
    if normalize or size:
        peak, spread = _extremes(maps)
        ordinary = finite & ~(_are_lost(maps, peak) | _are_faint(maps, peak, spread, faint))
        out = orders.finish(module, maps, positions, size, normalize=normalize)
    if is_captured(x):
        ordinary = ordinary | (finite & ~x.any(tuple(range(1, x.ndim))))  # items of zeros have maps of zeros
        return torch.where(per_item(ordinary, out), out, torch.nan), None
    return (out, None) if bool(ordinary.all()) else (maps, finite)


def _mean(x: Tensor, *, precision: Precision, **_: Any) -> tuple[Tensor, Tensor]:
    """The mean over channels [B, H, W] and the finite items [B], in place of `Backend.saliency`."""
    finite = peaks(x).isfinite()
    maps = (cast(x, torch.float64) if needs_grad(x) else x).mean(1, dtype=torch.float64)
    maps = torch.where(per_item(finite, maps), maps, torch.nan)
    return cast(maps, torch.float64 if precision == "float64" else torch.float32), finite


def _zeroed(x: Tensor) -> Tensor:
    return torch.where(x.isfinite(), x, 0)


def _in_range(
    maps: Tensor, x: Tensor, raw: Callable[..., tuple[Tensor, Tensor]], method: str, center: bool
) -> tuple[Tensor, Tensor | None]:
    """The maps, with those that overflow or lose digits to underflow in their dtype computed again from the item
    times a power of two, which normalising undoes; and the exponents [B] of that power, None for no such map.
    """
    lost = _are_lost(maps, peaks(maps)).nonzero().flatten()
    if not len(lost):
        return maps, None
    items = _zeroed(cast(x[lost], torch.promote_types(x.dtype, torch.float32)))
    exponent = unit_exponents(items)
    if center and method in ("eigencam", "multivec_eigencam"):
        # What the mean leaves decides, and may be so little that what it takes is no float32 then.
        unit = scaled(items.double(), -exponent)
        left = exponent + unit_exponents(unit - unit[:, :, :1, :1])
        items = cast(items, torch.float64) if (exponent - left).max() > 60 else items
        exponent = torch.maximum(left, exponent - 1000)
    again = raw(scaled(items, -exponent))[0]
    return maps.index_copy(0, lost, again), exponent.new_zeros(len(maps)).index_copy(0, lost, exponent)


def _extremes(maps: Tensor) -> tuple[Tensor, Tensor]:  # [B], [B]
    """The largest magnitude of each, as `peaks`, and what it spreads over."""
    highest, lowest = (bound(maps.detach(), (1, 2)) for bound in (torch.amax, torch.amin))
    return torch.maximum(highest, -lowest), highest - lowest


def _are_lost(maps: Tensor, peak: Tensor) -> Tensor:  # [B]
    """Which overflow, or lose digits to underflow."""
    least, most = peak_range(maps.dtype)
    return (peak < least) | (peak > most)


def _are_faint(maps: Tensor, peak: Tensor, spread: Tensor, share: float) -> Tensor:  # [B]
    """Which spread by less than a share of their largest magnitude, and by more than noise."""
    return (spread < share * peak) & (spread > map_noise(maps) * peak)


def _contrasted(maps: Tensor, x: Tensor, exponent: Tensor | None, raw: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
    """The maps, with those that spread so little that their float32 would show computed again in float64, normalised.

    `exponent` is that of `_in_range`.
    """
    faint = _are_faint(maps, *_extremes(maps), _FAINT).nonzero().flatten()
    if not len(faint):
        return maps
    items = cast(_zeroed(x[faint]), torch.float64)
    if exponent is not None:
        items = scaled(items, -exponent[faint])
    wide = raw(items, precision="float64")[0]
    noise = per_item(map_noise(wide) * peaks(wide), wide)
    wide = wide - wide.amin((1, 2), keepdim=True)
    spread = wide.amax((1, 2), keepdim=True)
    constant = spread <= noise
    wide = torch.where(constant, 0.0, wide) / torch.where(constant, 1.0, spread)
    return maps.index_copy(0, faint, cast(wide, maps.dtype))


def _like_maps(x: Tensor, *options: Any) -> tuple[Tensor]:
    size, precision, _ = options[-3:]
    dtype = torch.float64 if precision == "float64" else torch.float32
    return (x.new_empty(x.shape[0], *(size or x.shape[2:]), dtype=dtype),)


@operator(
    "saliency",
    "str method, SymInt[]? rank, bool center, str combine, str sign, bool relu, str nan, bool normalize, "
    "SymInt[]? size, str precision, str? backend",
    _like_maps,
)
def _maps_operator(x: Tensor, method: str, rank: Sequence[int] | None, *options: Any) -> tuple[Tensor]:
    """`_maps` of arguments that nobody has checked: those of an exported program may be of other sizes than x."""
    checks.features(x)
    checks.sizes(options[-3], x.ndim - 2)
    return _maps(x, method, None if rank is None else checks.rank(rank, x.shape[1:]), *options)
