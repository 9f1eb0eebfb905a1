"""Intervals hold their level, comparisons their error rate; equal calls give equal numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tsm_fast import metrics

SETS = 500
LEVEL = pytest.approx(95, abs=2)


def drawn(kind: str, rng: np.random.Generator, *shape: int) -> tuple[np.ndarray, float]:
    """Values, and their mean."""
    made: Any = {
        "normal": lambda: (rng.normal(size=shape), 0),
        "uniform": lambda: (rng.uniform(size=shape), 0.5),
        "high": lambda: (rng.beta(5, 1, shape), 5 / 6),  # as AUCs are
        "u": lambda: (rng.beta(0.5, 0.5, shape), 0.5),  # as drops are
        "skewed": lambda: (rng.exponential(size=shape), 1),
        "yes or no": lambda: ((rng.uniform(size=shape) < 0.8).astype(float), 0.8),
    }
    return made[kind]()


def coverage(found: metrics.Interval, mean: float) -> float:
    return 100 * np.mean((found.low <= mean) & (mean <= found.high))


@pytest.mark.parametrize("kind", ["normal", "uniform", "high", "u", "skewed", "yes or no"])
def test_intervals_cover_the_mean(kind: str) -> None:
    values, mean = drawn(kind, np.random.default_rng(5), 60, SETS)
    assert coverage(metrics.interval(values), mean) == LEVEL


@pytest.mark.parametrize("kind", ["normal", "high", "u"])
def test_intervals_of_groups_cover_the_mean(kind: str) -> None:
    rng = np.random.default_rng(6)
    groups = np.repeat(np.arange(50), rng.integers(1, 7, 50))
    shared, mean = drawn(kind, rng, 50, SETS)
    own, _ = drawn(kind, rng, len(groups), SETS)
    values = np.where(rng.uniform(size=own.shape) < 0.5, shared[groups], own)
    assert coverage(metrics.interval(values, groups), mean) == LEVEL
    assert coverage(metrics.interval(values), mean) < 93  # rows are not independent


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_few_units_are_enough(kind: str) -> None:
    values, mean = drawn(kind, np.random.default_rng(7), 10, SETS)
    assert coverage(metrics.interval(values), mean) == LEVEL


def test_other_levels() -> None:
    values, mean = drawn("normal", np.random.default_rng(8), 40, SETS)
    assert coverage(metrics.interval(values, level=0.8), mean) == pytest.approx(80, abs=4)


def test_comparisons_hold_their_error_rate() -> None:
    rng = np.random.default_rng(9)
    image = rng.normal(size=(40, SETS))
    a, b = (image + 0.2 * rng.normal(size=image.shape) for _ in range(2))
    same, better = metrics.paired(a, b), metrics.paired(a + 0.15, b)
    assert 100 * np.mean(same.p < 0.05) == pytest.approx(5, abs=2)
    assert np.mean(better.p < 0.05) > 0.85
    for found in (same, better):
        assert np.array_equal(found.p <= 0.05, (found.low > 0) | (found.high < 0))
    hits = rng.integers(0, 2, (2, 60, 4 * SETS))
    assert 100 * np.mean(metrics.paired(*hits).p < 0.05) == pytest.approx(5, abs=2)


def test_many_rows_are_as_good_as_the_normal_interval() -> None:
    values = np.random.default_rng(0).uniform(size=50_000)
    found, error = metrics.interval(values), values.std() / np.sqrt(50_000)
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert found.units == 50_000


def test_rows_that_are_nan_are_dropped_and_counted() -> None:
    values = np.random.default_rng(0).normal(size=(30, 2))
    values[3:8, 1] = np.nan
    found = metrics.interval(values)
    assert found.units.tolist() == [30, 25]
    assert found.dropped.tolist() == [0, 5]
    alone = metrics.interval(values[:, 1][~np.isnan(values[:, 1])])
    assert found.mean[1] == pytest.approx(alone.mean)
    assert found.high[1] - found.low[1] == pytest.approx(alone.high - alone.low, rel=0.1)
    pair = metrics.paired(values[:, 0], values[:, 1])
    assert (pair.units, pair.dropped) == (25, 5)


def test_below_ten_units_there_is_no_interval() -> None:
    found = metrics.interval(np.arange(9.0))
    assert (found.mean, found.units) == (4, 9)
    assert np.isnan([found.low, found.high]).all()
    assert np.isfinite(metrics.interval(np.arange(10.0)).low)
    assert np.isnan(metrics.interval(np.arange(40.0), np.arange(40) // 5).low)
    assert np.isnan(metrics.paired(np.arange(9.0), np.zeros(9)).p)
    empty = metrics.interval(np.full(20, np.nan))
    assert np.isnan(empty.mean)
    assert (empty.units, empty.dropped) == (0, 20)
    assert metrics.interval([]).units == 0


def test_constant_values_have_an_interval_without_width() -> None:
    assert metrics.interval(np.full(20, 0.3))[:3] == pytest.approx((0.3, 0.3, 0.3))
    same = metrics.paired(np.arange(20.0), np.arange(20.0))
    assert same[:4] == (0, 0, 0, 1)
    assert metrics.paired(np.ones(20), np.zeros(20)).p < 0.001
    low, high = metrics.interval(np.ones(20))[1:3]
    assert (low, high) == pytest.approx((0.839, 1), abs=1e-3)  # Wilson's


def test_equal_calls_give_equal_numbers() -> None:
    values = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
    one, two = metrics.interval(values), metrics.interval(values.numpy())
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a, b)
    assert metrics.interval(values[:, 1]).low == pytest.approx(one.low[1])
    assert metrics.interval(values, seed=1).low[0] != one.low[0]
    named = metrics.interval(values, [f"image {i}" for i in range(100)])
    assert np.allclose(named.low, one.low)


def test_holm_is_as_published() -> None:
    assert metrics.holm([0.01, 0.02, 0.04, 0.2]).tolist() == pytest.approx([0.04, 0.06, 0.08, 0.2])
    assert metrics.holm([0.5, np.nan, 0.01]).tolist() == pytest.approx([0.5, np.nan, 0.02], nan_ok=True)
    assert metrics.holm([0.9, 0.8]).tolist() == [1, 1]
    assert len(metrics.holm([])) == 0


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"values must be \[N\] or \[N, K\], got \(2, 2, 2\)"):
        metrics.interval(np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="groups must be one for each of 3 rows, got 2"):
        metrics.interval(np.zeros(3), [0, 1])
    with pytest.raises(ValueError, match="level must lie between 0 and 1, got 95"):
        metrics.interval(np.zeros(3), level=95)
    with pytest.raises(ValueError, match=r"b must be of the shape of a, \(3,\), got \(4,\)"):
        metrics.paired(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match=r"p_values must be \[K\] in 0..1"):
        metrics.holm([1.5])
