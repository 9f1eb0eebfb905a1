"""Picture files: which names they have, and their bytes."""

from __future__ import annotations

import os
import stat
from typing import IO

from ...pictures.decode import ImageError
from . import remote
from .schemes import is_remote

_COMMON = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
EXTENSIONS = tuple(sorted((*_COMMON, ".avif", ".heic", ".heif", ".hif", ".j2k", ".jp2", ".jpf", ".jpx")))
MAX_BYTES = 1 << 30  # of one image file


def check_size(size: int) -> None:
    """`ImageError` for a file that is too large."""
    if size > MAX_BYTES:
        raise ImageError("too_large", f"{size} bytes are more than {MAX_BYTES}")


def read_file(path: str) -> bytes:
    """The whole of a regular file, or of a URL; OSError or ImageError where it cannot be read."""
    if is_remote(path):
        return remote.read(path)
    if "\0" in path:
        raise ImageError("missing", "no path has a NUL byte in it")
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # a named pipe would block
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ImageError("unreadable", "it is no regular file")
        check_size(about.st_size)
        return file.read()


def read_part(path: str, offset: int, size: int) -> bytes:
    """A part of a file, or of a URL, which is shorter where the file ends."""
    check_size(size)
    if is_remote(path):
        return remote.read(path, offset, offset + size)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


def open_file(path: str) -> IO[bytes]:
    """A file, or a URL, for reading."""
    return remote.open_file(path) if is_remote(path) else open(path, "rb")


def absolute(path: str) -> str:
    """The path from the root; URLs as they are."""
    return path if is_remote(path) else os.path.abspath(path)
