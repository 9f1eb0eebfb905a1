"""Picture files: which names they have, and their bytes."""

from __future__ import annotations

import os
import stat

from ...pictures.decode import ImageError

_COMMON = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
EXTENSIONS = tuple(sorted((*_COMMON, ".avif", ".heic", ".heif", ".hif", ".j2k", ".jp2", ".jpf", ".jpx")))
MAX_BYTES = 1 << 30  # of one image file


def read_file(path: str) -> bytes:
    """The whole of a regular file; OSError or ImageError where it cannot be read."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # a named pipe would block
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ImageError("unreadable", "it is no regular file")
        if about.st_size > MAX_BYTES:
            raise ImageError("too_large", f"{about.st_size} bytes are more than {MAX_BYTES}")
        return file.read()
