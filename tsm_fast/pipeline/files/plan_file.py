"""plan.parquet: the frozen listing, one row group for each shard."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..sources.source import Item, Stamp
from . import publish, urls
from .record import RunFile

NAME = "plan.parquet"
_ITEM, _STAMP = ["key", "path", "offset", "size"], ["file_bytes", "file_mark"]
SCHEMA = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("file_bytes", pa.int64()),
        pa.field("file_mark", pa.int64()),
    ]
)
_VERSION_1 = pa.schema(list(SCHEMA)[:5])

AGAIN = "run the same `tsm-fast extract` command again"
ANEW = f"delete it and {AGAIN}, which writes it anew"

_CARRIED = {b"tsm_fast": b"carried"}  # what the metadata of such a column say


class Digests(NamedTuple):
    """What a plan holds: rows, the hashes of the listing and of the stamps of the files, and what is carried."""

    rows: list[int]  # of each row group
    listing: str
    stamps: str
    carried: dict[str, Any] | None


def write(
    out: Path,
    items: Sequence[Item],
    stamps: Sequence[Stamp] | None,
    shard_size: int,
    carried: pa.Table | None = None,
) -> None:
    """Publish the plan of a run, with the columns that are carried along."""
    columns = list(zip(*items, strict=True)) + list(zip(*(stamps or [Stamp(None, None)] * len(items)), strict=True))
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
    listing, files, rows = hashlib.sha256(), hashlib.sha256(), list[int]()
    with _open(out) as file:
        stamped = _STAMP[0] in file.schema_arrow.names
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=_ITEM + _STAMP * stamped)
            rows.append(table.num_rows)
            _update(listing, _items(table.select(_ITEM)))
            if stamped:
                _update(files, zip(*(table[name].to_pylist() for name in _STAMP), strict=True))
    known = carried(out)
    return Digests(rows, listing.hexdigest(), files.hexdigest(), None if known is None else record(known))


def belongs(found: Digests, file: RunFile) -> bool:
    """Whether a plan is the one that a run.json tells of."""
    source, evidence, size = file.record.source, file.evidence, file.record.shard_size
    rows = [min(size, source.items - start) for start in range(0, source.items, size)]
    planned = rows, source.listing, None if source.carried is None else asdict(source.carried)
    stamps = None if evidence is None else evidence.stamps
    return (found.rows, found.listing, found.carried) == planned and stamps in (None, found.stamps)


def digest(rows: Iterable[tuple[str | int | None, ...]]) -> str:
    """sha256 of a listing, or of sizes and times."""
    sha = hashlib.sha256()
    _update(sha, rows)
    return sha.hexdigest()


@contextmanager
def _open(out: Path) -> Iterator[pq.ParquetFile]:
    """ValueError, with a way out, for what is no plan."""
    path = out / NAME
    try:
        with urls.parquet(path) as file:
            own = pa.schema([field for field in file.schema_arrow if not _is_carried(field)])
            if own not in (SCHEMA, _VERSION_1):
                raise ValueError(f"its columns must be {', '.join(SCHEMA.names)}, got {file.schema_arrow}")
            yield file
    except FileNotFoundError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}; {ANEW}") from None


def _items(table: pa.Table) -> list[Item]:
    return [Item(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]


def carried(out: Path, shard: int | None = None) -> pa.Table | None:
    """The columns of a source that are carried along, for a shard or for all; None where there are none."""
    with _open(out) as file:
        names = [field.name for field in file.schema_arrow if _is_carried(field)]
        if not names:
            return None
        table = file.read(names) if shard is None else file.read_row_group(shard, names)
    fields = [field.with_metadata(_without_mark(field)) for field in table.schema]
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields))


def _is_carried(field: pa.Field) -> bool:
    return _CARRIED.items() <= (field.metadata or {}).items()


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
    return {"columns": {field.name: str(_stored(field.type)) for field in carried.schema}, "sha256": sha.hexdigest()}


def _stored(kind: pa.DataType) -> pa.DataType:
    """A type as Parquet gives it back: what is in a list is called "element" there."""
    if not pa.types.is_nested(kind):
        return kind
    inner = kind.value_field.with_type(_stored(kind.value_type)).with_name("element")
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inner, kind.list_size)
    return pa.large_list(inner) if pa.types.is_large_list(kind) else pa.list_(inner)


def _update(sha: hashlib._Hash, rows: Iterable[tuple[str | int | None, ...]]) -> None:
    for row in rows:
        sha.update(repr(tuple(row)).encode())
