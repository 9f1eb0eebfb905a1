"""Where the masks of objects come from, and how they come to the input of the network: as the pictures do."""

from __future__ import annotations

import csv
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..models.preprocessing import Preprocess
from ..pipeline.files import publish
from ..pipeline.sources.keys import decode_key, encode_key
from ..pipeline.sources.source import Item

OK = "ok"
_ASPECT = 0.02  # masks of another size than the picture are of the same aspect, as far as this
_AFFINE = 0.05  # of the range of a mask, after resizing and rounding


class Found(NamedTuple):
    """A mask, 255 on the object, or why there is none: "none", "empty", "full", "size" or "unreadable"."""

    status: str
    mask: Image.Image | None = None


class Masks(Protocol):
    """Masks by the keys of pictures."""

    def read(self, key: str, size: tuple[int, int] | None) -> Found:
        """That of a picture of a size (width, height); None where it is that of the mask."""
        ...

    def digest(self, keys: Sequence[str]) -> str:
        """Another one for other masks of these pictures."""
        ...


@dataclass(frozen=True)
class FolderMasks:
    """PNG files in a folder: `a/cat.jpg` has `a/cat.png` or `a/cat.jpg.png`."""

    root: str

    def path(self, key: str) -> Path | None:
        name = PurePosixPath(decode_key(key))
        paths = (Path(self.root, name.with_suffix(".png")), Path(self.root, f"{name}.png"))
        return next((path for path in paths if path.is_file()), None)

    def read(self, key: str, size: tuple[int, int] | None) -> Found:
        return _file(self.path(key), size)

    def digest(self, keys: Sequence[str]) -> str:
        return _digest((key, _content(self.path(key))) for key in keys)


@dataclass(frozen=True)
class PathMasks:
    """A file for each key, as a column of a manifest names them."""

    paths: Mapping[str, str | None] = field(hash=False)

    def read(self, key: str, size: tuple[int, int] | None) -> Found:
        path = self.paths.get(key)
        return _file(Path(path) if path else None, size)

    def digest(self, keys: Sequence[str]) -> str:
        paths = ((key, self.paths.get(key)) for key in keys)
        return _digest((key, path and _content(Path(path))) for key, path in paths)


@dataclass(frozen=True)
class BoxMasks:
    """Boxes (left, top, right, bottom) in pixels of the picture, which stand for the object."""

    boxes: Mapping[str, Sequence[tuple[float, float, float, float]]] = field(hash=False)

    def read(self, key: str, size: tuple[int, int] | None) -> Found:
        boxes = self.boxes.get(key)
        if boxes is None or size is None:
            return Found("none")
        mask = Image.new("L", size)
        draw = ImageDraw.Draw(mask)
        for left, top, right, bottom in boxes:
            clipped = (min(max(edge, 0), most) for edge, most in zip((left, top, right, bottom), 2 * size, strict=True))
            x, y, x_end, y_end = map(round, clipped)
            if x < x_end and y < y_end:
                draw.rectangle([x, y, x_end - 1, y_end - 1], fill=255)
        return _checked(np.asarray(mask) > 0, size)

    def digest(self, keys: Sequence[str]) -> str:
        return _digest((key, [list(map(float, box)) for box in self.boxes.get(key, ())]) for key in keys)


@dataclass(frozen=True)
class GivenMasks:
    """Arrays [h, w] or pictures of this program."""

    masks: Mapping[str, Any] = field(hash=False)

    def read(self, key: str, size: tuple[int, int] | None) -> Found:
        mask = self.masks.get(key)
        return Found("none") if mask is None else _checked(_object(mask), size)

    def digest(self, keys: Sequence[str]) -> str:
        there = ((key, self.masks.get(key)) for key in keys)
        return _digest((key, None if mask is None else _sha(_object(mask))) for key, mask in there)


def find(masks: Any, columns: Any, root: str, items: Sequence[Item]) -> Masks | None:
    """The masks that an argument names.

    Args:
        masks: as `study.run` takes them.
        columns: what the source carries along with its items, a table or None.
        root: from which paths in a column go.

    Raises:
        ValueError, FileNotFoundError: it names none.
    """
    if masks is None:
        return None
    if isinstance(masks, Mapping):
        return GivenMasks({encode_key(str(key)): mask for key, mask in masks.items()})
    text = os.fspath(masks)
    if os.path.isdir(text):
        return FolderMasks(os.path.abspath(text))
    if columns is not None and text in columns.column_names:
        base = root if os.path.isdir(root) else os.path.dirname(root)
        paths = [None if path is None else os.path.join(base, str(path)) for path in columns[text].to_pylist()]
        return PathMasks({item.key: path for item, path in zip(items, paths, strict=True)})
    if text.lower().endswith(".csv"):
        return BoxMasks(_boxes(text))
    there = "" if columns is None else f" ({', '.join(columns.column_names)})"
    raise ValueError(
        f"masks must be a folder of PNG files, a CSV of boxes, or a column of the manifest{there}, got {text!r}"
    )


