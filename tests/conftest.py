from __future__ import annotations

import os
import sys

# Before torch: on a busy machine its threads otherwise spin for others that have no core, 10 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # TensorLy decomposes small matrices in NumPy

import pytest
import torch

from tsm_fast.steps.backend import Backend
from tsm_fast.steps.choice import load

from .helpers import BACKENDS

pytest.register_assert_rewrite("tests.definitions")
# Transformers looks for a package of this name, and would find the folder of ours, which is tsm_fast.kernels.
sys.modules.setdefault("kernels", None)  # pyright: ignore[reportArgumentType]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return load(request.param)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param
