"""The part of a picture that a network saw, read off real preprocessing of a picture whose pixels tell their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tsm_fast.models.preprocessing import Resize
from tsm_fast.models.region import central, region, whole

SIZES = ((640, 480), (301, 517), (256, 256), (900, 200))


def coordinates(width: int, height: int) -> Image.Image:
    """Red grows from left to right, green from top to bottom."""
    red = np.broadcast_to(np.linspace(0, 255, width)[None], (height, width))
    green = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    return Image.fromarray(np.rint(np.stack([red, green, red], -1)).astype(np.uint8))


def seen(pixels: np.ndarray, width: int, height: int) -> np.ndarray:  # [3, h, w] in 0..255 -> left, top, right, bottom
    """The edges in the picture that the outermost pixels of an input have, by a line through what they show."""
    edges = []
    for values, side in ((pixels[0].max(0), width), (pixels[1].max(1), height)):  # what is padded is black
        (shown,) = np.nonzero((values > 4) & (values < 251))
        inner = shown[len(shown) // 8 : -len(shown) // 8 or None]
        slope, first = np.polyfit(inner + 0.5, values[inner] / 255 * (side - 1) + 0.5, 1)
        edges.append((first, first + slope * len(values)))
    (left, right), (top, bottom) = edges
    return np.array([left, top, right, bottom])


def check(record: dict[str, Any], make: Callable[[Image.Image], np.ndarray]) -> None:
    for width, height in SIZES:
        found = region(record, width, height)
        assert found is not None
        there = seen(make(coordinates(width, height)), width, height)
        np.testing.assert_allclose(found, there, atol=0.01 * max(width, height))


@pytest.mark.parametrize("size", [(224, 224), (96, 160)])
@pytest.mark.parametrize(("fit", "fraction"), [("crop", 1.0), ("crop", 0.875), ("stretch", 1.0)])
def test_our_own(size: tuple[int, int], fit: str, fraction: float) -> None:
    crop = Resize(size, fraction=fraction, fit=fit)
    check(crop.record(), lambda image: np.asarray(crop.picture(image), np.float64).transpose(2, 0, 1))
    assert region(crop.record(), 640, 480) == crop.region(640, 480)
    padded = Resize(size, fit="pad")
    assert region(padded.record(), 640, 480) == padded.region(640, 480)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ViTImageProcessor", {}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
        ("BitImageProcessor", {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}),
        ("MobileNetV2ImageProcessor", {}),
        ("DeiTImageProcessor", {}),
    ],
)
def test_transformers(name: str, options: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
    plain = {"do_normalize": False, "do_rescale": False}
    try:
        processor = getattr(transformers, name)(**plain, **options)
        make = lambda image: np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0], np.float64)  # noqa: E731
        make(coordinates(64, 64))
    except ImportError as error:
        pytest.skip(f"this processor needs more: {str(error).strip().splitlines()[0]}")
    check({"kind": "transformers", "processor": name, **processor.to_dict()}, make)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("shape", [[3, 224, 224], [3, 160, 240]])
def test_timm(mode: str, shape: list[int]) -> None:
    timm = pytest.importorskip("timm", reason="needs the extra timm")
    config = {"input_size": shape, "crop_pct": 0.9, "crop_mode": mode, "interpolation": "bilinear"}
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    transform = timm.data.create_transform(**{**config, "input_size": tuple(shape)}, **plain, is_training=False)
    check({"kind": "timm", **config}, lambda image: transform(image).numpy().astype(np.float64) * 255)


def test_timm_in_numbers() -> None:
    """A picture of 640 x 480: by the shortest edge to 341 x 256 and by the longest to 256 x 192, then 224 of them."""
    record = {"kind": "timm", "input_size": [3, 224, 224], "crop_pct": 0.875}
    across, down = 640 / 341, 480 / 256
    assert region({**record, "crop_mode": "center"}, 640, 480) == (58 * across, 16 * down, 282 * across, 240 * down)
    assert region({**record, "crop_mode": "squash"}, 640, 480) == (40, 30, 600, 450)
    assert region({**record, "crop_mode": "border"}, 640, 480) == (40, -40, 600, 520)


def test_torchvision_in_numbers() -> None:
    text = (
        "ImageClassification( crop_size=[224] resize_size=[256] mean=[0.485] interpolation=InterpolationMode.BILINEAR )"
    )
    found = region({"kind": "torchvision", "transform": text}, 480, 640)
    assert found == (16 * 480 / 256, 58 * 640 / 341, 240 * 480 / 256, 282 * 640 / 341)
    assert region({"kind": "torchvision", "transform": "Compose()"}, 480, 640) is None


def test_what_does_not_tell() -> None:
    assert region({"kind": "factory", "transform": "<lambda>"}, 100, 100) is None
    assert region({"kind": "timm", "input_size": "large"}, 100, 100) is None
    assert region({"kind": "transformers", "processor": "X", "do_resize": True, "size": {}}, 100, 100) is None
    assert region({}, 100, 100) is None
    assert region({"kind": "by the dataset", "input": [3, 50, 100]}, 100, 50) == (0, 0, 100, 50)
    assert central({"input": [3, 10, 10]}, 100, 50) == (25, 0, 75, 50)
    assert whole({}, 100, 50) == (0, 0, 100, 50)