def _boxes(path: str) -> dict[str, list[tuple[float, float, float, float]]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    names = ("key", "left", "top", "right", "bottom")
    there = list(rows[0]) if rows else []
    if missing := [name for name in names if name not in there]:
        raise ValueError(f"{path} must have the columns {', '.join(names)}, got none called {', '.join(missing)}")
    boxes: dict[str, list[tuple[float, float, float, float]]] = {}
    for number, row in enumerate(rows, 2):
        try:
            left, top, right, bottom = (float(row[name]) for name in names[1:])
        except (TypeError, ValueError):
            raise ValueError(f"{path}, line {number}: edges must be numbers, got {row}") from None
        if any(map(math.isnan, (left, top, right, bottom))):
            raise ValueError(f"{path}, line {number}: edges must be numbers, got {row}")
        boxes.setdefault(encode_key(row["key"]), []).append((left, top, right, bottom))
    return boxes


def _file(path: Path | None, size: tuple[int, int] | None) -> Found:
    if path is None:
        return Found("none")
    try:
        with Image.open(path) as image:
            there = _object(image)
    except FileNotFoundError:
        return Found("none")
    except Exception:  # Pillow raises anything
        return Found("unreadable")
    return _checked(there, size)


def _object(mask: Any) -> np.ndarray:
    """[h, w] bool: where a mask is not zero; of colours any, as far as they are not transparent."""
    if isinstance(mask, Image.Image):
        values = np.asarray(mask)
        if mask.mode in ("LA", "RGBA"):
            values = values[..., :-1] * (values[..., -1:] > 0)
    else:
        values = np.asarray(mask)
    there = values != 0
    return there.any(-1) if there.ndim == 3 else there


def _checked(there: np.ndarray, size: tuple[int, int] | None) -> Found:
    if there.ndim != 2 or not there.size:
        return Found("unreadable")
    if not there.any():
        return Found("empty")
    if there.all():
        return Found("full")
    mask = Image.fromarray(there.astype(np.uint8) * 255)
    if size is None or mask.size == size:
        return Found(OK, mask)
    if abs(mask.width * size[1] / (mask.height * size[0]) - 1) > _ASPECT:
        return Found("size")
    return Found(OK, mask.resize(size, Image.Resampling.NEAREST))


class Cropped:
    """Takes masks through the preprocessing of a network: all that is done to a picture but its colours."""

    def __init__(self, preprocess: Preprocess) -> None:
        self._preprocess = preprocess
        self._ends = lru_cache(maxsize=8)(self._black_and_white)

    def check(self) -> None:
        """ValueError where the preprocessing is no resizing, cropping and scaling of colours."""
        grey = self(Image.new("L", (480, 640), 64))
        if bool((grey - 64 / 255).abs().amax() > _AFFINE) and bool((grey.abs().amax()) > 0):
            raise ValueError(
                "masks need a preprocessing that resizes, crops and scales colours: that of this model does something "
                "else to a grey picture"
            )

    def __call__(self, mask: Image.Image) -> Tensor:  # -> [H, W] float32 in 0..1
        """How much of each pixel of the input is of the object; margins are not."""
        black, white = self._ends(mask.size)
        found = (self._preprocess(mask.convert("RGB")) - black) / torch.where(white == black, 1, white - black)
        return torch.where(white == black, 0, found).mean(0).clamp(0, 1)

    def _black_and_white(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        black, white = (self._preprocess(Image.new("RGB", size, colour)) for colour in ("black", "white"))
        return black, white


def _content(path: Path | None) -> str | None:
    try:
        return None if path is None else publish.sha256(path)
    except OSError:
        return None


def _sha(values: np.ndarray) -> str:
    return hashlib.sha256(repr(values.shape).encode() + np.packbits(values).tobytes()).hexdigest()


def _digest(parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(repr(part).encode())
    return found.hexdigest()
