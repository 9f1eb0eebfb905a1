"""Lists of paths: text files."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from .keys import decode_key, encode_key
from .picture_files import read_file
from .source import Item, LeftOut, Source, SourceError


class PathSource(Source):
    """Files by their paths, relative ones from the folder `root`; the key is the path as it was written."""

    def __init__(self, kind: str, root: str) -> None:
        self.kind = kind
        self.left_out = LeftOut()
        self.move(root)

    def move(self, root: str) -> None:
        """Let relative paths go from this folder."""
        self._root = os.path.abspath(root)
        self.root = encode_key(self._root)

    def items(self) -> list[Item]:
        raise SourceError(f"a {self.kind} is listed once, when the run is planned")

    def read(self, item: Item) -> bytes:
        return read_file(os.path.join(self._root, decode_key(item.key if item.path is None else item.path)))


class ListSource(PathSource):
    """A file that lists one path a line, or separated by NUL bytes where it has any (`find -print0`)."""

    def __init__(self, path: Path) -> None:
        super().__init__("list", str(path.parent))
        self._file = path

    def items(self) -> list[Item]:
        items = [Item(encode_key(os.fsdecode(name))) for name in lines_of(self._file)]
        if not items:
            raise SourceError(f"source {str(self._file)!r} lists no path")
        return items


def lines_of(file: Path) -> list[bytes]:
    """The lines of a file that are not empty, or what lies between NUL bytes where it has any; without a BOM."""
    data = file.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            data = data.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise SourceError(f"{str(file)!r} begins as UTF-16, but is none: {error}") from None
    data = data.removeprefix(codecs.BOM_UTF8)
    lines = data.split(b"\0") if b"\0" in data else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [line for line in lines if line.strip()]
