"""From a picture to a network's input, and what to record of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


KINDS = {"crop": "central crop", "pad": "padded", "stretch": "stretched"}  # what records call them


@dataclass(frozen=True)
class Resize:
    """A picture at one size, normalised: `(x / 255 - mean) / std`.

    `fit` "crop" takes the central part, of which `fraction` 0.875 at 224 x 224 is the usual "resize to 256, crop 224"
    in one step; "pad" the whole picture, with margins of the mean colour where its aspect is another one; "stretch" the
    whole picture, its aspect changed.
    """

    size: tuple[int, int]  # (h, w)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    fraction: float = 0.875  # of the largest central rectangle of this aspect
    interpolation: str = "bicubic"
    fit: str = "crop"

    def region(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of a picture of this size that becomes the input: left, top, right, bottom in pixels.

        For "pad" it reaches over the picture.
        """
        if self.fit == "stretch":
            return 0, 0, width, height
        h, w = self.size
        if self.fit == "pad":
            tall, wide = self._inner(width, height)
            x, y = width / wide, height / tall
            left, top = -((w - wide) // 2) * x, -((h - tall) // 2) * y
            return left, top, left + w * x, top + h * y
        scale = min(height / h, width / w) * self.fraction
        tall, wide = min(max(round(h * scale), 1), height), min(max(round(w * scale), 1), width)
        left, top = (width - wide) // 2, (height - tall) // 2
        return left, top, left + wide, top + tall

    def picture(self, image: Image.Image) -> Image.Image:
        """The input as a picture in RGB, `size` pixels large."""
        h, w = self.size
        method, image = Image.Resampling(RESAMPLING[self.interpolation]), image.convert("RGB")
        if self.fit != "pad":
            return image.resize((w, h), method, box=self.region(*image.size))
        canvas = Image.new("RGB", (w, h), tuple(round(255 * value) for value in self.mean))
        tall, wide = self._inner(*image.size)
        canvas.paste(image.resize((wide, tall), method), ((w - wide) // 2, (h - tall) // 2))
        return canvas

    def _inner(self, width: int, height: int) -> tuple[int, int]:
        """(h, w) of a whole picture inside of the input."""
        h, w = self.size
        scale = min(h / height, w / width)
        return min(max(round(height * scale), 1), h), min(max(round(width * scale), 1), w)

    def __call__(self, image: Image.Image) -> Tensor:  # -> [3, h, w] float32
        pixels = np.asarray(self.picture(image)).transpose(2, 0, 1).astype(np.float32)  # [3, h, w]
        pixels /= np.float32(255)
        pixels -= np.asarray(self.mean, np.float32)[:, None, None]
        pixels /= np.asarray(self.std, np.float32)[:, None, None]
        return torch.from_numpy(pixels)

    def record(self) -> dict[str, Any]:
        left_out = {"fit"} if self.fit == "crop" else {"fit", "fraction"}
        values = {name: value for name, value in self.__dict__.items() if name not in left_out}
        return {"kind": KINDS[self.fit], **values, "size": list(self.size)}


class Transform:
    """A transform of somebody else, that takes an RGB picture and returns `[C, H, W]`, or a batch of one."""

    def __init__(self, function: Callable[[Image.Image], Any], record: dict[str, Any]) -> None:
        self._function, self._record = function, record

    def __call__(self, image: Image.Image) -> Tensor:  # RGB -> [C, H, W] float32
        found = self._function(image)
        try:
            made = found if isinstance(found, Tensor) else torch.as_tensor(np.asarray(found))
        except TypeError:
            raise ValueError(f"the transform must give float [C, H, W], got {type(found).__name__}") from None
        made = made[0] if made.ndim == 4 and len(made) == 1 else made
        if made.ndim != 3 or not made.is_floating_point():
            raise ValueError(f"the transform must give float [C, H, W], got {tuple(made.shape)} {made.dtype}")
        return made.float()

    def record(self) -> dict[str, Any]:
        return self._record


Preprocess = Resize | Transform


def shapes(preprocess: Preprocess) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the inputs that it makes of a tall and a wide picture, which differ where their size follows the picture."""
    tall = fixed_picture()
    return tuple(preprocess(tall).shape), tuple(preprocess(tall.transpose(Image.Transpose.ROTATE_90)).shape)


def fixed_picture() -> Image.Image:
    """Noise, taller than wide."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (640, 480, 3), dtype=np.uint8))


def resized(mean: Sequence[float], std: Sequence[float], interpolation: str) -> Resize:
    """The preprocessing of a model at another input size: the whole central rectangle."""
    known = interpolation if interpolation in RESAMPLING else "bicubic"
    return Resize((224, 224), tuple(map(float, mean)), tuple(map(float, std)), 1.0, known)
