"""The hashes of pictures as they are now, to compare with those in the rows of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from ...pictures.content import content
from .source import THREADS, Item, Source

PART = 1024


def hashes(source: Source, items: Iterable[Item | None]) -> Iterator[str | None]:
    """The sha256 of each item, in order; None for one that cannot be read, and for None."""

    def of(item: Item | None) -> str | None:
        if item is None:
            return None
        try:
            return content(source.read(item)).sha256
        except MemoryError:
            raise
        except Exception:  # a dataset raises anything
            return None

    waiting = iter(items)
    with ThreadPoolExecutor(THREADS) as threads:
        while part := list(islice(waiting, PART)):
            yield from threads.map(of, part)
