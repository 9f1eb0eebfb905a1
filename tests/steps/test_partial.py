"""Partial decompositions, other starts than the HOSVD, and padded ranks: every backend against TensorLy's
`partial_tucker`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tensorly.decomposition import partial_tucker
from torch import Tensor

import tsm_fast
from tsm_fast.steps import starts
from tsm_fast.steps.backend import Backend, HooiResult

from ..helpers import largest_is_positive, low_rank, orthonormality, randn, views

DEFAULTS = {"n_iter_max": 100, "tol": 1e-4, "sign": "u"}
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {  # shape, rank, modes
    "the first kept": ((6, 5, 4), (3, 2), (1, 2)),
    "the largest kept": ((40, 4, 3), (2, 2), (1, 2)),
    "the largest, and another one kept": ((40, 4, 3), (5, 2), (0, 2)),
    "the largest last": ((4, 3, 40), (2, 5), (0, 2)),
    "the largest last, alone": ((4, 3, 40), (5,), (2,)),
    "one mode": ((9, 5, 4), (3,), (0,)),
    "at full rank": ((9, 5, 4), (5, 4), (1, 2)),
    "matrices": ((9, 6), (3,), (1,)),
    "order 5": ((4, 3, 2, 3, 2), (2, 2, 2), (0, 1, 3)),
    "all modes": ((7, 6, 5), (3, 3, 2), (0, 1, 2)),
    "all modes, the largest first": ((40, 4, 3), (5, 2, 3), (0, 1, 2)),
    "all modes, the largest last": ((4, 3, 40), (2, 3, 5), (0, 1, 2)),
}
PADDED: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "to all": ((12, 3, 4), (12, 2, 2), (0, 1, 2)),
    "the largest": ((40, 3, 2), (30, 2, 2), (0, 1, 2)),
    "the largest, beyond the HOSVD": ((2, 3, 40), (2, 2, 9), (0, 1, 2)),
    "matrices": ((6, 5), (2, 4), (0, 1)),
    "beside a kept mode": ((20, 3, 2), (12, 2), (0, 1)),
    "order 4": ((9, 2, 3, 2), (9, 2, 1, 2), (0, 1, 2, 3)),
}


def run(backend: Backend, x: Tensor, rank: Sequence[int], modes: Sequence[int], **how: Any) -> HooiResult:
    given, random, state = how.pop("given", None), how.pop("random", False), how.pop("state", 0)
    options = starts.options(backend, x, rank, modes, given, random, state)
    whole = list(x.shape[1:])
    for mode, r in zip(modes, rank, strict=True):
        whole[mode] = r
    return backend.hooi(x, whole, **{**DEFAULTS, **how}, options=options)


def check(result: HooiResult, x: Tensor, rank: Sequence[int], modes: Sequence[int], **how: Any) -> None:
    """Against TensorLy, item by item, in float64."""
    for b, item in enumerate(x.double().numpy()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of padded ranks
            options: Any = {name: [f.copy() for f in value] if name == "init" and not isinstance(value, str) else value
                       for name, value in how.items()}  # fmt: skip
            (core, factors), errors = partial_tucker(item, list(rank), modes=list(modes), random_state=0, **options)
        double = x.dtype == torch.float64
        n = int(result.n_sweeps[b])
        if double:
            assert n == len(errors)
        n = min(n, len(errors))
        squares = result.errors[b, :n].numpy() ** 2 - np.square(errors[:n])
        assert np.abs(squares).max() < (1e-12 if double else 1e-5)
        assert result.core[b].shape == core.shape
        for mine, theirs in zip(result.factors, factors, strict=True):
            projector = mine[b].double().numpy() @ mine[b].double().numpy().T
            assert np.abs(projector - theirs @ theirs.T).max() < (1e-7 if double else 1e-3)
        assert abs(result.core[b].norm().item() - np.linalg.norm(core)) < 1e-5 * np.linalg.norm(item)
    for mine in result.factors:
        assert orthonormality(mine) <= (1e-12 if x.dtype == torch.float64 else 1e-5)
        assert largest_is_positive(mine)
    for mode, r, values in zip(modes, rank, result.singular_values, strict=True):
        slices = result.core.movedim(mode + 1, 1).flatten(2)
        assert values.shape == (len(x), r)
        assert (values - slices.norm(dim=2)).abs().max() <= 1e-5 * values.max()


def items(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """One with low rank and little noise, and two of noise."""
    return torch.cat([low_rank(shape, (2,) * len(shape), 0.1)[None], randn(2, *shape)]).to(dtype)


@pytest.mark.parametrize("case", CASES)
def test_some_modes(backend: Backend, dtype: torch.dtype, case: str) -> None:
    shape, rank, modes = CASES[case]
    x = items(shape, dtype)
    check(run(backend, x, rank, modes), x, rank, modes)


@pytest.mark.parametrize("case", CASES)
def test_random_starts(backend: Backend, case: str) -> None:
    shape, rank, modes = CASES[case]
    x = items(shape, torch.float64)
    check(run(backend, x, rank, modes, random=True), x, rank, modes, init="random")


@pytest.mark.parametrize("case", CASES)
def test_given_starts(backend: Backend, dtype: torch.dtype, case: str) -> None:
    """Of any size, and not orthonormal."""
    shape, rank, modes = CASES[case]
    x = items(shape, dtype)
    factors = [1e150 * randn(shape[mode], r, seed=mode) for mode, r in zip(modes, rank, strict=True)]
    given = [factor.expand(len(x), -1, -1) for factor in factors]
    check(run(backend, x, rank, modes, given=given), x, rank, modes, init=[f.numpy() / 1e150 for f in factors])


@pytest.mark.parametrize("case", PADDED)
def test_padded_ranks(backend: Backend, case: str) -> None:
    shape, rank, modes = PADDED[case]
    x = items(shape, torch.float64)
    check(run(backend, x, rank, modes), x, rank, modes)
    check(run(backend, x, rank, modes, random=True), x, rank, modes, init="random")


@pytest.mark.parametrize("case", ["the largest kept", "the largest, and another one kept", "all modes"])
def test_strides(backend: Backend, case: str) -> None:
    shape, rank, modes = CASES[case]
    x = items(shape, torch.float64)
    for view in views(x).values():
        check(run(backend, view, rank, modes), x, rank, modes)


@pytest.mark.parametrize(
    "case", ["the first kept", "the largest, and another one kept", "all modes, the largest first"]
)
def test_right_vectors_decide_signs(backend: Backend, case: str) -> None:
    shape, rank, modes = CASES[case]
    x = randn(3, *shape)
    for how in ({}, {"random": True}):
        left, right = (run(backend, x, rank, modes, sign=sign, **how) for sign in "uv")
        assert left.n_sweeps.equal(right.n_sweeps)
        for one, other in zip(left.factors, right.factors, strict=True):
            assert (one.abs() - other.abs()).abs().max() <= 1e-7
        rows = right.core.movedim(modes[-1] + 1, 1).flatten(2)  # of the last mode: its right vectors
        assert largest_is_positive(rows.mT)


@pytest.mark.parametrize("options", [{}, {"random": True}], ids=["svd", "random"])
@pytest.mark.parametrize("case", ["the first kept", "the largest, and another one kept", "to all"])
def test_the_rest_of_a_batch_does_not_matter(backend: Backend, case: str, options: dict[str, Any]) -> None:
    shape, rank, modes = {**CASES, **PADDED}[case]
    x = torch.cat([items(shape, torch.float64), torch.zeros(1, *shape), torch.full((1, *shape), torch.nan)])
    alone = [run(backend, x[i : i + 1], rank, modes, **options) for i in range(len(x))]
    together = run(backend, x.flip(0), rank, modes, **options)
    assert together.finite.tolist() == [False, True, True, True, True]
    assert together.converged.tolist()[:2] == [False, True]
    assert together.n_sweeps.tolist()[:2] == [0, 1]
    for i in range(len(x) - 1):
        assert together.n_sweeps[4 - i] == alone[i].n_sweeps[0]
        assert torch.equal(together.core[4 - i], alone[i].core[0])
        assert all(torch.equal(f[4 - i], g[0]) for f, g in zip(together.factors, alone[i].factors, strict=True))
    assert all(f[0].isnan().all() for f in together.factors)
    for factor in together.factors:
        assert factor[1].equal(torch.eye(*factor.shape[1:], dtype=torch.float64))


def test_one_sweep_of_one_item(backend: Backend) -> None:
    shape, rank, modes = CASES["the first kept"]
    x = randn(1, *shape)
    result = run(backend, x, rank, modes, random=True, n_iter_max=1)
    check(result, x, rank, modes, init="random", n_iter_max=1)
    assert result.converged.tolist() == [False]


@pytest.mark.parametrize("case", ["all modes, the largest first", "the largest last", "all modes"])
def test_a_start_that_misses_x(backend: Backend, dtype: torch.dtype, case: str) -> None:
    """Sweeps go on from the columns of the identity, which stand in for vectors that there are not."""
    shape, rank, modes = CASES[case]
    x = torch.cat([items(shape, dtype), torch.zeros(1, *shape, dtype=dtype)])
    x[3].flatten()[-1] = 1
    given = [torch.zeros(len(x), shape[mode], r) for mode, r in zip(modes, rank, strict=True)]
    for factor in given:
        factor[3, 0, 0] = 1
    result = run(backend, x, rank, modes, given=[factor.double() for factor in given])
    exact = run(backend, x, rank, modes)
    assert result.converged.all()
    for factor in result.factors:
        assert orthonormality(factor) <= 1e-5
    last = [r.errors.nan_to_num(nan=2.0).amin(1) for r in (result, exact)]
    assert (last[0][:3] - last[1][:3]).max() <= 0.1


# ---- the public function ----


def test_results_of_some_modes() -> None:
    x = randn(3, 9, 5, 4)
    result = tsm_fast.tucker(x, (3, 2), modes=(-2, 2))
    assert result.modes == (1, 2)
    assert result.rank == (3, 2)
    assert result.core.shape == (3, 9, 3, 2)
    assert [tuple(f.shape) for f in result.factors] == [(3, 5, 3), (3, 4, 2)]
    error = (result.reconstruct() - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    assert (error - result.error).abs().max() < 1e-9
    assert "<td>2</td><td>4</td><td>2</td>" in result._repr_html_()
    core, factors = result[1]
    assert (core.shape, len(factors)) == ((9, 3, 2), 2)
    exact = tsm_fast.tucker(x, modes=(0,))
    assert (exact.reconstruct() - x).abs().max() < 1e-12
    pair: Any = np.array([0, 1])
    numbers = tsm_fast.tucker(x.numpy(), 2, modes=pair)
    assert isinstance(numbers.core, np.ndarray)
    assert numbers.core.shape == (3, 2, 2, 4)


def test_the_rank_of_modes_that_stay_is_their_size() -> None:
    x = randn(2, 30, 4, 3)
    assert tsm_fast.tucker(x, (20, 2), modes=(0, 1)).rank == (6, 2)
    assert tsm_fast.tucker(x, (20, 2, 2)).rank == (4, 2, 2)
    assert tsm_fast.tucker(x, (20, 2, 2), pad=True, random_state=0).rank == (20, 2, 2)


def test_a_start_of_every_kind_and_none_is_changed() -> None:
    x = randn(2, 9, 5, 4)
    first = tsm_fast.tucker(x, (3, 2, 2), n_iter_max=2)
    factors = [f.clone() for f in first.factors]
    wanted = tsm_fast.tucker(x, (3, 2, 2), init=first)
    for init in (factors, tuple(factors), (first.core, factors), [f.numpy() for f in factors], iter(factors)):
        assert tsm_fast.tucker(x, (3, 2, 2), init=init).core.equal(wanted.core)
    shared = tsm_fast.tucker(x, (3, 2, 2), init=[f[0] for f in factors])
    assert shared.core[0].equal(wanted.core[0])
    assert all(map(torch.equal, first.factors, factors))


def test_random_states() -> None:
    x = randn(1, 9, 5, 4)

    def drawn(state: Any) -> Tensor:
        return tsm_fast.tucker(x, (3, 2, 2), init="random", random_state=state, n_iter_max=1).core

    assert drawn(3).equal(drawn(np.int64(3)))
    assert drawn(3).equal(drawn(np.random.RandomState(3)))
    assert not drawn(3).equal(drawn(4))
    state = np.random.RandomState(3)
    assert not drawn(state).equal(drawn(state))
    np.random.seed(3)  # noqa: NPY002
    assert drawn(None).equal(drawn(3))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"modes": (2, 1)}, ValueError, r"modes must rise, got \(2, 1\)"),
        ({"modes": (1, 1)}, ValueError, "modes must rise"),
        ({"modes": ()}, ValueError, "modes must name one mode at least"),
        ({"modes": (3,)}, ValueError, r"mode must lie in 0..2"),
        ({"modes": 1}, TypeError, "modes must be several integers"),
        ({"modes": (1, 2), "rank": (2, 2, 2)}, ValueError, "rank must have one number for each of the 2 modes, got 3"),
        ({"modes": (1, 2), "rank": (6, 2)}, ValueError, "rank must lie in 1..5 for mode 1, got 6"),
        ({"init": "hosvd"}, ValueError, "init must be one of 'svd', 'random', got 'hosvd'"),
        ({"init": 3}, TypeError, "init must be 'svd', 'random' or factors, got 3"),
        ({"init": [torch.ones(9, 2)]}, ValueError, "init must have a factor for each of 3 modes, got 1"),
        (
            {"init": [torch.ones(9, 2), torch.ones(5, 2), torch.ones(4, 3)]},
            ValueError,
            r"init\[2\] must have shape \(4, 2\) or \(2, 4, 2\) for mode 2, got \(4, 3\)",
        ),
        ({"init": [torch.ones(9, 2), torch.ones(5, 2), [1.0]]}, TypeError, r"init\[2\] must be a torch, NumPy"),
        (
            {"init": [torch.ones(9, 2), torch.ones(5, 2), torch.full((4, 2), torch.inf)]},
            ValueError,
            r"init\[2\] must be finite",
        ),
        ({"random_state": -1}, ValueError, "random_state must lie in 0.."),
        ({"random_state": "0"}, TypeError, "random_state must be an integer"),
        ({"pad": 1}, TypeError, "pad must be True or False"),
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tsm_fast.tucker(randn(2, 9, 5, 4), **{"rank": 2, **options})


@pytest.mark.parametrize(
    "options",
    [{"modes": (1, 2)}, {"init": "random", "random_state": 0}, {"rank": (9, 2, 2), "pad": True, "random_state": 0}],
    ids=["modes", "random", "padded"],
)
def test_gradients(options: dict[str, Any]) -> None:
    """Of what does not depend on signs, beside differences."""
    rank = options.pop("rank", (2,) * len(options.get("modes", (0, 1, 2))))
    x, step = randn(2, 9, 5, 4), randn(2, 9, 5, 4, seed=1)
    weights = randn(2, 9, 5, 4, seed=2)

    def value(x: Tensor) -> Tensor:
        return (tsm_fast.tucker(x, rank, n_iter_max=4, tol=0, **options).reconstruct() * weights).sum()

    leaf = x.clone().requires_grad_()
    value(leaf).backward()
    assert leaf.grad is not None
    exact = (value(x + 1e-6 * step) - value(x - 1e-6 * step)) / 2e-6
    assert abs((leaf.grad * step).sum() - exact) < 1e-5 * exact.abs()


def test_starts_get_no_gradients() -> None:
    x = randn(2, 9, 5, 4).requires_grad_()
    start = [randn(size, 2).requires_grad_() for size in (9, 5, 4)]
    tsm_fast.tucker(x, 2, init=start, n_iter_max=2).core.sum().backward()
    assert x.grad is not None
    assert all(factor.grad is None for factor in start)
