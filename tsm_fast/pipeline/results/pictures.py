"""The pictures of a run as they are now, and the part of each that the network saw."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

from PIL import Image

from ...models import region
from ...models.region import Region
from ...pictures.content import content
from ...pictures.decode import ImageError, Picture, from_value, unreadable
from ..files import plan_file
from ..files.parts import Part
from ..files.run import Run
from ..sources import lists
from ..sources.keys import decode_key
from ..sources.open import FILES, reopen
from ..sources.schemes import is_remote
from ..sources.source import Item, Source, SourceError

# What `region=` may name where the record of a preprocessing does not tell the part.
REGIONS = {"center": region.central, "whole": region.whole}


class Pictures:
    """Reads the pictures of a run, from any thread.

    Args:
        run: the run.
        source: where they are now; None for where they were when the run was planned, if they are files. Those that it
            does not have are looked for there too.
    """

    def __init__(self, run: Run, source: Source | None = None) -> None:
        self._run = run
        self._given = source
        # Members of tar files may have other places now, and one of several parts may be of this source.
        self._places = None if source is None or not (run.added or source.kind == "tar") else _listed(source)
        own = [
            source is not None and self._places is None and (not run.added or part.root == source.root)
            for part in run.parts
        ]
        self._sources = [source if given else _recorded(part) for given, part in zip(own, run.parts, strict=True)]
        self._starts = [spec.start for spec in run.shards]
        self._items = lru_cache(maxsize=2)(partial(plan_file.read, run.out))

    @property
    def roots(self) -> list[str]:
        """Where they are looked for; none where no source is known."""
        return list(dict.fromkeys(source.root for source in (self._given, *self._sources) if source is not None))

    def read(self, index: int, sha256: str = "") -> Image.Image:
        """The picture of a row in RGB, upright; `ImageError` where there is none, or another than the hash is of."""
        part, item = self._item(index)
        source = self._sources[part]
        if self._places is not None and item.key in self._places:
            source, item = self._given, self._places[item.key]
        if source is None:
            raise ImageError("missing", "its source is not known, or does not have it")
        try:
            value = source.read(item)
        except (ImageError, MemoryError):
            raise
        except OSError as error:
            raise unreadable(error) from None
        except Exception as error:  # a dataset raises anything
            raise ImageError("unreadable", str(error)) from None
        if sha256 and content(value).sha256 != sha256:
            raise ImageError("replaced", "it is another picture than the one that was computed")
        found = from_value(value, self._run.record.max_pixels)
        if not isinstance(found, Picture):
            raise ImageError("item", "the dataset gives a tensor and no picture")
        return found.image

    def file_name(self, index: int) -> str:
        """The path of the picture of a row where its source names files, else its key."""
        part, item = self._item(index)
        named = item.path if self._run.parts[part].source.kind in ("list", "manifest") else None
        return decode_key(item.key if named is None else named).encode(errors="replace").decode()

    def path(self, index: int) -> str | None:
        """Where the file of the picture of a row was when the run was planned; None where it is no file of its own."""
        part, item = self._item(index)
        if self._run.parts[part].source.kind not in ("folder", "list", "manifest"):
            return None
        return os.path.join(decode_key(self._run.parts[part].root), lists.named(item))

    def _item(self, index: int) -> tuple[int, Item]:
        """The part of a row, and what its plan says of it."""
        spec = self._run.shards[bisect_right(self._starts, index) - 1]
        return spec.part, self._items(spec.group, spec.part)[index - spec.start]


def _listed(source: Source) -> dict[str, Item] | None:
    """The items of a source by key; None for one that was listed when the run was planned, and cannot be again."""
    try:
        return {item.key: item for item in source.items()}
    except SourceError:
        return None


def _recorded(part: Part) -> Source | None:
    """The source of a part as its record names it; None where it names code to run, or a place to ask."""
    return reopen(part.source.kind, part.root) if part.source.kind in FILES and not is_remote(part.root) else None


def seen(run: Run, named: str | None = None) -> Callable[[int, int], Region]:
    """The part that the network saw of a picture, by its width and height.

    Raises:
        ValueError: the record of the preprocessing does not tell, and no region is named.
    """
    return part_of(run.record.preprocessing, named, f"{run.out} has a preprocessing")


def part_of(record: Mapping[str, Any], named: str | None, what: str) -> Callable[[int, int], Region]:
    """The same by the record of a preprocessing, and whose that is, in words."""
    if named is not None:
        return partial(REGIONS[named], record)
    if region.region(record, 640, 480) is None:
        raise ValueError(
            f"{what} of kind {record.get('kind')!r}, which does not tell what part of a picture "
            "the network saw: name region='center' (the largest central rectangle) or region='whole' (all, stretched)"
        )
    return lambda width, height: region.region(record, width, height) or (0, 0, width, height)
