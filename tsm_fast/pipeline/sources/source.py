"""Where images come from: every source lists its items once, sorted by key, and reads any of them later."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from typing import Any, NamedTuple, Protocol

THREADS, STATS = 8, 1024  # that look at files, and how many each takes at once


class Item(NamedTuple):
    """One planned image: its key, and where its source finds it."""

    key: str  # as `keys.encode_key` writes it
    path: str | None = None  # likewise; None where the key says it
    offset: int = 0  # of the bytes in a tar file, or the number of the item in a dataset
    size: int = 0  # of the bytes in a tar file


class Stamp(NamedTuple):
    """What changes when a file is replaced; None where there is none, or none that can be looked at."""

    bytes: int | None
    mtime: int | None  # in nanoseconds


class Source(Protocol):
    """Something that lists images, and reads them from several threads at once."""

    kind: str  # said in run.json
    root: str  # absolute, with which `reopen` finds it again

    def items(self) -> list[Item]:
        """Every image, in any order; keys may not repeat."""
        ...

    def read(self, item: Item) -> Any:
        """The bytes of an image file, or for a dataset what it holds: a picture, an array, a tensor, ..."""
        ...

    def stamps(self, items: Sequence[Item]) -> list[Stamp] | None:
        """Of the file that holds each item; None for what has no files of its own."""
        ...

    def digest(self, items: Sequence[Item]) -> str | None:
        """A text that tells the content from another of the same keys; None where the stamps do."""
        ...


class SourceError(ValueError):
    """A source that does not exist, holds no picture, or holds one key twice."""


def stamps_of(paths: Iterable[str]) -> list[Stamp]:
    """The stamps of files, looked at by several threads: a file system of the network takes its time for each."""
    wanted = list(paths)
    distinct = list(dict.fromkeys(wanted))
    parts = [distinct[first : first + STATS] for first in range(0, len(distinct), STATS)]
    with ThreadPoolExecutor(THREADS) as threads:
        found = dict(zip(distinct, chain.from_iterable(threads.map(_stamps, parts)), strict=True))
    return [found[path] for path in wanted]


def _stamps(paths: Sequence[str]) -> list[Stamp]:
    found = []
    for path in paths:
        try:
            about = os.stat(path)
            found.append(Stamp(about.st_size, about.st_mtime_ns))
        except (OSError, ValueError):
            found.append(Stamp(None, None))
    return found


def listing(source: Source, limit: int | None = None) -> list[Item]:
    """The items sorted by key, the first `limit` of them; SourceError for none, or for a key that repeats."""
    items = sorted(source.items())
    for first, second in pairwise(items):
        if first.key == second.key:
            raise SourceError(
                f"keys must be distinct, got {first.key!r} twice"
                + (f" ({first.path!r} and {second.path!r})" if first.path != second.path else "")
                + "; a column 'key' of a manifest can tell them apart" * (source.kind in ("list", "manifest"))
            )
    return items[:limit]
