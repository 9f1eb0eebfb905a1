"""File names after keys: whatever a key holds, for every file system, and no two alike."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from itertools import count

PART_BYTES, PATH_BYTES = 120, 400  # of a name and of a path in UTF-8; many file systems have at most 255 and 1024
_FORBIDDEN = '<>:"/\\|?*~'  # on Windows; and the mark of names that were changed to be distinct
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # names that Windows keeps for itself


class FileNames:
    """The names of files after keys, each asked for once, in an order that is always the same.

    `a/b.png` becomes `a/b.png.jpg`, and `a/b.jpg` stays as it is where the files are JPEG. Characters that a file
    system may not take become "_"; where two names would be one (also in other capitals, or where one is the folder of
    another), and for a name that is too long, a hash of the key tells them apart: `a/b~1a2b3c4d.jpg`.

    >>> names = FileNames(".jpg")
    >>> names.of("cats/1.jpg"), names.of("cats/1.JPG"), names.of("../con.png")
    ('cats/1.jpg', 'cats/1~0e07f6d0.JPG', '__/_con.png.jpg')
    """

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._files: set[str] = set()  # as a file system without capitals has them
        self._folders: set[str] = set()

    def of(self, key: str) -> str:
        """The path for a key, with "/"."""
        path = next(filter(self._is_free, self._candidates(key)))
        folded = _folded(path)
        self._files.add(folded)
        self._folders.update(_above(folded))
        return path

    def _candidates(self, key: str) -> Iterator[str]:
        *folders, last = map(_plain, [part for part in key.split("/") if part] or [""])
        above = "".join(f"{folder}/" for folder in folders)
        stem, suffix = (last[: -len(self._suffix)], last[-len(self._suffix) :])
        if suffix.lower() != self._suffix:
            stem, suffix = last, self._suffix
        sha = hashlib.sha256(key.encode()).hexdigest()
        short = _cut(stem, PART_BYTES)
        if short == stem and all(_cut(folder, PART_BYTES) == folder for folder in folders):
            yield f"{above}{stem}{suffix}"
            yield f"{above}{stem}~{sha[:8]}{suffix}"
        else:
            yield f"{''.join(f'{_cut(folder, PART_BYTES)}/' for folder in folders)}{short}~{sha[:8]}{suffix}"
        yield from (f"{short}~{sha[:16]}{'' if number == 0 else f'-{number}'}{suffix}" for number in count())

    def _is_free(self, path: str) -> bool:
        folded = _folded(path)
        taken = folded in self._files or folded in self._folders or any(part in self._files for part in _above(folded))
        return not taken and len(path.encode()) <= PATH_BYTES


def _plain(part: str) -> str:
    """A part of a key as the name of a file."""
    allowed = "".join("_" if c in _FORBIDDEN or unicodedata.category(c)[0] == "C" else c for c in part)
    name = re.sub(r"^[. ]|[. ]+$", lambda found: "_" * len(found[0]), allowed) or "_"
    return f"_{name}" if _DEVICE.match(name) else name


def _cut(name: str, size: int) -> str:
    """As much of the beginning as fits into so many bytes."""
    return name.encode()[:size].decode(errors="ignore").rstrip(". ")


def _folded(path: str) -> str:
    """What a file system that knows no capitals and composes accents takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def _above(path: str) -> Iterator[str]:
    """The folders of a path."""
    while path := path.rpartition("/")[0]:
        yield path
