"""webdataset tar files: listed once from their headers, then read by offset."""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import IO

from ...pictures.decode import ImageError
from .hashes import sampled
from .keys import decode_key, encode_key
from .picture_files import EXTENSIONS, absolute, check_size, open_file, read_part
from .schemes import is_remote
from .source import Item, LeftOut, Source, SourceError, Stamp
from .stamps import stamps_of

SPARSE = -1  # in place of the size of a sparse member, whose offset is that of its headers


class TarSource(Source):
    """The pictures in tar files; the key is "name of the tar file/name in it"."""

    kind = "tar"

    def __init__(self, files: Sequence[str]) -> None:
        """`files`: tar files of one folder; or that folder alone, for reading."""
        only_folder = len(files) == 1 and (
            not files[0].lower().endswith(".tar") if is_remote(files[0]) else os.path.isdir(files[0])
        )
        self._files = () if only_folder else tuple(map(absolute, files))
        parts = [posixpath.dirname(file).split("/") for file in self._files]
        shared = takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False))
        self._folder = absolute(files[0]) if only_folder else "/".join(names[0] for names in shared) or "/"
        self.root: str = encode_key(self._folder)
        self.left_out: LeftOut = LeftOut()

    def items(self) -> list[Item]:
        self.left_out = LeftOut()
        items = [item for file in self._files for item in self._members(file)]
        if not items:
            raise SourceError(
                f"source {', '.join(self._files)} holds no picture: no name in it ends in {', '.join(EXTENSIONS)}"
                + (f"; left out: {self.left_out}" if self.left_out.counts else "")
            )
        return items

    def read(self, item: Item) -> bytes:
        file = os.path.join(self._folder, decode_key(item.path or ""))
        if item.size == SPARSE:
            return _read_sparse(file, item.offset)
        data = read_part(file, item.offset, item.size)
        if len(data) != item.size:
            raise ImageError("truncated", f"the tar file ends after {len(data)} of its {item.size} bytes")
        return data

    def stamps(self, items: Sequence[Item]) -> list[Stamp]:
        return stamps_of([os.path.join(self._folder, decode_key(item.path or "")) for item in items])

    def digest(self, items: Sequence[Item]) -> str | None:
        nothing_known = is_remote(self._folder) and any(stamp.mark is None for stamp in self.stamps(items))
        return sampled(self, items) if nothing_known else None

    def _members(self, file: str) -> list[Item]:
        name = file.removeprefix(self._folder).lstrip("/")
        try:
            with open_file(file) as raw, tarfile.open(fileobj=raw, mode="r:", errors="surrogateescape") as tar:
                found = list(self._pictures(name, tar))
                _check_end(raw, tar.offset)
                return found
        # ValueError: a broken map of a sparse member; OSError without a name: a place that no file has.
        except (tarfile.TarError, EOFError, ValueError, OSError) as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise
            raise SourceError(f"source {file!r} is no whole tar file: {error}") from None

    def _pictures(self, file: str, tar: tarfile.TarFile) -> Iterator[Item]:
        """The pictures in one tar file; a hard link is the file that came before under its other name."""
        places: dict[str, tuple[int, int]] = {}
        for member in tar:
            name = _name(member)
            if member.isreg():
                places[name] = (member.offset, SPARSE) if member.issparse() else (member.offset_data, member.size)
            elif member.islnk() and member.linkname in places:
                places[name] = places[member.linkname]
            if member.isdir():
                continue
            key = encode_key(f"{file}/{name}")
            kind = _left_out(member, name, there=name in places)
            if kind:
                self.left_out.add(kind, key)
            else:
                yield Item(key, encode_key(file), *places[name])


def _check_end(raw: IO[bytes], offset: int) -> None:
    """tarfile stops at a header that is none, and at the end of a file that was cut, as at the end of the archive."""
    raw.seek(offset)
    block = raw.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise EOFError("it ends without the blocks of zeros that end one")
    if any(block):
        raise tarfile.ReadError(f"there is no member at byte {offset}")


def _left_out(member: tarfile.TarInfo, name: str, *, there: bool) -> str:
    """The kind of a member that is no picture; empty for a picture."""
    if not name.lower().endswith(EXTENSIONS):
        return "of another kind"
    if posixpath.basename(name).startswith("."):
        return "hidden"
    if member.islnk() and not there:
        return "hard links to what is not there"
    if member.issym():
        return "symbolic links"
    return "" if there else "that are no files"


def _name(member: tarfile.TarInfo) -> str:
    """The name of a member; where PAX has two for a sparse one, tarfile gives the other."""
    return member.pax_headers.get("GNU.sparse.name", member.name)


def _read_sparse(file: str, offset: int) -> bytes:
    """A member whose blocks of zeros are not in the tar file, by its headers."""
    with open_file(file) as raw:
        raw.seek(offset)
        try:
            with tarfile.open(fileobj=raw, mode="r:", errors="surrogateescape") as tar:
                member = tar.next()
                content = tar.extractfile(member) if member is not None else None
                if member is not None and content is not None:
                    check_size(member.size)
                    return content.read()
        except (tarfile.TarError, EOFError, ValueError):
            pass
    raise ImageError("truncated", "it is sparse, and the tar file ends within it")
