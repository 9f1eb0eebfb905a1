from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tsm_fast import metrics


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def blobs(count: int, size: int = 24, seed: int = 1) -> Tensor:
    """Masks [count, size, size] of smooth objects, which mostly lie in the middle."""
    shape = (count, size, size)
    heights = metrics.smooth_noise(shape, seed) + metrics.center_gaussian(shape)
    return heights > heights.flatten(1).quantile(0.8, dim=1)[:, None, None]


@pytest.fixture
def masks() -> Tensor:
    return blobs(6)


@pytest.fixture
def maps(masks: Tensor) -> Tensor:
    """In 0..1, some like their masks, with ties and without."""
    made = noise(*masks.shape) + 0.5 * masks
    made[1] = (4 * made[1]).round() / 4
    made[2] = metrics.center_gaussian((1, 24, 24))[0]
    return made / made.amax((1, 2), keepdim=True)


@pytest.fixture
def inputs() -> Tensor:
    return noise(6, 3, 24, 24, seed=2)


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 5))
    return torch.nn.Sequential(torch.nn.Conv2d(3, 32, 5, 2), torch.nn.ReLU(), *pooled).eval()
