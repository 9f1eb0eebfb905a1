"""Boxes around what is salient, as COCO JSON."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..._version import __version__
from ...models.region import Region
from ..files.shards import OK
from .pictures import Pictures, seen
from .reader import SaliencyDataset
from .rows import Job, parts, sync

THRESHOLD = 0.5
BOXES = ("largest", "all")


class Box(NamedTuple):
    """A connected part of a map, in pixels of the picture."""

    left: float
    top: float
    width: float
    height: float
    score: float  # mean of the part, where the map is scaled to 0..1


def boxes(values: np.ndarray, threshold: float, region: Region, picture: tuple[int, int]) -> list[Box]:
    """The boxes of the connected parts of a map where it is at least `threshold`, the largest part first.

    Parts that touch at a corner are one, as in OpenCV's contours.

    Args:
        values: [h, w] in 0..1.
        region: the part of the picture that the map is about.
        picture: (width, height); boxes are cut at its edges.

    >>> values = np.zeros((4, 4))
    >>> values[1, 1:3] = 1
    >>> boxes(values, 0.2, (0, 0, 100, 200), (100, 200))
    [Box(left=25.0, top=50.0, width=50.0, height=50.0, score=1.0)]
    """
    from scipy import ndimage

    found: Any = ndimage.label(values >= threshold, np.ones((3, 3)))
    labels, count = found
    if not count:
        return []
    sizes = np.bincount(labels.reshape(-1), minlength=count + 1)[1:]
    scores = np.bincount(labels.reshape(-1), values.reshape(-1).astype(np.float64), count + 1)[1:] / sizes
    made: list[Box] = []
    places: Any = ndimage.find_objects(labels)
    for number in np.argsort(-sizes, kind="stable"):
        rows, columns = places[number]
        (left, right), (top, bottom) = (
            _edges(columns, values.shape[1], region[0], region[2], picture[0]),
            _edges(rows, values.shape[0], region[1], region[3], picture[1]),
        )
        if left < right and top < bottom:
            made.append(Box(left, top, round(right - left, 2), round(bottom - top, 2), float(scores[number])))
    return made


def _edges(part: slice, size: int, first: float, last: float, most: int) -> tuple[float, float]:
    """The edges of a part of one side of a map, in pixels of the picture."""
    step = (last - first) / size
    begin, end = (min(max(first + edge * step, 0), most) for edge in (part.start, part.stop))
    return round(begin, 2), round(end, 2)


def write_boxes(job: Job, *, region: str | None = None, threshold: float = THRESHOLD, boxes: str = BOXES[0]) -> None:
    """The boxes of all maps in one file; each column of maps is a category."""
    run, dataset = job.run, job.dataset
    part, pictures = seen(run, region), Pictures(run)
    own, ids = _ids(dataset), {name: number for number, name in enumerate(dataset.columns, 1)}
    which = f"the {boxes} connected parts of at least {threshold:g} of the range of each map"
    info = {
        "description": f"boxes of the saliency maps of {run.file.about.source}: {which}",
        "version": __version__,
        "fingerprint": run.fingerprint,
    }
    categories = [{"id": number, "name": name, "supercategory": "saliency"} for name, number in ids.items()]
    with job.dest.open("x", encoding="utf-8") as file, tempfile.TemporaryFile("w+", encoding="utf-8") as later:
        file.write(f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(categories)},\n"images": [')
        images, annotations = _List(file), _List(later)
        for start, about, maps in parts(job):
            for number, (index, key, width, height) in enumerate(
                zip(about.index, about.key, about.width, about.height, strict=True)
            ):
                if about.status[number] != OK:
                    continue
                image = own[start + number] if own is not None else index + 1
                file_name = pictures.file_name(index)
                images.add({"id": image, "file_name": file_name, "width": width, "height": height, "key": key})
                for name, category in ids.items():
                    for box in _wanted(maps[name][number], threshold, part(width, height), (width, height), boxes):
                        annotations.add(_annotation(annotations.count + 1, image, category, box))
        file.write('],\n"annotations": [')
        later.seek(0)
        shutil.copyfileobj(later, file)
        file.write("]}\n")
        sync(file)


def _wanted(
    values: np.ndarray, threshold: float, region: Region, picture: tuple[int, int], which: str
) -> Iterator[Box]:
    found = boxes(values, threshold, region, picture)
    yield from found if which == "all" else found[:1]


def _annotation(number: int, image: int, category: int, box: Box) -> dict[str, Any]:
    *edges, score = box
    area = round(box.width * box.height, 2)
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": edges,
        "area": area,
        "iscrowd": 0,
        "score": round(score, 4),
    }


def _ids(dataset: SaliencyDataset) -> list[int] | None:
    """The ids of pictures that a COCO file has given them, so that boxes can be compared with its own."""
    carried = dataset.carried()
    found = carried["id"].to_pylist() if "id" in carried.column_names else []
    return found if found and all(type(n) is int for n in found) and len(set(found)) == len(found) else None


class _List:
    """The entries of a list in a JSON file, one a line."""

    def __init__(self, file: Any) -> None:
        self._file, self.count = file, 0

    def add(self, entry: dict[str, Any]) -> None:
        self._file.write(("," if self.count else "") + "\n" + json.dumps(entry))
        self.count += 1
