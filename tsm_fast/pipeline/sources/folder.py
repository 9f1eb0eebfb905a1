"""Folders of pictures, with all below them; on this machine, or by URL."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import remote
from .hashes import sampled
from .keys import decode_key, encode_key
from .picture_files import EXTENSIONS, check_size, read_file
from .source import Item, LeftOut, Source, SourceError, Stamp
from .stamps import remote_stamp, stamps_of


class FolderSource(Source):
    """The pictures below a folder; the key is the path below it, with "/" between its parts.

    Links are followed. Names that start with a dot, files of other extensions than `EXTENSIONS`, links that lead back
    to a folder above them, links behind links to a folder that is listed already (folders that link to each other
    would be listed in every order) and folders that cannot be listed are left out.
    """

    kind = "folder"

    def __init__(self, root: Path) -> None:
        self._root = os.path.abspath(root)
        self.root: str = encode_key(self._root)
        self.left_out: LeftOut = LeftOut()

    def items(self) -> list[Item]:
        self.left_out = LeftOut()
        items = [Item(encode_key(name)) for name in self._pictures("", (), 0, set())]
        if not items:
            tars = any(entry.name.lower().endswith(".tar") for entry in os.scandir(self._root))
            hint = "; its tar files are named as FOLDER/*.tar" if tars else ""
            raise SourceError(f"source {self.root!r} holds no picture: {_why_none(self.left_out)}{hint}")
        return items

    def read(self, item: Item) -> bytes:
        return read_file(self._path(item))

    def stamps(self, items: Sequence[Item]) -> list[Stamp]:
        return stamps_of(list(map(self._path, items)))

    def _path(self, item: Item) -> str:
        return os.path.join(self._root, *decode_key(item.key).split("/"))

    def _pictures(
        self, below: str, above: tuple[tuple[int, int], ...], links: int, listed: set[tuple[int, int]]
    ) -> Iterator[str]:
        """Names below a folder; `above` are the folders on the way, so that a link to one of them is seen.

        `links` of them are links; `listed` are all folders so far.
        """
        here = os.path.join(self._root, below)
        try:
            about = os.stat(here)
            with os.scandir(here) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if not below:
                raise
            self.left_out.add(f"that cannot be listed ({error.strerror})", encode_key(below))
            return
        identity = about.st_dev, about.st_ino
        if identity in above:
            self.left_out.add("linked back to a folder above", encode_key(below.rstrip("/")))
            return
        if links > 1 and identity in listed:
            self.left_out.add("listed already, behind two links", encode_key(below.rstrip("/")))
            return
        listed.add(identity)
        for entry in entries:
            name = below + entry.name
            if entry.name.startswith("."):
                self.left_out.add("hidden", encode_key(name))
            elif _is_folder(entry):
                yield from self._pictures(name + "/", (*above, identity), links + entry.is_symlink(), listed)
            elif entry.name.lower().endswith(EXTENSIONS):
                yield name
            else:
                self.left_out.add("of another kind", encode_key(name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


class RemoteFolderSource(Source):
    """The pictures below a URL, and their sizes; what is left out is as in a folder."""

    kind = "remote"

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self.root: str = encode_key(self._url)
        self.left_out: LeftOut = LeftOut()
        self._stamps: dict[str, Stamp] = {}

    def items(self) -> list[Item]:
        self.left_out = LeftOut()
        items, self._stamps = [], {}
        for name, about in remote.files_below(self._url).items():
            hidden = any(part.startswith(".") for part in name.split("/"))
            if hidden or not name.lower().endswith(EXTENSIONS):
                self.left_out.add("hidden" if hidden else "of another kind", encode_key(name))
            else:
                items.append(Item(encode_key(name), None, 0, about.get("size") or 0))
                self._stamps[items[-1].key] = remote_stamp(about)
        if not items:
            raise SourceError(f"source {self.root!r} holds no picture: {_why_none(self.left_out)}")
        return items

    def read(self, item: Item) -> bytes:
        check_size(item.size)
        return remote.read(self._url, below=decode_key(item.key))

    def stamps(self, items: Sequence[Item]) -> list[Stamp]:
        return [self._stamps[item.key] for item in items]

    def digest(self, items: Sequence[Item]) -> str | None:
        return sampled(self, items) if any(self._stamps[item.key].mark is None for item in items) else None


def _why_none(left_out: LeftOut) -> str:
    return f"no file below it ends in {', '.join(EXTENSIONS)}" + (f"; left out: {left_out}" if left_out.counts else "")
