"""One fixed policy for every picture, and an error with a kind for what is none: all files are made of real photos."""

from __future__ import annotations

import errno
import io
import random
import struct
import zlib
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from tsm_fast.pictures import decode as decoding
from tsm_fast.pictures.decode import FLAGS, POLICY, ImageError, Picture, decode, quiet_decoders, unreadable
from tsm_fast.pipeline.settings import MAX_PIXELS

Photos = dict[str, Image.Image]
Make = Callable[[Image.Image], bytes]


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def wide(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L")).astype(np.uint16) * 257


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that says it has this size, in a hundred bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    return save(image.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


def animated(image: Image.Image) -> bytes:
    others = [image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)]
    return save(image, "WEBP", save_all=True, append_images=others, lossless=True)


def see_through(image: Image.Image) -> bytes:
    layer = image.convert("RGBA")
    layer.putalpha(Image.new("L", image.size, 0))
    return save(layer, "PNG")


def heic(image: Image.Image, **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra heif")
    pillow_heif.register_heif_opener()
    return save(image, "HEIF", **options)


def turned_heic(image: Image.Image) -> bytes:
    """As a telephone that is held upright writes it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return heic(image.transpose(Image.Transpose.ROTATE_90), quality=90, exif=exif.tobytes())


LOSSLESS: dict[str, tuple[Make, int]] = {
    "png": (lambda image: save(image, "PNG"), 0),
    "bmp": (lambda image: save(image, "BMP"), 0),
    "tiff": (lambda image: save(image, "TIFF", compression="tiff_lzw"), 0),
    "png with an alpha channel that hides nothing": (lambda image: save(image.convert("RGBA"), "PNG"), 0),
    "turned by its EXIF data": (turned, FLAGS["turned"]),
    "animated": (animated, FLAGS["first_frame"]),
    "jpeg 2000": (lambda image: save(image, "JPEG2000", irreversible=False), 0),
    "jpeg 2000 without a box around it": (lambda image: save(image, "JPEG2000", no_jp2=True, irreversible=False), 0),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless(name: str, photos: Photos) -> None:
    make, flags = LOSSLESS[name]
    picture = decode(make(photos["cat"]), MAX_PIXELS)
    assert picture.image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(picture.image), np.asarray(photos["cat"]))
    assert picture.flags == flags


GREY: dict[str, tuple[Make, int]] = {
    "8 bits": (lambda image: save(image.convert("L"), "PNG"), 0),
    "16 bits, png": (lambda image: save(Image.fromarray(wide(image)), "PNG"), FLAGS["reduced"]),
    "16 bits, tiff": (lambda image: save(Image.fromarray(wide(image)), "TIFF"), FLAGS["reduced"]),
    "16 bits, jpeg 2000": (
        lambda image: save(Image.fromarray(wide(image)), "JPEG2000", irreversible=False),
        FLAGS["reduced"],
    ),
    "16 bits, big endian": (
        lambda image: save(Image.frombytes("I;16B", image.size, wide(image).astype(">u2").tobytes()), "TIFF"),
        FLAGS["reduced"],
    ),
}


@pytest.mark.parametrize("name", GREY)
def test_grey(name: str, photos: Photos) -> None:
    """Pillow's own conversion cuts everything over 255 of 65535 off: a white picture."""
    make, flags = GREY[name]
    picture = decode(make(photos["cat"]), MAX_PIXELS)
    expected = np.asarray(photos["cat"].convert("L"))
    for channel in range(3):
        np.testing.assert_array_equal(np.asarray(picture.image)[..., channel], expected)
    assert picture.flags == flags


LOSSY: dict[str, Make] = {
    "jpeg": lambda image: save(image, "JPEG", quality=95),
    "cmyk jpeg": lambda image: save(image.convert("CMYK"), "JPEG", quality=95),
    "webp": lambda image: save(image, "WEBP", quality=95),
    "palette png": lambda image: save(image.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
    "gif": lambda image: save(image.convert("P", palette=Image.Palette.ADAPTIVE), "GIF"),
    "avif": lambda image: save(image, "AVIF", quality=90),
    "heic": lambda image: heic(image, quality=90),
    "jpeg with broken EXIF data": lambda image: save(image, "JPEG", quality=95, exif=b"Exif\0\0" + 9 * b"garbage"),
}


@pytest.mark.parametrize("name", LOSSY)
def test_lossy(name: str, photos: Photos) -> None:
    image = decode(LOSSY[name](photos["cat"]), MAX_PIXELS).image
    assert image.mode == "RGB"
    assert image.size == photos["cat"].size
    difference = np.asarray(image).astype(int) - np.asarray(photos["cat"])
    assert np.abs(difference).mean() < 8  # of 255: a palette of 256 colours; a wrong colour space is over 30


def test_the_heic_of_a_telephone_is_upright(photos: Photos) -> None:
    picture = decode(turned_heic(photos["cat"]), MAX_PIXELS)
    assert picture.image.size == photos["cat"].size
    assert np.abs(np.asarray(picture.image).astype(int) - np.asarray(photos["cat"])).mean() < 8


def test_the_primary_picture_of_a_heic_file(photos: Photos) -> None:
    data = heic(Image.new("RGB", (64, 64)), quality=90, append_images=[photos["cat"]], save_all=True, primary_index=1)
    picture = decode(data, MAX_PIXELS)
    assert (picture.image.size, picture.flags) == (photos["cat"].size, FLAGS["first_frame"])


def test_what_is_missing_for_a_format_is_said(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_readable", lambda: ("JPEG", "PNG"))
    for data, message in (
        (heic(photos["cat"]), r"it begins as HEIF, which needs the extra 'heif': pip install 'tsm_fast\[heif\]'"),
        (save(photos["cat"], "AVIF"), "it begins as AVIF, which this Pillow cannot read"),
        (save(photos["cat"], "JPEG2000"), "it begins as JPEG2000, which this Pillow cannot read"),
    ):
        with pytest.raises(ImageError, match=message) as caught:
            decode(data, MAX_PIXELS)
        assert caught.value.kind == "format"


def test_what_shows_through_is_white(photos: Photos) -> None:
    picture = decode(see_through(photos["cat"]), MAX_PIXELS)
    assert np.asarray(picture.image).min() == 255
    assert picture.flags == FLAGS["alpha"]
    grey = Image.new("LA", (4, 4), (0, 0))
    assert decode(save(grey, "PNG"), MAX_PIXELS).image.getpixel((1, 1)) == (255, 255, 255)
    key = save(Image.new("RGB", (4, 4), (9, 9, 9)), "PNG", transparency=(9, 9, 9))
    assert decode(key, MAX_PIXELS).image.getpixel((1, 1)) == (255, 255, 255)


BROKEN: dict[str, tuple[Make, str, str]] = {
    "empty": (lambda _: b"", "empty", "the file is empty"),
    "text": (lambda _: b"not a picture", "format", "no readable picture: need one of JPEG, PNG"),
    "a pdf called picture": (lambda image: save(image, "PDF"), "format", "no readable picture"),
    "a format that is not allowed": (lambda image: save(image, "PPM"), "format", "no readable picture"),
    "half a jpeg": (lambda image: save(image, "JPEG")[:3000], "truncated", "truncated"),
    "half a png": (lambda image: save(image, "PNG")[:20000], "truncated", "truncated"),
    "half a bmp": (lambda image: save(image, "BMP")[:9000], "truncated", "truncated"),
    "half a gif": (lambda image: save(image.convert("P"), "GIF")[:9000], "truncated", "truncated"),
    "half a webp": (lambda image: save(image, "WEBP")[:3000], "decode", "decoder"),
    "half an avif": (lambda image: save(image, "AVIF")[:2000], "decode", "begins as AVIF"),
    "half a jpeg 2000": (lambda image: save(image, "JPEG2000")[:9000], "truncated", "broken data stream"),
    "half a heic": (lambda image: heic(image)[:2000], "decode", "begins as HEIF"),
    "half a tiff": (lambda image: save(image, "TIFF", compression="tiff_lzw")[:9000], "decode", "begins as TIFF"),
    "the start of a png": (lambda image: save(image, "PNG")[:40], "decode", "begins as PNG, but its header is broken"),
    "bomb": (lambda _: png_of_size(60_000, 60_000), "too_large", "3600000000 pixels"),
    "small bomb": (lambda _: png_of_size(9_500, 9_500), "too_large", "9500 x 9500 pixels are more than max_pixels="),
    "floats": (
        lambda image: save(Image.fromarray(wide(image).astype(np.float32)), "TIFF"),
        "mode",
        "mode F, whose white is unknown",
    ),
    "32 bits": (lambda image: save(Image.fromarray(wide(image).astype(np.int32)), "TIFF"), "mode", "mode I"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.filterwarnings("error")
def test_broken(name: str, photos: Photos) -> None:
    make, kind, message = BROKEN[name]
    with quiet_decoders(), pytest.raises(ImageError, match=message) as caught:
        decode(make(photos["cat"]), MAX_PIXELS)
    assert caught.value.kind == kind


def test_the_limit_of_pixels_is_exact() -> None:
    data = save(Image.new("RGB", (20, 10)), "PNG")
    assert decode(data, 200).image.size == (20, 10)
    with pytest.raises(ImageError, match="20 x 10 pixels are more than max_pixels=199"):
        decode(data, 199)


def test_noise_in_files_is_a_picture_or_an_error(photos: Photos) -> None:
    """Nothing else than `ImageError` leaves a decoder, whatever the bytes are."""
    small = photos["cat"].resize((64, 48))
    kinds = ("JPEG", "PNG", "WEBP", "BMP", "AVIF", "JPEG2000")
    files = [*(save(small, kind) for kind in kinds), save(small.convert("P"), "GIF")]
    files += [heic(small)] if find_spec("pillow_heif") else []
    draw, outcomes = random.Random(3), set()
    with quiet_decoders():
        for data in files:
            for _ in range(150):
                noisy = bytearray(data)
                for _ in range(draw.choice((1, 10))):
                    noisy[draw.randrange(min(len(noisy), 700))] = draw.randrange(256)
                try:
                    outcomes.add(type(decode(bytes(noisy), 10**7)))
                except ImageError as error:
                    outcomes.add(error.kind)
    assert {Picture, "format", "decode", "truncated", "too_large"} <= outcomes


def test_files_that_cannot_be_read() -> None:
    assert unreadable(FileNotFoundError(errno.ENOENT, "gone")).kind == "missing"
    assert unreadable(PermissionError(errno.EACCES, "no")).kind == "unreadable"
    assert unreadable(OSError(errno.EIO, "disk")).kind == "unreadable"
    with pytest.raises(OSError, match="files"):  # the machine's fault, not the image's
        unreadable(OSError(errno.EMFILE, "too many open files"))


def test_the_policy_is_plain_data() -> None:
    assert POLICY["formats"] == ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "HEIF"]
    assert all(isinstance(value, str | list) for value in POLICY.values())
