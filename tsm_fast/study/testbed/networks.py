"""The small ResNet of the testbed, and how it is read from a file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ...models.preprocessing import Resize
from .composites import SIZE

CHANNELS = 192  # of the last map, [B, 192, 8, 8]
INPUT = Resize((SIZE, SIZE), (0.5,) * 3, (0.25,) * 3, 1.0)


class _Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, added to its input, as in ResNet-50."""

    def __init__(self, inside: int, stride: int, before: int) -> None:
        super().__init__()
        after = 4 * inside
        self.body = nn.Sequential(
            *_convolution(before, inside, 1),
            nn.ReLU(inplace=True),
            *_convolution(inside, inside, 3, stride),
            nn.ReLU(inplace=True),
            *_convolution(inside, after, 1),
        )
        same = stride == 1 and before == after
        self.beside = nn.Identity() if same else nn.Sequential(*_convolution(before, after, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.beside(x))


class SmallResNet(nn.Module):
    """[B, 3, 64, 64] -> [B, outputs]; the last map, of `layer3`, is [B, 192, 8, 8] after a ReLU."""

    stem: nn.Sequential
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    pool: nn.Module
    flatten: nn.Module
    head: nn.Module

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_convolution(3, 24, 3, 2), nn.ReLU(inplace=True))  # 32 x 32
        self.layer1 = nn.Sequential(_Bottleneck(12, 2, 24), _Bottleneck(12, 1, 48))  # 16 x 16
        self.layer2 = nn.Sequential(_Bottleneck(24, 2, 48), _Bottleneck(24, 1, 96), _Bottleneck(24, 1, 96))  # 8 x 8
        self.layer3 = nn.Sequential(_Bottleneck(48, 1, 96), _Bottleneck(48, 1, 192), _Bottleneck(48, 1, 192))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(CHANNELS, outputs)

    def pooled(self, images: Tensor) -> Tensor:  # [B, 3, 64, 64] -> [B, 192]
        return self.flatten(self.pool(self.layer3(self.layer2(self.layer1(self.stem(images))))))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pooled(images))


def made(outputs: int, seed: int) -> SmallResNet:
    """A network with weights drawn by a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SmallResNet(outputs)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def read(file: str | Path) -> tuple[SmallResNet, Resize]:
    """A trained network and its preprocessing, as a factory gives them."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    network = SmallResNet(len(state["head.bias"]))
    network.load_state_dict(state)
    return network.eval(), INPUT


def normalised(images: Tensor) -> Tensor:  # [B, 3, 64, 64] in 0..1
    return (images - INPUT.mean[0]) / INPUT.std[0]


def _convolution(before: int, after: int, side: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(before, after, side, stride, side // 2, bias=False)
    return convolution, nn.BatchNorm2d(after)
