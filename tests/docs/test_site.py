"""The site that `make docs` built: nothing is loaded from elsewhere, formulas are set; every public name is there."""

from __future__ import annotations

import inspect
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

import tsm_fast

from ..helpers import STEPS
from ..pipeline.results.test_report import CHROMIUM, browse

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "build" / "site"
needs_site = pytest.mark.skipif(not SITE.exists(), reason="`make docs` builds the site")

LOADING = {("link", "href"), ("img", "src"), ("script", "src"), ("iframe", "src"), ("source", "srcset")}
LOADING_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch", "manifest", "prefetch"}
ELSEWHERE = re.compile(r"^\s*(?:[a-z]+:)?//", re.IGNORECASE)
# What the theme's script would load, and the part of a page that asks for it: no page has one.
DORMANT = {
    "unpkg.com/mermaid@11": 'class="mermaid"',
    "unpkg.com/resize-observer-polyfill": "for browsers of before 2020",
    "api.github.com": 'data-md-component="source"',
    "/api/v4/projects/": 'data-md-component="source"',
}


class Loads(HTMLParser):
    """Addresses that a browser asks for when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and not LOADING_LINKS & set((given.get("rel") or "").split()):
            return
        self.found += [value for name, value in attrs if (tag, name) in LOADING and value]
        self.found += re.findall(r"url\(['\"]?([^'\")]+)", given.get("style") or "")


def files(suffix: str) -> list[Path]:
    found = sorted(SITE.rglob(f"*{suffix}"))
    assert found
    return found


@needs_site
def test_pages_load_nothing_from_elsewhere() -> None:
    for page in files(".html"):
        loads = Loads()
        loads.feed(page.read_text())
        assert loads.found or page.parent.name == "results"  # the page of the benchmarks needs nothing but itself
        assert not [address for address in loads.found if ELSEWHERE.match(address)], page
        # What they load is there.
        for address in loads.found:
            if not address.startswith("data:"):
                place = re.split("[?#]", address)[0]
                folder = SITE if place.startswith("/") else page.parent
                assert (folder / place.lstrip("/")).exists(), (page, address)


@needs_site
def test_styles_load_nothing_from_elsewhere() -> None:
    for style in files(".css"):
        text = style.read_text()
        addresses = re.findall(r"(?:url\(|@import\s+)['\"]?([^'\")\s;]+)", text)
        assert not [address for address in addresses if ELSEWHERE.match(address)], style


@needs_site
def test_scripts_load_nothing_from_elsewhere() -> None:
    pages = "".join(page.read_text() for page in files(".html"))
    for script in files(".js"):
        if script.name == "search_index.js":  # the text of the pages
            continue
        for address in re.findall(r"[\"'`](https?://[^\"'`]+)", script.read_text()):
            known = [needs for name, needs in DORMANT.items() if name in address]
            assert known or "www.w3.org" in address or "squidfunk" in address, (script, address)
            assert not [needs for needs in known if needs in pages], (script, address)


@needs_site
def test_formulas_are_set() -> None:
    text = (SITE / "method.html").read_text()
    assert text.count('class="katex"') > 40
    assert "arithmatex" not in text
    assert "katex-error" not in text


@needs_site
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_search_works_from_the_disk(tmp_path: Path) -> None:
    shown, asked = browse(SITE / "index.html?q=orthonormal", tmp_path / "home", "--virtual-time-budget=10000")
    assert "Saliency maps without labels" in shown
    assert re.search(r"md-search-result__article.*?The method", shown, re.DOTALL)
    assert all(address.startswith(("file:", "data:", "blob:")) for address in asked)


def test_every_public_name_has_its_entry() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    metrics = set(re.findall(r"^::: tsm_fast\.metrics\.(\w+)$", text, re.MULTILINE))
    assert metrics == set(tsm_fast.metrics.__all__) - {"mean_activation"}
    entries = set(re.findall(r"^::: tsm_fast\.(\w+)$", text, re.MULTILINE))
    assert entries == set(tsm_fast.__all__)
    assert all(inspect.getdoc(getattr(tsm_fast, name)) for name in tsm_fast.__all__)


def test_every_page_is_once_in_the_navigation() -> None:
    nav = yaml.safe_dump(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    named = re.findall(r"[\w-]+\.md", nav)
    assert len(named) == len(set(named))
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks" / "results").glob("*.md")]
    assert {page.name for page in pages} <= set(named)


def test_files_named_by_the_architecture_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    steps = [name for name in re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) if name in STEPS]
    named = set(re.findall(r"`((?:csrc|tests|tsm_fast|kernels|benchmarks)/[\w./]+)`", text))
    assert steps == STEPS
    files = {name.replace("STEP", step) for name in named for step in steps}
    assert len(files) > 30
    assert not [name for name in files if not (ROOT / name).exists()]
