"""Lists of paths: text files, CSV, TSV and Parquet manifests."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .keys import decode_key, encode_key
from .picture_files import read_file
from .source import Item, SourceError, Stamp, stamps_of

PATH_COLUMNS = ("path", "file_name", "filename", "file", "image_path", "image", "filepath")


class PathSource:
    """Files by their paths, relative ones from the folder `root`; the key is the path as it was written."""

    def __init__(self, kind: str, root: str) -> None:
        self.kind = kind
        self._root = os.path.abspath(root)
        self.root = encode_key(self._root)

    def items(self) -> list[Item]:
        raise SourceError(f"a {self.kind} is listed once, when the run is planned")

    def read(self, item: Item) -> bytes:
        return read_file(self._path(item))

    def stamps(self, items: Sequence[Item]) -> list[Stamp]:
        return stamps_of(map(self._path, items))

    def digest(self, items: Sequence[Item]) -> None:
        """The stamps tell."""

    def _path(self, item: Item) -> str:
        return os.path.join(self._root, decode_key(item.key if item.path is None else item.path))


class ListSource(PathSource):
    """A file that lists one path a line, or separated by NUL bytes where it has any (`find -print0`)."""

    def __init__(self, path: Path) -> None:
        super().__init__("list", str(path.parent))
        self._file = path

    def items(self) -> list[Item]:
        data = self._file.read_bytes()
        names = data.split(b"\0") if b"\0" in data else [line.removesuffix(b"\r") for line in data.split(b"\n")]
        items = [Item(encode_key(os.fsdecode(name))) for name in names if name.strip()]
        if not items:
            raise SourceError(f"source {str(self._file)!r} lists no path")
        return items


class ManifestSource(PathSource):
    """A table with a column of paths (`PATH_COLUMNS`), and perhaps a column "key"."""

    def __init__(self, path: Path) -> None:
        super().__init__("manifest", str(path.parent))
        self._file = path

    def items(self) -> list[Item]:
        read = _parquet_columns if self._file.suffix.lower() == ".parquet" else _csv_columns
        items = []
        for number, (key, path) in enumerate(read(self._file)):
            if not path or key == "":
                raise SourceError(f"source {str(self._file)!r}: row {number} has no {'key' if path else 'path'}")
            path = encode_key(path)
            items.append(Item(path) if key is None else Item(encode_key(key), path))
        if not items:
            raise SourceError(f"source {str(self._file)!r} has no row")
        return items


def _csv_columns(file: Path) -> Iterator[tuple[str | None, str]]:
    """(key, path) of each row; bytes that are not UTF-8 are kept, as in file names."""
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next(rows, [])
            path = _path_column(file, header)
            key = header.index("key") if "key" in header else None
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise SourceError(
                        f"source {str(file)!r}: line {rows.line_num} must have {len(header)} fields, got {len(row)}"
                    )
                yield (None if key is None else row[key]), row[path]
        except csv.Error as error:
            raise SourceError(f"source {str(file)!r}: line {rows.line_num} is not {file.suffix[1:]}: {error}") from None


def _parquet_columns(file: Path) -> Iterator[tuple[str | None, str]]:
    try:
        schema = pq.read_schema(file)
        path = schema.names[_path_column(file, schema.names)]
        table = pq.read_table(file, columns=[path, "key"] if "key" in schema.names and path != "key" else [path])
        columns = [table[name].cast(pa.string()).to_pylist() for name in table.column_names]
    except pa.ArrowException as error:
        raise SourceError(f"source {str(file)!r} cannot be read: {error}") from None
    if len(columns) == 1:
        yield from ((None, name or "") for name in columns[0])
    else:
        yield from ((key or "", name or "") for name, key in zip(columns[0], columns[1], strict=True))


def _path_column(file: Path, names: list[str]) -> int:
    for name in PATH_COLUMNS:
        if name in names:
            return names.index(name)
    raise SourceError(
        f"source {str(file)!r} must have a column 'path' (or {', '.join(PATH_COLUMNS[1:])}), got {', '.join(names)}"
    )
