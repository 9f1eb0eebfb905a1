"""plan.parquet: the frozen listing, one row group for each shard."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..sources.source import Item, Stamp
from . import publish

NAME = "plan.parquet"
_ITEM, _STAMP = ["key", "path", "offset", "size"], ["file_bytes", "file_mtime"]
_SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("file_bytes", pa.int64()),
        pa.field("file_mtime", pa.int64()),
    ]
)
_VERSION_1 = pa.schema(list(_SCHEMA)[:5])


class Digests(NamedTuple):
    """What a plan holds: its rows, and the hashes of the listing and of the sizes and times of the files."""

    rows: int
    listing: str
    stamps: str


def write(out: Path, items: Sequence[Item], stamps: Sequence[Stamp] | None, shard_size: int) -> None:
    """Publish the plan of a run."""
    columns = list(zip(*items, strict=True)) + list(zip(*(stamps or [Stamp(None, None)] * len(items)), strict=True))
    table = pa.Table.from_arrays(
        [pa.array(values, field.type) for values, field in zip([range(len(items)), *columns], _SCHEMA, strict=True)],
        schema=_SCHEMA,
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=shard_size, write_page_checksum=True)
    publish.publish_bytes(out / NAME, buffer.getvalue())


def read(out: Path, shard: int) -> list[Item]:
    """The items of a shard."""
    with _open(out) as file:
        return _items(file.read_row_group(shard, columns=_ITEM))


def keys(out: Path) -> pa.Array:
    """All keys, in order."""
    with _open(out) as file:
        return file.read(["key"])["key"].combine_chunks()


def stamps(out: Path) -> list[Stamp]:
    """The sizes and times of all files when the run was planned."""
    with _open(out) as file:
        table = file.read(_STAMP)
    return [Stamp(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]


def digests(out: Path) -> Digests:
    """The hashes of the plan in a folder."""
    listing, files, rows = hashlib.sha256(), hashlib.sha256(), 0
    with _open(out) as file:
        stamped = _STAMP[0] in file.schema_arrow.names
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=_ITEM + _STAMP * stamped)
            rows += table.num_rows
            _update(listing, _items(table.select(_ITEM)))
            if stamped:
                _update(files, zip(*(table[name].to_pylist() for name in _STAMP), strict=True))
    return Digests(rows, listing.hexdigest(), files.hexdigest())


def digest(rows: Iterable[tuple[str | int | None, ...]]) -> str:
    """sha256 of a listing, or of sizes and times."""
    sha = hashlib.sha256()
    _update(sha, rows)
    return sha.hexdigest()


@contextmanager
def _open(out: Path) -> Iterator[pq.ParquetFile]:
    """ValueError, with a way out, for what is no plan."""
    path = out / NAME
    again = "delete it and run the same `tsm-fast extract` command again, which writes it anew"
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if file.schema_arrow not in (_SCHEMA, _VERSION_1):
                raise ValueError(f"its columns must be {', '.join(_SCHEMA.names)}, got {file.schema_arrow}")
            yield file
    except FileNotFoundError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}; {again}") from None


def _items(table: pa.Table) -> list[Item]:
    return [Item(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]


def _update(sha: hashlib._Hash, rows: Iterable[tuple[str | int | None, ...]]) -> None:
    for row in rows:
        sha.update(repr(tuple(row)).encode())
