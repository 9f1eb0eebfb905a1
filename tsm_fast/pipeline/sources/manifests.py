"""Tables of pictures: CSV, TSV, JSON lines, JSON (COCO's too) and Parquet, with a column of paths."""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .columns import from_text, from_values, plain_columns, plain_table
from .keys import encode_key
from .lists import PathSource
from .source import Item, LeftOut, SourceError

PATH_COLUMNS = ("path", "file_name", "filename", "file", "image_path", "image", "filepath")

SEPARATORS = {".csv": ",", ".tsv": "\t"}


class ManifestSource(PathSource):
    """A table with a column of paths (`PATH_COLUMNS`), and perhaps a column "key"; its other columns are carried along.

    In COCO's JSON the pictures are its "images", with the names of the "categories" of each.
    """

    def __init__(self, path: Path) -> None:
        super().__init__("manifest", str(path.parent))
        self._file = path
        self._table: pa.Table | None = None
        self._rows: dict[str, int] = {}

    def items(self) -> list[Item]:
        self.left_out = LeftOut()
        paths, keys, self._table = READERS[self._file.suffix.lower()](self._file, self.left_out)
        items = []
        for number, path in enumerate(paths):
            key = None if keys is None else keys[number]
            if not path or (keys is not None and not key):
                raise SourceError(f"source {str(self._file)!r}: row {number} has no {'key' if path else 'path'}")
            path = encode_key(path)
            items.append(Item(path) if key is None else Item(encode_key(key), path))
        if not items:
            raise SourceError(f"source {str(self._file)!r} has no row")
        self._rows = {item.key: number for number, item in enumerate(items)}
        return items

    def carried(self, items: Sequence[Item]) -> pa.Table | None:
        if self._table is None or not self._table.column_names:
            return None
        return self._table.take(pa.array([self._rows[item.key] for item in items], pa.int64()))


Read = tuple[Sequence[Any], Sequence[Any] | None, pa.Table]  # paths, keys, other columns


def _csv(file: Path, left_out: LeftOut) -> Read:
    """Bytes that are not UTF-8 are kept, as in file names."""
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        rows = csv.reader(lines, delimiter=SEPARATORS[file.suffix.lower()], strict=True)
        try:
            header = next(rows, [])
            path, key = _columns(file, header)
            columns: list[list[str]] = [[] for _ in header]
            for row in rows:
                if row and len(row) != len(header):
                    raise SourceError(
                        f"source {str(file)!r}: line {rows.line_num} must have {len(header)} fields, got {len(row)}"
                    )
                for values, value in zip(columns, row, strict=False):
                    values.append(value)
        except csv.Error as error:
            raise SourceError(f"source {str(file)!r}: line {rows.line_num} is not {file.suffix[1:]}: {error}") from None
    others = {name: from_text(values) for name, values in zip(header, columns, strict=True) if name not in (path, key)}
    if "" in others:
        left_out.add("columns without a name", file.name)
        del others[""]
    return columns[header.index(path)], None if key is None else columns[header.index(key)], pa.table(others)


def _json_lines(file: Path, left_out: LeftOut) -> Read:
    rows = []
    with open(file, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                rows.append(_object(file, f"line {number}", _parsed(file, f"line {number} is", line)))
    return _from_objects(file, rows)


def _json(file: Path, left_out: LeftOut) -> Read:
    found = _parsed(file, "it is", file.read_text(encoding="utf-8-sig", errors="surrogateescape"))
    coco = isinstance(found, Mapping) and isinstance(found.get("images"), list)
    rows = found["images"] if coco else found
    if not isinstance(rows, list):
        raise SourceError(f'source {str(file)!r} must be a list of objects, or have a list "images" as COCO has')
    rows = [_object(file, f"entry {number}", row) for number, row in enumerate(rows)]
    if coco and found.get("annotations"):
        rows = _with_categories(file, rows, found)
    return _from_objects(file, rows)


def _with_categories(file: Path, rows: list[dict[str, Any]], coco: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pictures of COCO with the names of what is annotated in each."""
    try:
        names = {category["id"]: category["name"] for category in coco.get("categories", [])}
        found = defaultdict(set)
        for annotation in coco["annotations"]:
            category = annotation["category_id"]
            found[annotation["image_id"]].add(str(names.get(category, category)))
        return [{**row, "categories": sorted(found[row["id"]])} for row in rows]
    except (KeyError, TypeError) as error:
        raise SourceError(f"source {str(file)!r} is not as COCO has it: {type(error).__name__} {error}") from None


def _from_objects(file: Path, rows: Sequence[Mapping[str, Any]]) -> Read:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        return [], None, pa.table({})
    path, key = _columns(file, names)
    for number, row in enumerate(rows):
        for name in filter(None, (path, key)):
            if not isinstance(row.get(name, ""), str):
                raise SourceError(f"source {str(file)!r}: row {number}: {name!r} must be text, got {row[name]!r}")
    others = {name: from_values([row.get(name) for row in rows]) for name in names if name not in (path, key)}
    return [row.get(path) for row in rows], None if key is None else [row.get(key) for row in rows], pa.table(others)


def _parquet(file: Path, left_out: LeftOut) -> Read:
    try:
        schema = pq.read_schema(file)
        path, key = _columns(file, schema.names)
        keys = [] if key is None else [key]
        others = plain_columns(schema, [path, *keys], left_out)
        table = pq.read_table(file, columns=[path, *keys, *others])
        texts = [table[name].cast(pa.string()).to_pylist() for name in (path, *keys)]
        return texts[0], texts[1] if keys else None, plain_table(table.select(others))
    except pa.ArrowException as error:
        raise SourceError(f"source {str(file)!r} cannot be read: {error}") from None


READERS: dict[str, Callable[[Path, LeftOut], Read]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".parquet": _parquet,
}


def _parsed(file: Path, where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"source {str(file)!r}: {where} no JSON: {error}") from None


def _object(file: Path, where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SourceError(f"source {str(file)!r}: {where} must be an object, got {type(value).__name__}")
    return value


def _columns(file: Path, names: Sequence[str]) -> tuple[str, str | None]:
    """The names of the column of paths and, where there is one, of keys."""
    path = next((name for name in PATH_COLUMNS if name in names), None)
    if path is None:
        close = [name for name in names if difflib.get_close_matches(name.strip().lower(), PATH_COLUMNS, n=1)]
        hint = f"; did you mean {close[0]!r}? Call it 'path'" if close else ""
        if file.suffix.lower() in SEPARATORS and len(names) == 1 and re.search(r"[;\t,]", names[0]):
            hint = f"; its fields must be separated by {SEPARATORS[file.suffix.lower()]!r}"
        raise SourceError(
            f"source {str(file)!r} must have a column 'path' (or {', '.join(PATH_COLUMNS[1:])}), "
            f"got {', '.join(names)}{hint}"
        )
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise SourceError(f"source {str(file)!r} has several columns {twice!r}")
    return path, "key" if "key" in names and path != "key" else None
