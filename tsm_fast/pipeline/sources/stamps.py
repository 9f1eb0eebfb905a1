"""The sizes and times of files, which tell that one was replaced without reading it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

from . import remote
from .schemes import is_remote
from .source import Stamp

THREADS, PART = 8, 1024  # that look at files, and how many each takes at once
MARKS = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "last_modified", "updated", "mtime", "created")


def stamps_of(paths: Sequence[str], *, remote_too: bool = True) -> list[Stamp]:
    """The stamps of files, each looked at once, by several threads: network file systems take their time for each."""
    distinct = list(dict.fromkeys(paths))
    parts = [distinct[first : first + PART] for first in range(0, len(distinct), PART)]
    with ThreadPoolExecutor(THREADS) as threads:
        made = chain.from_iterable(threads.map(lambda part: [_stamp(path, remote_too) for path in part], parts))
        found = dict(zip(distinct, made, strict=True))
    return [found[path] for path in paths]


def remote_stamp(about: Mapping[str, Any]) -> Stamp:
    """What a remote file system says of a file."""
    mark = next((str(about[name]) for name in MARKS if about.get(name)), None)
    number = None if mark is None else int(hashlib.sha256(mark.encode()).hexdigest()[:15], 16)
    return Stamp(about.get("size"), number)


def _stamp(path: str, remote_too: bool) -> Stamp:
    try:
        if is_remote(path):
            return remote_stamp(remote.about(path)) if remote_too else Stamp(None, None)
        found = os.stat(path)
    except (OSError, ValueError):
        return Stamp(None, None)
    return Stamp(found.st_size, found.st_mtime_ns)
