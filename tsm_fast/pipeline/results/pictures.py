"""The pictures of a run as they are now, and the part of each that the network saw."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

from PIL import Image

from ...models import region
from ...models.region import Region
from ...pictures.content import content
from ...pictures.decode import ImageError, Picture, from_value, unreadable
from ..files import plan_file
from ..files.run import Run
from ..sources.keys import decode_key
from ..sources.open import FILES, reopen
from ..sources.schemes import is_remote
from ..sources.source import Source

# What `region=` may name where the record of a preprocessing does not tell the part.
REGIONS = {"center": region.central, "whole": region.whole}


class Pictures:
    """Reads the pictures of a run, from any thread.

    Args:
        run: the run.
        source: where they are now; None for where they were when the run was planned, if they are files.
    """

    def __init__(self, run: Run, source: Source | None = None) -> None:
        self._run, self.source = run, source
        kind, root = run.record.source.kind, run.file.about.root
        if source is None and kind in FILES and not is_remote(root):  # no file names code to run, or places to ask
            self.source = reopen(kind, root)
        self._items = lru_cache(maxsize=2)(partial(plan_file.read, run.out))

    def read(self, index: int, sha256: str = "") -> Image.Image:
        """The picture of a row in RGB, upright; `ImageError` where there is none, or another than the hash is of."""
        if self.source is None:
            raise ImageError("missing", "its source is not known")
        shard, row = divmod(index, self._run.record.shard_size)
        try:
            value = self.source.read(self._items(shard)[row])
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
        shard, row = divmod(index, self._run.record.shard_size)
        item = self._items(shard)[row]
        named = item.path if self._run.record.source.kind in ("list", "manifest") else None
        return decode_key(item.key if named is None else named).encode(errors="replace").decode()


def seen(run: Run, named: str | None = None) -> Callable[[int, int], Region]:
    """The part that the network saw of a picture, by its width and height.

    Raises:
        ValueError: the record of the preprocessing does not tell, and no region is named.
    """
    record = run.record.preprocessing
    if named is not None:
        return partial(REGIONS[named], record)
    if region.region(record, 640, 480) is None:
        raise ValueError(
            f"{run.out} has a preprocessing of kind {record.get('kind')!r}, which does not tell what part of a picture "
            "the network saw: name region='center' (the largest central rectangle) or region='whole' (all, stretched)"
        )
    return lambda width, height: region.region(record, width, height) or (0, 0, width, height)
