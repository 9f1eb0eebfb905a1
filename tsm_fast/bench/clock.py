"""Times of calls that take turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

SECONDS = 0.5  # of measuring, for each time
PATIENCE = 10  # seconds after which slow runs are measured no more often


def medians_ms(*runs: Callable[[], Any]) -> list[float]:
    """The median times in milliseconds: of three turns or more, unless three take longer than `PATIENCE` seconds."""
    times: list[list[float]] = [[] for _ in runs]
    begin = perf_counter()
    while (elapsed := perf_counter() - begin) < SECONDS * len(runs) or (len(times[0]) < 3 and elapsed < PATIENCE):
        for run, row in zip(runs, times, strict=True):
            start = perf_counter()
            run()
            row.append(perf_counter() - start)
    return [median(row) * 1e3 for row in times]
