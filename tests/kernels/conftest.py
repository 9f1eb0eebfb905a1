"""The Triton kernels in Triton's interpreter, on CPU tensors. tests/test_kernels.py runs these files in a process of
their own, because TRITON_INTERPRET must be set before the kernels are imported. Fresh memory is filled with NaN.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED:
    collect_ignore_glob = ["test_*.py"]
else:
    from .interpreter import quicken

    quicken()


@pytest.fixture(autouse=True, scope="session")
def _poisoned() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    assert torch.rand(2).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
