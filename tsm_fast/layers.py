"""Which layers of a model to read: by name, glob or module, or chosen from one forward pass."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .reshape import Convolution, Layout, decodes, found_in, is_map, keeps_aspect, layout

MIN_CHANNELS = 32

Layers = str | nn.Module | Iterable["str | nn.Module"]
Shape = tuple[int, ...] | None  # of a module's input or output; None where that is no tensor


class LayerChoice(NamedTuple):
    """The layer that `choose_layer` took, and why."""

    name: str
    reason: str


class SpatialLayer(NamedTuple):
    """A layer that gives feature maps [B, C, H, W], as far as its first run shows."""

    name: str
    kind: str  # of the module
    shape: tuple[int, int, int]  # C, H, W
    layout: str = ""  # in which it gives them, where that is another one


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by its dotted name, the model itself as ""; `_orig_mod` of torch.compile is left out of names."""
    table: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        table.setdefault(".".join(part for part in name.split(".") if part != "_orig_mod"), module)
    return table


def find_layers(model: nn.Module, layers: Layers) -> dict[str, nn.Module]:
    """The wanted modules by name, in the order asked for; ValueError or TypeError for what is not there."""
    table = named_layers(model)
    wanted = [layers] if isinstance(layers, str | nn.Module) else list(layers)
    if not wanted:
        raise ValueError("layers must name at least one layer, got none")
    return {name: table[name] for layer in wanted for name in _names(model, table, layer)}


def around(table: Mapping[str, nn.Module], name: str) -> list[nn.Module]:
    """The modules of `named_layers` that a layer lies in, the model first, and itself."""
    parts = name.split(".")
    return [table[""], *(table[".".join(parts[:n])] for n in range(1, len(parts) + 1))]


def is_glob(layer: Any) -> bool:
    """Whether a layer is given as a pattern, which may stand for several layers."""
    return isinstance(layer, str) and any(sign in layer for sign in "*?[")


def _names(model: nn.Module, table: Mapping[str, nn.Module], layer: Any) -> list[str]:
    if isinstance(layer, nn.Module):
        names = [name for name, module in table.items() if module is layer][:1]
        if not names:
            raise ValueError(f"layer {type(layer).__name__} is not a module of {type(model).__name__}")
        return names
    if not isinstance(layer, str):
        raise TypeError(f"a layer must be a dotted name, a glob or a module, got {type(layer).__name__}")
    if layer in table and layer:
        return [layer]
    names = [name for name in table if name and _matches(name, layer)] if is_glob(layer) else []
    if not names:
        raise ValueError(
            f"layer {layer!r} does not exist in {type(model).__name__}{_offer(layer, [name for name in table if name])}"
        )
    return names


def _matches(name: str, pattern: str) -> bool:
    """A glob part by part, so that `layer*` is layer1 to layer4 and not what lies inside them."""
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _offer(layer: str, names: list[str]) -> str:
    """Close names: near misses of the whole name, then names that end in what was asked for, then the top level."""
    last = layer.rsplit(".", 1)[-1]
    near = difflib.get_close_matches(layer, names, n=5, cutoff=0.6)
    same_end = [name for name in names if last and name.endswith("." + last)][:5]
    top = [name for name in names if "." not in name]
    close = list(dict.fromkeys(near + same_end))[:5]
    if close:
        return f"; close names: {', '.join(map(repr, close))}"
    return f"; its modules: {', '.join(map(repr, top[:10]))}{', ...' if len(top) > 10 else ''}" if top else ""


class _Run(NamedTuple):
    """One finished execution of a module."""

    name: str
    module: nn.Module
    inside: tuple[str, ...]  # the modules that were running around it, the model itself left out
    given: Shape
    made: Shape


