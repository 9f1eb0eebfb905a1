"""Properties that hold for any shape, strides, dtype and values, searched by hypothesis (the same search every run)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tsm_fast

from ..helpers import BACKENDS, DOUBLE_ERROR, MAP_ERROR, VALUE_ERROR, orthonormality, projector

pytestmark = pytest.mark.parametrize("backend_name", BACKENDS)
search = settings(derandomize=True, deadline=None, max_examples=120, database=None)

DTYPES = [np.float16, np.float32, np.float64]


def zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape)


def constant(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, rng.choice([-3.0, 0.1, 1.0, 7.5]))


def rank_one(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    item = np.ones(())
    for size in shape:
        item = np.multiply.outer(item, rng.integers(1, 4, size))
    return item


def whole_numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Many ties: equal rows, repeated singular values, equal magnitudes."""
    return rng.integers(-1, 2, shape).astype(float)


def orthogonal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """One singular value, repeated, in the first mode."""
    q, _ = np.linalg.qr(rng.normal(size=(max(shape[0], int(np.prod(shape[1:]))),) * 2))
    return q[: shape[0], : int(np.prod(shape[1:]))].reshape(shape)


def signed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape)


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.exponential(size=shape)


def tiny(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape) * 1e-30


def huge(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape) * 1e30


def denormal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape) * 1e-42


