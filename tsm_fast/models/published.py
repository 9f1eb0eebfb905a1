"""Networks whose weights their authors have published, under the names that the files have: `published:moco-v2`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn import functional

from .preprocessing import IMAGENET_MEAN, IMAGENET_STD, Resize
from .weights import put_weights, read_weights

INPUT = Resize((224, 224), IMAGENET_MEAN, IMAGENET_STD, 0.875, "bilinear")  # "resize to 256, crop 224", of all of them


class Published(NamedTuple):
    """Where weights are, and how the file calls them."""

    title: str
    network: Callable[[], nn.Module]
    layer: str  # of the last map
    url: str
    file: str  # its name in torch.hub's folder: several are called resnet50.pth
    prefix: str = ""  # of the names of the network's weights in the file
    left_out: tuple[str, ...] = ()  # beginnings of other names that the file has, behind the prefix
    labels: bool = False  # whether it learned them, and names 1000 classes


class _Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1, added to its input."""

    def __init__(self, before: int, inside: int, stride: int) -> None:
        super().__init__()
        after = 4 * inside
        self.conv1, self.bn1 = nn.Conv2d(before, inside, 1, bias=False), nn.BatchNorm2d(inside)
        self.conv2, self.bn2 = nn.Conv2d(inside, inside, 3, stride, 1, bias=False), nn.BatchNorm2d(inside)
        self.conv3, self.bn3 = nn.Conv2d(inside, after, 1, bias=False), nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        beside = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + beside)


class ResNet50(nn.Module):
    """ResNet-50 by torchvision's names; without `outputs` it gives the pooled features, [B, 2048]."""

    def __init__(self, outputs: int | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2 = _blocks(64, 64, 3, 1), _blocks(256, 128, 4, 2)
        self.layer3, self.layer4 = _blocks(512, 256, 6, 2), _blocks(1024, 512, 3, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Identity() if outputs is None else nn.Linear(2048, outputs)

    def forward(self, x: Tensor) -> Tensor:  # [B, 3, H, W]
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.flatten(self.avgpool(x)))


def _blocks(before: int, inside: int, count: int, stride: int) -> nn.Sequential:
    rest = (_Bottleneck(4 * inside, inside, 1) for _ in range(count - 1))
    return nn.Sequential(_Bottleneck(before, inside, stride), *rest)


class ConvNeXtSmall(nn.Module):
    """ConvNeXt-S by the names of its authors, without layer scale, as VICRegL has it: pooled features, [B, 768]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (96, 192, 384, 768)
        stem = nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), _Norm(widths[0]))
        between = (nn.Sequential(_Norm(before), nn.Conv2d(before, after, 2, 2)) for before, after in pairwise(widths))
        self.downsample_layers = nn.ModuleList([stem, *between])
        self.stages = nn.ModuleList(
            nn.Sequential(*(_ConvNeXtBlock(width) for _ in range(count)))
            for width, count in zip(widths, (3, 3, 27, 3), strict=True)
        )
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:  # [B, 3, H, W]
        for between, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(between(x))
        return self.norm(x.permute(0, 2, 3, 1)).mean((1, 2))


class _ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        return x + self.pwconv2(self.act(self.pwconv1(y))).permute(0, 3, 1, 2)


class _Norm(nn.LayerNorm):
    """Over the channels of [B, C, H, W]."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        last = input.permute(0, 2, 3, 1)
        return functional.layer_norm(last, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


_META = "https://dl.fbaipublicfiles.com"
PUBLISHED: Mapping[str, Published] = {
    "supervised": Published(
        "ResNet-50, supervised",
        lambda: ResNet50(1000),
        "layer4",
        "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        "resnet50-0676ba61.pth",
        labels=True,
    ),
    "moco-v2": Published(
        "ResNet-50, MoCo v2 (800 epochs)",
        ResNet50,
        "layer4",
        f"{_META}/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar",
        "moco_v2_800ep_pretrain.pth.tar",
        prefix="module.encoder_q.",
        left_out=("fc.",),
    ),
    "swav": Published(
        "ResNet-50, SwAV (800 epochs)",
        ResNet50,
        "layer4",
        f"{_META}/deepcluster/swav_800ep_pretrain.pth.tar",
        "swav_800ep_pretrain.pth.tar",
        prefix="module.",
        left_out=("projection_head.", "prototypes."),
    ),
    "dino": Published(
        "ResNet-50, DINO",
        ResNet50,
        "layer4",
        f"{_META}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
        "dino_resnet50_pretrain.pth",
    ),
    "barlow-twins": Published(
        "ResNet-50, Barlow Twins",
        ResNet50,
        "layer4",
        f"{_META}/barlowtwins/ep1000_bs2048_lrw0.2_lrb0.0048_lambd0.0051/resnet50.pth",
        "barlowtwins_resnet50.pth",
    ),
    "vicreg": Published(
        "ResNet-50, VICReg",
        ResNet50,
        "layer4",
        f"{_META}/vicreg/resnet50.pth",
        "vicreg_resnet50.pth",
    ),
    "vicregl": Published(
        "ResNet-50, VICRegL (alpha .9)",
        ResNet50,
        "layer4",
        f"{_META}/vicregl/resnet50_alpha0.9.pth",
        "vicregl_resnet50_alpha0.9.pth",
    ),
    "vicregl-convnext": Published(
        "ConvNeXt-S, VICRegL (alpha .9)",
        ConvNeXtSmall,
        "stages.3",
        f"{_META}/vicregl/convnext_small_alpha0.9.pth",
        "vicregl_convnext_small_alpha0.9.pth",
    ),
}


def find(name: str) -> Published:
    """ValueError, with close names, for what is not there."""
    if name not in PUBLISHED:
        close = difflib.get_close_matches(name, PUBLISHED, n=3, cutoff=0.3) or list(PUBLISHED)
        raise ValueError(f"model published:{name} does not exist; close names: {', '.join(close)}")
    return PUBLISHED[name]


def load(name: str, weights: str | Path | None = None) -> nn.Module:
    """A network with its published weights, from a file or from torch.hub's folder, where they are downloaded to.

    Raises:
        ValueError: there is no such network, or the file has other weights.
        ConnectionError: the weights are not there and cannot be downloaded.
        FileNotFoundError: there is no such file.
    """
    found = find(name)
    file = fetched(name) if weights is None else weights
    network = found.network()
    state = network.state_dict()
    # Old files lack the counts of batches, which say nothing.
    counts = {name: value for name, value in state.items() if name.endswith(".num_batches_tracked")}
    put_weights(network, counts | named(found, read_weights(file)), file)
    return network.eval()


def named(published: Published, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a file by the network's names; those of its heads, queues and second encoders left out."""
    ours = {
        name.removeprefix(published.prefix): value for name, value in state.items() if name.startswith(published.prefix)
    }
    kept = ours or state  # saved anew by the network's names
    return {name: value for name, value in kept.items() if not name.startswith(published.left_out)}


def fetched(name: str) -> Path:
    """The file of published weights in torch.hub's folder, downloaded where it is not there; errors as in `load`."""
    published = find(name)
    folder = Path(torch.hub.get_dir(), "checkpoints")
    file = folder / published.file
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(published.url, os.fspath(file), progress=False)
        except (URLError, TimeoutError, ConnectionError) as error:
            raise ConnectionError(
                f"model published:{name} needs the weights at {published.url}, which cannot be reached "
                f"({getattr(error, 'reason', error)}): fetch that file elsewhere, and put it here as {file}, or name "
                "it as weights"
            ) from None
    return file
