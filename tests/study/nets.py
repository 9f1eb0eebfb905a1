"""Small networks for studies, by names that workers find."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def classes(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    body = [nn.Conv2d(3, 32, 5, stride=4), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 7)).eval()


def other() -> nn.Module:
    return classes(1)


class Headless(nn.Module):
    """Gives feature maps, and no class."""

    def __init__(self) -> None:
        super().__init__()
        self.body = classes()[:4]  # pyright: ignore[reportIndexIssue]

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Broken(nn.Module):
    """Its classes are NaN for black pictures, or the same for all."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.net = kind, classes()

    def forward(self, x: Tensor) -> Tensor:
        found = self.net(x)
        if self.kind == "constant":
            return torch.zeros_like(found)
        return torch.where(x.mean((1, 2, 3), keepdim=True)[..., 0, 0] < -1.7, torch.nan, found)
