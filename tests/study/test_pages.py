"""Tables, sentences, pages and comparisons."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tsm_fast import study
from tsm_fast.metrics import Paired
from tsm_fast.study import Study
from tsm_fast.study.tables import Values, latex, lower, made, markdown, sentence

from ..needs import PHOTOS, needs
from . import nets
from .discs import OPTIONS, Discs

photos_are_there = needs(*PHOTOS)


def values(gap: float, best: str = "high") -> Values:
    random = np.random.default_rng(0)
    image = random.normal(size=(60, 1))
    table = image + np.array([0.5, 0.5 + gap, 0.5]) + 0.05 * random.normal(size=(60, 3))
    maps = ["tsm", "mtsm", "centre"]
    return Values(maps, ["TSM", "MTSM", "Centre Gaussian"], ["m"], ["metric"], [best], {"m": table}, maps[:2])


def test_the_best_and_what_cannot_be_told_from_it_are_bold() -> None:
    far, near = (made("name", "caption", values(gap), None) for gap in (0.5, 0.001))
    assert [row[0].best for row in far.cells if row[0]] == [False, True, False]
    assert [row[0].best for row in near.cells if row[0]] == [True, True, False]
    low = made("name", "caption", values(0.5, "low"), None)
    assert [row[0].best for row in low.cells if row[0]] == [True, False, False]
    assert "| **" in markdown(far)
    assert r"\textbf{" in latex(far)
    assert far.starts == ["centre"]
    assert lower(values(0.5, "low")) == "; lower is better for metric"
    assert lower(values(0.5)) == ""
    with pytest.raises(ValueError, match="metric must be one of 'm', got 'auc'"):
        far.cell("auc", "tsm")


def test_sentences_follow_the_intervals() -> None:
    far, near = (made("name", "caption", values(gap), None) for gap in (0.5, 0.001))
    assert re.fullmatch(r"Metric: MTSM above TSM by \.\d{3} \[\.\d{3}, \.\d{3}\]\.", far.sentences[0])
    assert near.sentences[0].startswith("Metric: no difference seen between MTSM and TSM (")
    found = Paired(*(np.array([value]) for value in (-0.2, -0.3, -0.1, 0.001, 20, 0)))
    text = sentence("drop", "low", ["A", "B"], found, np.array([0.001]), 0)
    assert text == "Drop: B above A by .200 [.100, .300]; lower is better."
    text = sentence("drop", "low", ["A", "B"], found, np.array([0.1, 1.0]), 0)
    assert text == "Drop: no difference seen among 2 comparisons between A and B (-.200 [-.300, -.100] alone)."
    tiny = Paired(*(np.array([value]) for value in (2e-4, 1e-4, 3e-4, 0.001, 20, 0)))
    assert sentence("drop", "high", ["A", "B"], tiny, np.array([0.001]), 0).endswith("by 2e-04 [1e-04, 3e-04].")


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.mark.slow
@photos_are_there
def test_the_page_is_whole_and_asks_for_nothing(made: Study) -> None:
    text = (made.out / "index.html").read_text()
    links = _Links()
    links.feed(text)
    assert links.found
    assert all(link.startswith("data:image/") for link in links.found)
    for table in made.tables.values():
        assert table.caption.split(";")[0].replace("'", "&#39;") in text
        for end in ("md", "csv", "tex"):
            assert (made.out / "tables" / f"{table.name}.{end}").stat().st_size
    for name in ("first-share", "shares", "insertion-curve", "deletion-curve", "metrics-area", "randomisation"):
        for end in ("png", "svg"):
            assert (made.out / "figures" / f"{name}.{end}").stat().st_size
    assert (made.out / "figures" / "maps.png").stat().st_size


@pytest.mark.slow
@photos_are_there
def test_a_report_is_the_same_again(made: Study, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(made.out, out)
    for name in ("tables", "figures", "index.html"):
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    study.report(out)
    for path in made.out.rglob("*"):
        if path.is_file():
            assert (out / path.relative_to(made.out)).read_bytes() == path.read_bytes(), path
    with pytest.raises(FileNotFoundError, match="holds no study"):
        study.report(tmp_path)
    (out / "study.json").write_text("{")
    with pytest.raises(ValueError, match=r"study\.json is damaged"):
        study.report(out)


@pytest.mark.slow
@photos_are_there
def test_networks_side_by_side(made: Study, discs: Discs, tmp_path: Path) -> None:
    options = {**OPTIONS, "limit": 15}
    study.run(
        discs.images,
        tmp_path / "other",
        model=nets.other(),
        masks=discs.masks,
        metrics=["localisation", "spectra"],
        pages=False,
        **options,
    )
    found = study.compare({"one": made, "two": tmp_path / "other"}, tmp_path / "both", contrasts=[("one", "two")])
    assert found.tables["roc_auc"].metrics == ["one", "two"]
    contrast = found.tables["contrast-one-two"]
    cell = contrast.cell("roc_auc", "tsm")
    assert cell is not None
    two = found.studies["two"]
    rows = [made.keys.index(key) for key in two.keys]
    assert cell.units == len(rows) == 15
    assert cell.mean == pytest.approx((made.values("roc_auc", "tsm")[rows] - two.values("roc_auc", "tsm")).mean())
    assert (tmp_path / "both" / "index.html").is_file()
    assert (tmp_path / "both" / "figures" / "first-share.png").is_file()
    with pytest.raises(ValueError, match="at least two"):
        study.compare([made.out], tmp_path / "one")


@pytest.mark.slow
@photos_are_there
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_the_page_without_scrolling_sideways(made: Study, width: int, tmp_path: Path) -> None:
    """What is wider than the window scrolls in its own box."""
    page = (made.out / "index.html").read_text()
    told = "<script>document.title = document.documentElement.scrollWidth + ' ' + innerWidth</script></body>"
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", told))
    command = [
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--window-size={width},900",
        "--dump-dom",
    ]
    text = subprocess.run([*command, path.as_uri()], capture_output=True, timeout=120, check=True, text=True).stdout
    found = re.search(r"<title>(\d+) (\d+)</title>", text)
    assert found is not None
    assert int(found[1]) <= int(found[2])
