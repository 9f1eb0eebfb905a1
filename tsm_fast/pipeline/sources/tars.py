"""webdataset tar files: listed once from their headers, then read by offset."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence

from ...pictures.decode import ImageError
from .keys import decode_key, encode_key
from .picture_files import EXTENSIONS, MAX_BYTES
from .source import Item, SourceError, Stamp, stamps_of


class TarSource:
    """The pictures in tar files; the key is "name of the tar file/name in it"."""

    kind = "tar"

    def __init__(self, files: Sequence[str]) -> None:
        """`files`: tar files of one folder; or that folder alone, for reading."""
        only_folder = len(files) == 1 and os.path.isdir(files[0])
        folders = {os.path.dirname(os.path.abspath(file)) for file in files}
        self._folder = os.path.abspath(files[0]) if only_folder else os.path.commonpath(folders)
        self._files = () if only_folder else tuple(files)
        self.root = encode_key(self._folder)

    def items(self) -> list[Item]:
        items = [item for file in self._files for item in self._members(file)]
        if not items:
            raise SourceError(
                f"source {', '.join(self._files)} holds no picture: no name in it ends in {', '.join(EXTENSIONS)}"
            )
        return items

    def read(self, item: Item) -> bytes:
        if item.size > MAX_BYTES:
            raise ImageError("too_large", f"{item.size} bytes are more than {MAX_BYTES}")
        descriptor = os.open(os.path.join(self._folder, decode_key(item.path or "")), os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(descriptor, item.size, item.offset)
        finally:
            os.close(descriptor)
        if len(data) != item.size:
            raise ImageError("truncated", f"the tar file ends after {len(data)} of its {item.size} bytes")
        return data

    def stamps(self, items: Sequence[Item]) -> list[Stamp]:
        return stamps_of(os.path.join(self._folder, decode_key(item.path or "")) for item in items)

    def digest(self, items: Sequence[Item]) -> None:
        """The stamps tell."""

    def _members(self, file: str) -> list[Item]:
        name = os.path.relpath(os.path.abspath(file), self._folder)
        try:
            with tarfile.open(file, "r:", errors="surrogateescape") as tar:
                return [
                    Item(encode_key(f"{name}/{member.name}"), encode_key(name), member.offset_data, member.size)
                    for member in tar
                    if member.isreg() and _is_picture(member.name)
                ]
        except (tarfile.TarError, EOFError) as error:
            raise SourceError(f"source {file!r} is no whole tar file: {error}") from None


def _is_picture(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not os.path.basename(name).startswith(".")
