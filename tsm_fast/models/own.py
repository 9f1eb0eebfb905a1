"""The preprocessing that belongs to a network, found from the network itself or from a transform of its package."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from PIL import Image
from torch import nn

from .lite0 import LITE0, is_lite0
from .preprocessing import Preprocess, Resize, Transform, resized

USUAL = Resize((224, 224))  # ImageNet's: resized to 256, of which the central 224


class Own(NamedTuple):
    """A preprocessing, the way to have it at another size, and where it comes from."""

    preprocess: Preprocess
    picture: Resize
    reason: str


def find(module: nn.Module) -> Own:
    """That of a module of timm or transformers, or of lite0; ImageNet's usual one for any other."""
    package = type(module).__module__.partition(".")[0]
    if is_lite0(module):
        return Own(LITE0, LITE0, "that of lite0")
    if package == "timm" and hasattr(module, "pretrained_cfg"):
        return Own(*timm(module), "that of its timm weights")
    if package == "transformers" and (name := getattr(getattr(module, "config", None), "_name_or_path", "")):
        try:
            from transformers import AutoImageProcessor

            processor = AutoImageProcessor.from_pretrained(name, local_files_only=True)
        except (ImportError, OSError, ValueError):  # no processor lies beside the weights
            pass
        else:
            return Own(*transformers(processor), f"that of {name}")
    return Own(USUAL, USUAL, "ImageNet's usual one (224 x 224, the central 87.5 %), for the model names none")


def given(transform: Any, kind: str = "transform") -> Preprocess:
    """A transform that somebody gives: from an RGB picture to [C, H, W], or an image processor of transformers.

    `kind` is what records call a function that is not known. TypeError for what is no function.
    """
    if isinstance(transform, Resize | Transform):
        return transform
    if not callable(transform):
        raise TypeError(f"{kind} must be a function from a picture to [C, H, W], got {type(transform).__name__}")
    package = type(transform).__module__
    if package.startswith("transformers.") and hasattr(transform, "image_mean"):
        return transformers(transform)[0]
    if package == "torchvision.transforms._presets":
        return torchvision(transform, "given")[0]
    text = getattr(transform, "__qualname__", None) or " ".join(repr(transform).split())
    return Transform(transform, {"kind": kind, "transform": re.sub(r" at 0x[0-9a-f]+", "", text)})


def timm(module: nn.Module) -> tuple[Transform, Resize]:
    """By the configuration of the module's weights."""
    from timm import data  # pyright: ignore[reportMissingImports]

    config = data.resolve_model_data_config(module)
    record = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
    own = Transform(data.create_transform(**config, is_training=False), {"kind": "timm", **record})
    return own, resized(config["mean"], config["std"], config["interpolation"])


def torchvision(transform: Callable[[Image.Image], Any], weights: str) -> tuple[Transform, Resize]:
    """By the transforms of weights."""
    own: Any = transform
    text = " ".join(repr(own).split())
    record = {"kind": "torchvision", "weights": weights, "transform": text}
    return Transform(own, record), resized(own.mean, own.std, own.interpolation.value)


def transformers(processor: Any) -> tuple[Transform, Resize]:
    """By an image processor."""
    record = {"kind": "transformers", "processor": type(processor).__name__, **processor.to_dict()}
    own = Transform(lambda image: processor(images=image, return_tensors="pt")["pixel_values"], record)
    return own, resized(processor.image_mean, processor.image_std, "bicubic")
