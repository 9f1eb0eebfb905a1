"""plan.parquet: the frozen listing, one row group for each shard."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..sources.source import Item
from . import publish

NAME = "plan.parquet"
SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
    ]
)

_CARRIED = {b"tsm_fast": b"carried"}  # what the metadata of such a column say


def write(out: Path, items: Sequence[Item], shard_size: int, carried: pa.Table | None = None) -> None:
    """Publish the plan of a run, with the columns that are carried along."""
    columns = list(zip(*items, strict=True))
    table = pa.Table.from_arrays(
        [pa.array(values, field.type) for values, field in zip([range(len(items)), *columns], SCHEMA, strict=True)],
        schema=SCHEMA,
    )
    if carried is not None:
        for field, column in zip(carried.schema, carried.columns, strict=True):
            table = table.append_column(field.with_metadata({**(field.metadata or {}), **_CARRIED}), column)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=shard_size, write_page_checksum=True)
    publish.publish_bytes(out / NAME, buffer.getvalue())


def read(out: Path, shard: int) -> list[Item]:
    """The items of a shard."""
    with pq.ParquetFile(out / NAME, page_checksum_verification=True) as file:
        table = file.read_row_group(shard, columns=["key", "path", "offset", "size"])
    return [Item(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]


def carried(out: Path, shard: int | None = None) -> pa.Table | None:
    """The columns of a source that are carried along, for a shard or for all; None where there are none."""
    with pq.ParquetFile(out / NAME, page_checksum_verification=True) as file:
        names = [field.name for field in file.schema_arrow if _CARRIED.items() <= (field.metadata or {}).items()]
        if not names:
            return None
        table = file.read(names) if shard is None else file.read_row_group(shard, names)
    fields = [field.with_metadata(_without_mark(field)) for field in table.schema]
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields))


def _without_mark(field: pa.Field) -> dict[bytes, bytes]:
    return {
        name: value for name, value in (field.metadata or {}).items() if name not in (*_CARRIED, b"PARQUET:field_id")
    }


def record(carried: pa.Table) -> dict[str, Any]:
    """Names, types and a digest of columns that are carried along."""
    sha = hashlib.sha256()
    for column in carried.columns:
        values = column if pa.types.is_nested(column.type) else column.cast(pa.string())
        for value in values.to_pylist():
            sha.update(repr(value).encode() + b"\0")
    return {"columns": {field.name: str(field.type) for field in carried.schema}, "sha256": sha.hexdigest()}


def keys(out: Path) -> list[str]:
    """All keys, in order."""
    return pq.read_table(out / NAME, columns=["key"])["key"].to_pylist()


def digest(items: Sequence[Item]) -> str:
    """sha256 of a listing."""
    sha = hashlib.sha256()
    for item in items:
        sha.update(repr(tuple(item)).encode())
    return sha.hexdigest()