def with_nan(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    item = rng.normal(size=shape)
    item.flat[rng.integers(item.size)] = np.nan
    return item


def with_inf(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    item = rng.normal(size=shape)
    item.flat[rng.integers(item.size)] = rng.choice([np.inf, -np.inf])
    return item


FINITE = [zeros, constant, rank_one, whole_numbers, orthogonal, signed, positive, tiny, huge, denormal]
KINDS = [*FINITE, with_nan, with_inf]
SAFE_IN_HALF = [zeros, constant, rank_one, whole_numbers, orthogonal, signed, positive]

VIEWS = [
    lambda x: x,
    np.asfortranarray,
    lambda x: x[:, ::-1].copy()[:, ::-1],
    lambda x: x[::-1, ..., ::-1].copy()[::-1, ..., ::-1],
    lambda x: np.repeat(x, 3, axis=-1)[..., 1::3],
    lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
    lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0),
]


@st.composite
def batches(draw, orders=(2, 3, 4, 5), kinds=None) -> np.ndarray:
    """A batch [B, I_1, ..., I_N] whose items are of different kinds, in some dtype and some strides."""
    order = draw(st.sampled_from(orders))
    first = draw(st.integers(1, 40))
    shape = (first, *(draw(st.integers(1, {2: 20, 3: 7, 4: 4, 5: 3}[order])) for _ in range(order - 1)))
    dtype = draw(st.sampled_from(DTYPES))
    allowed = [k for k in kinds or KINDS if dtype != np.float16 or k not in (tiny, huge, denormal)]
    makers = draw(st.lists(st.sampled_from(allowed), min_size=0, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = np.stack([make(rng, shape) for make in makers]) if makers else np.empty((0, *shape))
    return draw(st.sampled_from(VIEWS))(x.astype(dtype))


@st.composite
def with_rank(draw, **options) -> tuple[np.ndarray, tuple[int, ...]]:
    x = draw(batches(**options))
    return x, tuple(draw(st.integers(1, size)) for size in x.shape[1:])


def tolerance(x: np.ndarray, single: float, double: float) -> float:
    return double if x.dtype == np.float64 else single


@search
@given(case=with_rank(kinds=FINITE))
def test_a_tucker_decomposition_is_one(backend_name, case):
    x, rank = case
    result = tsm_fast.tucker(x, rank, backend=backend_name)
    assert all(1 <= e <= r for e, r in zip(result.rank, rank, strict=True))
    assert result.core.dtype == (np.float64 if x.dtype == np.float64 else np.float32)
    for factor in result.factors:
        assert orthonormality(torch.from_numpy(factor)) <= tolerance(x, 2e-6, 1e-12)

    wide = x.astype(np.float64)
    norm = np.sqrt((wide**2).reshape(len(x), wide[0].size if len(x) else 1).sum(axis=1))
    core = wide
    for n, factor in enumerate(result.factors):
        core = np.moveaxis(np.einsum("bm...,bmr->b...r", np.moveaxis(core, n + 1, 1), factor), -1, n + 1)
    limit = tolerance(x, VALUE_ERROR, DOUBLE_ERROR)
    smallest = 1e-44 if x.dtype != np.float64 else 0  # of the float32 that the core comes in
    for i in range(len(x)):
        assert np.abs(result.core[i] - core[i]).max() <= limit * norm[i] + smallest
        errors = result.errors[i, : result.n_sweeps[i]]
        assert np.isnan(result.errors[i, result.n_sweeps[i] :]).all()
        assert ((errors >= 0) & (errors <= 1 + 1e-12)).all()
        assert (np.diff(errors**2) <= limit).all(), "a sweep never makes the error larger"
        if norm[i] == 0:
            assert result.n_sweeps[i] == 1
            continue
        # By factors that were rounded to the dtype of the result: a few roundings per mode.
        square = abs(1 - (np.linalg.norm(core[i]) / norm[i]) ** 2)
        assert abs(errors[-1] ** 2 - square) <= tolerance(x, 1e-6, 1e-13)
        moves = np.abs(np.diff(errors))
        assert (moves[1:-1] >= 1e-4).all(), "an item stops at the first sweep that moved less than tol"
        assert result.converged[i] == (len(errors) > 2 and moves[-1] < 1e-4)


@search
@given(case=with_rank(kinds=FINITE))
def test_hosvd_and_tucker_bound_each_other(backend_name, case):
    """HOOI starts from the HOSVD and only gets better; and the HOSVD is within sqrt(N) of the best."""
    x, rank = case
    start, result = tsm_fast.hosvd(x, rank, backend=backend_name), tsm_fast.tucker(x, rank, backend=backend_name)
    limit = tolerance(x, 1e-4, 1e-7)
    for i in range(len(x)):
        last = result.errors[i, result.n_sweeps[i] - 1]
        assert last <= start.errors[i, 0] + limit
        assert start.errors[i, 0] <= np.sqrt(x.ndim - 1) * last + limit


@search
@given(case=with_rank())
def test_items_with_nan_or_inf_are_named(backend_name, case):
    x, rank = case
    bad = [i for i, item in enumerate(x) if not np.isfinite(item).all()]
    for call in (tsm_fast.tucker, tsm_fast.hosvd):
        if bad:
            with pytest.raises(ValueError, match=f"in items? {', '.join(map(str, bad))}$"):
                call(x, rank, backend=backend_name)
        else:
            assert len(call(x, rank, backend=backend_name)) == len(x)


@search
@given(x=batches(orders=(2,), kinds=FINITE))
def test_singular_triplets_restore_the_matrix(backend_name, x):
    u, s, vh = (np.asarray(a, dtype=np.float64) for a in tsm_fast.truncated_svd(x, backend=backend_name))
    limit = tolerance(x, VALUE_ERROR, DOUBLE_ERROR)
    assert orthonormality(torch.from_numpy(u)) <= max(limit, 1e-12)
    assert orthonormality(torch.from_numpy(vh).mT) <= max(limit, 1e-12)
    scale = np.abs(x.astype(np.float64)).max(axis=(1, 2), keepdims=True) + 1e-300
    exact = np.linalg.svd(x / scale, compute_uv=False) if len(x) else np.empty(s.shape)
    smallest = 1e-44 if x.dtype != np.float64 else 0
    assert (
        np.abs(s - exact * scale[:, 0]) <= limit * (exact * scale[:, 0]).max(axis=1, keepdims=True) + smallest
    ).all()
    restored = u * s[:, None] @ vh
    assert (np.abs(restored - x) <= 20 * limit * scale + 10 * smallest).all()


METHODS = ["eigencam", "tsm", "multivec_eigencam", "mtsm"]


@search
@given(case=with_rank(orders=(3,)), method=st.sampled_from(METHODS), truncated=st.booleans(), absolute=st.booleans())
def test_maps_are_maps(backend_name, case, method, truncated, absolute):
    x, rank = case
    options: dict = {"rank": rank} if truncated and method in ("tsm", "mtsm") else {}
    if absolute and method in ("mtsm", "multivec_eigencam"):
        options["combine"] = "absolute"
    function = getattr(tsm_fast, method)
    maps = function(x, nan="propagate", backend=backend_name, **options)
    assert maps.shape == (len(x), *x.shape[2:])
    assert maps.dtype == np.float32
    for item, map_ in zip(x, maps, strict=True):
        if not np.isfinite(item).all():
            assert np.isnan(map_).all()
            continue
        assert map_.min() == 0
        assert map_.max() in (0, 1)
        if (item == item[:, :1, :1]).all() and (method == "eigencam" or method == "multivec_eigencam"):
            assert (map_ == 0).all()
    zeroed = function(x, nan="zero", backend=backend_name, **options)
    assert np.isfinite(zeroed).all()


@search
@given(
    x=batches(orders=(3,), kinds=[rank_one, signed, positive, tiny, huge]),
    method=st.sampled_from(METHODS),
)
def test_maps_agree_with_float64(backend_name, x, method):
    """The full-rank maps that no sign can change, where the first singular value stands apart."""
    options = {"combine": "absolute"} if method in ("mtsm", "multivec_eigencam") else {}
    maps = getattr(tsm_fast, method)(x, backend=backend_name, **options)
    for item, map_ in zip(x.astype(np.float64), maps, strict=True):
        unfolded = item.reshape(len(item), -1)
        if method in ("eigencam", "multivec_eigencam"):
            unfolded = unfolded - unfolded.mean(axis=1, keepdims=True)
        peak = np.abs(item).max()
        if np.abs(unfolded).max() <= 1e-6 * peak:
            continue  # centring left rounding only
        _, s, vh = np.linalg.svd(unfolded / peak, full_matrices=False)
        if (np.abs(np.diff(np.append(s, 0))) < 1e-2 * s[0])[: 1 if options == {} else len(s)].any():
            continue
        if options:
            exact = s**2 @ np.abs(vh)
        else:
            exact = np.abs(vh[0]) if method == "tsm" else vh[0]
            exact = exact if method == "tsm" or exact.max() > -exact.min() else -exact
            if method == "eigencam" and abs(exact.max() + exact.min()) < 1e-4 * exact.max():
                continue
        exact = np.maximum(exact, 0) if method == "eigencam" else exact
        spread = exact.max() - exact.min()
        if spread < 1e-2 * exact.max():
            continue
        assert np.abs((exact - exact.min()) / spread - map_.ravel()).max() <= 10 * MAP_ERROR[method]


@search
@given(case=with_rank(orders=(2, 3, 4), kinds=[signed]))
def test_decompositions_agree_with_the_reference(backend_name, case):
    x, rank = case
    mine = tsm_fast.tucker(x, rank, n_iter_max=2, tol=0, backend=backend_name)
    theirs = tsm_fast.tucker(x.astype(np.float64), rank, n_iter_max=2, tol=0, backend="reference")
    assert mine.rank == theirs.rank
    if not len(x):
        return
    assert (
        np.abs(mine.errors - theirs.errors) <= tolerance(x, 10 * VALUE_ERROR, 1e-7)
    ).all()  # two sweeps from a start whose gaps are left to chance
    for a, b in zip(mine.factors, theirs.factors, strict=True):
        if a.shape[1] == a.shape[2]:
            assert (projector(torch.from_numpy(a)) - projector(torch.from_numpy(b))).abs().max() <= 1e-5
