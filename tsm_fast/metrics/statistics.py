"""Intervals and comparisons over images, with NumPy; everything is seeded, and equal calls give equal numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

LEAST_UNITS = 10  # below these there is no interval
_DRAWS = 4999
_EVEN = 1 + 1e-9  # draws as far off as the data count as far off, whatever was rounded
_MOST_UNITS = 2000  # more are first thrown together at random into so many
_PART = 2**22  # numbers drawn at a time


class Interval(NamedTuple):
    """A mean with its interval; arrays where several columns went in."""

    mean: Any
    low: Any  # NaN below 10 units
    high: Any
    units: Any  # independent units with a value
    dropped: Any  # rows that are NaN


class Paired(NamedTuple):
    """The mean difference `a - b` with its interval, and how surprising it is without a difference."""

    mean: Any
    low: Any  # NaN below 10 units
    high: Any
    p: Any  # two-sided; NaN below 10 units
    units: Any  # independent units with both values
    dropped: Any  # rows where either is NaN


def interval(
    values: Any,  # [N] or [N, K]
    groups: Sequence[object] | Any = None,  # [N]
    level: float = 0.95,
    *,
    seed: int = 0,
) -> Interval:
    """The mean over rows and its bootstrap interval over independent units.

    Units (rows, or all rows of a group) are drawn with replacement 4999 times; the interval is the symmetric one of the
    studentised mean (bootstrap-t: Hall, 1988), which holds its level also for few units. Columns of 0 and 1 alone have
    Wilson's interval, since few draws of them have any spread. More than 2000 units are first thrown together at random
    into 2000.

    Args:
        values: one a row, or `[N, K]` for K columns at once, each with its own NaN; NumPy or torch.
        groups: a name or number for each row: rows of a group (a patient, a scene) are one unit.
        level: how often the interval should hold the mean, in 0..1.
        seed: of the draws.

    Returns:
        An `Interval` of numbers, or of arrays `[K]`: rows that are NaN are dropped and counted; below 10 units there is
        no interval (NaN).

    Raises:
        ValueError: values are not `[N]` or `[N, K]`, groups are not one a row, or level is out of range.

    >>> import numpy as np
    >>> from tsm_fast import metrics
    >>> found = metrics.interval(np.random.default_rng(0).normal(1, 1, 400))
    >>> round(found.low, 2), round(found.mean, 2), round(found.high, 2), found.units, found.dropped
    (0.87, 0.96, 1.06, 400, 0)
    """
    table, single = _table("values", values)
    mean, low, high, _, units, dropped, error = _bootstrap(table, groups, level, seed)
    shares = ((table == 0) | (table == 1) | np.isnan(table)).all(0) & (units >= LEAST_UNITS)
    low[shares], high[shares] = _wilson(mean[shares], error[shares], units[shares], level)
    return Interval(*(_one(column, single) for column in (mean, low, high, units, dropped)))


def paired(
    a: Any,  # [N] or [N, K]
    b: Any,  # [N] or [N, K]
    groups: Sequence[object] | Any = None,  # [N]
    level: float = 0.95,
    *,
    seed: int = 0,
) -> Paired:
    """The mean of `a - b`, row by row, its interval, and the p-value of no difference, by the bootstrap of `interval`.

    Args:
        a, b: of the same rows: `[N]`, or `[N, K]`.
        groups, level, seed: as in `interval`.

    Returns:
        A `Paired` of numbers, or of arrays `[K]`. The p-value is the share of draws whose studentised mean is as far
        from that of the data as 0 is, at least 1/5000; it is at most `1 - level` where the interval misses 0.

    Raises:
        ValueError: a and b are not of one shape, or as in `interval`.

    >>> import numpy as np
    >>> from tsm_fast import metrics
    >>> rng = np.random.default_rng(0)
    >>> image = rng.normal(size=100)  # what both have in common
    >>> found = metrics.paired(image + 0.1 + 0.1 * rng.normal(size=100), image + 0.1 * rng.normal(size=100))
    >>> found.low > 0, found.p
    (True, 0.0002)
    """
    (one, single), (two, _) = _table("a", a), _table("b", b)
    if one.shape != two.shape:
        raise ValueError(f"b must be of the shape of a, {np.shape(a)}, got {np.shape(b)}")
    return Paired(*(_one(column, single) for column in _bootstrap(one - two, groups, level, seed)[:-1]))


def holm(p_values: Any) -> np.ndarray:  # [K] -> [K]
    """p-values adjusted for a family of comparisons (Holm, 1979): those below .05 hold together at .05.

    Args:
        p_values: of the whole family, in 0..1; NaN is no member.

    Returns:
        `[K]`: the k-th least times (K - k + 1), at least those before it, at most 1; NaN where there was none.

    Raises:
        ValueError: they are not `[K]` in 0..1.

    >>> from tsm_fast import metrics
    >>> metrics.holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, np.float64)
    if values.ndim != 1 or ((values < 0) | (values > 1)).any():
        raise ValueError(f"p_values must be [K] in 0..1, got {p_values!r}")
    order = np.argsort(values)[: np.count_nonzero(~np.isnan(values))]
    adjusted = np.full(len(values), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted


def _table(name: str, values: Any) -> tuple[np.ndarray, bool]:
    """[N, K] float64, and whether it was [N]."""
    values = values.detach().cpu() if hasattr(values, "detach") else values
    table = np.asarray(values, np.float64)
    if table.ndim not in (1, 2):
        raise ValueError(f"{name} must be [N] or [N, K], got {table.shape}")
    return (table[:, None], True) if table.ndim == 1 else (table, False)


def _one(column: np.ndarray, single: bool) -> Any:
    return column[0].item() if single else column


def _units(groups: Any, rows: int, seed: int) -> tuple[np.ndarray, int]:
    """The number of each row's unit, and how many there are."""
    if groups is None:
        return np.arange(rows), rows
    names = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if len(names) != rows:
        raise ValueError(f"groups must be one for each of {rows} rows, got {len(names)}")
    numbers: dict[object, int] = {}
    return np.fromiter((numbers.setdefault(name, len(numbers)) for name in names), np.int64, rows), len(numbers)


def _bootstrap(table: np.ndarray, groups: Any, level: float, seed: int) -> tuple[np.ndarray, ...]:
    """Mean, low, high, p of 0, units, dropped rows and the standard error, each [K]."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    rows, columns = table.shape
    unit, count = _units(groups, rows, seed)
    there = np.isfinite(table)
    filled = np.where(there, table, 0.0)
    sums, counts = (_per_unit(numbers, unit, count) for numbers in (filled, there.astype(np.float64)))
    units, dropped = np.count_nonzero(counts, 0), rows - np.count_nonzero(there, 0)
    with np.errstate(all="ignore"):
        mean = sums.sum(0) / counts.sum(0)
    if count > _MOST_UNITS:
        place = np.random.default_rng([seed, 1]).permutation(count) % _MOST_UNITS
        sums, counts = (_per_unit(numbers, place, _MOST_UNITS) for numbers in (sums, counts))
    off = sums - mean * counts  # per unit, of mean 0
    with np.errstate(all="ignore"):
        total = counts.sum(0)
        error = np.sqrt((off**2).sum(0)) / total
        # Draws of few values may have no spread: each counts with that of the data as one more unit.
        floor = (off**2).sum(0) / np.maximum(np.count_nonzero(counts, 0), 1)
        studentised = []
        for weights in _weights(len(off), seed):
            drawn_total = weights @ counts
            shift = (weights @ off) / drawn_total
            # Of sum w (off - shift * counts)^2, multiplied out.
            square = weights @ off**2 - 2 * shift * (weights @ (off * counts)) + shift**2 * (weights @ counts**2)
            studentised.append(shift / (np.sqrt(np.maximum(square, 0) + floor) / drawn_total))
        t = np.concatenate(studentised)
    t[~np.isfinite(t)] = np.nan
    enough = units >= LEAST_UNITS
    low, high, p = (np.full(columns, np.nan) for _ in range(3))
    for column in np.flatnonzero(enough):
        if error[column] == 0:
            low[column] = high[column] = mean[column]
            p[column] = 1.0 if mean[column] == 0 else 1 / (1 + _DRAWS)
            continue
        drawn = np.abs(t[:, column][~np.isnan(t[:, column])]) * _EVEN
        place = min(ceil(level * (1 + len(drawn))), len(drawn)) - 1
        reach = np.partition(drawn, place)[place] * error[column]
        low[column], high[column] = mean[column] - reach, mean[column] + reach
        p[column] = (1 + np.count_nonzero(drawn >= abs(mean[column]) / error[column])) / (1 + len(drawn))
    return mean, low, high, p, units, dropped, error


def _wilson(
    share: np.ndarray, error: np.ndarray, units: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:  # [K]
    """Of shares with their standard errors: of so many independent rows as would have that error."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    with np.errstate(all="ignore"):
        rows = np.where(error > 0, share * (1 - share) / error**2, units)
    middle = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    reach = z / (1 + z**2 / rows) * np.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    return middle - reach, middle + reach


def _per_unit(numbers: np.ndarray, unit: np.ndarray, count: int) -> np.ndarray:  # [N, K] -> [count, K]
    if count == len(numbers) and np.array_equal(unit, np.arange(count)):
        return numbers
    sums = [np.bincount(unit, column, count) for column in numbers.T]
    return np.stack(sums, 1) if sums else np.zeros((count, 0))


def _weights(units: int, seed: int) -> Iterator[np.ndarray]:
    """How often each unit is drawn, [some, units] of `_DRAWS` in all."""
    generator = np.random.default_rng(seed)
    step = max(1, _PART // max(units, 1))
    for start in range(0, _DRAWS, step):
        some = min(step, _DRAWS - start)
        drawn = (
            generator.integers(units, size=(some, units)) + units * np.arange(some)[:, None]
            if units
            else np.empty((some, 0), int)
        )
        yield np.bincount(drawn.reshape(-1), minlength=some * units).reshape(some, units).astype(np.float64)
