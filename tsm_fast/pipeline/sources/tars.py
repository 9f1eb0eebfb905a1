"""webdataset tar files: listed once from their headers, then read by offset."""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Iterator, Sequence

from ...pictures.decode import ImageError
from .keys import decode_key, encode_key
from .picture_files import EXTENSIONS, MAX_BYTES
from .source import Item, LeftOut, Source, SourceError

SPARSE = -1  # in place of the size of a sparse member, whose offset is that of its headers


class TarSource(Source):
    """The pictures in tar files; the key is "name of the tar file/name in it"."""

    kind = "tar"

    def __init__(self, files: Sequence[str]) -> None:
        """`files`: tar files of one folder; or that folder alone, for reading."""
        only_folder = len(files) == 1 and os.path.isdir(files[0])
        folders = {os.path.dirname(os.path.abspath(file)) for file in files}
        self._folder = os.path.abspath(files[0]) if only_folder else os.path.commonpath(folders)
        self._files = () if only_folder else tuple(files)
        self.root = encode_key(self._folder)
        self.left_out = LeftOut()

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
        _check_size(item.size)
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(descriptor, item.size, item.offset)
        finally:
            os.close(descriptor)
        if len(data) != item.size:
            raise ImageError("truncated", f"the tar file ends after {len(data)} of its {item.size} bytes")
        return data

    def _members(self, file: str) -> list[Item]:
        name = os.path.relpath(os.path.abspath(file), self._folder)
        try:
            with tarfile.open(file, "r:", errors="surrogateescape") as tar:
                return list(self._pictures(name, tar))
        except (tarfile.TarError, EOFError, ValueError) as error:  # ValueError: a broken map of a sparse member
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
    with open(file, "rb") as raw:
        raw.seek(offset)
        try:
            with tarfile.open(fileobj=raw, mode="r:", errors="surrogateescape") as tar:
                member = tar.next()
                content = tar.extractfile(member) if member is not None else None
                if member is not None and content is not None:
                    _check_size(member.size)
                    return content.read()
        except (tarfile.TarError, EOFError, ValueError):
            pass
    raise ImageError("truncated", "it is sparse, and the tar file ends within it")


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ImageError("too_large", f"{size} bytes are more than {MAX_BYTES}")
