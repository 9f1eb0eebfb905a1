"""The files of a run, for reading: row groups of its shards as arrays, lazily and from any thread or process."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ..errors import Unfinished
from ..files import plan_file
from ..files.plan_file import AGAIN
from ..files.run import Run
from ..files.shards import ROW_GROUP, MapColumn, damaged, decode, shard_path
from ..files.urls import parquet
from ..sources.keys import encode_key
from .joined import check_joinable

MISSING = "missing"  # the status of a row whose shard is not finished
EMPTY = (("height", 0), ("width", 0), ("bytes", 0), ("sha256", ""), ("flags", 0))  # what stands for null
CACHE_BYTES = 2**24  # of maps that each thread keeps


class About(NamedTuple):
    """What the rows of a block say beside their maps, column by column."""

    index: list[int]
    key: list[str]
    status: list[str]
    error: list[str]
    height: list[int]
    width: list[int]
    bytes: list[int]
    sha256: list[str]
    flags: list[int]


class Block(NamedTuple):
    """The rows of one row group."""

    about: About
    maps: dict[str, np.ndarray]  # column -> [n, h, w] float32


class Home(NamedTuple):
    """Where a shard is."""

    run: int
    index: int  # in that run
    shift: int  # rows of the runs before it


class Plan(NamedTuple):
    """The plan of a part of a run, sorted by key, and its rows."""

    out: Path
    part: int
    start: int
    stop: int


class Store:
    """Reads some map columns of a run, or of several as one. Which of the shards are finished is looked up once.

    Rows and shards are numbered through all runs.
    """

    def __init__(self, paths: Sequence[str | Path], columns: str | Sequence[str] | None = None) -> None:
        runs = [Run.open(path) for path in paths]
        if len(runs) > 1:
            check_joinable(runs)
        self.outs: list[Path] = [run.out for run in runs]
        self.n_items: int = sum(run.n_items for run in runs)
        self.columns: dict[str, MapColumn] = _matching(columns, {column.name: column for column in runs[0].columns})
        self._homes: list[Home] = []
        self._plans: list[Plan] = []
        starts, done, row = list[int](), set[int](), 0
        for number, run in enumerate(runs):
            finished, shift = run.done(), row
            done.update(len(self._homes) + index for index in finished)
            self._homes += [Home(number, spec.index, shift) for spec in run.shards]
            starts += [shift + spec.start for spec in run.shards]
            for part_number, part in enumerate(run.parts):
                self._plans.append(Plan(run.out, part_number, row, row + part.source.items))
                row += part.source.items
        self._starts = np.array([*starts, self.n_items])
        self.done: frozenset[int] = frozenset(done)
        self._kept = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read: it is read again where it is needed."""
        return {name: value for name, value in vars(self).items() if name not in ("_kept", "keys")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _kept=threading.local())

    @cached_property
    def keys(self) -> pa.Array:
        """The keys of all planned rows, in order."""
        keys = [self._keys_of(plan) for plan in self._plans]
        return pa.concat_arrays(keys) if len(keys) > 1 else keys[0]

    def _keys_of(self, plan: Plan) -> pa.Array:
        keys = plan_file.keys(plan.out, plan.part)
        if len(keys) != plan.stop - plan.start:
            raise ValueError(
                f"{plan_file.path(plan.out, plan.part)} must have {plan.stop - plan.start} rows, got {len(keys)}: "
                f"`tsm-fast verify {plan.out}` tells how to repair it"
            )
        return keys

    def carried(self) -> pa.Table | None:
        """The columns of the source of all planned rows; None where there are none."""
        tables = [plan_file.carried(plan.out, plan.part) for plan in self._plans]
        return pa.concat_tables([table for table in tables if table is not None]) if tables[0] is not None else None

    def finished_rows(self) -> np.ndarray | range:
        """The rows of the finished shards."""
        if len(self.done) == len(self._homes):
            return range(self.n_items)
        ranges = [np.arange(*self.bounds(shard)) for shard in sorted(self.done)]
        return np.concatenate(ranges) if ranges else range(0)

    def bounds(self, shard: int) -> tuple[int, int]:
        """The first row of a shard, and the one after its last."""
        return int(self._starts[shard]), int(self._starts[shard + 1])

    def find(self, key: str) -> int:
        """The row of a key, or of the file name that it stands for; KeyError where it is not listed."""
        text = key if _is_text(key) else encode_key(key)
        for plan in self._plans:
            rows = range(plan.start, plan.stop)
            row = plan.start + bisect_left(rows, text, key=lambda number: self.keys[number].as_py())
            if row < plan.stop and self.keys[row].as_py() == text:
                return row
        hint = f"; the first one is {self.keys[0].as_py()!r}" if self.n_items else ""
        raise KeyError(f"{key}: no row has this key{hint}")

    def places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The shard, the row group and the position in it, for each row."""
        shard = np.searchsorted(self._starts, rows, side="right") - 1
        return shard, *np.divmod(rows - self._starts[shard], ROW_GROUP)

    def block(self, shard: int, group: int) -> Block:
        """A row group, from memory where this thread has read it lately; LookupError where it is not finished."""
        if shard not in self.done:
            home = self._homes[shard]
            first, end = (row - home.shift for row in self.bounds(shard))
            raise Unfinished(
                f"rows {first}..{end - 1} of {self.outs[home.run]} are not computed yet (shard {home.index}; "
                f"{len(self.done):,} of {len(self._homes):,} shards are done): {AGAIN}, or leave them out with "
                "missing='skip', or take maps of NaN with missing='nan'"
            )
        kept: OrderedDict[tuple[int, int], Block] = vars(self._kept).setdefault("blocks", OrderedDict())
        if (block := kept.pop((shard, group), None)) is None:
            block = self._read(shard, group)
        kept[shard, group] = block
        size = sum(maps.nbytes for maps in block.maps.values())
        while len(kept) > 1 and len(kept) * size > CACHE_BYTES:
            kept.popitem(last=False)
        return block

    def absent(self, shard: int, group: int) -> Block:
        """What stands for a row group that is not computed: its keys, and maps of NaN."""
        first, end = self.bounds(shard)
        start = first + group * ROW_GROUP
        n = min(ROW_GROUP, end - start)
        keys = self.keys.slice(start, n).to_pylist()
        known = {"index": list(range(start, start + n)), "key": keys, "status": [MISSING] * n}
        about = About(**{**known, "error": ["not computed yet"] * n, **{name: [value] * n for name, value in EMPTY}})
        maps = {name: np.full((n, *c.shape), np.nan, np.float32) for name, c in self.columns.items()}
        return Block(about, maps)

    def _read(self, shard: int, group: int) -> Block:
        home = self._homes[shard]
        out = self.outs[home.run]
        path = shard_path(out, home.index)
        try:
            with parquet(path) as file:
                stored = [name for c in self.columns.values() for name in (c.name, c.scale) if name is not None]
                about = [name for name in About._fields if name in file.schema_arrow.names]  # version 1 has fewer
                table = file.read_row_group(group, [*about, *stored], use_threads=False)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowInvalid) as error:
            raise damaged(path, out, error) from error
        known = {name: table[name].to_pylist() for name in about}
        known["index"] = [home.shift + index for index in known["index"]]
        for name, empty in (("error", ""), *EMPTY):
            values = known.get(name, [None] * table.num_rows)
            known[name] = [empty if value is None else value for value in values]
        return Block(About(**known), {name: maps_of(table, column) for name, column in self.columns.items()})


def maps_of(table: pa.Table, column: MapColumn) -> np.ndarray:  # [n, h, w] float32
    """The maps of some rows as they were before they were stored as float16 or uint8; NaN for error rows."""
    stored = table[column.name].combine_chunks().to_numpy_ndarray()
    return decode(stored, None if column.scale is None else table[column.scale].to_numpy())


def _matching(wanted: str | Sequence[str] | None, columns: dict[str, MapColumn]) -> dict[str, MapColumn]:
    """The columns of some names or globs, in the order of these; all for None."""
    if wanted is None:
        return columns
    patterns = [wanted] if isinstance(wanted, str) else list(wanted)
    found: dict[str, MapColumn] = {}
    for pattern in patterns:
        names = [pattern] if pattern in columns else [name for name in columns if fnmatchcase(name, pattern)]
        if not names:
            raise ValueError(f"columns must be of {', '.join(map(repr, columns))}, got {pattern!r}")
        found.update({name: columns[name] for name in names})
    if not found:
        raise ValueError("columns must name at least one column, got none")
    return found


def _is_text(key: str) -> bool:
    """Whether a key has no byte of a file name that is not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in key)
