"""Folders of pictures, with all below them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from .keys import decode_key, encode_key
from .picture_files import EXTENSIONS, read_file
from .source import Item, SourceError, Stamp, stamps_of


class FolderSource:
    """The pictures below a folder; the key is the path below it, with "/" between its parts.

    Links to folders are followed. Names that start with a dot, and files of other extensions than `EXTENSIONS`, are
    left out.
    """

    kind = "folder"

    def __init__(self, root: Path) -> None:
        self._root = os.path.abspath(root)
        self.root = encode_key(self._root)

    def items(self) -> list[Item]:
        items = [Item(encode_key(name)) for name in _pictures(self._root, "", ())]
        if not items:
            tars = any(entry.name.lower().endswith(".tar") for entry in os.scandir(self._root))
            raise SourceError(
                f"source {self.root!r} holds no picture: no file below it ends in {', '.join(EXTENSIONS)}"
                + ("; its tar files are named as FOLDER/*.tar" if tars else "")
            )
        return items

    def read(self, item: Item) -> bytes:
        return read_file(self._path(item))

    def stamps(self, items: Sequence[Item]) -> list[Stamp]:
        return stamps_of(map(self._path, items))

    def digest(self, items: Sequence[Item]) -> None:
        """The stamps tell."""

    def _path(self, item: Item) -> str:
        return os.path.join(self._root, *decode_key(item.key).split("/"))


def _pictures(root: str, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Names below a folder; `above` are the folders on the way, so that a link to one of them is seen."""
    here = os.path.join(root, below)
    about = os.stat(here)
    identity = about.st_dev, about.st_ino
    if identity in above:
        raise SourceError(f"source has a link that leads back to a folder above it: {encode_key(here)!r}")
    with os.scandir(here) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = below + entry.name
            if entry.is_dir():
                yield from _pictures(root, name + "/", (*above, identity))
            elif entry.name.lower().endswith(EXTENSIONS):
                yield name
