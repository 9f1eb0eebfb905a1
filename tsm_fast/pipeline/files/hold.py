"""Who works in the folder of a run."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import urls
from .publish import NO_LOCKS

TURN = ".plan.000000000000.tmp"  # which `publish.clean` removes where its process was killed
WAIT = 0.2  # seconds between looks


@contextmanager
def held(out: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a folder for one run, or for the ranks of one, as long as this process lives; the folder gets no file.

    Behind a URL there are no locks: several runs there compute shards twice, and put the same bytes.

    Raises:
        RuntimeError: another run holds it.
    """
    if urls.url(out) is not None:
        yield
        return
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(folder)
            raise RuntimeError(
                f"another run is working in {out}: wait for it, stop it, or choose another folder "
                "(several processes share a folder with --engine rank)"
            ) from None
    try:
        yield
    finally:
        os.close(folder)


@contextmanager
def turn(out: Path) -> Iterator[bool]:
    """One process at a time, of those that see the folder `out`: whether this one had to wait for another.

    The kernel ends the turn of a process that is killed. Where the file system has no locks, or behind a URL, nobody
    waits.
    """
    if urls.url(out) is not None:
        yield False
        return
    waited, path = False, out / TURN
    while (file := _taken(path)) is None:
        waited = True
        time.sleep(WAIT)
    try:
        yield waited
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)
        os.close(file)


def _taken(path: Path) -> int | None:
    """The open file, locked; None where another process has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_nlink:  # else it was removed by its last process before it was locked here
            return file
    except OSError as error:
        if error.errno in NO_LOCKS:
            return file
        if not isinstance(error, BlockingIOError):
            os.close(file)
            raise
    os.close(file)
    return None
