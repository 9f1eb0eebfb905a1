"""The hashes of pictures as they are now, to compare with those in the rows of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from ...pictures.content import content
from .source import Item, Source

THREADS, PART = 8, 1024


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


def sampled(source: Source, items: Sequence[Item]) -> str:
    """A digest of what the first, the middle and the last item hold."""
    places = (0, len(items) // 2, len(items) - 1)
    return hashlib.sha256(repr(list(hashes(source, (items[place] for place in places)))).encode()).hexdigest()
