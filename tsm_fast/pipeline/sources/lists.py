"""Lists of paths: text files."""

from __future__ import annotations

import codecs
import os
from collections.abc import Sequence

from .hashes import sampled
from .keys import decode_key, encode_key
from .picture_files import absolute, open_file, read_file
from .schemes import is_remote
from .source import Item, LeftOut, Source, SourceError, Stamp
from .stamps import stamps_of


class PathSource(Source):
    """Files by their paths, relative ones from the folder `root`; the key is the path as it was written."""

    def __init__(self, kind: str, root: str) -> None:
        self.kind = kind
        self.left_out: LeftOut = LeftOut()
        self.move(root)

    def move(self, root: str) -> None:
        """Let relative paths go from this folder."""
        self._root = absolute(root)
        self.root: str = encode_key(self._root)

    def items(self) -> list[Item]:
        raise SourceError(f"a {self.kind} is listed once, when the run is planned")

    def read(self, item: Item) -> bytes:
        return read_file(self._path(item))

    def stamps(self, items: Sequence[Item]) -> list[Stamp]:
        return stamps_of(list(map(self._path, items)), remote_too=False)

    def digest(self, items: Sequence[Item]) -> str | None:
        return sampled(self, items) if any(is_remote(self._path(item)) for item in items) else None

    def _path(self, item: Item) -> str:
        path = named(item)
        return path if is_remote(path) else os.path.join(self._root, path)


class GivenPaths(PathSource):
    """Paths that this program has; relative ones go from the folder it is in."""

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__("list", os.getcwd())
        self._paths = list(paths)

    def items(self) -> list[Item]:
        return [Item(encode_key(path)) for path in self._paths]


class ListSource(PathSource):
    """A file that lists one path a line, or separated by NUL bytes where it has any (`find -print0`)."""

    def __init__(self, file: str) -> None:
        super().__init__("list", os.path.dirname(file))
        self._file = file

    def items(self) -> list[Item]:
        with open_file(self._file) as file:
            items = [Item(encode_key(os.fsdecode(name))) for name in lines_of(file.read(), self._file)]
        if not items:
            raise SourceError(f"source {self._file!r} lists no path")
        return items


def check_some_exist(source: Source, items: Sequence[Item], stamps: Sequence[Stamp] | None) -> None:
    """SourceError where not one file of a list or manifest is there."""
    if not isinstance(source, PathSource) or stamps is None or any(stamp.bytes is not None for stamp in stamps):
        return
    if not any(is_remote(named(item)) for item in items):
        raise SourceError(
            f"source has {len(items)} paths, and none of them exists in {source.root}, the first being "
            f"{named(items[0])!r}: root= names the folder from which relative paths go"
        )


def named(item: Item) -> str:
    """The path as it was written."""
    return decode_key(item.key if item.path is None else item.path)


def lines_of(data: bytes, file: str) -> list[bytes]:
    """The lines that are not empty, or what lies between NUL bytes where there are any; without a BOM."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            data = data.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise SourceError(f"{file!r} begins as UTF-16, but is none: {error}") from None
    data = data.removeprefix(codecs.BOM_UTF8)
    lines = data.split(b"\0") if b"\0" in data else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [line for line in lines if line.strip()]
