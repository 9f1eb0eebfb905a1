"""How pictures come to the size of an input, and which part of them it shows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tsm_fast.models.preprocessing import Resize
from tsm_fast.pipeline.settings import FITS

sides = st.integers(1, 300)


def ramp(height: int, width: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    red = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    green = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    return Image.fromarray(np.stack([red, green, np.full_like(red, 99)], 2).round().astype(np.uint8))


@given(height=sides, width=sides, h=sides, w=sides, fit=st.sampled_from(FITS), fraction=st.floats(0.05, 1))
def test_any_picture_has_its_input(height: int, width: int, h: int, w: int, fit: str, fraction: float) -> None:
    resize = Resize((h, w), fraction=fraction, fit=fit)
    assert resize.picture(Image.new("RGB", (width, height))).size == (w, h)
    left, top, right, bottom = resize.region(width, height)
    assert left < right
    assert top < bottom
    if fit == "crop":
        assert min(left, top, width - right, height - bottom) >= 0
    else:
        assert max(left, top, width - right, height - bottom) <= 1e-6


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("height", "width"), [(200, 300), (300, 200), (250, 250), (90, 400)])
def test_the_box_is_where_the_input_comes_from(fit: str, height: int, width: int) -> None:
    """Every pixel of the input has the colour that the ramp has at its place in the box."""
    resize = Resize((96, 120), fit=fit, interpolation="bilinear")
    made = np.asarray(resize.picture(ramp(height, width))).astype(float)
    left, top, right, bottom = resize.region(width, height)
    x = left + (np.arange(120) + 0.5) / 120 * (right - left) - 0.5
    y = top + (np.arange(96) + 0.5) / 96 * (bottom - top) - 0.5
    inside = ((y > 2) & (y < height - 3))[:, None] & ((x > 2) & (x < width - 3))
    assert inside.sum() > 1000
    red, green = np.meshgrid(x / (width - 1) * 255, y / (height - 1) * 255)
    assert np.abs(made[..., 0] - red)[inside].max() < 4
    assert np.abs(made[..., 1] - green)[inside].max() < 4


def test_margins_have_the_mean_colour() -> None:
    resize = Resize((50, 100), (0.2, 0.4, 0.6), fit="pad")
    made = np.asarray(resize.picture(Image.new("RGB", (40, 40), "white")))
    assert (made[:, 25:75] == 255).all()
    assert (made[:, :25] == (51, 102, 153)).all()
    assert (made[:, 75:] == (51, 102, 153)).all()
    assert resize(Image.new("RGB", (40, 40), "white"))[:, :, :25].abs().max() < 1e-6


def test_the_record_says_what_matters() -> None:
    assert Resize((8, 8)).record()["kind"] == "central crop"
    assert "fit" not in Resize((8, 8)).record()
    assert Resize((8, 8), fit="pad").record()["kind"] == "padded"
    assert "fraction" not in Resize((8, 8), fit="stretch").record()
