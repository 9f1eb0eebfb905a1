"""Tables of a study: a row a map, a column a metric, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """The mean of a metric over the images, its interval (None below ten units), and whether nothing is seen above."""

    mean: float
    low: float | None
    high: float | None
    n: int
    best: bool = False


@dataclass(frozen=True)
class Table:
    """`cells[i][j]` of map `maps[i]` and metric `metrics[j]`."""

    name: str
    caption: str
    maps: Sequence[str]
    metrics: Sequence[str]
    cells: Sequence[Sequence[Cell | None]]
