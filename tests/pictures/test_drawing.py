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

pytest.importorskip("cmap", reason="needs the extra demo")
pytest.importorskip("jinja2", reason="needs the extra demo")

from tsm_fast.pictures import drawing
from tsm_fast.pictures.page import Table, html_page
from tsm_fast.saliency import METHODS

HOSTILE = '<script>alert(1)</script> & "it\'s" {{ 7 * 7 }}'


def rows(names: list[str], side: int = 64) -> list[drawing.Row]:
    """Pictures and maps with a known layout: a horizontal ramp as photo, a vertical one as every map."""
    ramp = np.broadcast_to(np.linspace(0, 255, side).astype(np.uint8), (side, side))
    image = Image.fromarray(ramp).convert("RGB")
    maps = {method.title: ramp.T / 255 for method in METHODS.values()}
    return [drawing.Row(name, f"by {name}", image, maps) for name in names]


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
    colors = drawing.colorize(np.linspace(0, 1, 256)).astype(float)
    luminance = colors @ [0.2126, 0.7152, 0.0722]
    assert colors.shape == (256, 3)
    assert (np.diff(luminance) > -0.5).all()  # inferno, to within its rounding to 8 bits
    assert luminance[0] < 5
    assert luminance[-1] > 230
    assert np.array_equal(drawing.colorize(np.array([np.nan, -1, 2])), drawing.colorize(np.array([0, 0, 1])))


def test_overlay_is_the_map_over_the_grey_picture() -> None:
    image = Image.new("RGB", (8, 8), (255, 0, 0))
    grey = np.asarray(image.convert("L"))[0, 0]
    values = np.zeros((4, 4))
    values[:2] = 1
    pixels = np.asarray(drawing.overlay(image, values)).astype(float)
    for row, value in ((0, 1.0), (7, 0.0)):
        expected = (1 - drawing.STRENGTH) * grey + drawing.STRENGTH * drawing.colorize(np.array(value)).astype(float)
        np.testing.assert_allclose(pixels[row, 4], expected, atol=1.5)


def test_contact_sheet_has_a_row_a_photo_and_a_tile_a_map() -> None:
    sheet = drawing.contact_sheet("Title", "sub", rows(["one", "two", "three"]))
    pixels = np.asarray(sheet)
    left, step = drawing.MARGIN + drawing.LABEL, drawing.TILE + drawing.GAP
    top = drawing.MARGIN + 112
    assert sheet.width == left + 5 * step - drawing.GAP + drawing.MARGIN
    for number in range(3):
        for column in range(5):
            y, x = top + number * step, left + column * step
            tile = pixels[y : y + drawing.TILE, x : x + drawing.TILE].astype(float)
            across, down = tile[:, -20:].mean() - tile[:, :20].mean(), tile[-20:].mean() - tile[:20].mean()
            assert across > 50  # the photo, also below the map
            assert (down > 50) == (column > 0)
        assert (pixels[top + number * step : top + number * step + drawing.TILE, : left - 4] < 128).any()  # its name
    bar = pixels[top + 3 * step + 12 + 9, left : left + 2 * drawing.TILE]
    assert np.array_equal(bar[0], drawing.colorize(np.array(0.0)))
    assert np.array_equal(bar[-1], drawing.colorize(np.array(1.0)))


def test_long_names_stay_in_their_column() -> None:
    short, long = (np.asarray(drawing.contact_sheet("T", "s", rows([name]))) for name in ("a", "a" * 500))
    assert np.array_equal(short[:, drawing.MARGIN + drawing.LABEL :], long[:, drawing.MARGIN + drawing.LABEL :])
    assert (long[:, : drawing.MARGIN - 2] == 255).all()


def test_page_is_self_contained() -> None:
    table = Table("Times", ("map", "ms"), [("TSM", "1.0")])
    text = html_page("Title", "sub", rows(["one", "two"]), [table], [("fact", "value")])
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
    table = Table(HOSTILE, (HOSTILE,), [(HOSTILE,)])
    text = html_page(HOSTILE, HOSTILE, rows([HOSTILE]), [table], [(HOSTILE, HOSTILE)])
    page = Page(text)
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 8
    assert "49" not in page.text


def test_page_without_pictures() -> None:
    assert "section" not in Page(html_page("Title", "", [], [], [])).tags


def test_files_are_written_whole(tmp_path: Path) -> None:
    arrays = {"maps": np.arange(6.0).reshape(2, 3), "names": np.array(["a", "é"])}
    paths = drawing.publish(tmp_path, {"a.npz": drawing.npz_bytes(arrays), "b.txt": b"text"})
    assert paths == [tmp_path / "a.npz", tmp_path / "b.txt"]
    with np.load(tmp_path / "a.npz", allow_pickle=False) as loaded:
        assert np.array_equal(loaded["maps"], arrays["maps"])
        assert loaded["names"].tolist() == ["a", "é"]
    assert drawing.publish(tmp_path, {"b.txt": b"new"}) == [tmp_path / "b.txt"]
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
        drawing.publish(tmp_path, {"first": b"new", "second": b"new"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]
    assert (tmp_path / "first").read_text() == "old"


def test_nothing_is_replaced_when_the_disk_is_full(tmp_path: Path) -> None:
    """A real write error, from a process that may write no file over 4 kB."""
    (tmp_path / "small").write_text("old")
    program = (
        "import sys; from pathlib import Path; from tsm_fast.pictures import drawing\n"
        "drawing.publish(Path(sys.argv[1]), {'small': b'new', 'large': bytes(100_000)})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=Path(drawing.__file__).parents[2],
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
    drawing.make_folder(tmp_path / "a" / "b")
    drawing.make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        drawing.make_folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        drawing.make_folder(tmp_path / "file" / "below")
    with pytest.raises(OSError, match="/proc"):
        drawing.make_folder(Path("/proc/tsm_fast_demo"))
