"""The tests against the tools themselves. pytorch-grad-cam, timm and torchvision lie beside the environment, in a
folder that `make test-integrations` adds to the path: without them their files are not collected.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from tsm_fast.bench.operators import declare_operators

_NEEDS = {  # torchcam is for Python 3.11
    "test_grad_cam.py": "pytorch_grad_cam",
    "test_layouts.py": "timm",
    "test_torchcam.py": "torchcam",
}
collect_ignore = [name for name, module in _NEEDS.items() if find_spec(module) is None]

if find_spec("torchvision"):
    library = declare_operators()


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 4))
    return nn.Sequential(nn.Conv2d(3, 34, 3, 2), nn.ReLU(), nn.Conv2d(34, 40, 3, 2), nn.ReLU(), pooled).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 33, 41, generator=torch.Generator().manual_seed(0))
