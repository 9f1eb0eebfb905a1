"""Which part of a picture a network saw, from the record of its preprocessing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import floor
from typing import Any, cast

from .preprocessing import KINDS, Resize

Region = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the upright picture

_TORCHVISION = re.compile(r"crop_size=\[(\d+)\] resize_size=\[(\d+)\]")


def region(record: Mapping[str, Any], width: int, height: int) -> Region | None:
    """The part of a picture of this size that a preprocessing made the input of; None where its record does not tell.

    It may reach over the picture, where that was padded.

    >>> record = {"kind": "timm", "input_size": [3, 224, 224], "crop_pct": 0.875, "crop_mode": "center"}
    >>> region(record, 512, 256)
    (144.0, 16.0, 368.0, 240.0)
    """
    known = _KINDS.get(str(record.get("kind")))
    try:
        return known(record, width, height) if known is not None else None
    except (KeyError, TypeError, ValueError, ZeroDivisionError):  # a record of another version of that package
        return None


def central(record: Mapping[str, Any], width: int, height: int) -> Region:
    """The largest central rectangle with the aspect of the input."""
    _, h, w = record["input"]
    return Resize((h, w), fraction=1.0).region(width, height)


def whole(record: Mapping[str, Any], width: int, height: int) -> Region:
    """All of the picture, stretched."""
    return 0, 0, width, height


def _own(record: Mapping[str, Any], width: int, height: int) -> Region:
    h, w = record["size"]
    fit = next(fit for fit, kind in KINDS.items() if kind == record["kind"])
    return Resize((h, w), fraction=record.get("fraction", 1.0), fit=fit).region(width, height)


def _timm(record: Mapping[str, Any], width: int, height: int) -> Region:
    """As `timm.data.create_transform` makes it for evaluation."""
    _, *size = record["input_size"]
    h, w = size
    enlarged_h, enlarged_w = (floor(side / record["crop_pct"]) for side in size)
    mode = record.get("crop_mode", "center")
    if mode == "squash":
        resized = enlarged_w, enlarged_h
    elif mode == "center" and enlarged_h == enlarged_w:
        resized = _shortest(width, height, enlarged_h)
    else:
        ratios = height / enlarged_h, width / enlarged_w
        ratio = max(ratios) if mode == "border" else min(ratios)
        resized = round(width / ratio), round(height / ratio)
    return _centre(width, height, resized, (w, h))


def _torchvision(record: Mapping[str, Any], width: int, height: int) -> Region | None:
    found = _TORCHVISION.search(record["transform"])
    if found is None:
        return None
    crop = int(found[1])
    return _centre(width, height, _shortest(width, height, int(found[2])), (crop, crop))


def _transformers(record: Mapping[str, Any], width: int, height: int) -> Region | None:
    size = record["size"] if record.get("do_resize") else {"width": width, "height": height}
    edge, share = size.get("shortest_edge"), record.get("crop_pct")
    if record.get("do_pad") or "longest_edge" in size or record["processor"].startswith("Levit"):
        return None
    if edge is not None and share is not None:  # ConvNeXt's: a crop for small inputs, else stretched
        if edge >= 384:
            return whole(record, width, height)
        return _centre(width, height, _shortest(width, height, int(edge / share)), (edge, edge))
    resized = (size["width"], size["height"]) if edge is None else _shortest(width, height, edge)
    if record.get("do_center_crop"):
        return _centre(width, height, resized, (record["crop_size"]["width"], record["crop_size"]["height"]))
    return whole(record, width, height)


_KINDS = cast(
    "Mapping[str, Callable[[Mapping[str, Any], int, int], Region | None]]",
    {
        **dict.fromkeys(KINDS.values(), _own),
        "timm": _timm,
        "torchvision": _torchvision,
        "transformers": _transformers,
        "by the dataset": whole,
    },
)


def _shortest(width: int, height: int, edge: int) -> tuple[int, int]:
    """The size with this shortest edge, as torchvision rounds it."""
    return (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)


def _centre(width: int, height: int, resized: tuple[int, int], crop: tuple[int, int]) -> Region:
    """The central crop, or padding, of a picture that was resized before, in pixels of the picture."""
    edges: list[tuple[float, float]] = []
    for side, own, wanted in zip((width, height), resized, crop, strict=True):
        first = round((own - wanted) / 2) if own >= wanted else -((wanted - own) // 2)
        edges.append((first * side / own, (first + wanted) * side / own))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom
