"""`hooi` of the Triton backend: all sweeps in one program, and the steps composed, against TensorLy."""

from __future__ import annotations

import pytest
import torch

from tsm_fast import kernels
from tsm_fast.kernels.hooi import sweeps_meta
from tsm_fast.steps import reference

from ..helpers import largest_is_positive, low_rank, orthonormality, randn, tensors
from ..steps.definitions import check, decompose

pytestmark = pytest.mark.slow

DEFAULTS = {"n_iter_max": 100, "tol": 1e-4, "sign": "u"}
ON_CHIP = {
    "low rank": ((12, 4, 4), (3, 2, 2), 1e-2),
    "one row": ((20, 1, 9), (4, 1, 4), 0.1),
    "full in height and width": ((20, 3, 4), (6, 3, 4), 0.01),
    "more positions than channels": ((5, 4, 5), (3, 2, 2), 0.1),
    "rank one": ((9, 3, 2), (1, 1, 1), 0.3),
}
BY_STEPS = ["random matrices", "random, order 4", "random, order 5", "covid"]


@pytest.mark.parametrize(("case", "dtype"), [*((case, torch.float64) for case in ON_CHIP), ("low rank", torch.float32)])
def test_sweeps_in_one_program(case, dtype):
    shape, rank, noise = ON_CHIP[case]
    x = low_rank(shape, rank, noise)[None].to(dtype)
    assert sweeps_meta(*shape[1:], rank) is not None
    result = kernels.hooi(x, rank, **DEFAULTS)
    assert result.core.dtype == dtype
    check(result, [decompose(item, rank) for item in x], double=dtype == torch.float64)
    assert all(largest_is_positive(factor) for factor in result.factors)


@pytest.mark.parametrize("case", BY_STEPS)
def test_sweeps_by_steps(case):
    x, rank = tensors()[case]
    assert x.ndim != 4 or sweeps_meta(*x.shape[2:], rank) is None
    check(kernels.hooi(x[:1], rank, **DEFAULTS), [decompose(x[0], rank)], double=True)


def test_signs_by_the_right_vectors():
    x, rank = randn(1, 9, 4, 3), (3, 2, 2)
    left, right = (kernels.hooi(x, rank, **{**DEFAULTS, "sign": sign}) for sign in "uv")
    assert left.n_sweeps.tolist() == right.n_sweeps.tolist()
    for one, other in zip(left.factors, right.factors, strict=True):
        assert (one.abs() - other.abs()).abs().max() <= 1e-9
    exact = reference.hooi(x, rank, **{**DEFAULTS, "sign": "v"})
    for mine, theirs in zip(right.factors, exact.factors, strict=True):
        assert (mine - theirs).abs().max() <= 1e-9
    assert (right.core - exact.core).abs().max() <= 1e-9


def test_items_stop_on_their_own():
    """Neither the batch nor its order changes a bit, nor do items of zeros and NaN."""
    x = torch.stack([randn(12, 3, 3), low_rank((12, 3, 3), (2, 2, 2), 1e-6), torch.zeros(12, 3, 3)])
    x = torch.cat([x, torch.full((1, 12, 3, 3), torch.nan)])
    rank = (2, 2, 2)
    alone = [kernels.hooi(x[i : i + 1], rank, **DEFAULTS) for i in range(4)]
    together = kernels.hooi(x.flip(0), rank, **DEFAULTS)
    assert together.n_sweeps.tolist() == [0, 1, int(alone[1].n_sweeps), int(alone[0].n_sweeps)]
    assert together.converged.tolist() == [False, True, True, True]
    assert together.finite.tolist() == [False, True, True, True]
    for i in (0, 1):
        assert torch.equal(together.core[3 - i], alone[i].core[0])
        assert all(torch.equal(f[3 - i], g[0]) for f, g in zip(together.factors, alone[i].factors, strict=True))
    assert not together.core[1].any()
    assert together.errors[1, 0] == 0
    assert torch.equal(together.factors[0][1], torch.eye(12, 2, dtype=torch.float64))
    assert together.core[0].isnan().all()


def test_a_limit_on_the_sweeps_and_factors_of_too_low_a_rank():
    x = low_rank((10, 3, 4), (1, 1, 1), 0.0)[None].expand(2, -1, -1, -1)
    result = kernels.hooi(x, (2, 2, 2), **{**DEFAULTS, "n_iter_max": 2})
    assert result.n_sweeps.tolist() == [2, 2]
    assert not result.converged.any()
    assert all(orthonormality(factor) <= 1e-12 for factor in result.factors)
    assert result.errors.abs().max() <= 1e-7
