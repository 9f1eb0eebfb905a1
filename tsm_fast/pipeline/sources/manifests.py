"""Tables of pictures: CSV, TSV, JSON lines, JSON (COCO's too) and Parquet, with a column of paths."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from .columns import from_text, from_values, plain_columns, plain_table, valid
from .keys import encode_key
from .lists import PathSource
from .picture_files import open_file
from .source import Item, LeftOut, SourceError

PATH_COLUMNS = ("path", "file_name", "filename", "file", "image_path", "image", "filepath")

SEPARATORS = {".csv": ",", ".tsv": "\t"}


class ManifestSource(PathSource):
    """A table with a column of paths (`PATH_COLUMNS`), and perhaps a column "key"; its other columns are carried along.

    In COCO's JSON the pictures are its "images", with the names of the "categories" of each.
    """

    def __init__(self, file: str) -> None:
        super().__init__("manifest", os.path.dirname(file))
        self._file = file
        self._table: pa.Table | None = None
        self._rows: dict[str, int] = {}

    def items(self) -> list[Item]:
        self.left_out: LeftOut = LeftOut()
        with open_file(self._file) as file:
            _check_text(file, self._file)
            paths, keys, self._table = READERS[suffix_of(self._file)](file, self._file, self.left_out)
        items = []
        for number, path in enumerate(paths):
            key = None if keys is None else keys[number]
            if not path or (keys is not None and not key):
                raise SourceError(f"source {self._file!r}: row {number} has no {'key' if path else 'path'}")
            try:
                path = encode_key(path)
                items.append(Item(path) if key is None else Item(encode_key(key), path))
            except ValueError as error:
                raise SourceError(f"source {self._file!r}: row {number}: {error}") from None
        if not items:
            raise SourceError(f"source {self._file!r} has no row")
        self._rows = {item.key: number for number, item in enumerate(items)}
        return items

    def carried(self, items: Sequence[Item]) -> pa.Table | None:
        if self._table is None or not self._table.column_names:
            return None
        return self._table.take(pa.array([self._rows[item.key] for item in items], pa.int64()))


Read = tuple[Sequence[Any], Sequence[Any] | None, pa.Table]  # paths, keys, other columns


def suffix_of(file: str) -> str:
    """The ending of a file's name, with its dot, in small letters."""
    return os.path.splitext(file)[1].lower()


def _check_text(file: IO[bytes], name: str) -> None:
    if suffix_of(name) != ".parquet" and file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise SourceError(f"source {name!r} is in UTF-16: save it as UTF-8")
    file.seek(0)


def _csv(file: IO[bytes], name: str, left_out: LeftOut) -> Read:
    """Bytes that are not UTF-8 are kept, as in file names."""
    with io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as lines:
        rows = csv.reader(lines, delimiter=SEPARATORS[suffix_of(name)], strict=True)
        try:
            header = next(rows, [])
            path, key = _columns(name, header)
            columns: list[list[str]] = [[] for _ in header]
            for row in rows:
                if row and len(row) != len(header):
                    raise SourceError(
                        f"source {name!r}: line {rows.line_num} must have {len(header)} fields, got {len(row)}"
                    )
                for values, value in zip(columns, row, strict=False):
                    values.append(value)
        except csv.Error as error:
            raise SourceError(f"source {name!r}: line {rows.line_num} is not {suffix_of(name)[1:]}: {error}") from None
    others = {
        valid(title): from_text(values)
        for title, values in zip(header, columns, strict=True)
        if title not in (path, key)
    }
    if "" in others:
        left_out.add("columns without a name", encode_key(name))
        del others[""]
    return columns[header.index(path)], None if key is None else columns[header.index(key)], pa.table(others)


