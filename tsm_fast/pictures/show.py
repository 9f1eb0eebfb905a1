"""`overlay` and `sheet`: maps over their pictures, from whatever kind of picture and array there is."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..steps import checks
from ..steps.arrays import as_tensor
from . import drawing
from .drawing import COLORMAP, STRENGTH

Region = Sequence[float] | Callable[[int, int], Sequence[float]]


def overlay(
    image: Any,  # PIL image, file, [H, W, 3] or [3, H, W]
    map: Any,  # [h, w]
    *,
    opacity: float = STRENGTH,
    colormap: str = COLORMAP,
    region: Region | None = None,
    normalize: bool = True,
) -> Image.Image:
    """A map in colour over its picture, as a PIL image of the picture's size.

    The picture itself is grey below the colours, so that no colour of it reads as saliency.

    Args:
        image: a PIL image, the name of a file, or an array or tensor: uint8, or floats in 0..1; `[H, W]`, `[H, W, C]`
            or `[C, H, W]`, C 1, 3 or 4, also with a batch dimension of 1. Floats beyond 0..1, which are a network's
            input, are scaled from their own range.
        map: `[h, w]` or `[1, h, w]`, of any size: it is resized to the picture.
        opacity: of the colours, in 0..1; more where a picture is dark, less to see more of it.
        colormap: a colour map of the package cmap, such as "viridis", "turbo" or "jet".
        region: the part of the picture that the map is about, (left, top, right, bottom) in pixels, or a function that
            returns it for a width and height, such as `SaliencyExtractor.region`; it may reach over the picture. A
            frame is drawn around it. None for all of the picture.
        normalize: scale the map from its own range to 0..1, a constant one to zeros; False draws values in 0..1 as
            they are.

    Returns:
        The picture in RGB, for `overlay(...).save("overlay.png")`.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: the packages for pictures are not installed.
        TypeError: no picture, no array of numbers, or an option of the wrong type.
        ValueError: wrong shapes, NaN or Inf, values beyond 0..1 with `normalize=False`, an unknown colour map.

    >>> import torch, tsm_fast
    >>> picture = torch.rand(3, 120, 160)
    >>> tsm_fast.overlay(picture, torch.rand(7, 7), opacity=0.7).size
    (160, 120)
    """
    _check_look(opacity, colormap, normalize)
    picture = as_picture("image", image)
    return drawing.overlay(
        picture, _values("map", map, normalize), _box(region, picture.width, picture.height), colormap, opacity
    )


def sheet(
    images: Any,
    maps: Mapping[str, Any],  # title -> [h, w], or [B, h, w] of B pictures
    *,
    title: str = "",
    names: Sequence[str] | None = None,
    opacity: float = STRENGTH,
    colormap: str = COLORMAP,
    region: Region | None = None,
    normalize: bool = True,
) -> Image.Image:
    """Several maps side by side over their picture, a row for each picture, as a PIL image.

    Args:
        images: a picture as `overlay` takes it, or a list of pictures.
        maps: the maps by what is written above them: `[h, w]` of one picture, `[B, h, w]` of a list of B.
        title: written at the top.
        names: of the pictures, written beside them.
        opacity, colormap, region, normalize: as in `overlay`.

    Raises:
        FileNotFoundError, ModuleNotFoundError, TypeError, ValueError: as in `overlay`; ValueError also for other
            numbers of maps or names than of pictures.

    >>> import torch, tsm_fast
    >>> features = torch.rand(1, 64, 7, 7)
    >>> maps = {"TSM": tsm_fast.tsm(features), "MTSM": tsm_fast.mtsm(features)}
    >>> sheet = tsm_fast.sheet(torch.rand(3, 120, 160), maps)
    >>> sheet.width > sheet.height
    True
    """
    _check_look(opacity, colormap, normalize)
    if not isinstance(maps, Mapping) or not maps:
        raise TypeError(f"maps must be a dict from title to map, not empty, got {type(maps).__name__}")
    given = list(images) if isinstance(images, list | tuple) else [images]
    pictures = [as_picture("images", image) for image in given]
    if not pictures:
        raise ValueError("images must be one picture or more, got none")
    if not isinstance(title, str) or not all(isinstance(name, str) for name in maps):
        raise TypeError("title and the titles of maps must be texts")
    if names is not None and (not isinstance(names, Sequence) or isinstance(names, str) or len(names) != len(pictures)):
        raise ValueError(f"names must be {len(pictures)}, one for each picture, got {names!r}")
    columns = {name: _columns(name, values, len(pictures), normalize) for name, values in maps.items()}
    rows = [
        drawing.Row(
            "" if names is None else str(names[number]),
            "",
            picture,
            {name: own[number] for name, own in columns.items()},
            _box(region, picture.width, picture.height),
        )
        for number, picture in enumerate(pictures)
    ]
    return drawing.contact_sheet(title, "", rows, colormap, opacity)


def as_picture(name: str, image: Any) -> Image.Image:
    """A picture of any kind that `overlay` takes, in RGB, upright."""
    from .decode import ImageError, to_rgb
    from .photos import open_photo

    if isinstance(image, str | Path):
        return open_photo(image)
    if isinstance(image, Image.Image):
        try:
            return to_rgb(image).image
        except ImageError as error:
            raise ValueError(f"{name}: {error}") from None
    if not isinstance(image, Tensor | np.ndarray):
        raise TypeError(f"{name} must be a PIL image, a file name, or an array or tensor, got {type(image).__name__}")
    return Image.fromarray(_pixels(name, image)).convert("RGB")


def _pixels(name: str, image: Tensor | np.ndarray) -> np.ndarray:  # -> [H, W] or [H, W, 3 or 4] uint8
    if isinstance(image, Tensor):
        tensor = image.detach().cpu()
        values, layouts = (tensor.float() if tensor.is_floating_point() else tensor).numpy(), ((1, 2, 0), (0, 1, 2))
    else:
        values, layouts = image, ((0, 1, 2), (1, 2, 0))
    shape, kind = tuple(values.shape), values.dtype
    if values.ndim == 4 and len(values) == 1:
        values = values[0]
    if values.ndim == 3:
        ways = (values.transpose(layout) for layout in layouts)
        values = next((way for way in ways if way.shape[2] in (1, 3, 4)), values)
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 3, 4)) or not values.size:
        raise ValueError(f"{name} must be [H, W], [H, W, C] or [C, H, W] with C 1, 3 or 4, got shape {shape}")
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if kind == np.uint8:
        return np.ascontiguousarray(values)
    if kind.kind != "f":
        raise TypeError(f"{name} must be uint8, or floats in 0..1, got {kind}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got NaN or Inf")
    if values.min() < 0 or values.max() > 1:
        values = _in_unit_range(values)
    return np.rint(values * 255).astype(np.uint8)


def _in_unit_range(values: np.ndarray) -> np.ndarray:
    """Values from their own range in 0..1, zeros for a constant; halved first, for a range may be twice the dtype's."""
    half = values.astype(np.float64) / 2
    low, high = half.min(), half.max()
    return (half - low) / (high - low) if high > low else np.zeros_like(half)


