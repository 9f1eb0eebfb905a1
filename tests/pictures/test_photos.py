"""The photos of the demo, from installed packages, and those of a user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsm_fast.pictures import photos as photo_files

from ..needs import NETWORK, PHOTOS, needs

pytestmark = needs(*NETWORK, *PHOTOS)


@pytest.fixture(scope="module")
def photos() -> list[photo_files.Photo]:
    return photo_files.load_photos()


def test_photos(photos: list[photo_files.Photo]) -> None:
    assert len(photos) == len({photo.name for photo in photos}) == 10
    for photo in photos:
        assert photo.image.mode == "RGB"
        assert min(photo.image.size) >= 300
        assert photo.credit
        assert np.asarray(photo.image).std() > 10


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    image = photo_files.open_photo(tmp_path / "turned.png")
    assert image.size == (20, 40)
    assert image.getpixel((10, 5)) == (255, 255, 255)
    assert image.getpixel((10, 35)) == (0, 0, 0)


def test_unreadable_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        photo_files.open_photo(tmp_path / "missing.png")
    with pytest.raises(IsADirectoryError):
        photo_files.open_photo(tmp_path)
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png is not a readable picture: need one of JPEG, PNG"):
        photo_files.open_photo(text)
    whole = tmp_path / "whole.png"
    photo_files.load_photos()[0].image.save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.png cannot be decoded"):
        photo_files.open_photo(cut)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"whole\.png has too many pixels"):
        photo_files.open_photo(whole)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_files, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match="No module named 'skimage'"):
        photo_files.load_photos()