def _json_lines(file: IO[bytes], name: str, left_out: LeftOut) -> Read:
    rows = []
    with io.TextIOWrapper(file, "utf-8-sig", "surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                rows.append(_object(name, f"line {number}", _parsed(name, f"line {number} is", line)))
    return _from_objects(name, rows)


def _json(file: IO[bytes], name: str, left_out: LeftOut) -> Read:
    found = _parsed(name, "it is", file.read().decode("utf-8-sig", "surrogateescape"))
    coco = isinstance(found, Mapping) and isinstance(found.get("images"), list)
    rows = found["images"] if coco else found
    if not isinstance(rows, list):
        raise SourceError(f'source {name!r} must be a list of objects, or have a list "images" as COCO has')
    rows = [_object(name, f"entry {number}", row) for number, row in enumerate(rows)]
    if coco and found.get("annotations"):
        rows = _with_categories(name, rows, found)
    return _from_objects(name, rows)


def _with_categories(name: str, rows: list[dict[str, Any]], coco: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pictures of COCO with the names of what is annotated in each."""
    try:
        called = {category["id"]: category["name"] for category in coco.get("categories", [])}
        found = defaultdict(set)
        for annotation in coco["annotations"]:
            category = annotation["category_id"]
            found[annotation["image_id"]].add(str(called.get(category, category)))
        return [{**row, "categories": sorted(found[row["id"]])} for row in rows]
    except (KeyError, TypeError) as error:
        raise SourceError(f"source {name!r} is not as COCO has it: {type(error).__name__} {error}") from None


def _from_objects(name: str, rows: Sequence[Mapping[str, Any]]) -> Read:
    titles = list(dict.fromkeys(title for row in rows for title in row))
    if not rows:
        return [], None, pa.table({})
    path, key = _columns(name, titles)
    for number, row in enumerate(rows):
        for title in filter(None, (path, key)):
            if not isinstance(row.get(title, ""), str):
                raise SourceError(f"source {name!r}: row {number}: {title!r} must be text, got {row[title]!r}")
    others = {
        valid(title): from_values([row.get(title) for row in rows]) for title in titles if title not in (path, key)
    }
    return [row.get(path) for row in rows], None if key is None else [row.get(key) for row in rows], pa.table(others)


def _parquet(file: IO[bytes], name: str, left_out: LeftOut) -> Read:
    try:
        opened = pq.ParquetFile(file)
        schema = opened.schema_arrow
        path, key = _columns(name, schema.names)
        keys = [] if key is None else [key]
        others = plain_columns(schema, [path, *keys], left_out)
        table = opened.read([path, *keys, *others])
        texts = [table[title].cast(pa.string()).to_pylist() for title in (path, *keys)]
        return texts[0], texts[1] if keys else None, plain_table(table.select(others))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(f"source {name!r} cannot be read: {error}") from None


READERS: dict[str, Callable[[IO[bytes], str, LeftOut], Read]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
}


def _parsed(name: str, where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"source {name!r}: {where} no JSON: {error}") from None


def _object(name: str, where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SourceError(f"source {name!r}: {where} must be an object, got {type(value).__name__}")
    return value


def _columns(file: str, names: Sequence[str]) -> tuple[str, str | None]:
    """The names of the column of paths and, where there is one, of keys."""
    path = next((name for name in PATH_COLUMNS if name in names), None)
    if path is None:
        close = [name for name in names if difflib.get_close_matches(name.strip().lower(), PATH_COLUMNS, n=1)]
        hint = f"; did you mean {close[0]!r}? Call it 'path'" if close else ""
        if suffix_of(file) in SEPARATORS and len(names) == 1 and re.search(r"[;\t,]", names[0]):
            hint = f"; its fields must be separated by {SEPARATORS[suffix_of(file)]!r}"
        raise SourceError(
            f"source {file!r} must have a column 'path' (or {', '.join(PATH_COLUMNS[1:])}), "
            f"got {', '.join(names)}{hint}"
        )
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise SourceError(f"source {file!r} has several columns {twice!r}")
    return path, "key" if "key" in names and path != "key" else None
