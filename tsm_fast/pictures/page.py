"""Self-contained HTML pages of saliency maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .._lazy import needs
from .drawing import STRENGTH, Row, colorize

_HERE = "tsm_fast.pictures"


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
    return render(_HERE, "photos.html", title, subtitle, tables, facts, values)


def render(
    package: str,
    template: str,
    title: str,
    subtitle: str,
    tables: Sequence[Table],
    facts: Sequence[tuple[str, str]],
    values: Mapping[str, Any],
) -> str:
    """A page of this look, by a template in the folder `templates` of a package that extends `page.html` of this one.

    It sees `values`, which come out escaped. The page needs nothing but itself, and its policy forbids every request.
    `values["columns"]` is the number of tiles that stand side by side in `.tiles`.
    """
    with needs("datasets", "an HTML page"):
        from jinja2 import ChoiceLoader, Environment, PackageLoader

    ramp = np.broadcast_to(np.linspace(0, 1, 256), (1, 256))
    bar = data_uri(Image.fromarray(colorize(ramp)), "PNG")
    loader = ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, _HERE))])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(
        title=title, subtitle=subtitle, tables=tables, facts=facts, bar=bar, strength=STRENGTH, **values
    )


def data_uri(image: Image.Image, kind: str = "JPEG") -> str:
    """A picture as the text of a data: link."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 88} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
