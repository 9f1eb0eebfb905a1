"""Folders of pictures, with all below them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .keys import decode_key, encode_key
from .picture_files import EXTENSIONS, read_file
from .source import Item, LeftOut, Source, SourceError


class FolderSource(Source):
    """The pictures below a folder; the key is the path below it, with "/" between its parts.

    Links are followed. Names that start with a dot, files of other extensions than `EXTENSIONS`, links that lead back
    to a folder above them and folders that cannot be listed are left out.
    """

    kind = "folder"

    def __init__(self, root: Path) -> None:
        self._root = os.path.abspath(root)
        self.root = encode_key(self._root)
        self.left_out = LeftOut()

    def items(self) -> list[Item]:
        self.left_out = LeftOut()
        items = [Item(encode_key(name)) for name in self._pictures("", ())]
        if not items:
            tars = any(entry.name.lower().endswith(".tar") for entry in os.scandir(self._root))
            raise SourceError(
                f"source {self.root!r} holds no picture: no file below it ends in {', '.join(EXTENSIONS)}"
                + ("; its tar files are named as FOLDER/*.tar" if tars else "")
                + (f"; left out: {self.left_out}" if self.left_out.counts else "")
            )
        return items

    def read(self, item: Item) -> bytes:
        return read_file(os.path.join(self._root, *decode_key(item.key).split("/")))

    def _pictures(self, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
        """Names below a folder; `above` are the folders on the way, so that a link to one of them is seen."""
        here = os.path.join(self._root, below)
        try:
            about = os.stat(here)
            with os.scandir(here) as found:
                entries = list(found)
        except OSError as error:
            if not below:
                raise
            self.left_out.add(f"that cannot be listed ({error.strerror})", encode_key(below))
            return
        identity = about.st_dev, about.st_ino
        if identity in above:
            self.left_out.add("linked back to a folder above", encode_key(below.rstrip("/")))
            return
        for entry in entries:
            name = below + entry.name
            if entry.name.startswith("."):
                self.left_out.add("hidden", encode_key(name))
            elif _is_folder(entry):
                yield from self._pictures(name + "/", (*above, identity))
            elif entry.name.lower().endswith(EXTENSIONS):
                yield name
            else:
                self.left_out.add("of another kind", encode_key(name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
