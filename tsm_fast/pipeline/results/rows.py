"""What every export has: the rows of a dataset in order, some at a time, and a table of them."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ..files.run import Run
from .reader import SaliencyDataset
from .row_groups import About

Progress = Callable[[int, int], None]  # rows written, of all rows


class Job(NamedTuple):
    """What is exported, and where to."""

    run: Run
    dataset: SaliencyDataset
    dest: Path
    progress: Progress
    say: Callable[[str], None]


Part = tuple[int, About, dict[str, np.ndarray]]  # first row, what is said of the rows, maps by column


def parts(job: Job, most: int | None = None) -> Iterator[Part]:
    """The rows of a dataset in order, some at a time."""
    dataset = job.dataset
    rows = min(dataset.part_rows(), most or len(dataset) or 1)
    for start in range(0, len(dataset), rows):
        part = dataset[start : start + rows]
        yield start, part.about(), {name: part.numpy(name) for name in dataset.columns}
        job.progress(start + len(part), len(dataset))


def column_files(dataset: SaliencyDataset) -> Iterator[tuple[str, str]]:
    """Each column with a name for its file: letters, digits, "_" and "-" of the column, distinct."""
    taken: set[str] = {*About._fields, "rows", *dataset.carried().column_names}
    for column in dataset.columns:
        plain = re.sub(r"[^A-Za-z0-9_]+", "-", column).strip("-")[:100] or "maps"
        name = next(name for i in range(len(taken) + 1) if (name := plain if i == 0 else f"{plain}-{i}") not in taken)
        taken.add(name)
        yield column, name


@contextmanager
def table(folder: Path, *more: str) -> Iterator[Any]:
    """rows.csv: what is said of every row; the CSV rules quote whatever a key holds."""
    with (folder / "rows.csv").open("x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*About._fields, *more])
        yield writer
        sync(file)


def lines(start: int, about: About, carried: pa.Table) -> Iterator[tuple[Any, ...]]:
    """What is said of some rows, and what the source knows of them."""
    known = carried.slice(start, len(about.index))
    return zip(*about, *(column.to_pylist() for column in known.columns), strict=True)


def sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