def choose_layer(model: nn.Module, forward: Callable[[], Any], *, declared: bool = False) -> LayerChoice:
    """The last module before global pooling with [B, C, H, W] input and output, from one whole forward pass.

    A candidate has C >= 32 and H, W > 1 at its output, keeps the batch and the aspect of the image, runs once, and is
    no pooling.
    A container finishes after its parts, so it comes before its last convolution. Global pooling is the last module
    that turns [B, C, H, W] into [B, C] or [B, C, 1, 1], unless it works inside a module that gives maps again
    (squeeze-and-excitation). Where a network goes on with tokens or [B, H, W, C], it is the last module with these at
    both ends, in networks of timm, torchvision and transformers, or where they are `declared`; others are refused.
    """
    runs = _record(model, forward)
    convolutions = _convolutions(runs)
    image = convolutions[0].given if convolutions else None
    kind = type(model).__name__
    whole = next((run.given for run in runs if run.name in _outermost_of_convolution(runs)), None)
    if whole is not None and image is not None and len(whole) == 4 and whole[0] != image[0]:
        raise ValueError(
            f"no layer of {kind} can be chosen: it takes {_text(whole)} apart to {_text(image)} before its first "
            "convolution; name a layer with layers=, and declare its layout with reshape_transform="
        )
    spatial = {run.name for run in runs if is_map(run.made, image)}
    pooling = [i for i, run in enumerate(runs) if _pools(run, image) and spatial.isdisjoint(run.inside)]
    before = runs[: pooling[-1]] if pooling else runs
    times = Counter(run.name for run in runs)
    candidates = [i for i, run in enumerate(before) if times[run.name] == 1 and _is_candidate(run, image)]
    last = candidates[-1] if candidates else -1
    other = next((run for run in runs[last + 1 :] if _other_layout(run, image)), None)
    if other is not None or not candidates:
        reshaped = _last_reshaped(model, runs, last + 1, convolutions, declared)
        if reshaped is not None:
            return reshaped
    if not candidates:
        raise ValueError(
            f"no layer of {kind} can be chosen: none has [B, C, H, W] input and output with C >= {MIN_CHANNELS} and "
            "H, W > 1; name one with layers=, and declare another layout with reshape_transform="
        )
    chosen = runs[last]
    if other is not None:
        raise ValueError(
            f"no layer of {kind} can be chosen: after {chosen.name!r} it goes on in another layout "
            f"({other.name!r} gives {_text(other.made)}); name a layer with layers=, "
            "and turn its output into [B, C, H, W] with reshape_transform="
        )
    end = f"before the global pooling {runs[pooling[-1]].name!r}" if pooling else "to run (no module pools globally)"
    return LayerChoice(
        chosen.name,
        f"the last module {end} with [B, C, H, W] input and output, C >= {MIN_CHANNELS} and H, W > 1; "
        f"it gives {_text(chosen.made)}",
    )


def _last_reshaped(
    model: nn.Module, runs: list[_Run], first: int, convolutions: list[Convolution], declared: bool
) -> LayerChoice | None:
    """The last module with tokens or [B, H, W, C] at both ends, outside of what pools them."""
    times, table = Counter(run.name for run in runs), named_layers(model)
    pooling = {
        run.name for run in runs if run.made is not None and len(run.made) < 3 and layout(run.given, convolutions)
    }
    # What comes after a decoder looks at its queries, which may be as many as a grid has positions.
    end = next((i for i, run in enumerate(runs) if decodes(type(run.module))), len(runs))
    for run in reversed(runs[first:end]):
        given, made = layout(run.given, convolutions), layout(run.made, convolutions)
        if (
            given is not None
            and made is not None
            and run.made is not None
            and run.made[-1] >= MIN_CHANNELS
            and times[run.name] == 1
            and pooling.isdisjoint(run.inside)
            and (declared or found_in(around(table, run.name)))
        ):
            what = "tokens" if len(run.made) == 3 else "[B, H, W, C]"
            return LayerChoice(
                run.name,
                f"the last module with {what} as input and output, C >= {MIN_CHANNELS}; it gives {_text(run.made)}, "
                f"read as {made}",
            )
    return None


