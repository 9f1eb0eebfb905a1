"""Who works in the folder of a run."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(out: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a folder for one run, or for the ranks of one, as long as this process lives; the folder gets no file.

    Raises:
        RuntimeError: another run holds it.
    """
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
