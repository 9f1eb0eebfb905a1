"""Maps in colour, over their photo, and on a contact sheet."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tsm_fast.methods import BUILT_IN
from tsm_fast.pictures import drawing

from ..needs import needs

pytestmark = needs("cmap")


def rows(names: list[str], side: int = 64) -> list[drawing.Row]:
    """Pictures and maps with a known layout: a horizontal ramp as photo, a vertical one as every map."""
    ramp = np.broadcast_to(np.linspace(0, 255, side).astype(np.uint8), (side, side))
    image = Image.fromarray(ramp).convert("RGB")
    maps = {method.title: ramp.T / 255 for method in BUILT_IN.values()}
    return [drawing.Row(name, f"by {name}", image, maps) for name in names]


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


def test_an_overlay_of_a_part_is_there_and_has_a_frame() -> None:
    image = Image.new("RGB", (100, 60), (200, 200, 200))
    values = np.zeros((2, 2))
    values[0, 1] = 1  # above on the right
    pixels = np.asarray(drawing.overlay(image, values, (20, 10, 60, 50))).astype(int)
    assert (pixels[:, :20] == 200).all()
    assert (pixels[:, 60:] == 200).all()
    assert (pixels[:10] == 200).all()
    assert (pixels[50:] == 200).all()
    assert (pixels[10, 20:60] == 255).all()
    assert (pixels[49, 20:60] == 255).all()
    assert (pixels[11:49, 21] == 0).all()
    above, below = pixels[12:16, 54:58].mean((0, 1)), pixels[44:48, 24:28].mean((0, 1))
    expected = 0.45 * 200 + 0.55 * drawing.colorize(np.array([1.0, 0.0])).astype(float)
    np.testing.assert_allclose([above, below], expected, atol=1.5)


def test_an_overlay_of_more_than_the_picture() -> None:
    """A map about a picture that was padded: what lies outside is cut off, nothing is moved."""
    image = Image.new("RGB", (40, 40))
    values = np.random.default_rng(0).random((8, 8))
    whole = np.asarray(drawing.overlay(Image.new("RGB", (80, 80)), values)).astype(int)
    cut = np.asarray(drawing.overlay(image, values, (-20, -20, 60, 60))).astype(int)
    assert np.abs(cut - whole[20:60, 20:60]).max() <= 2
    assert drawing.overlay(image, values, (50, 0, 90, 40)) == image


def test_other_colours() -> None:
    image, values = Image.new("RGB", (8, 8)), np.ones((2, 2))
    for name in ("viridis", "turbo", "matplotlib:viridis"):
        expected = 0.55 * drawing.palette(name)[255]
        np.testing.assert_allclose(np.asarray(drawing.overlay(image, values, colormap=name))[0, 0], expected, atol=1)
    with pytest.raises(ValueError, match=r"colormap must be one of the package cmap, got 'infernoo'; close .* inferno"):
        drawing.palette("infernoo")


def test_contact_sheet_has_a_row_a_photo_and_a_tile_a_map() -> None:
    sheet = drawing.contact_sheet("Title", "sub", rows(["one", "two", "three"]))
    pixels = np.asarray(sheet)
    left, step = drawing.MARGIN + drawing.LABEL, drawing.TILE + drawing.GAP
    top = drawing.MARGIN + 112
    assert sheet.width == left + (1 + len(BUILT_IN)) * step - drawing.GAP + drawing.MARGIN
    for number in range(3):
        for column in range(1 + len(BUILT_IN)):
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
