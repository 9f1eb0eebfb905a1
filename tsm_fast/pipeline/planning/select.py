"""Some of a listing, by their keys."""

from __future__ import annotations

import hashlib
import heapq
import os
from fnmatch import fnmatchcase
from pathlib import Path

from ...readable import counted
from ..settings import Settings
from ..sources.keys import encode_key
from ..sources.lists import lines_of
from ..sources.source import Item, SourceError


def select(items: list[Item], settings: Settings) -> list[Item]:
    """The items that match a glob of `filter` and are in the file `keys`; of these `sample`, then the first `limit`.

    Raises:
        SourceError: none is left, or `keys` names one that is not there.
        OSError: the file `keys` cannot be read.
    """
    chosen = items
    if settings.filter:
        chosen = [item for item in items if any(fnmatchcase(item.key, glob) for glob in settings.filter)]
        if not chosen:
            globs = ", ".join(map(repr, settings.filter))
            raise SourceError(f"filter={globs} leaves none of {counted(len(items), 'image')}, such as {items[0].key!r}")
    if settings.keys is not None:
        wanted = _keys(settings.keys, {item.key for item in items})
        chosen = [item for item in chosen if item.key in wanted]
        if not chosen:
            raise SourceError(f"keys={settings.keys!r} and filter leave no image")
    if settings.sample is not None and settings.sample < len(chosen):
        chosen = sorted(heapq.nsmallest(settings.sample, chosen, key=lambda item: _rank(item.key, settings.seed)))
    return chosen[: settings.limit]


def _keys(file: str, there: set[str]) -> set[str]:
    """The keys in a file, as plans and tables write them or as the files are called."""
    names = [os.fsdecode(name) for name in lines_of(Path(file).read_bytes(), file)]
    if not names:
        raise SourceError(f"keys={file!r} names no key")
    keys = {name if name in there else encode_key(name) for name in names}
    unknown = sorted(keys - there)
    if unknown:
        raise SourceError(
            f"keys={file!r} names {counted(len(unknown), 'key')} that the source does not have, such as {unknown[0]!r}"
        )
    return keys


def _rank(key: str, seed: int) -> bytes:
    """A place that says nothing of the key, the same on every machine; smaller samples are parts of larger ones."""
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()
