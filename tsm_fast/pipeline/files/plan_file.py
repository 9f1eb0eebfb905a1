"""plan.parquet: the frozen listing, one row group for each shard.

Pictures that are added to a run have a plan of their own, plan-000001.parquet and so on, whose metadata hold the record
of the part: one file, so that they are planned at once or not at all.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..sources.source import Item, Stamp
from . import parts, publish, urls
from .parts import Part
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
ADDED_ANEW = "delete it and add the same pictures again: it is written anew, and the shards that are there stay"

_ADDED = re.compile(r"plan-([0-9]{6}|[1-9][0-9]{6,})\.parquet")
_PART = b"tsm_fast part"  # under which the metadata of such a file hold its record
_CARRIED = {b"tsm_fast": b"carried"}  # what the metadata of such a column say


class Digests(NamedTuple):
    """What a plan holds: rows, the hashes of the listing and of the stamps of the files, and what is carried."""

    rows: list[int]  # of each row group
    listing: str
    stamps: str
    carried: dict[str, Any] | None


def path(out: str | Path, part: int = 0) -> Path:
    """Where the plan of a part of a run is."""
    return urls.folder(out) / (NAME if part == 0 else f"plan-{part:06d}.parquet")


def anew(part: int) -> str:
    """How a plan is written anew."""
    return ADDED_ANEW if part else ANEW


def write(
    out: Path,
    items: Sequence[Item],
    stamps: Sequence[Stamp] | None,
    shard_size: int,
    carried: pa.Table | None = None,
) -> None:
    """Publish the plan of a run, with the columns that are carried along."""
    publish.publish_bytes(out / NAME, _encoded(planned(items, stamps, carried), shard_size))


def add(out: Path, number: int, part: Part, table: pa.Table) -> None:
    """Publish the plan of an added part; FileExistsError where another one was faster."""
    table = table.replace_schema_metadata({_PART: parts.dump(part)})
    publish.publish_bytes(path(out, number), _encoded(table, part.shard_size), replace=False)


def added(out: Path, file: RunFile) -> tuple[Part, ...]:
    """The parts that were added to the run in a folder.

    Raises:
        ValueError: one of them is broken, was changed, or is gone while later ones are there.
    """
    numbers = {int(found[1]) for name in urls.sizes(out) if (found := _ADDED.fullmatch(name))}
    made = [parts.first(file)]
    for number in range(1, len(numbers) + 1):
        if number not in numbers:
            raise ValueError(f"{path(out, number)} is gone, and later parts of the run are there: put it back")
        with _open(out, number) as plan:
            made.append(parts.load((plan.schema_arrow.metadata or {}).get(_PART, b"null"), made[-1]))
    return tuple(made[1:])


def planned(
    items: Sequence[Item], stamps: Sequence[Stamp] | None, carried: pa.Table | None, first: int = 0
) -> pa.Table:
    """The rows of a plan, numbered from `first`."""
    columns = list(zip(*items, strict=True)) + list(zip(*(stamps or [Stamp(None, None)] * len(items)), strict=True))
    table = pa.Table.from_arrays(
        [
            pa.array(values, field.type)
            for values, field in zip([range(first, first + len(items)), *columns], SCHEMA, strict=True)
        ],
        schema=SCHEMA,
    )
    if carried is not None:
        for field, column in zip(carried.schema, carried.columns, strict=True):
            table = table.append_column(field.with_metadata({**(field.metadata or {}), **_CARRIED}), column)
    return table


def _encoded(table: pa.Table, shard_size: int) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=shard_size, write_page_checksum=True)
    return buffer.getvalue()


def read(out: Path, group: int, part: int = 0) -> list[Item]:
    """The items of a row group, which are those of a shard."""
    with _open(out, part) as file:
        return _items(file.read_row_group(group, columns=_ITEM))


def items(out: Path, part: int = 0) -> list[Item]:
    """All items of a part."""
    with _open(out, part) as file:
        return _items(file.read(_ITEM))


def keys(out: Path, part: int = 0) -> pa.Array:
    """All keys of a part, in order."""
    with _open(out, part) as file:
        return file.read(["key"])["key"].combine_chunks()


def table(out: Path, part: int = 0) -> pa.Table:
    """All of a plan."""
    with _open(out, part) as file:
        return file.read()


def places(keys: pa.Array, among: pa.Array) -> pa.Array:
    """The number of each key among others; null where it is not there."""
    return pc.call_function("index_in", [keys], pc.SetLookupOptions(value_set=among))


def stamps(out: Path, part: int, rows: Sequence[int]) -> list[Stamp]:
    """The sizes and times of the files of some rows of a part when it was planned."""
    with _open(out, part) as file:
        table = file.read(_STAMP).take(pa.array(rows, pa.int64()))
    return [Stamp(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]


def digests(out: Path, part: int = 0) -> Digests:
    """The hashes of a plan in a folder."""
    listing, files, rows = hashlib.sha256(), hashlib.sha256(), list[int]()
    with _open(out, part) as file:
        stamped = _STAMP[0] in file.schema_arrow.names
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=_ITEM + _STAMP * stamped)
            rows.append(table.num_rows)
            _update(listing, _items(table.select(_ITEM)))
            if stamped:
                _update(files, zip(*(table[name].to_pylist() for name in _STAMP), strict=True))
    known = carried(out, part)
    return Digests(rows, listing.hexdigest(), files.hexdigest(), None if known is None else record(known))


def belongs(found: Digests, part: Part) -> bool:
    """Whether a plan is the one that the record of a part tells of."""
    source, size = part.source, part.shard_size
    rows = [min(size, source.items - start) for start in range(0, source.items, size)]
    planned = rows, source.listing, None if source.carried is None else asdict(source.carried)
    return (found.rows, found.listing, found.carried) == planned and part.stamps in (None, found.stamps)


def digest(rows: Iterable[tuple[str | int | None, ...]]) -> str:
    """sha256 of a listing, or of sizes and times."""
    sha = hashlib.sha256()
    _update(sha, rows)
    return sha.hexdigest()


@contextmanager
def _open(out: Path, part: int) -> Iterator[pq.ParquetFile]:
    """ValueError, with a way out, for what is no plan."""
    try:
        with urls.parquet(path(out, part)) as file:
            own = pa.schema([field for field in file.schema_arrow if not _is_carried(field)])
            if own not in (SCHEMA, _VERSION_1):
                raise ValueError(f"its columns must be {', '.join(SCHEMA.names)}, got {file.schema_arrow}")
            yield file
    except FileNotFoundError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path(out, part)} cannot be read: {' '.join(str(error).split())}; {anew(part)}") from None


def _items(table: pa.Table) -> list[Item]:
    return [Item(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]


def carried(out: Path, part: int = 0, group: int | None = None) -> pa.Table | None:
    """The columns of a source that are carried along, of a row group or of all; None where there are none."""
    with _open(out, part) as file:
        names = [field.name for field in file.schema_arrow if _is_carried(field)]
        if not names:
            return None
        table = file.read(names) if group is None else file.read_row_group(group, names)
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


def difference(there: pa.Table | None, here: pa.Table | None) -> str | None:
    """Where the columns that are carried along have other names, types or names of classes, in words."""
    pair = [[] if table is None else list(table.schema) for table in (there, here)]
    names = [", ".join(f"{field.name}: {_stored(field.type)}" for field in fields) or "none" for fields in pair]
    if names[0] != names[1]:
        return f"{names[0]} there and {names[1]} here"
    named = [[_without_mark(field) for field in fields] for fields in pair]
    return None if named[0] == named[1] else f"the names of classes in {names[0]} are others"


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
