"""Pages that need nothing but themselves."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

from PIL import Image

from tsm_fast.methods import BUILT_IN
from tsm_fast.pictures.page import Table, html_page

from ..needs import needs
from .test_drawing import rows

pytestmark = needs("cmap", "jinja2")

HOSTILE = '<script>alert(1)</script> & "it\'s" {{ 7 * 7 }}'


class Page(HTMLParser):
    """What a browser would load, run and show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_self_contained() -> None:
    table = Table("Times", ("map", "ms"), [("TSM", "1.0")])
    text = html_page("Title", "sub", rows(["one", "two"]), [table], [("fact", "value")])
    page = Page(text)
    links = page.links + re.findall(r"url\(\"?([^)\"]*)", text)
    assert len(links) == 2 * (1 + len(BUILT_IN)) + 1  # photos and overlays, and an icon
    for link in links:
        kind, _, data = link.partition(",")
        assert re.fullmatch(r"data:image/(jpeg|png);base64", kind)
        Image.open(io.BytesIO(base64.b64decode(data))).load()
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert page.tags.count("section") == 2
    for word in ("Title", "sub", "one", "by two", "EigenCAM", "Multivec-EigenCAM", "MTSM", "Times", "fact", "value"):
        assert word in page.text


def test_page_escapes_what_it_is_given() -> None:
    table = Table(HOSTILE, (HOSTILE,), [(HOSTILE,)])
    text = html_page(HOSTILE, HOSTILE, rows([HOSTILE]), [table], [(HOSTILE, HOSTILE)])
    page = Page(text)
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 8
    assert "49" not in page.text


def test_page_without_pictures() -> None:
    assert "section" not in Page(html_page("Title", "", [], [], [])).tags