def spatial_layers(model: nn.Module, forward: Callable[[], Any]) -> list[SpatialLayer]:
    """Every layer that can be read for maps of more than one position, in the order in which they first finish."""
    found: dict[str, SpatialLayer] = {}
    runs, table = _record(model, forward), named_layers(model)
    convolutions = _convolutions(runs)
    for run in runs:
        other = layout(run.made, convolutions) if found_in(around(table, run.name)) else None
        shape = _as_map(run.made, other)
        if shape is not None and len(shape) == 4 and min(shape[2:]) > 1:
            _, c, h, w = shape
            found.setdefault(run.name, SpatialLayer(run.name, type(run.module).__name__, (c, h, w), str(other or "")))
    return list(found.values())


def _as_map(shape: Shape, other: Layout | None) -> Shape:
    return shape if shape is None or other is None else tuple(other(torch.empty(shape, device="meta")).shape)


def _convolutions(runs: list[_Run]) -> list[Convolution]:
    return [
        Convolution(run.given, run.made)
        for run in runs
        if isinstance(run.module, nn.Conv2d) and run.given is not None and run.made is not None
    ]


def _outermost_of_convolution(runs: list[_Run]) -> tuple[str, ...]:
    """The name of the outermost module around the first convolution; none where the model itself calls it."""
    return next((run.inside[:1] for run in runs if isinstance(run.module, nn.Conv2d) and run.given is not None), ())


def _record(model: nn.Module, forward: Callable[[], Any]) -> list[_Run]:
    """Every module execution of one forward pass, in the order they finish."""
    runs: list[_Run] = []
    running: list[str] = []

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: running.append(name)

    def leave(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            running.pop()
            given = _shape(args) or _shape(tuple(kwargs.values()))
            runs.append(_Run(name, module, tuple(running), given, _shape(output)))

        return hook

    with ExitStack() as hooks:
        seen: set[nn.Module] = {model}
        for name, module in named_layers(model).items():
            if module not in seen:
                seen.add(module)
                hooks.callback(module.register_forward_pre_hook(enter(name)).remove)
                hooks.callback(module.register_forward_hook(leave(name), with_kwargs=True).remove)
        forward()
    return runs


def first_tensor(value: Any) -> Any:
    """The first tensor of a tuple or list; anything else as it is."""
    if isinstance(value, tuple | list):
        return next((item for item in value if isinstance(item, Tensor)), value)
    return value


def _shape(value: Any) -> Shape:
    tensor = first_tensor(value)
    return tuple(tensor.shape) if isinstance(tensor, Tensor) and tensor.is_floating_point() else None


def _is_candidate(run: _Run, image: Shape) -> bool:
    return (
        run.given is not None
        and run.made is not None
        and is_map(run.given, image)
        and is_map(run.made, image)
        and run.made[0] == run.given[0]
        and (image is None or run.made[0] == image[0])  # windows or proposals of a picture are items of their own
        and run.made[1] >= MIN_CHANNELS
        and not type(run.module).__module__.startswith("torch.nn.modules.pooling")
    )


def _pools(run: _Run, image: Shape) -> bool:
    given, made = run.given, run.made
    return given is not None and made is not None and is_map(given, image) and made in (given[:2], (*given[:2], 1, 1))


def _other_layout(run: _Run, image: Shape) -> bool:
    """Tokens [B, N, D] or maps [B, H, W, C] at both ends of a module with weights."""
    shapes = (run.given, run.made)
    tokens = all(shape is not None and len(shape) == 3 and shape[1] > 1 for shape in shapes)
    channels_last = all(
        shape is not None
        and len(shape) == 4
        and not is_map(shape, image)
        and shape[3] >= MIN_CHANNELS
        and keeps_aspect(shape[1:3], image)
        for shape in shapes
    )
    return (tokens or channels_last) and any(True for _ in run.module.parameters())


def _text(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape or ()))}]"


def describe(value: Any) -> str:
    """What a layer gave, for errors."""
    if isinstance(value, Tensor):
        return f"{_text(tuple(value.shape))} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__
