"""Maps in colour, over their photo, and on a contact sheet."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tsm_fast.pictures import drawing
from tsm_fast.saliency import METHODS

from ..needs import needs

pytestmark = needs("cmap")


def rows(names: list[str], side: int = 64) -> list[drawing.Row]:
    """Pictures and maps with a known layout: a horizontal ramp as photo, a vertical one as every map."""
    ramp = np.broadcast_to(np.linspace(0, 255, side).astype(np.uint8), (side, side))
    image = Image.fromarray(ramp).convert("RGB")
    maps = {method.title: ramp.T / 255 for method in METHODS.values()}
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
