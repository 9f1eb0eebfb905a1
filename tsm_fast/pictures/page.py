"""Self-contained HTML pages of saliency maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .drawing import STRENGTH, Row, colorize


class Table(NamedTuple):
    """A small table of texts; the first column names the rows."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


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
    return render(title, subtitle, _PICTURES_STYLE, _PICTURES, tables, facts, values)


def render(
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
