"""Where images come from: every source lists its items once, sorted by key, and reads any of them later."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from glob import glob
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..pictures.decode import ImageError
from .keys import decode_key, encode_key

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MAX_BYTES = 1 << 30  # of one image file


class Item(NamedTuple):
    """One planned image: its key, and where its source finds it."""

    key: str  # as `keys.encode_key` writes it
    path: str | None = None  # likewise; None where the key says it
    offset: int = 0  # of the bytes in a tar file, or the number of the item in a dataset
    size: int = 0  # of the bytes in a tar file


class Source(Protocol):
    """Something that lists images, and reads them from several threads at once."""

    kind: str  # said in run.json
    root: str  # absolute, with which `reopen` finds it again

    def items(self) -> list[Item]:
        """Every image, in any order; keys may not repeat."""
        ...

    def read(self, item: Item) -> Any:
        """The bytes of an image file, or for a dataset what it holds: a picture, an array, a tensor, ..."""
        ...


class SourceError(ValueError):
    """A source that does not exist, holds no picture, or holds one key twice."""


def open_source(text: str) -> Source:
    """The source that `text` names; it is not listed yet.

    A folder (of pictures, or of a dataset that `datasets.save_to_disk` wrote); a text file that lists one path a line
    (or NUL-separated); a .csv, .tsv or .parquet manifest with a column "path" and perhaps "key"; .tar files, also as
    a glob or as `{000..127}`; `hf:NAME`, `hf:NAME#SPLIT` or `hf:FOLDER`; `package.module:factory`, which returns a
    map-style dataset.

    Raises:
        SourceError: there is no such source.
        ModuleNotFoundError: it needs a package that is not installed.
    """
    if text.startswith("hf:"):
        from .datasets import hugging_face

        return hugging_face(text.removeprefix("hf:"))
    if text.lower().endswith(".tar"):
        from .tars import TarSource

        return TarSource(_tar_files(text))
    path = Path(text)
    if not path.exists():
        if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
            from .datasets import from_factory

            return from_factory(text)
        raise SourceError(f"source {text!r} does not exist")
    if path.is_dir():
        if any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
            from .datasets import hugging_face

            return hugging_face(text)
        return FolderSource(path)
    suffix = path.suffix.lower()
    if suffix in EXTENSIONS:
        raise SourceError(f"source {text!r} is one file: name its folder, or a list of paths")
    if suffix in (".csv", ".tsv", ".parquet"):
        from .manifests import ManifestSource

        return ManifestSource(path)
    if text.lower().endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")):
        raise SourceError(f"source {text!r} is compressed, so its images cannot be reached one by one: unpack it")
    from .manifests import ListSource

    return ListSource(path)


def reopen(kind: str, root: str) -> Source:
    """The source of a planned run, from what run.json says of it."""
    if kind == "folder":
        return FolderSource(Path(decode_key(root)))
    if kind in ("list", "manifest"):
        from .manifests import PathSource

        return PathSource(kind, decode_key(root))
    if kind == "tar":
        from .tars import TarSource

        return TarSource([decode_key(root)])
    from .datasets import from_factory, hugging_face

    if kind == "hf":
        return hugging_face(root)
    if kind == "factory":
        return from_factory(root)
    raise SourceError(f"a source of kind {kind!r} lives in the program that made it: pass it again as source=")


def listing(source: Source, limit: int | None = None) -> list[Item]:
    """The items sorted by key, the first `limit` of them; SourceError for none, or for a key that repeats."""
    items = sorted(source.items())
    for first, second in pairwise(items):
        if first.key == second.key:
            raise SourceError(
                f"keys must be distinct, got {first.key!r} twice"
                + (f" ({first.path!r} and {second.path!r})" if first.path != second.path else "")
                + "; a column 'key' of a manifest can tell them apart" * (source.kind in ("list", "manifest"))
            )
    return items[:limit]


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
        return read_file(os.path.join(self._root, *decode_key(item.key).split("/")))


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


def read_file(path: str) -> bytes:
    """The whole of a regular file; OSError or ImageError where it cannot be read."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # a named pipe would block
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ImageError("unreadable", "it is no regular file")
        if about.st_size > MAX_BYTES:
            raise ImageError("too_large", f"{about.st_size} bytes are more than {MAX_BYTES}")
        return file.read()


def _tar_files(text: str) -> Sequence[str]:
    """The files of a name with a range {000..127}, of a glob, or of neither."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if found:
        first, last, width = int(found[1]), int(found[2]), len(found[1])
        files = [text[: found.start()] + f"{i:0{width}d}" + text[found.end() :] for i in range(first, last + 1)]
    else:
        files = [text] if os.path.exists(text) else sorted(glob(text, recursive=True))
    missing = [file for file in files if not os.path.isfile(file)]
    if missing or not files:
        raise SourceError(f"source {text!r} does not exist" + (f": no file {missing[0]!r}" if missing else ""))
    return files
