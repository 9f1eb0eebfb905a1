"""Parquet shards: one row for each planned image, in order, with its maps."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .urls import folder, parquet

FORMAT_VERSION = 2
ROW_GROUP = 256
OK = "ok"  # the status of a row without an error
# The others, of which docs/first-dataset.md tells the meaning.
ERRORS = (
    *("missing", "unreadable", "empty", "format", "decode", "truncated", "too_large"),
    *("mode", "item", "preprocess", "shape", "non-finite", "overflow", "model", "crash", "timeout"),
)
ALL = "all"  # of them
_FLOAT16_TOP = 14  # the largest value of a float16 map lies in 2^14..2^15


@dataclass(frozen=True)
class MapColumn:
    """One column of maps, named "method/layer"; the method as it was asked for, perhaps with options.

    `shape` is (h, w); `dtype` that of the stored numbers. float16 and uint8 maps have a float32 column `scale`
    ("method/layer:scale"): the map is `stored * scale`, NaN for an error row.
    """

    name: str
    method: str
    layer: str
    shape: tuple[int, int]
    dtype: str
    scale: str | None


@dataclass(frozen=True)
class ValueColumn:
    """One column of what else is computed of every picture: a "number" (float32), a "list" of so many, or a "text".

    In error rows numbers are NaN, and texts null.
    """

    name: str
    kind: str
    length: int = 0  # of a list

    def blank(self, rows: int) -> np.ndarray:
        """What error rows have: [rows] or [rows, length] NaN, or [rows] None."""
        if self.kind == "text":
            return np.full(rows, None, object)
        return np.full((rows, self.length) if self.kind == "list" else rows, np.nan, np.float32)

    def field(self) -> pa.Field:
        """As shards store it."""
        if self.kind == "text":
            return pa.field(self.name, pa.string())
        number = pa.float32()
        return pa.field(self.name, pa.list_(number, self.length) if self.kind == "list" else number, nullable=False)

    def array(self, values: np.ndarray) -> pa.Array:
        """Values as `blank` has them, as shards store them."""
        if self.kind == "list":
            flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1), pa.float32())
            return pa.FixedSizeListArray.from_arrays(flat, self.length)
        return pa.array(values.tolist(), self.field().type)


class Rows(NamedTuple):
    """Some consecutive rows of a shard; `maps` [n, h, w] float32 by column, NaN in error rows, and other `values`."""

    index: Sequence[int]
    key: Sequence[str]
    status: Sequence[str]
    error: Sequence[str | None]
    height: Sequence[int | None]
    width: Sequence[int | None]
    bytes: Sequence[int | None]  # of the picture as it was read
    sha256: Sequence[str | None]  # of these
    flags: Sequence[int]
    maps: Mapping[str, np.ndarray]
    values: Mapping[str, np.ndarray] = MappingProxyType({})  # as `ValueColumn.blank` has them


_LISTS = Rows._fields.index("maps")


def shard_path(out: str | Path, index: int) -> Path:
    """Where a shard is published."""
    return folder(out) / "shards" / f"part-{index:06d}.parquet"


def marker_path(out: str | Path, index: int) -> Path:
    """Where the marker of a shard is published."""
    return folder(out) / "markers" / f"{index:06d}.json"


def read_columns(out: str | Path, index: int, names: Sequence[str]) -> list[list[Any]]:
    """Columns of a finished shard; OSError, with a way out, for one that is damaged."""
    path = shard_path(out, index)
    try:
        with parquet(path) as file:
            table = file.read(list(names))
            return [table[name].to_pylist() for name in names]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise damaged(path, out, error) from error


def damaged(path: Path, out: str | Path, error: Exception) -> OSError:
    return OSError(f"{path} is damaged ({error}): `tsm-fast verify {out}` tells how to repair it")


ABOUT = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("flags", pa.int32(), nullable=False),
    ]
)


def schema(
    columns: Sequence[MapColumn],
    about: Mapping[str, Any],
    carried: Iterable[pa.Field] = (),
    values: Sequence[ValueColumn] = (),
) -> pa.Schema:
    """The columns of a shard; `about` is kept in the file's metadata under "tsm_fast"."""
    fields = list(ABOUT)
    for column in columns:
        fields.append(pa.field(column.name, pa.fixed_shape_tensor(_VALUES[column.dtype], column.shape), nullable=False))
        if column.scale is not None:
            fields.append(pa.field(column.scale, pa.float32(), nullable=False))
    fields += (column.field() for column in values)
    fields += carried
    return pa.schema(fields, metadata={"tsm_fast": json.dumps(about, sort_keys=True)})


_VALUES = {"float32": pa.float32(), "float16": pa.float16(), "uint8": pa.uint8()}


