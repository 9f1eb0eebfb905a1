"""FiftyOne: the maps of a run as heatmaps of its samples.

import fiftyone
from tsm_fast.integrations.fiftyone import add_heatmaps

add_heatmaps(fiftyone.load_dataset("pictures"), "maps")
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.files.run import Run
from ..pipeline.files.shards import OK
from ..pipeline.results.pictures import Pictures, seen
from ..pipeline.results.reader import SaliencyDataset
from ._peer import peer

LONGEST = 256  # pixels of the longer side of a heatmap that is about a part of its picture


def add_heatmaps(
    samples: Iterable[Any],
    run: str | Path,
    *,
    columns: str | list[str] | None = None,
    region: str | None = None,
) -> int:
    """Give each sample a `fiftyone.Heatmap` for every column of maps, found by the path of its picture.

    FiftyOne lays a heatmap over the whole picture. Where the network saw a part of it only, the map is drawn at that
    part of a grid with the picture's shape, its longer side 256, and the rest is 0. Maps are scaled into 0..1 each, and
    stored as bytes. Samples of other pictures, and of those that could not be read, stay as they are.

    Args:
        samples: a FiftyOne dataset, view, or list of samples; those of datasets and views are saved.
        run: the output folder of `tsm-fast extract`, whose source was a folder, list or manifest.
        columns: which maps, as in `tsm_fast.SaliencyDataset`. The field of "tsm/layer4.2" is "tsm_layer4_2".
        region: "center" or "whole" where the run does not record what part the network saw, as in `export`.

    Returns:
        How many samples have got heatmaps.

    Raises:
        ImportError: FiftyOne is not installed, or is older than 0.16.
        ValueError: no picture of the run is a file of its own; the part that the network saw is not known; no sample
            is of the run.
        FileNotFoundError: there is no run at this path.
    """
    heatmap = peer("fiftyone", "fiftyone", "0.16", "fiftyone").Heatmap
    opened = Run.open(run)
    dataset = SaliencyDataset(run, columns, normalize=True, missing="skip")
    part = seen(opened, region)
    rows = _rows(opened, dataset)
    found, first = 0, None
    each = samples.iter_samples(autosave=True) if hasattr(samples, "iter_samples") else samples  # pyright: ignore
    for some in _batches(each, dataset.part_rows()):
        first = first or next(iter(some)).filepath
        paired = [(sample, rows[path]) for sample in some if (path := os.path.abspath(sample.filepath)) in rows]
        for (sample, _), row in zip(paired, dataset.__getitems__([row for _, row in paired]), strict=True):
            if row.status == OK:
                for name, values in row.maps.items():
                    laid = laid_out(values, part(row.width, row.height), row.width, row.height)
                    sample[field_name(name)] = heatmap(map=np.rint(255 * laid).astype(np.uint8), range=[0, 255])
                found += 1
    if not found and first is not None:
        raise ValueError(f"no sample is of a picture of {opened.out}: one is {first!r}, one there {min(rows)!r}")
    return found


def field_name(column: str) -> str:
    """The field of a column: "tsm/layer4.2" is "tsm_layer4_2"."""
    return re.sub(r"\W+", "_", column).strip("_")


def laid_out(values: np.ndarray, region: tuple[float, float, float, float], width: int, height: int) -> np.ndarray:
    """A map [h, w] in 0..1 of a part of a picture, bilinear on a grid over all of it; itself where it is about all."""
    if region == (0, 0, width, height):
        return values
    shrink = min(1, LONGEST / max(width, height))
    left, top, right, bottom = region
    rows = _weights(values.shape[0], top, bottom, height, max(1, round(height * shrink)))
    columns = _weights(values.shape[1], left, right, width, max(1, round(width * shrink)))
    return rows @ values.astype(np.float64) @ columns.T


def _weights(size: int, first: float, last: float, side: int, cells: int) -> np.ndarray:  # [cells, size]
    """What each entry of one side of a map counts in each cell of the grid; nothing outside of the region."""
    centers = (np.arange(cells) + 0.5) * side / cells
    place = (centers - first) / (last - first) * size - 0.5
    near = np.clip(place, 0, size - 1)[:, None]
    inside = (centers >= first) & (centers <= last)
    return np.maximum(0, 1 - np.abs(near - np.arange(size))) * inside[:, None]


def _rows(run: Run, dataset: SaliencyDataset) -> dict[str, int]:
    """The rows of the dataset by the path of their picture."""
    pictures = Pictures(run)
    paths = [pictures.path(index) for index in dataset.about().index]
    rows = {os.path.abspath(path): row for row, path in enumerate(paths) if path is not None}
    if not rows:
        raise ValueError(f"{run.out} has no finished picture that is a file of its own")
    return rows


def _batches(samples: Iterable[Any], most: int) -> Iterator[list[Any]]:
    each = iter(samples)
    while some := list(islice(each, most)):
        yield some
