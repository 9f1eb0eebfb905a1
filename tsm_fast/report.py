"""Pictures and pages of saliency maps: a contact sheet (PNG) and a self-contained HTML page."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

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


class Table(NamedTuple):
    """A small table of texts; the first column names the rows."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


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


def html_page(
    title: str, subtitle: str, rows: Sequence[Row], tables: Sequence[Table], facts: Sequence[tuple[str, str]]
) -> str:
    """A page that needs nothing but itself: pictures are inside, and its policy forbids every request."""
    pictures = [
        {
            "name": row.name,
            "credit": row.credit,
            "photo": data_uri(row.image),
            "maps": [(title, data_uri(Image.fromarray(colorize(m)))) for title, m in row.maps.items()],
        }
        for row in rows
    ]
    columns = 1 + (len(rows[0].maps) if rows else 0)
    values = {"pictures": pictures, "columns": columns}
    return page(title, subtitle, _PICTURES_STYLE, _PICTURES, tables, facts, values)


def page(
    title: str,
    subtitle: str,
    style: str,
    body: str,
    tables: Sequence[Table],
    facts: Sequence[tuple[str, str]],
    values: Mapping[str, Any],
) -> str:
    """A page of this look: `style` and `body` are jinja templates that see `values`, which come out escaped.

    It needs nothing but itself, and its policy forbids every request. `values["columns"]` is the number of tiles that
    stand side by side in `.tiles`.
    """
    from jinja2 import Environment

    ramp = np.broadcast_to(np.linspace(0, 1, 256), (1, 256))
    bar = data_uri(Image.fromarray(colorize(ramp)), "PNG")
    source = _PAGE.replace("STYLE", _STYLE + style, 1).replace("BODY", body, 1)
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    return template.render(
        title=title, subtitle=subtitle, tables=tables, facts=facts, bar=bar, strength=STRENGTH, **values
    )


def png_bytes(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def npz_bytes(arrays: Mapping[str, Any]) -> bytes:
    """Arrays as the bytes of a compressed .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def make_folder(folder: Path) -> None:
    """Make a folder that files can be written to; OSError says why where that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = _temporary(folder / "probe")
    probe.touch(exist_ok=False)
    probe.unlink()


def publish(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files so that each is whole or not there: all under temporary names first, then renamed."""
    written = {folder / name: _temporary(folder / name) for name in files}
    try:
        for (path, temporary), content in zip(written.items(), files.values(), strict=True):
            if path.is_dir():
                raise IsADirectoryError(21, "is a directory", str(path))
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in written.items():
            temporary.replace(path)
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)
    return list(written)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid4().hex}.tmp")


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


def data_uri(image: Image.Image, kind: str = "JPEG") -> str:
    """A picture as the text of a data: link."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 88} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
STYLE</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="faint">{{ subtitle }}</p>
<div class="tools">
<span>0 <img src="{{ bar }}" alt="colour bar from 0 to 1"> 1</span>
<label>strength of the map
<input type="range" min="0" max="1" step="0.05" value="{{ strength }}"
 oninput="document.documentElement.style.setProperty('--strength', this.value)"></label>
</div>
BODY{% for table in tables %}
<h2>{{ table.caption }}</h2>
<table>
<thead><tr>{% for text in table.header %}<th scope="col">{{ text }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for text in row %}<td>{{ text }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{% endfor %}
<h2>How this was made</h2>
<dl>
{% for name, value in facts %}
<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>
</body>
</html>
"""

_STYLE = """\
:root { --strength: {{ strength }}; --ink: #18181b; --faint: #63636e; --line: #e4e4e7; --paper: #fff; --bar: #bc3754; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf0; --faint: #a1a1aa; --line: #3f3f46; --paper: #18181b; --bar: #e35d6a; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 20px 40px; max-width: 1240px; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0; font-size: 28px; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 36px 0 8px; font-size: 20px; }
p { margin: 6px 0; }
.faint, figcaption, caption, footer { color: var(--faint); font-size: 14px; }
.tools { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: 8px 32px; align-items: center;
  padding: 10px 0; margin-top: 10px; background: var(--paper); border-bottom: 1px solid var(--line); font-size: 14px; }
.tools span, .tools label { display: flex; align-items: center; gap: 8px; }
.tools img { width: 180px; height: 14px; border-radius: 2px; }
.tools input { width: 150px; accent-color: var(--bar); }
.tiles { display: grid; grid-template-columns: repeat({{ columns }}, 1fr); gap: 10px; }
figure { margin: 0; }
figcaption { padding: 2px 0 6px; text-align: center; }
.tile { position: relative; aspect-ratio: 1; overflow: hidden; border-radius: 4px; background-size: cover; }
.map { background-size: 0; }
.map::before { content: ""; position: absolute; inset: 0; background: inherit; background-size: cover;
  filter: grayscale(1); }
.tile img { position: absolute; inset: 0; width: 100%; height: 100%; opacity: var(--strength); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 6px; }
th, td { padding: 6px 18px 6px 0; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 0; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 720px) {
  body { padding: 16px 14px 32px; }
  h1 { font-size: 23px; }
  table { font-size: 13px; width: 100%; }
  th, td { padding: 6px 6px 6px 0; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 6px; }
}
"""

_PICTURES_STYLE = """\
section { padding: 14px 0 4px; border-bottom: 1px solid var(--line); }
section h3 { margin: 0 0 6px; font-size: 17px; overflow-wrap: anywhere; }
section h3 small { color: var(--faint); font-weight: normal; font-size: 13px; margin-left: 8px; }
@media (max-width: 720px) {
  .tiles { grid-template-columns: 1fr 1fr; gap: 8px; }
  .tiles figure:first-child { grid-column: 1 / -1; }
  section h3 small { display: block; margin: 0; }
}
{% for picture in pictures %}
.photo{{ loop.index }} { background-image: url("{{ picture.photo }}"); }
{% endfor %}
"""

_PICTURES = """\
<main>
{% for picture in pictures %}
{% set photo = "photo%d" % loop.index %}
<section>
<h3>{{ picture.name }} <small>{{ picture.credit }}</small></h3>
<div class="tiles">
<figure><div class="tile {{ photo }}" role="img" aria-label="{{ picture.name }}"></div>
<figcaption>photo</figcaption></figure>
{% for name, heat in picture.maps %}
<figure><div class="tile map {{ photo }}"><img src="{{ heat }}" alt="{{ name }} map of {{ picture.name }}"></div>
<figcaption>{{ name }}</figcaption></figure>
{% endfor %}
</div>
</section>
{% endfor %}
</main>
"""
