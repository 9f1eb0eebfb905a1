"""Pictures from files, by one fixed policy; whatever is wrong with one is an `ImageError` with a kind."""

from __future__ import annotations

import errno
import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

PIXEL_BYTES = 8  # that decoding takes: Pillow has 4 for each pixel of a picture, and there are two of them
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "HEIF")
# Bits of the column "flags": what a reader of the maps may want to know about an image.
FLAGS = {
    "constant": 1,  # a map has the same value everywhere, so it says nothing
    "turned": 2,  # by its EXIF orientation
    "first_frame": 4,  # of several
    "alpha": 8,  # not opaque everywhere, laid on white
    "reduced": 16,  # from 16 to 8 bits a channel
}
# What is said of this in run.json, and what is in the fingerprint.
POLICY: dict[str, Any] = {
    "formats": list(FORMATS),
    "orientation": "EXIF orientation applied",
    "frames": "the first; of HEIF, the primary one",
    "mode": "RGB; alpha laid on white; 16-bit grey divided by 257; CMYK, YCbCr, LAB and palettes by Pillow's convert",
}
# An image that is not there or may not be read is an error row; a machine in trouble is not the image's fault.
_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
_STARTS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF",
    "TIFF": rb"II\*\0|MM\0\*",
    "GIF": rb"GIF8[79]a",
    "AVIF": rb"....ftypavi[fs]",
    "JPEG2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "HEIF": rb"....ftyp(he|mif|msf)",
}
_CODECS = {"AVIF": "avif", "JPEG2000": "jpg_2000"}  # as Pillow calls what it may be built without
_NEEDED = {"HEIF": "needs the extra 'heif': pip install 'tsm_fast[heif]'"}
_NO_CODEC = "this Pillow cannot read"
_ORIENTATION, _TURNED = 0x0112, range(2, 9)
_WHITE = (255, 255, 255, 255)


