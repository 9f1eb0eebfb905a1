"""Saliency maps drawn: in colour, over their photo, and many together on a contact sheet."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLORMAP = "inferno"  # perceptually uniform, dark where nothing is salient
STRENGTH = 0.55  # of the map over the photo

TILE, GAP, MARGIN, LABEL = 224, 8, 24, 132  # pixels of the contact sheet
INK, FAINT, PAPER = (24, 24, 27), (113, 113, 122), (255, 255, 255)


class Row(NamedTuple):
    """One picture and its maps."""

    name: str
    credit: str
    image: Image.Image  # RGB, square
    maps: Mapping[str, np.ndarray]  # title -> [h, w] in 0..1


def colorize(values: np.ndarray) -> np.ndarray:  # [...] in 0..1 -> [..., 3] uint8
    """The colours of a map; NaN counts as 0."""
    index = np.rint(np.nan_to_num(values).clip(0, 1) * 255).astype(np.uint8)
    return _palette()[index]


def overlay(image: Image.Image, values: np.ndarray) -> Image.Image:  # values [h, w] in 0..1
    """A map in colour over its picture in grey, so that no colour of the photo reads as saliency."""
    heat = Image.fromarray(colorize(values)).resize(image.size, Image.Resampling.BILINEAR)
    return Image.blend(image.convert("L").convert("RGB"), heat, STRENGTH)


def contact_sheet(title: str, subtitle: str, rows: Sequence[Row]) -> Image.Image:
    """A picture with a row per photo: its name, the photo, and an overlay for each of its maps."""
    titles = list(rows[0].maps) if rows else []
    left, top = MARGIN + LABEL, MARGIN + 112
    width = left + (1 + len(titles)) * (TILE + GAP) - GAP + MARGIN
    height = top + len(rows) * (TILE + GAP) + 72
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    room = width - 2 * MARGIN
    draw.text((MARGIN, MARGIN), _fit(draw, title, _font(30), room), INK, _font(30))
    draw.text((MARGIN, MARGIN + 42), _fit(draw, subtitle, _font(17), room), FAINT, _font(17))
    for column, text in enumerate(["Photo", *titles]):
        center = left + column * (TILE + GAP) + TILE // 2
        draw.text((center, top - 12), text, INK, _font(20), anchor="ms")
    for number, row in enumerate(rows):
        y = top + number * (TILE + GAP)
        label = _fit(draw, row.name, _font(18), LABEL - 14)
        draw.text((left - 14, y + TILE // 2), label, INK, _font(18), anchor="rm")
        photo = row.image.resize((TILE, TILE), Image.Resampling.LANCZOS)
        for column, tile in enumerate([photo, *(overlay(photo, row.maps[title]) for title in titles)]):
            sheet.paste(tile, (left + column * (TILE + GAP), y))
    _color_bar(sheet, draw, left, top + len(rows) * (TILE + GAP) + 12)
    return sheet


def _color_bar(sheet: Image.Image, draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    length, thickness = 2 * TILE, 18
    ramp = np.broadcast_to(np.linspace(0, 1, length), (thickness, length))
    sheet.paste(Image.fromarray(colorize(ramp)), (x, y))
    for value, anchor in ((0, "lt"), (0.5, "mt"), (1, "rt")):
        draw.text((x + value * length, y + thickness + 6), f"{value:g}", INK, _font(16), anchor=anchor)
    note = f"saliency, scaled to 0..1 in every map; drawn at {STRENGTH:.0%} over the photo"
    draw.text((x + length + 20, y + thickness // 2), note, FAINT, _font(16), anchor="lm")


def png_bytes(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@lru_cache(maxsize=1)
def _palette() -> np.ndarray:  # [256, 3] uint8
    from cmap import Colormap

    return np.rint(np.asarray(Colormap(COLORMAP).lut(256))[:, :3] * 255).astype(np.uint8)


@lru_cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _fit(draw: ImageDraw.ImageDraw, text: str, font: Any, room: int) -> str:
    """The text, cut with dots where it is wider than the room."""
    if draw.textlength(text, font) <= room:
        return text
    while text and draw.textlength(text + "...", font) > room:
        text = text[:-1]
    return text + "..."
