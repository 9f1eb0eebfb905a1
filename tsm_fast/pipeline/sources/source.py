"""Where images come from: every source lists its items once, sorted by key, and reads any of them later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

import pyarrow as pa


class Item(NamedTuple):
    """One planned image: its key, and where its source finds it."""

    key: str  # as `keys.encode_key` writes it
    path: str | None = None  # likewise; None where the key says it
    offset: int = 0  # of the bytes in a tar file, or the number of the item in a dataset
    # Of the bytes in a tar file or behind a URL; -1 for a sparse member, whose offset is that of its headers.
    size: int = 0


class LeftOut:
    """What a listing passes over: how many of each kind, and the first of them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, kind: str, name: str) -> None:
        """Count one."""
        self.counts[kind] += 1
        self._first[kind] = min(name, self._first.get(kind, name))

    def __str__(self) -> str:
        return ", ".join(f"{n:,} {kind} (such as {self._first[kind]!r})" for kind, n in sorted(self.counts.items()))


class Stamp(NamedTuple):
    """What changes when a file is replaced; None where there is none, or none that can be looked at."""

    bytes: int | None
    mark: int | None  # the time of the last change in ns, or a number made of what a remote store says (ETag)


@runtime_checkable
class Source(Protocol):
    """Something that lists images, and reads them from several threads at once."""

    kind: str  # said in run.json
    root: str  # absolute, with which `reopen` finds it again
    left_out: LeftOut  # of the last listing

    def items(self) -> list[Item]:
        """Every image, in any order; keys may not repeat."""
        ...

    def carried(self, items: Sequence[Item]) -> pa.Table | None:
        """What else the last listing knows of these images, in columns; None for nothing."""
        return None

    def read(self, item: Item) -> Any:
        """The bytes of an image file, or for a dataset what it holds: a picture, an array, a tensor, ..."""
        ...

    def stamps(self, items: Sequence[Item]) -> list[Stamp] | None:
        """Of the file that holds each item; None where there are no files."""
        return None

    def digest(self, items: Sequence[Item]) -> str | None:
        """A text that tells the content from another of the same keys; None where the stamps do."""
        return None


class SourceError(ValueError):
    """A source that does not exist, holds no picture, or holds one key twice."""


def listing(source: Source) -> list[Item]:
    """The items sorted by key; SourceError for none, or for a key that repeats."""
    items = sorted(source.items())
    for first, second in pairwise(items):
        if first.key == second.key:
            raise SourceError(
                f"keys must be distinct, got {first.key!r} twice"
                + (f" ({first.path!r} and {second.path!r})" if first.path != second.path else "")
                + "; a column 'key' of a manifest can tell them apart" * (source.kind in ("list", "manifest"))
            )
    return items