class ImageError(Exception):
    """An image that cannot be used.

    Kinds: "missing", "unreadable" (permission, I/O), "empty", "format" (no picture of a known format), "truncated",
    "decode", "too_large", "mode", "item" (a dataset raised, or gave no picture), "preprocess", "shape".
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Picture(NamedTuple):
    """A decoded picture."""

    image: Image.Image  # RGB, upright
    flags: int  # of `FLAGS`


def unreadable(error: OSError) -> ImageError:
    """The error row for a file that cannot be read; raises what no image is to blame for."""
    if error.errno in _MACHINE:
        raise error
    missing = error.errno in _MISSING or isinstance(error, FileNotFoundError)  # of a URL, without a number
    kind = "missing" if missing else "unreadable"
    return ImageError(kind, error.strerror or str(error) or type(error).__name__)


def decode(data: bytes, max_pixels: int, take: Callable[[int], None] = lambda _: None) -> Picture:
    """A picture file in RGB, upright; `ImageError` for what cannot be decoded.

    `take` is called with the bytes that decoding is going to need, and may wait.
    """
    if not data:
        raise ImageError("empty", "the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_readable()) as image:
            if image.width * image.height > max_pixels:
                raise ImageError("too_large", _too_large(image, max_pixels))
            take(image.width * image.height * PIXEL_BYTES)
            return to_rgb(image)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        name = next((name for name, start in _STARTS.items() if re.match(start, data, re.DOTALL)), None)
        if name is not None and name not in _readable():
            raise ImageError("format", f"it begins as {name}, which {_NEEDED.get(name, _NO_CODEC)}") from None
        if name is not None:
            raise ImageError("decode", f"it begins as {name}, but its header is broken or cut") from None
        raise ImageError("format", f"no readable picture: need one of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", str(error)) from None
    except Exception as error:  # decoders raise anything on broken data
        raise _broken(error) from None


@cache
def _readable() -> tuple[str, ...]:
    """What of `FORMATS` can be read here."""
    Image.init()
    try:
        import pillow_heif
    except ModuleNotFoundError:
        pass
    else:
        pillow_heif.register_heif_opener()
    there = [name for name in FORMATS if name in Image.OPEN]
    return tuple(name for name in there if name not in _CODECS or features.check(_CODECS[name]))


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """No warnings of Pillow on the terminal: what they are about is in the rows. Around the threads, not in them."""
    _readable()  # all plugins are there before the threads ask for them
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def to_rgb(image: Image.Image) -> Picture:
    """A picture in RGB, upright, by `POLICY`."""
    flags = 0
    if getattr(image, "n_frames", 1) > 1:
        flags |= FLAGS["first_frame"]
        if image.format != "HEIF":
            image.seek(0)
    image.load()
    upright = image
    if image.getexif().get(_ORIENTATION) in _TURNED:
        upright = ImageOps.exif_transpose(image)
        flags |= FLAGS["turned"]
    if upright.mode.startswith("I;16") or (upright.mode == "I" and image.format == "PNG"):
        return Picture(_from_16_bits(upright), flags | FLAGS["reduced"])
    if upright.mode in ("I", "F"):
        text = f"pixels must have at most 16 bits a channel, got mode {upright.mode}, whose white is unknown"
        raise ImageError("mode", text)
    if "transparency" in upright.info or upright.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        layer = upright.convert("RGBA")
        if layer.getchannel("A").getextrema()[0] != 255:
            upright = Image.alpha_composite(Image.new("RGBA", layer.size, _WHITE), layer)
            flags |= FLAGS["alpha"]
    return Picture(upright.convert("RGB"), flags)


def _from_16_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit RGB: 65535 becomes 255. Pillow's own conversion cuts everything over 255 off."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError("mode", f"pixels must lie in 0..65535, got {values.min()}..{values.max()}")
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _broken(error: Exception) -> ImageError:
    if isinstance(error, OSError) and error.errno in _MACHINE:
        raise error
    text = str(error) or type(error).__name__
    cut = any(word in text.lower() for word in ("truncated", "broken data stream", "unexpected end", "not enough data"))
    return ImageError("truncated" if cut or isinstance(error, EOFError) else "decode", text)


def from_value(value: Any, max_pixels: int, take: Callable[[int], None] = lambda _: None) -> Picture | Tensor:
    """What a dataset holds as a picture; a float tensor [C, H, W] stays as it is. `take` is as in `decode`."""
    if isinstance(value, bytes | bytearray):
        return decode(bytes(value), max_pixels, take)
    if isinstance(value, Tensor) and value.is_floating_point():
        if value.ndim != 3:
            raise ImageError("item", f"a float tensor must be [C, H, W], got shape {tuple(value.shape)}")
        return value.detach().to("cpu", torch.float32)
    if isinstance(value, Image.Image):
        if value.width * value.height > max_pixels:
            raise ImageError("too_large", _too_large(value, max_pixels))
        try:
            return to_rgb(value)
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # as in `decode`
            raise _broken(error) from None
    if isinstance(value, Tensor) and value.dtype == torch.uint8 and value.ndim == 3 and value.shape[0] in (1, 3):
        value = value.permute(1, 2, 0).cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (2, 3):
        pixels = value[..., 0] if value.ndim == 3 and value.shape[2] == 1 else value
        if pixels.ndim == 2 or pixels.shape[2] in (3, 4):
            return to_rgb(Image.fromarray(np.ascontiguousarray(pixels)))
    shape = f" of shape {tuple(value.shape)} and {value.dtype}" if hasattr(value, "shape") else ""
    got = type(value).__name__ + shape
    raise ImageError("item", f"a picture, bytes, uint8 pixels or a float tensor is needed, got {got}")


def _too_large(image: Image.Image, max_pixels: int) -> str:
    return f"{image.width} x {image.height} pixels are more than max_pixels={max_pixels}"
