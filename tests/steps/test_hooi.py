"""`hooi` of every backend against TensorLy's `tucker`, on real and made-up tensors, and its own rules."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

import tsm_fast
from tsm_fast.steps.backend import HooiResult

from ..helpers import (
    GAP,
    PROJECTOR_ERROR,
    VALUE_ERROR,
    feature_maps,
    largest_is_positive,
    low_rank,
    orthonormality,
    pines,
    projector,
    randn,
    tensors,
    unfold,
    views,
)
from .definitions import TensorLy, check, contract, decompose

pytestmark = pytest.mark.long("triton")

CASES = list(tensors())
DEFAULTS = {"n_iter_max": 100, "tol": 1e-4, "sign": "u"}


@cache
def expected(case: str, dtype: torch.dtype) -> list[TensorLy]:
    x, rank = tensors()[case]
    return [decompose(item, rank) for item in x.to(dtype)]


@pytest.mark.parametrize("case", CASES)
def test_against_tensorly(backend, dtype, case):
    x, rank = tensors()[case]
    result = backend.hooi(x.to(dtype), rank, **DEFAULTS)
    assert result.core.dtype == dtype
    assert result.core.shape == (len(x), *rank)
    assert [f.shape for f in result.factors] == [(len(x), i, r) for i, r in zip(x.shape[1:], rank, strict=True)]
    assert [v.shape for v in result.singular_values] == [(len(x), r) for r in rank]
    check(result, expected(case, dtype), double=dtype == torch.float64)


@pytest.mark.parametrize("case", CASES)
def test_float64_precision_of_float32_input(backend, case):
    x, rank = tensors()[case]
    result = backend.hooi(x.float(), rank, precision="float64", **DEFAULTS)
    assert result.core.dtype == torch.float64
    check(result, expected(case, torch.float32), double=True)


@pytest.mark.parametrize("rank", [(16, 4, 4), (8, 4, 3), (32, 7, 7), (4, 2, 3), (1, 1, 1), (49, 7, 7)], ids=str)
@pytest.mark.parametrize("signed", [False, True], ids=["positive", "signed"])
def test_real_features_within_the_table(backend, rank, signed):
    x = pines(3, 7, 7, signed=signed)
    check(backend.hooi(x, rank, **DEFAULTS), [decompose(item, rank) for item in x], double=False)


@pytest.mark.parametrize("signed", [False, True], ids=["positive", "signed"])
def test_float32_precision(backend, signed):
    x, rank = pines(3, 7, 7, signed=signed), (16, 4, 4)
    result, exact = backend.hooi(x, rank, precision="float32", **DEFAULTS), backend.hooi(x, rank, **DEFAULTS)
    assert result.core.dtype == torch.float32
    assert result.errors.dtype == torch.float64
    # A difference of squares good to 1e-7 of |X|^2 has a root good to 3e-4 where it vanishes.
    last, wanted = (r.errors.gather(1, r.n_sweeps[:, None] - 1) for r in (result, exact))
    assert ((last - wanted).abs() <= 1e-3).all()
    for n, (mine, theirs) in enumerate(zip(result.singular_values, exact.singular_values, strict=True)):
        assert ((mine - theirs).abs() <= 1e-3 * theirs[:, :1]).all()
        assert orthonormality(result.factors[n]) <= 1e-5


@pytest.mark.parametrize("shape", [(20, 24, 28), (20, 70, 66), (12, 9, 8, 7)], ids=str)
def test_small_sigmas_that_stand_apart(backend, shape):
    """Of a tensor that a cut of the first mode leaves an error of, modes with sigmas down to 1e-3 of the first."""
    x, sizes = randn(2, *shape), torch.tensor([1, 0.3, 0.1, 0.05, 0.03, 0.02])
    for mode, size in enumerate(shape[1:], 1):
        weights = torch.nn.functional.pad(sizes, (0, size - len(sizes)), value=1e-4).double()
        turn = torch.linalg.qr(randn(size, size, seed=mode))[0]
        x = ((x.movedim(mode + 1, -1) * weights) @ turn).movedim(-1, mode + 1)
    x, rank = x.float(), (4, *(len(sizes) for _ in shape[1:]))
    exact = [decompose(item, rank) for item in x]
    assert all(e.values[1][-1] < 0.01 * e.values[1][0] and min(e.gaps) > GAP and e.errors[-1] > 0.03 for e in exact)
    check(backend.hooi(x, rank, **DEFAULTS), exact, double=False)


def test_signs_where_nothing_ties_are_those_of_tensorly(backend):
    x, rank = tensors()["random"]
    result = backend.hooi(x, rank, **DEFAULTS)
    for i, exact in enumerate(expected("random", torch.float64)):
        for mine, theirs in zip(result.factors, exact.factors, strict=True):
            assert (mine[i] - theirs).abs().max() < 1e-8
        assert (result.core[i] - exact.core).abs().max() < 1e-8
        for mine, theirs in zip(result.singular_values, exact.values, strict=True):
            assert (mine[i] - theirs).abs().max() < 1e-8


@pytest.mark.parametrize("case", ["random", "pines", "random, more positions than channels", "random, order 4"])
def test_u_signs(backend, dtype, case):
    x, rank = tensors()[case]
    for factor in backend.hooi(x.to(dtype), rank, **DEFAULTS).factors:
        assert largest_is_positive(factor)


@pytest.mark.parametrize("case", ["random", "pines", "random, more positions than channels", "random, order 4"])
def test_v_signs(backend, dtype, case):
    x, rank = tensors()[case]
    result = backend.hooi(x.to(dtype), rank, **{**DEFAULTS, "sign": "v"})
    check(result, expected(case, dtype), double=dtype == torch.float64)
    # After the last update nothing moved any more: the last mode's right vectors are the rows of the final core.
    last = len(rank) - 1
    for i in range(len(x)):
        projected = contract(x[i], [f[i].double() for f in result.factors], skip=last)
        rows = result.factors[last][i].double().mT @ unfold(projected[None], last)[0]
        assert largest_is_positive(rows.mT[None])


@pytest.mark.parametrize("name", views(torch.empty(1, 1, 1, 1)))
def test_strides(backend, dtype, name):
    x, rank = tensors()["random"]
    view = views(x.to(dtype))[name]
    check(backend.hooi(view, rank, **DEFAULTS), expected("random", dtype), double=dtype == torch.float64)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_counts_as_its_exact_values(backend, half):
    x, rank = feature_maps(2, 40, 7, 5).to(half), (6, 3, 3)
    result = backend.hooi(x, rank, **DEFAULTS)
    assert result.core.dtype == torch.float32
    check(result, [decompose(item, rank) for item in x], double=False)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_range_of_float32(backend, scale):
    x, rank = tensors()["random"]
    x = (x * scale).float()
    check(backend.hooi(x, rank, **DEFAULTS), [decompose(item, rank) for item in x], double=False)


@pytest.mark.parametrize("exponent", [-900, 900])
def test_a_power_of_two_changes_nothing(backend, exponent):
    x, rank = tensors()["random"]
    one, scaled = backend.hooi(x, rank, **DEFAULTS), backend.hooi(x * 2.0**exponent, rank, **DEFAULTS)
    assert torch.equal(scaled.errors.nan_to_num(), one.errors.nan_to_num())
    assert torch.equal(scaled.core, one.core * 2.0**exponent)
    for mine, theirs in zip(scaled.factors, one.factors, strict=True):
        assert torch.equal(mine, theirs)


def test_denormal_float32(backend):
    x, rank = tensors()["random"]
    x = (x * 1e-41).float()  # up to a few thousand steps of 1.4e-45
    result = backend.hooi(x, rank, **DEFAULTS)
    exact = [decompose(item * 2.0**130, rank) for item in x.double()]
    for i, item in enumerate(exact):
        common = min(int(result.n_sweeps[i]), len(item.errors))
        assert (result.errors[i, :common] - item.errors[:common]).abs().max() <= VALUE_ERROR
        for mine, theirs, gap in zip(result.factors, item.factors, item.gaps, strict=True):
            assert gap < GAP or (projector(mine[i]) - projector(theirs)).abs().max() <= PROJECTOR_ERROR


# --- per-item stopping ---------------------------------------------------------------------------------------------


def mixed_batch() -> Tensor:
    """Items that stop after different numbers of sweeps, a zero one and one with NaN among them."""
    items = [randn(20, 5, 5, seed=seed) for seed in range(4)]
    items += [low_rank((20, 5, 5), (2, 2, 2), noise, seed) for seed, noise in ((4, 1e-6), (5, 0.3))]
    bad = randn(20, 5, 5, seed=7)
    bad[3, 2, 1] = torch.nan
    return torch.stack([*items[:3], torch.zeros(20, 5, 5, dtype=torch.float64), *items[3:], bad])


def test_the_rest_of_the_batch_does_not_matter(backend, dtype):
    x, rank = mixed_batch().to(dtype), (2, 2, 2)
    together = backend.hooi(x, rank, **DEFAULTS)
    assert len(set(together.n_sweeps.tolist())) >= 4
    for i in range(len(x)):
        alone = backend.hooi(x[i : i + 1], rank, **DEFAULTS)
        assert alone.n_sweeps[0] == together.n_sweeps[i]
        pairs = [(alone.core, together.core), *zip(alone.factors, together.factors, strict=True)]
        pairs += zip(alone.singular_values, together.singular_values, strict=True)
        for one, all_of_them in pairs:
            torch.testing.assert_close(one[0], all_of_them[i], equal_nan=True)
    order = torch.tensor([4, 0, 3, 6, 1, 5, 7, 2])
    shuffled = backend.hooi(x[order], rank, **DEFAULTS)
    torch.testing.assert_close(shuffled.core, together.core[order], equal_nan=True)


def test_items_with_nan_or_inf(backend):
    x = randn(4, 20, 5, 5, dtype=torch.float32)
    x[1, 3, 2, 1], x[2, 0, 0, 0] = torch.nan, -torch.inf
    result = backend.hooi(x, (3, 2, 2), **DEFAULTS)
    assert result.finite.tolist() == [True, False, False, True]
    assert result.n_sweeps[1:3].tolist() == [0, 0]
    assert not result.converged[1:3].any()
    for array in (result.core, *result.factors, *result.singular_values, result.errors):
        assert array[1:3].isnan().all()
    good = HooiResult(
        core=result.core[::3],
        factors=[factor[::3] for factor in result.factors],
        singular_values=[values[::3] for values in result.singular_values],
        errors=result.errors[::3],
        n_sweeps=result.n_sweeps[::3],
        converged=result.converged[::3],
        finite=result.finite[::3],
    )
    check(good, [decompose(x[i], (3, 2, 2)) for i in (0, 3)], double=False)


def test_zero_items(backend, dtype):
    result = backend.hooi(torch.zeros(2, 9, 4, 3, dtype=dtype), (5, 2, 3), **DEFAULTS)
    assert (result.core == 0).all()
    assert result.errors[:, 0].tolist() == [0.0, 0.0]
    assert result.errors[:, 1:].isnan().all()
    assert result.n_sweeps.tolist() == [1, 1]
    assert result.converged.all()
    for factor, values in zip(result.factors, result.singular_values, strict=True):
        assert torch.equal(factor, torch.eye(*factor.shape[1:], dtype=dtype).expand_as(factor))
        assert (values == 0).all()


def test_sweep_limits(backend):
    x, rank = tensors()["random"]
    exact = expected("random", torch.float64)
    for limit in (1, 2, 3, 4):
        result = backend.hooi(x, rank, n_iter_max=limit, tol=1e-4, sign="u")
        assert result.n_sweeps.tolist() == [min(limit, len(item.errors)) for item in exact]
        assert not result.converged.any()
        for i, item in enumerate(exact):
            assert (result.errors[i] - item.errors[:limit]).abs().max() < 1e-9
    never = backend.hooi(x, rank, n_iter_max=12, tol=0.0, sign="u")
    assert never.n_sweeps.tolist() == [12] * len(x)
    assert not never.converged.any()
    far = tsm_fast.tucker(x, rank, n_iter_max=10**12, backend=backend.name)
    assert far.errors.shape == (len(x), max(len(item.errors) for item in exact))
    at_once = backend.hooi(x, rank, n_iter_max=100, tol=1e9, sign="u")
    assert at_once.n_sweeps.tolist() == [3] * len(x)
    assert at_once.converged.all()


def test_empty_batch(backend, dtype):
    result = backend.hooi(torch.empty(0, 9, 4, 3, dtype=dtype), (5, 2, 3), **DEFAULTS)
    assert result.core.shape == (0, 5, 2, 3)
    assert [f.shape for f in result.factors] == [(0, 9, 5), (0, 4, 2), (0, 3, 3)]
    assert result.errors.shape == (0, 100)
    assert result.finite.shape == result.converged.shape == result.n_sweeps.shape == (0,)


# --- degenerate items ----------------------------------------------------------------------------------------------


def constant() -> Tensor:
    return torch.full((1, 30, 5, 4), 3.0)


def rank_one() -> Tensor:
    return torch.einsum("bi,bj,bk->bijk", randn(2, 30, seed=0), randn(2, 5, seed=1), randn(2, 4, seed=2))


def one_entry() -> Tensor:
    x = torch.zeros(1, 30, 5, 4)
    x[0, 17, 3, 2] = -2.5
    return x


@pytest.mark.parametrize("make", [constant, rank_one, one_entry])
@pytest.mark.parametrize("rank", [(1, 1, 1), (4, 2, 2), (20, 5, 4), (2, 5, 4), (6, 2, 4)], ids=str)
def test_rank_deficient_items_have_orthonormal_factors(backend, dtype, make, rank):
    x = make().to(dtype)
    result = backend.hooi(x, rank, **DEFAULTS)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    for factor in result.factors:
        assert orthonormality(factor) <= tolerance
    restored = torch.stack([contract(c, [f[i].mT for f in result.factors]) for i, c in enumerate(result.core)])
    assert (restored - x).abs().max() <= 10 * tolerance * x.abs().max()
    assert result.n_sweeps.tolist() == [3] * len(x)
    # The root of a difference of squares: zero to the root of the rounding of float64.
    assert result.errors.nan_to_num().max() <= (1e-7 if dtype == torch.float64 else VALUE_ERROR)


@pytest.mark.parametrize("shape", [(2, 30, 5, 4), (2, 6, 5, 4), (2, 8, 8), (1, 4, 3, 2, 2), (2, 49, 7, 7)], ids=str)
def test_full_rank_restores_the_input(backend, dtype, shape):
    x = randn(*shape, dtype=dtype)
    rest = x[0, 0].numel()
    rank = (min(shape[1], rest), *(min(size, x[0].numel() // size) for size in shape[2:]))
    result = backend.hooi(x, rank, **DEFAULTS)
    restored = torch.stack([contract(c, [f[i].mT for f in result.factors]) for i, c in enumerate(result.core)])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert (restored - x).norm() <= tolerance * x.norm()
    assert result.errors.nan_to_num().max() <= (VALUE_ERROR if dtype == torch.float32 else 1e-7)


def test_mode_of_size_one(backend, dtype):
    for shape, rank in (((2, 30, 1, 5), (4, 1, 4)), ((2, 1, 6, 5), (1, 3, 3)), ((2, 1, 1, 1), (1, 1, 1))):
        x = randn(*shape, dtype=dtype)
        check(backend.hooi(x, rank, **DEFAULTS), [decompose(item, rank) for item in x], dtype == torch.float64)
