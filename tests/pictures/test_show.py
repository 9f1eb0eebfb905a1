"""`overlay` and `sheet`: every kind of picture, maps where they belong, clear errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

import tsm_fast
from tsm_fast.pictures import drawing

from ..needs import needs

pytestmark = needs("cmap")


def values() -> np.ndarray:
    return np.random.default_rng(0).random((7, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def cat(photos: dict[str, Image.Image]) -> Image.Image:
    return photos["cat"]


def test_every_kind_of_picture_gives_the_same(cat: Image.Image, tmp_path: Path) -> None:
    expected = np.asarray(tsm_fast.overlay(cat, values())).astype(int)
    cat.save(tmp_path / "cat.png")
    pixels = np.asarray(cat)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    kinds: list[Any] = [
        str(tmp_path / "cat.png"),
        tmp_path / "cat.png",
        pixels,
        pixels[None],
        pixels.transpose(2, 0, 1),
        pixels / 255,
        (pixels / 255).astype(np.float16),
        tensor,
        tensor[None] / 255,
        (tensor / 255).bfloat16(),
        torch.nn.Parameter(tensor / 255),
    ]
    for kind in kinds:
        made = tsm_fast.overlay(kind, torch.from_numpy(values()))
        assert made.size == cat.size
        assert np.abs(np.asarray(made).astype(int) - expected).max() <= 2  # bfloat16 has 8 bits
    turned = cat.copy()
    turned.getexif()[0x0112] = 3
    turned.save(tmp_path / "turned.jpg", exif=turned.getexif(), quality=100)
    upright = np.asarray(tsm_fast.overlay(tmp_path / "turned.jpg", values(), opacity=0)).astype(int)
    assert np.abs(upright - np.asarray(cat.rotate(180).convert("L"))[..., None]).mean() < 2


def test_grey_pictures_and_inputs_of_a_network(cat: Image.Image) -> None:
    grey = np.asarray(cat.convert("L"))
    for kind in (cat.convert("L"), grey, grey[..., None], torch.from_numpy(grey.copy())[None]):
        assert np.array_equal(np.asarray(tsm_fast.overlay(kind, values(), opacity=0))[..., 0], grey)
    normalised = (grey.astype(np.float32) / 255 - 0.4) / 0.2
    drawn = np.asarray(tsm_fast.overlay(normalised, values(), opacity=0))[..., 0].astype(float)
    wanted = (grey.astype(float) - grey.min()) / (int(grey.max()) - int(grey.min())) * 255
    assert np.abs(drawn - wanted).max() <= 1


def test_opacity_and_colours(cat: Image.Image) -> None:
    one = np.ones((2, 2), np.float32)
    for opacity in (0, 0.3, 1):
        made = np.asarray(tsm_fast.overlay(cat, one, normalize=False, opacity=opacity, colormap="viridis"))
        grey = np.asarray(cat.convert("L")).astype(float)[..., None]
        np.testing.assert_allclose(made, (1 - opacity) * grey + opacity * drawing.palette("viridis")[255], atol=1)
    assert tsm_fast.overlay(cat, values()) == tsm_fast.overlay(cat, values(), opacity=drawing.STRENGTH)


def test_the_range_of_the_map(cat: Image.Image) -> None:
    scaled = (values() - values().min()) / np.ptp(values())
    expected = tsm_fast.overlay(cat, scaled, normalize=False)
    for same in (values() * 50 - 7, torch.from_numpy(values())[None], values().astype(np.float64)):
        drawn = np.asarray(tsm_fast.overlay(cat, same)).astype(int)
        assert np.abs(drawn - np.asarray(expected)).max() <= 1
    flat = np.full((3, 3), 0.7, np.float32)
    assert tsm_fast.overlay(cat, flat) == tsm_fast.overlay(cat, flat * 0, normalize=False)


def test_numbers_of_numpy_and_values_as_wide_as_their_dtype(cat: Image.Image) -> None:
    wide = np.array([[-1.0, 0.0, 1.0]])
    expected = tsm_fast.overlay(cat, wide, opacity=0.5)
    half: Any = np.float32(0.5)
    assert tsm_fast.overlay(cat, 1.7e308 * wide, opacity=half) == expected
    assert tsm_fast.overlay(1.7e308 * wide, wide) == tsm_fast.overlay(wide, wide)


def test_a_region_by_numbers_or_by_a_function(cat: Image.Image) -> None:
    box = (20, 10, cat.width - 60, cat.height + 10)
    expected = drawing.overlay(cat, values(), box)
    same: dict[str, Any] = {"normalize": False}
    assert tsm_fast.overlay(cat, values(), region=box, **same) == expected
    assert tsm_fast.overlay(cat, values(), region=cast(Any, np.array(box)), **same) == expected
    assert tsm_fast.overlay(cat, values(), region=lambda w, h: (20, 10, w - 60, h + 10), **same) == expected


BAD_OVERLAYS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"image": "none.jpg"}, FileNotFoundError, "none.jpg"),
    ({"image": 3}, TypeError, "image must be a PIL image, a file name, or an array or tensor, got int"),
    ({"image": np.zeros((2, 4, 5), np.uint8)}, ValueError, r"image must be .* got shape \(2, 4, 5\)"),
    ({"image": torch.rand(2, 3, 8, 8)}, ValueError, r"image must be .* got shape \(2, 3, 8, 8\)"),
    ({"image": np.zeros((4, 4), np.int64)}, TypeError, "image must be uint8, or floats in 0..1, got int64"),
    ({"image": torch.full((3, 4, 4), torch.nan)}, ValueError, "image must be finite"),
    ({"image": Image.new("F", (8, 8))}, ValueError, "image: pixels must have at most 16 bits a channel"),
    ({"map": [[1.0]]}, TypeError, "map must be a torch, NumPy or DLPack array, got list"),
    ({"map": np.zeros((4, 4), bool)}, TypeError, "map must have dtype"),
    (
        {"map": torch.rand(2, 4, 4)},
        ValueError,
        r"map must be \[h, w\], got shape \(2, 4, 4\); of a batch, take .*map\[0\]",
    ),
    ({"map": torch.rand(0, 4)}, ValueError, "map must be"),
    ({"map": torch.tensor([[1.0, torch.inf]])}, ValueError, "map must be finite"),
    ({"map": torch.tensor([[1.0, 2.0]]), "normalize": False}, ValueError, r"map must lie in 0\.\.1 .* got 1\.\.2"),
    ({"opacity": 2}, ValueError, "opacity must lie in 0..1, got 2"),
    ({"opacity": "full"}, TypeError, "opacity must be a number"),
    ({"normalize": 1}, TypeError, "normalize must be True or False"),
    ({"colormap": "infernoo"}, ValueError, "close names: .*inferno"),
    ({"colormap": None}, TypeError, "colormap must be the name of a colour map, got NoneType"),
    ({"region": (0, 0, 4)}, TypeError, r"region must be \(left, top, right, bottom\)"),
    ({"region": (4, 0, 4, 4)}, ValueError, "left < right"),
    ({"region": "center"}, TypeError, "region must be"),
]


@pytest.mark.parametrize(("changed", "error", "text"), BAD_OVERLAYS)
def test_bad_input(changed: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        tsm_fast.overlay(**{"image": Image.new("RGB", (8, 8)), "map": torch.rand(2, 2), **changed})


def test_a_sheet_has_a_tile_for_each_map(cat: Image.Image) -> None:
    maps = {"TSM": values(), "MTSM": torch.from_numpy(values())}
    made = tsm_fast.sheet(cat, maps, colormap="viridis", opacity=1)
    photo = cat.copy()
    photo.thumbnail((drawing.TILE, drawing.TILE))
    pixels, step = np.asarray(made), drawing.TILE + drawing.GAP
    y, x = drawing.MARGIN + 34, drawing.MARGIN
    assert made.width == x + 3 * step - drawing.GAP + drawing.MARGIN
    first, *others = (pixels[y : y + photo.height, x + n * step : x + n * step + photo.width] for n in range(3))
    assert np.abs(first.astype(int) - np.asarray(photo)).mean() < 12  # of another filter
    wanted = np.asarray(tsm_fast.overlay(photo, values(), colormap="viridis", opacity=1))
    for tile in others:
        assert np.array_equal(tile, wanted)


def test_a_sheet_of_several_pictures(photos: dict[str, Image.Image]) -> None:
    names = ["cat", "rocket"]
    maps = {"TSM": np.stack([values(), values()])}
    one, two = (tsm_fast.sheet([photos[n] for n in names[:count]], {"TSM": maps["TSM"][:count]}) for count in (1, 2))
    assert two.width == one.width
    assert two.height > one.height
    named = tsm_fast.sheet([photos[n] for n in names], maps, names=names, title="Two")
    assert (named.width, named.height) == (two.width + drawing.LABEL, two.height + 44)


def test_texts_of_a_sheet_are_lines(cat: Image.Image) -> None:
    lines, line = (tsm_fast.sheet(cat, {text: values()}, names=[text], title=text) for text in ("a\nb", "a b"))
    assert lines == line


BAD_SHEETS: list[tuple[tuple[Any, Any], dict[str, Any], type[Exception], str]] = [
    ((Image.new("RGB", (8, 8)), torch.rand(2, 2)), {}, TypeError, "maps must be a dict from title to map"),
    ((Image.new("RGB", (8, 8)), {}), {}, TypeError, "maps must be a dict from title to map, not empty"),
    ((Image.new("RGB", (8, 8)), {"a": torch.rand(2, 4, 4)}), {}, ValueError, r"maps\['a'\] must be 1, .* got 2"),
    (([Image.new("RGB", (8, 8))], {"a": torch.rand(1, 4, 4)}), {"names": "a"}, ValueError, "names must be 1, one for"),
    ((Image.new("RGB", (8, 8)), {"a": torch.rand(4, 4)}), {"names": 1}, ValueError, "names must be 1, one for"),
    ((Image.new("RGB", (8, 8)), {1: torch.rand(4, 4)}), {}, TypeError, "titles of maps must be texts"),
    ((Image.new("RGB", (8, 8)), {"a": torch.rand(4, 4)}), {"title": None}, TypeError, "title .* must be texts"),
    ((Image.new("RGB", (8, 8)), {"a": None}), {}, TypeError, r"maps\['a'\] must be .* got NoneType"),
    (([], {"a": torch.rand(0, 4, 4)}), {}, ValueError, "images must be one picture or more, got none"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "text"), BAD_SHEETS)
def test_bad_sheets(arguments: tuple[Any, Any], options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        tsm_fast.sheet(*arguments, **options)
