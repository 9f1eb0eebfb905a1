"""Saliency maps drawn: in colour, over their photo, and many together on a contact sheet."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .._lazy import needs

COLORMAP = "inferno"  # perceptually uniform, dark where nothing is salient
STRENGTH = 0.55  # of the map over the photo

TILE, GAP, MARGIN, LABEL = 224, 8, 24, 132  # pixels of the contact sheet
INK, FAINT, PAPER = (24, 24, 27), (113, 113, 122), (255, 255, 255)


class Row(NamedTuple):
    """One picture and its maps."""

    name: str
    credit: str
    image: Image.Image  # RGB
    maps: Mapping[str, np.ndarray]  # title -> [h, w] in 0..1
    region: Sequence[float] | None = None  # that they are about, as in `overlay`


def colorize(values: np.ndarray, colormap: str = COLORMAP) -> np.ndarray:  # [...] in 0..1 -> [..., 3] uint8
    """The colours of a map; NaN counts as 0."""
    index = np.rint(np.nan_to_num(values).clip(0, 1) * 255).astype(np.uint8)
    return palette(colormap)[index]


def overlay(
    image: Image.Image,
    values: np.ndarray,  # [h, w] in 0..1
    region: Sequence[float] | None = None,
    colormap: str = COLORMAP,
    opacity: float = STRENGTH,
) -> Image.Image:
    """A map in colour over its picture in grey, so that no colour of the photo reads as saliency.

    `region` is the part of the picture that the map is about, (left, top, right, bottom) in pixels, also beyond its
    edges; a frame is drawn around it. None for all of the picture.
    """
    sheet = image.convert("L").convert("RGB")
    left, top, right, bottom = (0, 0, *image.size) if region is None else region
    # The pixels whose centres lie in the region.
    x0, x1 = (min(max(round(edge), 0), image.width) for edge in (left, right))
    y0, y1 = (min(max(round(edge), 0), image.height) for edge in (top, bottom))
    if x0 >= x1 or y0 >= y1:
        return sheet
    h, w = values.shape
    u0, u1 = (min(max((x - left) / (right - left), 0), 1) * w for x in (x0, x1))
    v0, v1 = (min(max((y - top) / (bottom - top), 0), 1) * h for y in (y0, y1))
    small = Image.fromarray(values.astype(np.float32))
    large = small.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=(u0, v0, u1, v1))
    heat = Image.fromarray(colorize(np.asarray(large), colormap))
    sheet.paste(Image.blend(sheet.crop((x0, y0, x1, y1)), heat, opacity), (x0, y0))
    if (x0, y0, x1, y1) != (0, 0, *image.size):
        _frame(sheet, x0, y0, x1 - 1, y1 - 1)
    return sheet


def _frame(image: Image.Image, left: int, top: int, right: int, bottom: int) -> None:
    """A white line with a black one inside, at the edge of a box."""
    thickness = max(1, round(max(image.size) / 400))
    draw = ImageDraw.Draw(image)
    for inset, color in ((0, "white"), (thickness, "black")):
        if left + inset <= right - inset and top + inset <= bottom - inset:
            box = left + inset, top + inset, right - inset, bottom - inset
            draw.rectangle(box, outline=color, width=thickness)


def contact_sheet(
    title: str, subtitle: str, rows: Sequence[Row], colormap: str = COLORMAP, opacity: float = STRENGTH
) -> Image.Image:
    """A picture with a row per photo: its name, the photo, and an overlay for each of its maps."""
    titles = list(rows[0].maps) if rows else []
    tiles = [_tiles(row, titles, colormap, opacity) for row in rows]
    left = MARGIN + (LABEL if any(row.name for row in rows) else 0)
    top = MARGIN + 34 + 44 * bool(title) + 34 * bool(subtitle)
    width = left + (1 + len(titles)) * (TILE + GAP) - GAP + MARGIN
    heights = [own[0].height + GAP for own in tiles]
    sheet = Image.new("RGB", (width, top + sum(heights) + 72), PAPER)
    draw = ImageDraw.Draw(sheet)
    room = width - 2 * MARGIN
    draw.text((MARGIN, MARGIN), _fit(draw, title, _font(30), room), INK, _font(30))
    draw.text((MARGIN, MARGIN + 42), _fit(draw, subtitle, _font(17), room), FAINT, _font(17))
    for column, text in enumerate(["Photo", *titles]):
        center = left + column * (TILE + GAP) + TILE // 2
        draw.text((center, top - 12), _fit(draw, text, _font(20), TILE), INK, _font(20), anchor="ms")
    y = top
    for row, own, height in zip(rows, tiles, heights, strict=True):
        label = _fit(draw, row.name, _font(18), LABEL - 14)
        draw.text((left - 14, y + (height - GAP) // 2), label, INK, _font(18), anchor="rm")
        for column, tile in enumerate(own):
            sheet.paste(tile, (left + column * (TILE + GAP) + (TILE - tile.width) // 2, y))
        y += height
    _color_bar(sheet, draw, left, y + 12, colormap, opacity)
    return sheet


def _tiles(row: Row, titles: Sequence[str], colormap: str, opacity: float) -> list[Image.Image]:
    """The photo and its overlays, at most TILE pixels wide and high."""
    photo = ImageOps.contain(row.image, (TILE, TILE), Image.Resampling.LANCZOS)
    scale = (photo.width / row.image.width, photo.height / row.image.height) * 2
    region = row.region and [edge * factor for edge, factor in zip(row.region, scale, strict=True)]
    return [photo, *(overlay(photo, row.maps[title], region, colormap, opacity) for title in titles)]


def _color_bar(sheet: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int, colormap: str, opacity: float) -> None:
    length, thickness = TILE * (2 if sheet.width > 4 * TILE else 1), 18
    ramp = np.broadcast_to(np.linspace(0, 1, length), (thickness, length))
    sheet.paste(Image.fromarray(colorize(ramp, colormap)), (x, y))
    for value, anchor in ((0, "lt"), (0.5, "mt"), (1, "rt")):
        draw.text((x + value * length, y + thickness + 6), f"{value:g}", INK, _font(16), anchor=anchor)
    note = f"each map in 0..1, drawn at {opacity:.0%}"
    room = sheet.width - MARGIN - (x + length + 20)
    draw.text((x + length + 20, y + thickness // 2), _fit(draw, note, _font(16), room), FAINT, _font(16), anchor="lm")


def png_bytes(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def check_opacity(opacity: Any) -> None:
    if isinstance(opacity, bool) or not isinstance(opacity, Real):
        raise TypeError(f"opacity must be a number in 0..1, got {opacity!r}")
    if not 0 <= float(opacity) <= 1:
        raise ValueError(f"opacity must lie in 0..1, got {opacity}")


@lru_cache
def palette(colormap: str) -> np.ndarray:  # [256, 3] uint8
    """The colours of a colour map of the package cmap; ValueError, with close names, for what is none."""
    with needs("pictures", "drawing maps"):
        from cmap import Catalog, Colormap

    try:
        colors = Colormap(colormap).lut(256)
    except ValueError:
        near = get_close_matches(colormap, list(Catalog()), n=5)
        hint = f"; close names: {', '.join(near)}" if near else "; viridis, turbo and jet are some"
        raise ValueError(f"colormap must be one of the package cmap, got {colormap!r}{hint}") from None
    return np.rint(np.asarray(colors)[:, :3] * 255).astype(np.uint8)


@lru_cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _fit(draw: ImageDraw.ImageDraw, text: str, font: Any, room: int) -> str:
    """The text in one line, cut with dots where it is wider than the room."""
    text = " ".join(text.split())
    if draw.textlength(text, font) <= room:
        return text
    while text and draw.textlength(text + "...", font) > room:
        text = text[:-1]
    return text + "..."
