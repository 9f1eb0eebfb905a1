"""From what a user names to the source that it is."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from ...factory import is_factory
from .datasets import from_factory, hugging_face
from .folder import FolderSource, RemoteFolderSource
from .keys import decode_key
from .lists import ListSource, PathSource
from .manifests import READERS, ManifestSource, suffix_of
from .picture_files import EXTENSIONS
from .remote import glob as remote_glob
from .schemes import is_remote
from .source import Source, SourceError
from .tars import TarSource

FILES = ("folder", "list", "manifest", "tar")  # kinds of sources that read files and run no code


def open_source(text: str, root: str | None = None) -> Source:
    """The source that `text` names; it is not listed yet.

    A folder (of pictures, or of a dataset that `datasets.save_to_disk` wrote); a text file that lists one path a line
    (or NUL-separated); a .csv, .tsv, .jsonl, .json or .parquet manifest with a column "path" and perhaps "key", or
    COCO's .json; .tar files, also as a glob or as `{000..127}`; `hf:NAME`, `hf:NAME#SPLIT` or `hf:FOLDER`;
    `package.module:factory` or `file.py:factory`, which returns a map-style dataset. Folders, lists (.txt, .lst),
    manifests and tar files can be URLs that fsspec reads: s3://, gs://, hf://datasets/, ...

    Args:
        text: names it.
        root: the folder from which relative paths of a list or manifest go; None for its own.

    Raises:
        SourceError: there is no such source.
        ModuleNotFoundError: it needs a package that is not installed.
    """
    source = _source(text)
    if root is not None:
        if not isinstance(source, PathSource):
            raise SourceError(f"root={root!r} is for lists and manifests, got a source of kind {source.kind}")
        source.move(root)
    return source


def _source(text: str) -> Source:
    if text.startswith("hf:") and not is_remote(text):
        return hugging_face(text.removeprefix("hf:"))
    if text.lower().endswith(".tar"):
        return TarSource(_tar_files(text))
    suffix = suffix_of(text)
    if is_remote(text) and suffix not in (*READERS, *EXTENSIONS, ".txt", ".lst"):
        return RemoteFolderSource(text)
    path = Path(text)
    if not is_remote(text) and not path.exists():
        if is_factory(text):
            return from_factory(text)
        raise SourceError(f"source {text!r} does not exist")
    if not is_remote(text) and path.is_dir():
        if any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
            return hugging_face(text)
        return FolderSource(path)
    if suffix in EXTENSIONS:
        raise SourceError(f"source {text!r} is one file: name its folder, or a list of paths")
    if suffix in READERS:
        return ManifestSource(text)
    if text.lower().endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")):
        raise SourceError(f"source {text!r} is compressed, so its images cannot be reached one by one: unpack it")
    return ListSource(text)


def reopen(kind: str, root: str) -> Source:
    """The source of a planned run, from what run.json says of it."""
    if kind == "folder":
        return FolderSource(Path(decode_key(root)))
    if kind == "remote":
        return RemoteFolderSource(decode_key(root))
    if kind in ("list", "manifest"):
        return PathSource(kind, decode_key(root))
    if kind == "tar":
        return TarSource([decode_key(root)])
    if kind == "hf":
        return hugging_face(root)
    if kind == "factory":
        return from_factory(root)
    raise SourceError(f"a source of kind {kind!r} lives in the program that made it: pass it again as source=")


def _tar_files(text: str) -> Sequence[str]:
    """The files of a name with a range {000..127}, of a glob, or of neither."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if found:
        first, last, width = int(found[1]), int(found[2]), len(found[1])
        files = [text[: found.start()] + f"{i:0{width}d}" + text[found.end() :] for i in range(first, last + 1)]
    elif is_remote(text):
        files = remote_glob(text) if re.search(r"[*?[]", text) else [text]
    else:
        files = [text] if os.path.exists(text) else sorted(glob(text, recursive=True))
    missing = [file for file in files if not is_remote(file) and not os.path.isfile(file)]
    if missing or not files:
        raise SourceError(f"source {text!r} does not exist" + (f": no file {missing[0]!r}" if missing else ""))
    return files
