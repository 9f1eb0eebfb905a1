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


@dataclass(frozen=True)
class CentralCrop:
    """The central part of a picture, resized and normalised: `(x / 255 - mean) / std`.

    `fraction` 0.875 at 224 x 224 is the usual "resize to 256, crop 224" in one step.
    """

    size: tuple[int, int]  # (h, w)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    fraction: float = 0.875  # of the largest central rectangle of this aspect
    interpolation: str = "bicubic"

    def region(self, width: int, height: int) -> tuple[int, int, int, int]:
        """That part of a picture of this size: left, top, right, bottom in pixels."""
        h, w = self.size
        scale = min(height / h, width / w) * self.fraction
        own_h = min(max(round(h * scale), 1), height)
        own_w = min(max(round(w * scale), 1), width)
        left, top = (width - own_w) // 2, (height - own_h) // 2
        return left, top, left + own_w, top + own_h

    def picture(self, image: Image.Image) -> Image.Image:
        """That part of a picture in RGB, `size` pixels large."""
        h, w = self.size
        box = self.region(image.width, image.height)
        return image.convert("RGB").resize((w, h), Image.Resampling(RESAMPLING[self.interpolation]), box=box)

    def __call__(self, image: Image.Image) -> Tensor:  # -> [3, h, w] float32
        pixels = np.asarray(self.picture(image)).transpose(2, 0, 1).astype(np.float32)  # [3, h, w]
        pixels /= np.float32(255)
        pixels -= np.asarray(self.mean, np.float32)[:, None, None]
        pixels /= np.asarray(self.std, np.float32)[:, None, None]
        return torch.from_numpy(pixels)

    def record(self) -> dict[str, Any]:
        return {"kind": "central crop", **self.__dict__, "size": list(self.size)}


class Transform:
    """A transform of somebody else, that takes an RGB picture and returns `[C, H, W]`, or a batch of one."""

    def __init__(self, function: Callable[[Image.Image], Any], record: dict[str, Any]) -> None:
        self._function, self._record = function, record

    def __call__(self, image: Image.Image) -> Tensor:  # RGB -> [C, H, W] float32
        made = torch.as_tensor(np.asarray(found) if not isinstance(found := self._function(image), Tensor) else found)
        made = made[0] if made.ndim == 4 and len(made) == 1 else made
        if made.ndim != 3 or not made.is_floating_point():
            raise ValueError(f"the transform must give float [C, H, W], got {tuple(made.shape)} {made.dtype}")
        return made.float()

    def record(self) -> dict[str, Any]:
        return self._record


Preprocess = CentralCrop | Transform


def resized(size: tuple[int, int], mean: Sequence[float], std: Sequence[float], interpolation: str) -> CentralCrop:
    """The preprocessing of a model at another input size: the whole central rectangle."""
    known = interpolation if interpolation in RESAMPLING else "bicubic"
    return CentralCrop(size, tuple(map(float, mean)), tuple(map(float, std)), 1.0, known)