class ShardWriter:
    """Writes rows to a Parquet file in groups of `ROW_GROUP`; the bytes depend on the rows alone, not on their cuts.

    `carried`: columns of the source, a row for each of the shard.
    """

    def __init__(
        self,
        file: BinaryIO,
        columns: Sequence[MapColumn],
        about: Mapping[str, Any],
        carried: pa.Table | None = None,
        values: Sequence[ValueColumn] = (),
    ) -> None:
        self._columns, self._carried, self._values = columns, carried, values
        self._schema = schema(columns, about, () if carried is None else carried.schema, values)
        floats = [f"{column.name}.list.element" for column in columns if column.dtype != "uint8"]
        options: dict[str, Any] = {
            "compression": "zstd",
            "compression_level": 3,
            "use_dictionary": ["status", "error"],
            "use_byte_stream_split": floats or False,
            "write_page_checksum": True,
            "write_statistics": ["index", "key", "status", "flags"],
        }
        self._writer = pq.ParquetWriter(file, self._schema, **options)
        self._waiting: list[Rows] = []
        self._count = self._written = 0
        self.errors: Counter[str] = Counter()  # rows by kind, of what is written
        self.flags: Counter[int] = Counter()  # and by their flags

    def add(self, rows: Rows) -> None:
        """Append rows."""
        self._waiting.append(rows)
        self._count += len(rows.index)
        while self._count >= ROW_GROUP:
            self._flush(ROW_GROUP)

    def close(self) -> None:
        """Write the last group and the footer."""
        if self._count:
            self._flush(self._count)
        self._writer.close()

    def _flush(self, count: int) -> None:
        rows = _joined(self._waiting)
        group, rest = _cut(rows, 0, count), _cut(rows, count, self._count)
        self._waiting = [rest] if len(rest.index) else []
        self._count -= count
        self._write(self.table([group]))

    def replace(self, group: pa.Table, rows: pa.Table) -> None:
        """Write a row group of an earlier file of the shard, with `rows` in place of those that have their index."""
        index = group["index"].to_numpy()
        own = rows.filter((rows["index"].to_numpy() >= index[0]) & (rows["index"].to_numpy() <= index[-1]))
        order = np.arange(len(index))
        order[own["index"].to_numpy() - index[0]] = len(index) + np.arange(len(own))
        old = pa.Table.from_arrays(group.select(rows.column_names).columns, schema=rows.schema)
        self._write(pa.concat_tables([old, own]).take(order))

    def copy(self, group: pa.Table, shift: int) -> None:
        """Write a row group of a shard of another run, its rows numbered by so many more."""
        carried = 0 if self._carried is None else self._carried.num_columns
        own = group.select(self._schema.names[: len(self._schema) - carried])
        self._write(own.set_column(0, "index", pa.array(group["index"].to_numpy() + shift)))

    def table(self, parts: Sequence[Rows]) -> pa.Table:
        """Rows as they are stored, without what is carried along."""
        group = _joined(parts)
        arrays: list[Any] = [
            pa.array(values, self._schema.field(number).type) for number, values in enumerate(group[:_LISTS])
        ]
        for column in self._columns:
            stored, scale = encode(group.maps[column.name], column.dtype)
            kind = pa.fixed_shape_tensor(_VALUES[column.dtype], column.shape)
            flat = pa.array(stored.reshape(-1), _VALUES[column.dtype])
            storage = pa.FixedSizeListArray.from_arrays(flat, type=kind.storage_type)
            arrays.append(pa.ExtensionArray.from_storage(kind, storage))
            if column.scale is not None:
                arrays.append(pa.array(scale, pa.float32()))
        arrays += [column.array(group.values[column.name]) for column in self._values]
        return pa.Table.from_arrays(arrays, names=self._schema.names[: len(arrays)])

    def _write(self, table: pa.Table) -> None:
        arrays = table.columns
        if self._carried is not None:
            arrays += self._carried.slice(self._written, len(table)).columns
        self._written += len(table)
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=ROW_GROUP)
        self.errors.update(kind for kind in table["status"].to_pylist() if kind != OK)
        self.flags.update(table["flags"].to_pylist())


def encode(maps: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Maps [n, h, w] float32 as they are stored, and the scale [n] of each.

    uint8 spreads 0..max over 0..255; float16 takes a power of two, so that nothing but its rounding is lost.
    """
    if dtype == "float32":
        return maps, None
    peak = np.abs(maps).max(axis=(1, 2), initial=0.0)  # [n], NaN where a map has one
    usable = np.isfinite(peak)
    positive = np.where(usable & (peak > 0), peak, 1).astype(np.float64)
    if dtype == "uint8":
        scale = positive / 255
        stored = np.rint(np.where(usable[:, None, None], maps, 0) / scale[:, None, None]).astype(np.uint8)
    else:
        scale = np.exp2(np.maximum(np.floor(np.log2(positive)) - _FLOAT16_TOP, -126))
        stored = (maps / scale[:, None, None]).astype(np.float16)
    return stored, np.where(usable, scale, np.nan).astype(np.float32)


def decode(stored: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """Maps [n, h, w] float32 from what `encode` gave."""
    if scale is None:
        return stored
    return (stored * scale.astype(np.float64)[:, None, None]).astype(np.float32)


def _joined(parts: Sequence[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    lists: list[Any] = [[value for part in parts for value in part[number]] for number in range(_LISTS)]
    joined = [
        {name: np.concatenate([part[name] for part in of]) for name in of[0]}
        for of in ([part.maps for part in parts], [part.values for part in parts])
    ]
    return Rows(*lists, *joined)


def _cut(rows: Rows, start: int, stop: int) -> Rows:
    lists: tuple[Any, ...] = rows[:_LISTS]
    cut = [{name: values[start:stop] for name, values in of.items()} for of in (rows.maps, rows.values)]
    return Rows(*(values[start:stop] for values in lists), *cut)
