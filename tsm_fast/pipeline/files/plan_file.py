"""plan.parquet: the frozen listing, one row group for each shard."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..sources.source import Item
from . import publish

NAME = "plan.parquet"
_SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
    ]
)


def write(out: Path, items: Sequence[Item], shard_size: int) -> None:
    """Publish the plan of a run."""
    columns = list(zip(*items, strict=True))
    table = pa.Table.from_arrays(
        [pa.array(values, field.type) for values, field in zip([range(len(items)), *columns], _SCHEMA, strict=True)],
        schema=_SCHEMA,
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=shard_size, write_page_checksum=True)
    publish.publish_bytes(out / NAME, buffer.getvalue())


def read(out: Path, shard: int) -> list[Item]:
    """The items of a shard."""
    with pq.ParquetFile(out / NAME, page_checksum_verification=True) as file:
        table = file.read_row_group(shard, columns=["key", "path", "offset", "size"])
    return [Item(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]


def keys(out: Path) -> list[str]:
    """All keys, in order."""
    return pq.read_table(out / NAME, columns=["key"])["key"].to_pylist()


def digest(items: Sequence[Item]) -> str:
    """sha256 of a listing."""
    sha = hashlib.sha256()
    for item in items:
        sha.update(repr(tuple(item)).encode())
    return sha.hexdigest()
