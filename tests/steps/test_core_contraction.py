"""`core_contraction` of every backend against TensorLy's `multi_mode_dot`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tensorly.tenalg.core_tenalg import multi_mode_dot
from torch import Tensor

from ..helpers import feature_maps, randn, views

# Relative to the contraction of the absolute values; float32 with accumulators of float32, float64 with float64.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 2e-14}

CASES = [
    ((2, 20, 7, 7), {0: 5, 1: 3, 2: 4}),
    ((3, 63, 5, 3), {0: 1}),
    ((3, 63, 5, 3), {2: 7}),
    ((2, 17, 14, 15), {1: 2, 2: 2}),
    ((2, 9, 8), {1: 3, 0: 2}),
    ((1, 1, 1), {0: 1, 1: 1}),
    ((2, 6, 5, 4, 3), {3: 2, 0: 4, 2: 1}),
    ((2, 3, 4, 3, 2, 5), {0: 2, 1: 2, 2: 2, 3: 2, 4: 2}),
    ((0, 6, 5, 4), {0: 2, 1: 3}),
    ((2, 6, 5, 4), {}),
    ((3, 4, 3, 3), {0: 20, 1: 6, 2: 5}),
    ((3, 4, 3, 3), {2: 40, 1: 1, 0: 30}),
    ((2, 5, 4, 3, 2), {3: 9, 0: 1, 2: 8, 1: 7}),
    ((1, 800, 7, 7), {0: 16}),  # larger than a block of the compiled one, and a column beyond whole vectors
    ((1, 400, 15, 15), {0: 21, 2: 3}),
]


def check(core: Tensor, x: Tensor, factors: list[Tensor], modes: list[int], tolerance: float) -> None:
    expected, scale = core.new_empty(core.shape, dtype=torch.float64), core.new_empty(core.shape, dtype=torch.float64)
    for i in range(len(x)):
        item, matrices = x[i].double().numpy(), [factor[i].double().numpy().T for factor in factors]
        expected[i] = torch.from_numpy(multi_mode_dot(item, matrices, modes))
        bound = multi_mode_dot(np.abs(item), [np.abs(matrix) for matrix in matrices], modes)
        scale[i] = torch.from_numpy(bound)
    assert ((core.double() - expected).abs() <= tolerance * scale).all()


@pytest.mark.parametrize(("shape", "ranks"), CASES, ids=str)
def test_orders_and_modes(backend, dtype, shape, ranks):
    x = randn(*shape, dtype=dtype)
    modes = list(ranks)
    factors = [randn(shape[0], shape[n + 1], ranks[n], seed=n + 1, dtype=dtype) for n in modes]
    core = backend.core_contraction(x, factors, modes)
    assert core.dtype == dtype
    assert core.shape == (shape[0], *(ranks.get(n, size) for n, size in enumerate(shape[1:])))
    check(core, x, factors, modes, TOLERANCE[dtype])


def test_precision_sets_the_result(backend, dtype):
    x, factor = randn(2, 20, 5, 5, dtype=dtype), randn(2, 20, 3, seed=1, dtype=dtype)
    for precision, result in (("float32", torch.float32), ("float64", torch.float64)):
        core = backend.core_contraction(x, [factor], [0], precision=precision)
        assert core.dtype == result
        check(core, x, [factor], [0], TOLERANCE[result])


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_is_read_as_it_is_and_accumulated_wide(backend, half):
    x, factor = feature_maps(2, 60, 7, 5).to(half), randn(2, 60, 3, dtype=torch.float32)
    core = backend.core_contraction(x, [factor], [0])
    assert core.dtype == torch.float32
    check(core, x, [factor], [0], TOLERANCE[torch.float32])


def test_strides(backend, dtype):
    x = randn(3, 19, 6, 5, dtype=dtype)
    factors = [randn(1, 19, 4, seed=1, dtype=dtype).expand(3, 19, 4), randn(3, 2, 5, seed=2, dtype=dtype).mT]
    for view in views(x).values():
        check(backend.core_contraction(view, factors, [0, 2]), x, factors, [0, 2], TOLERANCE[dtype])


def test_a_bad_item_stays_alone(backend):
    x, factor = randn(3, 12, 5, 4, dtype=torch.float32), randn(3, 12, 2, seed=1, dtype=torch.float32)
    x[1, 3, 2, 1] = torch.nan
    core = backend.core_contraction(x, [factor], [0])
    assert core[1, :, 2, 1].isnan().all()
    check(core[::2], x[::2], [factor[::2]], [0], TOLERANCE[torch.float32])
