"""Exports that draw maps: a grey picture of each, or all over their pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...pictures.decode import ImageError, quiet_decoders
from ...pictures.drawing import COLORMAP, STRENGTH, overlay, palette
from ...readable import counted, some
from ..files.shards import OK
from ..sources.source import Source
from .names import FileNames
from .pictures import Pictures, seen
from .rows import Job, column_files, lines, parts, table

PART = 64  # pictures between two looks at the progress
THREADS = 8  # that draw, at most
LARGEST = 65_500  # pixels of a side of a JPEG file


def write_png(job: Job) -> None:
    """A grey picture of each map."""
    job.dest.mkdir()
    names, paths, carried = dict(column_files(job.dataset)), FileNames(".png"), job.dataset.carried()
    with table(job.dest, *carried.column_names, *names.values()) as rows:
        for start, about, maps in parts(job):
            for number, row in enumerate(lines(start, about, carried)):
                path = paths.of(about.key[number])
                files = [""] * len(names)
                for place, (name, file) in enumerate(names.items()):
                    values = maps[name][number]
                    if not np.isnan(values).any():
                        files[place] = f"{file}/{path}"
                        _save(Image.fromarray(np.rint(values * 255).astype(np.uint8)), job.dest / files[place])
                rows.writerow([*row, *files])


def write_overlays(
    job: Job,
    *,
    source: Source | None = None,
    region: str | None = None,
    colormap: str = COLORMAP,
    opacity: float = STRENGTH,
) -> None:
    """Each map over its picture, in the picture's own size, with a frame around what the network saw."""
    palette(colormap)  # raises for an unknown one
    part, pictures = seen(job.run, region), Pictures(job.run, source)
    if not pictures.roots:
        raise ValueError(f"the pictures of {job.run.out} are not in files of this machine: name their SOURCE")
    job.dest.mkdir()
    names, paths, carried = dict(column_files(job.dataset)), FileNames(".jpg"), job.dataset.carried()
    failed: dict[str, list[str]] = {}
    drawn = 0

    def draw(index: int, sha256: str, path: str, maps: Sequence[np.ndarray]) -> list[str]:
        """The files of a row, below the folder; `ImageError` where there is no picture."""
        image = pictures.read(index, sha256)
        suffix = "" if max(image.size) <= LARGEST else ".png"
        files = [f"{file}/{path}{suffix}" for file in names.values()]
        for values, file in zip(maps, files, strict=True):
            made = overlay(image, values, part(image.width, image.height), colormap, opacity)
            _save(made, job.dest / file, **({} if suffix else {"format": "JPEG", "quality": 92, "subsampling": 0}))
        return files

    with (
        table(job.dest, *carried.column_names, *names.values()) as rows,
        quiet_decoders(),
        ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads,
    ):
        for start, about, maps in parts(job, PART):
            waiting = [
                threads.submit(draw, index, sha, paths.of(key), [maps[name][number] for name in names])
                if status == OK
                else None
                for number, (index, key, status, sha) in enumerate(
                    zip(about.index, about.key, about.status, about.sha256, strict=True)
                )
            ]
            for key, row, task in zip(about.key, lines(start, about, carried), waiting, strict=True):
                files = [""] * len(names)
                try:
                    if task is not None:
                        files = task.result()
                        drawn += 1
                except ImageError as error:
                    failed.setdefault(error.kind, []).append(key)
                rows.writerow([*row, *files])
    _tell(failed, drawn, pictures, job.say)


def _tell(failed: dict[str, list[str]], drawn: int, pictures: Pictures, say: Callable[[str], None]) -> None:
    for kind, keys in failed.items():
        why = "replaced since its map was computed" if kind == "replaced" else f"not read ({kind})"
        say(f"{counted(len(keys), 'picture')} without an overlay: {why}: {some(keys)}")
    if failed and not drawn:
        where = ", ".join(pictures.roots)
        raise ValueError(f"no picture of the run is in {where}: name the SOURCE where they are now")


def _save(image: Image.Image, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
