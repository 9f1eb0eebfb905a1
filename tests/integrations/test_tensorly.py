"""TensorLy's functions, beside TensorLy; its own tests run within `use_tsm_fast()`."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
import tensorly
import tensorly.decomposition
import torch
from tensorly.decomposition import _tucker as stock
from tensorly.decomposition import partial_tucker as bound_here
from tensorly.testing import assert_class_wrapper_correctly_passes_arguments
from tensorly.tucker_tensor import TuckerTensor

from tsm_fast.integrations import tensorly as ours

from ..helpers import randn
from . import parity

RANDOM = randn(9, 8, 7).numpy()
OWN_TESTS = """
import pytest
from tsm_fast.integrations.tensorly import use_tsm_fast

with use_tsm_fast() as counts:
    names = ["tensorly.decomposition.tests.test_tucker", "tensorly.tests.test_tucker_tensor"]
    assert pytest.main(["-q", "-p", "no:cacheprovider", "-W", "ignore", "--pyargs", *names]) == 0
print("counted", counts.accelerated, sum(counts.fallback.values()), sorted(counts.fallback))
"""


@pytest.fixture
def counts() -> Any:
    with ours.use_tsm_fast() as own:
        yield own


@pytest.fixture
def pytorch() -> Any:
    with tensorly.backend_context(  # pyright: ignore[reportAttributeAccessIssue]
        "pytorch"
    ):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
def test_its_own_tests_pass_and_are_accelerated(backend: str, tmp_path: Any) -> None:
    environment = {**os.environ, "TENSORLY_BACKEND": backend}
    command = [sys.executable, "-c", OWN_TESTS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "21 passed" in done.stdout
    assert done.stdout.splitlines()[-1] == "counted 10 4 ['mask', 'rank']"


def test_random_calls() -> None:
    """10 000 of them: `benchmarks/results/tensorly_parity.json`."""
    found = Counter(parity.one(0, number).rule for number in range(150))
    assert found["same"] > 120


@pytest.mark.parametrize("name", ["tucker", "partial_tucker"])
def test_signatures(name: str) -> None:
    theirs = [(p.name, p.default) for p in inspect.signature(getattr(stock, name)).parameters.values()]
    assert [(p.name, p.default) for p in inspect.signature(getattr(ours, name)).parameters.values()] == theirs


def test_the_class_passes_its_arguments_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_class_wrapper_correctly_passes_arguments(monkeypatch, ours.tucker, ours.Tucker, ignore_args={}, rank=3)
    monkeypatch.undo()
    decomposer = ours.Tucker(rank=[3, 3, 3])
    core, _ = decomposer.fit_transform(RANDOM)
    assert isinstance(decomposer, stock.Tucker)
    assert decomposer.decomposition_[0] is core


@pytest.mark.parametrize("rank", [3, 0.5, "same", [9, 8, 7], (2, 3, 4), [9, 2, 2], None])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_are_those_of_tensorly(rank: Any, dtype: type) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, errors = stock.tucker(RANDOM.astype(dtype), rank, return_errors=True, random_state=3)
        mine, said = ours.tucker(RANDOM.astype(dtype), rank, return_errors=True, random_state=3)
    assert type(mine) is type(theirs) is TuckerTensor
    assert mine.rank == theirs.rank
    assert mine.core.dtype == dtype
    assert type(said[0]) is type(errors[0])
    close = 1e-9 if dtype is np.float64 else 1e-4
    for one, other in zip(mine.factors, theirs.factors, strict=True):
        assert np.abs(one @ one.T - other @ other.T).max() < close
    if dtype is np.float64:
        assert len(said) == len(errors)
        assert np.abs(np.subtract(said, errors)).max() < 1e-7


def test_pytorch(pytorch: None) -> None:
    x = torch.from_numpy(RANDOM).float()
    theirs, errors = stock.tucker(x, [3, 4, 2], return_errors=True)
    mine, said = ours.tucker(x, [3, 4, 2], return_errors=True)
    assert (type(said[0]), said[0].shape, said[0].dtype) == (torch.Tensor, (), torch.float32)
    assert type(said[0]) is type(errors[0])
    for one, other in zip(mine.factors, theirs.factors, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).abs().max() < 1e-4


def test_random_starts_draw_as_tensorly_does() -> None:
    def draw(function: Any, state: Any) -> Any:
        return function(RANDOM, [3, 8, 7], init="random", random_state=state, n_iter_max=2)[0]

    for state in (0, np.random.RandomState(4)):
        theirs = draw(stock.partial_tucker, np.random.RandomState(4) if state else 0)
        mine = draw(ours.partial_tucker, state)
        again = draw(ours.partial_tucker, np.random.RandomState(4) if state else 0)
        for one, other, same in zip(mine[1], theirs[1], again[1], strict=True):
            assert np.abs(one - other).max() < 1e-9
            assert np.array_equal(one, same)


def test_given_starts_are_left_as_they_are() -> None:
    core, factors = stock.tucker(RANDOM, [3, 3, 3], n_iter_max=1)
    copies = [factor.copy() for factor in factors]
    for init in ((core, factors), TuckerTensor((core, factors)), factors):
        _, errors = ours.tucker(RANDOM, [3, 3, 3], init=init, return_errors=True)
        assert np.all(np.diff(errors) < 1e-12)
    assert all(map(np.array_equal, factors, copies))


def test_modes() -> None:
    for modes in ([1, 2], [0, 2], [1]):
        rank = [3] * len(modes)
        (core, factors), errors = stock.partial_tucker(RANDOM, rank, modes=modes)
        (mine, found), said = ours.partial_tucker(RANDOM, rank, modes=modes)
        assert np.abs(mine - core).max() < 1e-9
        assert np.abs(np.subtract(errors, said)).max() < 1e-9
        assert max(np.abs(a - b).max() for a, b in zip(factors, found, strict=True)) < 1e-9


FALLBACKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "mask": (RANDOM, {"mask": np.ones_like(RANDOM)}),
    "array": (RANDOM.astype(">f8"), {}),
    "order": (np.arange(8.0).reshape(1, 2, 1, 2, 1, 2), {"rank": [1] * 6}),
    "modes": (RANDOM[:, :7], {"modes": [2, 1], "rank": [7, 7]}),
    "n_iter_max": (RANDOM, {"n_iter_max": 0}),
    "svd": (RANDOM, {"svd": "symeig_svd"}),
    "rank": (RANDOM, {"rank": [10, 3, 3], "random_state": 0}),
    "range": (np.zeros((3, 4, 5)), {"n_iter_max": 3}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reason", FALLBACKS)
def test_what_tensorly_itself_computes(reason: str, counts: Any) -> None:
    x, options = FALLBACKS[reason]
    options = {"rank": [3, 3, 3], **options}
    (core, factors), errors = ours.partial_tucker(x, **options)
    (expected, theirs), said = ours._STOCK["partial_tucker"](x, **options)
    assert np.array_equal(core, expected, equal_nan=True)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(factors, theirs, strict=True))
    assert np.array_equal(errors, said, equal_nan=True)
    assert (counts.accelerated, dict(counts.fallback)) == (0, {reason: 1})


def test_gradients_are_tensorlys(pytorch: None, counts: Any) -> None:
    x = torch.from_numpy(RANDOM).requires_grad_()
    core, _ = ours.tucker(x, [3, 3, 3])
    core.sum().backward()
    assert x.grad is not None
    assert counts.fallback == {"gradient": 1}


def test_fixed_factors(counts: Any) -> None:
    start: Any = stock.tucker(RANDOM, [3, 3, 3])
    fixed = start.factors[1].copy()
    _, factors = ours.tucker(RANDOM, [3, 3, 3], init=start, fixed_factors=[1])
    assert np.array_equal(factors[1], fixed)
    assert counts.fallback["fixed_factors"] == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"init": "unknown"}, ValueError),
        ({"init": (1, 2, 3)}, ValueError),
        ({"init": [np.ones((9, 3))]}, ValueError),
        ({"init": [np.ones((9, 2)), np.ones((8, 3)), np.ones((7, 3))]}, ValueError),
        ({"svd": "unknown"}, ValueError),
        ({"fixed_factors": [1]}, ValueError),
    ],
    ids=str,
)
def test_errors_are_tensorlys(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as theirs:
        stock.tucker(RANDOM, [3, 3, 3], **options)
    with pytest.raises(error) as mine:
        ours.tucker(RANDOM, [3, 3, 3], **options)
    assert str(mine.value) == str(theirs.value)


def test_verbose_prints_what_tensorly_prints(capsys: pytest.CaptureFixture[str]) -> None:
    ours.tucker(RANDOM, [3, 3, 3], verbose=True)
    mine = capsys.readouterr().out.splitlines()
    stock.tucker(RANDOM, [3, 3, 3], verbose=True)
    theirs = capsys.readouterr().out.splitlines()
    assert [line.split("=")[0] for line in mine] == [line.split("=")[0] for line in theirs]
    assert mine[-1] == theirs[-1]


def test_the_context_replaces_every_binding_and_puts_them_back() -> None:
    before = bound_here
    with pytest.raises(KeyError), ours.use_tsm_fast():
        raise KeyError
    with ours.use_tsm_fast() as outer:
        assert bound_here is not before
        with ours.use_tsm_fast() as inner:
            tensorly.decomposition.Tucker([2, 2, 2]).fit_transform(RANDOM)
        tensorly.decomposition.tucker(RANDOM, [2, 2, 2])
        bound_here(RANDOM, [2, 2, 2])
    assert (outer.accelerated, inner.accelerated) == (3, 1)
    assert bound_here is before is stock.partial_tucker is tensorly.decomposition.partial_tucker
    assert ours.partial_tucker is not before


def test_batches() -> None:
    items = randn(4, 9, 8, 7).numpy()
    results, errors = ours.batched_tucker(items, [3, 3, 3], return_errors=True)
    again = ours.batched_tucker(list(items), [3, 3, 3])
    for item, result, same, said in zip(items, results, again, errors, strict=True):
        one, expected = ours.tucker(item, [3, 3, 3], return_errors=True)
        assert np.array_equal(result.core, one.core)
        assert np.array_equal(same.core, one.core)
        assert len(said) == len(expected)
    with pytest.raises(TypeError, match="tol must be a number, got 'a'"):
        ours.batched_tucker(items, [3, 3, 3], tol="a")  # pyright: ignore[reportArgumentType]
    assert ours.batched_tucker(items.astype(np.float32), [3, 3, 3])[0].core.dtype == np.float32
    with tensorly.backend_context(  # pyright: ignore[reportAttributeAccessIssue]
        "pytorch"
    ):
        assert torch.is_tensor(ours.batched_tucker(torch.from_numpy(items), [3, 3, 3])[0].core)
