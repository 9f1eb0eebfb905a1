"""report.html: what is in it, that it needs nothing else, and that keys stay text."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsm_fast import SaliencyDataset
from tsm_fast.pipeline import Run
from tsm_fast.pipeline.files.record import seal
from tsm_fast.pipeline.results.report import SIDE, concentration, measure, seen_square, write_report

from ..small_run import BROKEN, HOSTILE, SHARD_SIZE, changeable, finished, partial

pytestmark = pytest.mark.slow

__all__ = ["changeable", "finished", "partial"]  # fixtures

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """The tags and the text that a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def count(self, name: str) -> int:
        return sum(tag == "section" and name in (attributes.get("class") or "") for tag, attributes in self.tags)


@pytest.fixture
def text(changeable: Path) -> str:
    path = write_report(changeable, pictures=8)
    assert path == changeable / "report.html"
    return path.read_text(encoding="utf-8")


def test_what_the_network_saw_as_a_square() -> None:
    """Grey where the part reaches over the picture, as a padded input does."""
    image = Image.new("RGB", (300, 200), "red")
    square = np.asarray(seen_square(image, (0, -50, 300, 250)))
    margin = round(SIDE * 50 / 300)
    assert square.shape == (SIDE, SIDE, 3)
    assert (square[margin : SIDE - margin] == (255, 0, 0)).all()
    assert (square[:margin] == 128).all()
    assert (square[SIDE - margin :] == 128).all()
    assert (np.asarray(seen_square(image, (50, 0, 250, 200))) == (255, 0, 0)).all()


def test_it_tells_what_the_run_is_and_how_it_went(text: str, changeable: Path) -> None:
    run, page = Run.open(changeable), Page(text)
    words = ["Random", "Most concentrated", "Least concentrated", "Flagged", "Pictures without a map"]
    words += ["Throughput by stage", "forward", "decomposition", "lite0, features: TSM, MTSM", run.fingerprint]
    words += ["tsm/features", "mtsm/features", "Position of the peak", "torch: ", "first_frame", "reduced"]
    words += [f"{kind}: 1" for kind in ("empty", "format", "truncated")] + list(BROKEN)
    assert [word for word in words if word not in page.text] == []
    assert page.count("card") == 8 + 4 + 4 + 2
    assert f"of {run.n_items} images" in page.text


def test_it_needs_nothing_else(text: str) -> None:
    page = Page(text)
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    links += re.findall(r"url\(\"?([^)\"]*)", text)
    assert len(links) > 50
    for link in links:
        kind, _, data = (link or "").partition(",")
        assert re.fullmatch(r"data:image/(jpeg|png);base64", kind)
        Image.open(io.BytesIO(base64.b64decode(data))).load()
    assert not re.search(r"https?:|@import|<script|<link|<iframe", text)
    assert "default-src 'none'" in text


def test_pictures_are_those_of_the_rows(text: str, finished: Path) -> None:
    """The first picture beside its key is that file, as the network saw it."""
    key = Page(text[text.index('<section class="card">') :]).words
    name = next(word for word in key if word.startswith("crops/"))
    photo = re.search(r"\.p0-0 \{ background-image: url\(\"data:image/jpeg;base64,([^\"]*)", text)
    assert photo is not None
    shown = Image.open(io.BytesIO(base64.b64decode(photo[1]))).convert("RGB")
    square = Image.open(finished.parent / "pictures" / name).crop((5, 0, 95, 90)).resize(shown.size)
    assert np.abs(np.asarray(shown, float) - np.asarray(square, float)).mean() < 12  # JPEG, two resamplings


def test_keys_are_text(changeable: Path) -> None:
    """All pictures of the run are shown, the one with a hostile name too."""
    text = write_report(changeable, pictures=1000).read_text(encoding="utf-8")
    page = Page(text)
    assert HOSTILE in page.text
    assert "two\nlines.png" in text
    assert [a for _, a in page.tags if "onerror" in a] == []
    assert "<img src=x" not in text
    assert "script" not in {tag for tag, _ in page.tags}


def test_the_same_run_gives_the_same_page(changeable: Path) -> None:
    assert write_report(changeable).read_bytes() == write_report(changeable).read_bytes()


def test_without_the_pictures_the_maps_stay(changeable: Path) -> None:
    facts = json.loads((changeable / "run.json").read_text())
    facts["about"]["root"] = str(changeable / "moved away")
    facts.update(seal(facts))
    (changeable / "run.json").write_text(json.dumps(facts))
    page = Page(write_report(changeable, pictures=8).read_text(encoding="utf-8"))
    assert page.count("card") == 18
    assert "bare" in str(page.tags)
    assert not re.search(r"'tile map", str(page.tags))


def test_runs_that_are_not_finished(partial: Path) -> None:
    page = Page(write_report(partial).read_text(encoding="utf-8"))
    assert f"of {Run.open(partial).n_items} images, unfinished" in page.text
    for marker in (partial / "markers").iterdir():
        marker.unlink()
    page = Page(write_report(partial).read_text(encoding="utf-8"))
    assert page.count("card") == 0
    assert "How this was made" in page.text


def test_concentration_is_one_minus_the_relative_entropy() -> None:
    maps = np.array([[1.0, 1, 1, 1], [0, 0, 3, 0], [0, 0, 0, 0], [2, 2, 0, 0]])
    np.testing.assert_allclose(concentration(maps), [0, 1, 0, 0.5], atol=1e-12)
    assert concentration(np.ones((2, 1))).tolist() == [0, 0]


def test_figures_are_those_of_the_maps(finished: Path) -> None:
    ds = SaliencyDataset(finished)
    figures, maps = measure(ds, "tsm/features"), ds.numpy("tsm/features").reshape(len(ds), -1)
    ok = ds.status == "ok"
    np.testing.assert_array_equal(figures.peak[ok], maps[ok].max(1))
    np.testing.assert_allclose(figures.mean[ok], maps[ok].mean(1), rtol=1e-6)
    np.testing.assert_array_equal(figures.position[ok], maps[ok].argmax(1))
    assert np.isnan(figures.concentration[~ok]).all()
    assert (figures.position[~ok] == -1).all()
    assert len(ds) > SHARD_SIZE


def browse(page: Path, folder: Path, *more: str) -> tuple[str, set[str]]:
    """What headless Chromium makes of a page, and the addresses that the page asked for; its own errands aside."""
    folder.mkdir()
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--dump-dom")
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions")
    places = (f"--user-data-dir={folder / 'profile'}", f"--log-net-log={folder / 'log'}", "--window-size=400,900")
    done = subprocess.run(
        [str(CHROMIUM), *options, *quiet, *places, *more, f"file://{page}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    asked = [event.get("params", {}) for event in json.loads((folder / "log").read_text())["events"]]
    return done.stdout, {
        p["url"] for p in asked if "url" in p and p.get("initiator", "not an origin") != "not an origin"
    }


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_it_whole_and_makes_no_request(text: str, changeable: Path, tmp_path: Path) -> None:
    shown, asked = browse(changeable / "report.html", tmp_path / "report")
    assert "How this was made" in shown
    assert shown.count('<section class="card">') == text.count('<section class="card">')
    assert asked == set()
    (tmp_path / "other.html").write_text('<img src="http://example.invalid/x.png">')
    assert browse(tmp_path / "other.html", tmp_path / "other")[1] == {"http://example.invalid/x.png"}
