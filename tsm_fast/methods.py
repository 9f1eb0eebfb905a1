"""The map methods by name: ours, and those that other packages add by entry points in the group `tsm_fast.methods`.

The object of such an entry point is a function of features [B, C, *positions], a float32 or float64 tensor without NaN
or Inf, and of options with defaults, that gives maps [B, *positions]. What all maps have (`nan`, `normalize`, `size`,
`precision`, `backend`) is done here. An attribute `title` of the function is its name for people.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from inspect import Parameter, Signature, signature
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .saliency import eigencam, mean_activation, mtsm, multivec_eigencam, tsm
from .steps import checks, orders
from .steps.arrays import as_tensor
from .steps.backend import Precision, result_dtype
from .steps.choice import resolve
from .steps.memory import readable
from .steps.scaling import per_item

GROUP = "tsm_fast.methods"
OPTIONS = ("rank", "center", "combine", "sign")  # of ours, that decide what is computed; the others say how
_HOW = ("nan", "normalize", "size", "precision", "backend")


class MapMethod(NamedTuple):
    """What is known of a map by its name."""

    function: Callable[..., Any]
    title: str
    options: dict[str, Any]  # that decide what is computed, with their defaults
    package: str | None = None  # which adds it, by the name of its distribution


def _method(function: Callable[..., Any], title: str) -> MapMethod:
    has = signature(function).parameters
    return MapMethod(function, title, {name: has[name].default for name in OPTIONS if name in has})


BUILT_IN = {
    "eigencam": _method(eigencam, "EigenCAM"),
    "tsm": _method(tsm, "TSM"),
    "multivec_eigencam": _method(multivec_eigencam, "Multivec-EigenCAM"),
    "mtsm": _method(mtsm, "MTSM"),
    "mean_activation": _method(mean_activation, "Mean activation"),
}


class Methods(Mapping[str, MapMethod]):
    """Ours, and what packages add: that is imported when it is asked for.

    Raises:
        RuntimeError: several add the asked name, or one adds a name of ours; or what it adds cannot be used.
    """

    def __getitem__(self, name: str) -> MapMethod:
        return _loaded(name) if name in _added() else BUILT_IN[name]

    def __contains__(self, name: object) -> bool:
        return name in BUILT_IN or name in _added()

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*BUILT_IN, *_added())))

    def __len__(self) -> int:
        return len(list(iter(self)))


METHODS = Methods()


@cache
def _added() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name, []).append(entry)
    return found


@cache
def _loaded(name: str) -> MapMethod:
    entry, *others = _added()[name]
    if name in BUILT_IN or others:
        raise RuntimeError(f"method {name!r} is of {adds(name)}: one of them has to go, or to name its own otherwise")
    package = _package(entry)
    what = f"method {name!r} of {package}"
    if not re.fullmatch(r"[A-Za-z][\w-]*", name):
        raise RuntimeError(f"{what} must have a name of letters, digits, - and _")
    try:
        function = entry.load()
    except Exception as error:  # packages of others raise anything
        raise RuntimeError(f"{what} cannot be loaded from {entry.value}: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise RuntimeError(f"{what} must be a function, got {type(function).__name__}")
    needed = f"{what} must be a function of features and of options with defaults, none of them {', '.join(_HOW)}"
    try:
        features, *rest = signature(function).parameters.values()
    except ValueError:  # it takes nothing, or does not tell, as functions of C may
        raise RuntimeError(f"{needed}; got {entry.value}") from None
    options = {option.name: option.default for option in rest}
    named = features.kind in (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD)
    if named or Parameter.empty in options.values() or not options.keys().isdisjoint(_HOW):
        raise RuntimeError(f"{needed}; got {signature(function)}")
    title = str(getattr(function, "title", name))
    return MapMethod(_finished(what, function, options), title, options, package)


def adds(name: str) -> str:
    """The packages that have a map of this name."""
    return " and ".join(["tsm_fast"] * (name in BUILT_IN) + list(map(_package, _added().get(name, ()))))


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.value


def _finished(what: str, function: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """The function with the options that all maps have."""

    def maps(
        features: Any,  # [B, C, *positions]
        *,
        nan: str = "raise",
        normalize: bool = True,
        size: checks.Size = None,
        precision: Precision = "auto",
        backend: str | None = None,
        **own: Any,
    ) -> Any:  # [B, *positions] or [B, *size]
        checks.choice("nan", nan, ("raise", "zero", "propagate"))
        checks.precision(precision)
        checks.flag("normalize", normalize)
        x, restore = as_tensor("features", features)
        checks.features(x)
        positions = x.shape[2:]
        size = checks.sizes(size, len(positions))
        module = resolve(backend, x)
        readable("features", x, module.name)
        x = x.to(result_dtype(x.dtype, precision))
        finite = x.flatten(1).isfinite().all(1)
        if nan == "raise":
            checks.finite("features", finite, "; nan='zero' counts them as 0, nan='propagate' makes those maps NaN")
        made = _checked(what, function(torch.where(x.isfinite(), x, 0), **own), x) if len(x) else x[:, 0]
        if nan != "zero":
            made = torch.where(per_item(finite, made), made, torch.nan)
        if normalize or size is not None:
            made = made if len(positions) == 2 else made.flatten(1)[..., None]
            module = resolve(backend, made)  # which may have gradients where x has none, to weights of the method
            made = orders.finish(module, made, positions, size, normalize=normalize)
        return restore(made)

    taken = signature(maps).parameters
    named = [Parameter(name, Parameter.KEYWORD_ONLY, default=default) for name, default in options.items()]
    maps.__signature__ = Signature([taken["features"], *named, *(taken[name] for name in _HOW)])  # pyright: ignore[reportFunctionMemberAccess]
    maps.__doc__ = function.__doc__
    return maps


def _checked(what: str, maps: Any, x: Tensor) -> Tensor:
    expected = (len(x), *x.shape[2:])
    if (
        not isinstance(maps, Tensor)
        or maps.shape != expected
        or not maps.is_floating_point()
        or maps.device != x.device
    ):
        got = type(maps).__name__
        if isinstance(maps, Tensor):
            got = f"{tuple(maps.shape)} {str(maps.dtype).removeprefix('torch.')} on {maps.device}"
        raise RuntimeError(f"{what} must give float maps {expected} on {x.device}, got {got}")
    return maps.to(x.dtype)
