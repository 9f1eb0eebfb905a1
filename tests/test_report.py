"""Contact sheet, page and files."""

from __future__ import annotations

import base64
import io
import os
import re
import resource
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsm_fast import report

from .needs import needs

pytestmark = needs("cmap", "jinja2")

HOSTILE = '<script>alert(1)</script> & "it\'s" {{ 7 * 7 }}'


def rows(names: list[str], side: int = 64) -> list[report.Row]:
    """Pictures and maps with a known layout: a horizontal ramp as photo, a vertical one as every map."""
    ramp = np.broadcast_to(np.linspace(0, 255, side).astype(np.uint8), (side, side))
    image = Image.fromarray(ramp).convert("RGB")
    return [report.Row(name, f"by {name}", image, dict.fromkeys(report.TITLES, ramp.T / 255)) for name in names]


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


def test_colours_grow_lighter_from_0_to_1() -> None:
    colors = report.colorize(np.linspace(0, 1, 256)).astype(float)
    luminance = colors @ [0.2126, 0.7152, 0.0722]
    assert colors.shape == (256, 3)
    assert (np.diff(luminance) > -0.5).all()  # inferno, to within its rounding to 8 bits
    assert luminance[0] < 5
    assert luminance[-1] > 230
    assert np.array_equal(report.colorize(np.array([np.nan, -1, 2])), report.colorize(np.array([0, 0, 1])))


def test_overlay_is_the_map_over_the_grey_picture() -> None:
    image = Image.new("RGB", (8, 8), (255, 0, 0))
    grey = np.asarray(image.convert("L"))[0, 0]
    values = np.zeros((4, 4))
    values[:2] = 1
    pixels = np.asarray(report.overlay(image, values)).astype(float)
    for row, value in ((0, 1.0), (7, 0.0)):
        expected = (1 - report.STRENGTH) * grey + report.STRENGTH * report.colorize(np.array(value)).astype(float)
        np.testing.assert_allclose(pixels[row, 4], expected, atol=1.5)


def test_contact_sheet_has_a_row_a_photo_and_a_tile_a_map() -> None:
    sheet = report.contact_sheet("Title", "sub", rows(["one", "two", "three"]))
    pixels = np.asarray(sheet)
    left, step = report.MARGIN + report.LABEL, report.TILE + report.GAP
    top = report.MARGIN + 112
    assert sheet.width == left + 5 * step - report.GAP + report.MARGIN
    for number in range(3):
        for column in range(5):
            y, x = top + number * step, left + column * step
            tile = pixels[y : y + report.TILE, x : x + report.TILE].astype(float)
            across, down = tile[:, -20:].mean() - tile[:, :20].mean(), tile[-20:].mean() - tile[:20].mean()
            assert across > 50  # the photo, also below the map
            assert (down > 50) == (column > 0)
        assert (pixels[top + number * step : top + number * step + report.TILE, : left - 4] < 128).any()  # its name
    bar = pixels[top + 3 * step + 12 + 9, left : left + 2 * report.TILE]
    assert np.array_equal(bar[0], report.colorize(np.array(0.0)))
    assert np.array_equal(bar[-1], report.colorize(np.array(1.0)))


def test_long_names_stay_in_their_column() -> None:
    short, long = (np.asarray(report.contact_sheet("T", "s", rows([name]))) for name in ("a", "a" * 500))
    assert np.array_equal(short[:, report.MARGIN + report.LABEL :], long[:, report.MARGIN + report.LABEL :])
    assert (long[:, : report.MARGIN - 2] == 255).all()


def test_page_is_self_contained() -> None:
    table = report.Table("Times", ("map", "ms"), [("TSM", "1.0")])
    text = report.html_page("Title", "sub", rows(["one", "two"]), [table], [("fact", "value")])
    page = Page(text)
    links = page.links + re.findall(r"url\(\"?([^)\"]*)", text)
    assert len(links) == 2 * 5 + 1
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
    table = report.Table(HOSTILE, (HOSTILE,), [(HOSTILE,)])
    text = report.html_page(HOSTILE, HOSTILE, rows([HOSTILE]), [table], [(HOSTILE, HOSTILE)])
    page = Page(text)
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 8
    assert "49" not in page.text


def test_page_without_pictures() -> None:
    assert "section" not in Page(report.html_page("Title", "", [], [], [])).tags


def test_files_are_written_whole(tmp_path: Path) -> None:
    arrays = {"maps": np.arange(6.0).reshape(2, 3), "names": np.array(["a", "é"])}
    paths = report.publish(tmp_path, {"a.npz": report.npz_bytes(arrays), "b.txt": b"text"})
    assert paths == [tmp_path / "a.npz", tmp_path / "b.txt"]
    with np.load(tmp_path / "a.npz", allow_pickle=False) as loaded:
        assert np.array_equal(loaded["maps"], arrays["maps"])
        assert loaded["names"].tolist() == ["a", "é"]
    assert report.publish(tmp_path, {"b.txt": b"new"}) == [tmp_path / "b.txt"]
    assert (tmp_path / "b.txt").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.txt"]
    assert (tmp_path / "b.txt").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_nothing_is_replaced_when_one_file_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "first").write_text("old")
    (tmp_path / "second").mkdir()
    with pytest.raises(IsADirectoryError, match="second"):
        report.publish(tmp_path, {"first": b"new", "second": b"new"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]
    assert (tmp_path / "first").read_text() == "old"


def test_nothing_is_replaced_when_the_disk_is_full(tmp_path: Path) -> None:
    """A real write error, from a process that may write no file over 4 kB."""
    (tmp_path / "small").write_text("old")
    program = (
        "import sys; from pathlib import Path; from tsm_fast import report\n"
        "report.publish(Path(sys.argv[1]), {'small': b'new', 'large': bytes(100_000)})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=Path(report.__file__).parents[1],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
    assert (tmp_path / "small").read_text() == "old"


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    report.make_folder(tmp_path / "a" / "b")
    report.make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        report.make_folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        report.make_folder(tmp_path / "file" / "below")
    with pytest.raises(OSError, match="/proc"):
        report.make_folder(Path("/proc/tsm_fast_demo"))