def _values(name: str, map: Any, normalize: bool) -> np.ndarray:  # -> [h, w] in 0..1
    values = as_tensor(name, map)[0].detach().cpu().double().numpy()
    shape = tuple(values.shape)
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 2 or not values.size:
        of_batch = f"; of a batch, take one: {name}[0]" if values.ndim == 3 and len(values) else ""
        raise ValueError(f"{name} must be [h, w], got shape {shape}{of_batch}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, got NaN or Inf")
    if normalize:
        return _in_unit_range(values)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise ValueError(f"{name} must lie in 0..1 for normalize=False, got {low:.4g}..{high:.4g}")
    return values


def _columns(name: str, values: Any, count: int, normalize: bool) -> list[np.ndarray]:
    """The maps of one method, one for each picture."""
    shape = getattr(values, "shape", None)
    if shape is not None and len(shape) == 2:
        values = [values]
    if not isinstance(values, Sequence) and not shape:
        raise TypeError(f"maps[{name!r}] must be [h, w] or one for each picture, got {type(values).__name__}")
    if len(values) != count:
        raise ValueError(f"maps[{name!r}] must be {count}, one for each picture, got {len(values)}")
    return [_values(f"maps[{name!r}]", values[number], normalize) for number in range(count)]


def _check_look(opacity: Any, colormap: Any, normalize: Any) -> None:
    drawing.check_opacity(opacity)
    if not isinstance(colormap, str):
        raise TypeError(f"colormap must be the name of a colour map, got {type(colormap).__name__}")
    checks.flag("normalize", normalize)
    drawing.palette(colormap)  # raises for an unknown one


def _box(region: Region | None, width: int, height: int) -> Sequence[float] | None:
    if region is None:
        return None
    box = region(width, height) if callable(region) else region
    if isinstance(box, str) or not isinstance(box, Sequence | np.ndarray) or len(box) != 4:
        raise TypeError(f"region must be (left, top, right, bottom) in pixels, or a function of them, got {box!r}")
    left, top, right, bottom = (float(edge) for edge in box)
    if not all(map(math.isfinite, (left, top, right, bottom))) or left >= right or top >= bottom:
        raise ValueError(f"region must be (left, top, right, bottom) with left < right and top < bottom, got {box!r}")
    return left, top, right, bottom
