"""`status` and `verify`: what is in the folder of a run, from its files alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...pictures.decode import FLAGS
from ...readable import counted, some
from ..files import plan_file, urls
from ..files.plan_file import AGAIN
from ..files.publish import sha256
from ..files.run import BUSY, Marker, Run, ShardSpec
from ..files.shards import OK, marker_path, read_columns, schema, shard_path
from ..sources.hashes import hashes
from ..sources.open import open_source
from ..sources.source import Item, Source
from .row_groups import maps_of

KNOWN = re.compile(r"run\.json|plan(-\d{6,})?\.parquet|report\.html|shards/part-\d{6,}\.parquet|markers/\d{6,}\.json")
STUDY = re.compile(r"(study|groups)\.json|before\.npz|index\.html|(tables|figures)/[^/]+\.(md|csv|tex|png|svg)")


@dataclass(frozen=True)
class Finding:
    """Something about one file of a run.

    Attributes:
        path: the file, below the folder of the run.
        what: what is the matter with it.
        repair: what to do about it.
    """

    path: str
    what: str
    repair: str


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        out: its folder.
        source, model, methods, layers, fingerprint: what it computes.
        columns: its columns of maps, each with the (h, w) of its maps.
        images, shards: how many are planned.
        images_done, shards_done: how many are finished; an image that cannot be read is finished too, with its error.
        ok: finished images with maps.
        errors: finished images without, by the kind of the error.
        flags: finished images by what is remarkable about them.
        bytes: of the finished shards.
        seconds: of all workers together, by stage, with "wait" (for images) and "total".
        rates: finished images per second of each stage, over all workers together.
        pending: the numbers of the shards that are not finished.
        damaged: finished shards that do not agree with what was said of them when they were written; their size is
            looked at, `verify` reads all of them.
        leftovers: files that no finished shard needs, of a run that is under way or was killed.
    """

    out: str
    source: str
    model: str
    methods: tuple[str, ...]
    layers: tuple[str, ...]
    fingerprint: str
    columns: dict[str, tuple[int, int]]
    images: int
    shards: int
    images_done: int
    shards_done: int
    ok: int
    errors: dict[str, int]
    flags: dict[str, int]
    bytes: int
    seconds: dict[str, float]
    rates: dict[str, float]
    pending: tuple[int, ...]
    damaged: tuple[Finding, ...]
    leftovers: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not self.pending

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "complete": self.complete}


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        out: the folder of the run.
        images, shards: how many are planned.
        images_checked, shards_checked: how many were read again, byte by byte.
        pictures_compared: how many pictures of the source were read again and compared with the hash in their row.
        problems: what is wrong. A run without any holds every finished row as it was computed, once and in order.
        pending: the numbers of the shards that are not finished, which is no problem in itself.
        notes: what is harmless, such as leftovers of a killed run.
    """

    out: str
    images: int
    shards: int
    images_checked: int = 0
    shards_checked: int = 0
    problems: tuple[Finding, ...] = field(default=())
    pending: tuple[int, ...] = field(default=())
    notes: tuple[Finding, ...] = field(default=())
    pictures_compared: int = 0

    @property
    def ok(self) -> bool:
        """Nothing is wrong with what is there; `complete` tells whether all is there."""
        return not self.problems

    @property
    def complete(self) -> bool:
        return not self.pending

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok, "complete": self.complete}


def status(out: str | Path) -> Status:
    """How far a run is, and how fast it was, by stage; from the markers, without reading a shard.

    Raises:
        FileNotFoundError: there is no run in this folder.
        ValueError: run.json cannot be understood.
    """
    run = Run.open(out)
    done = run.done()
    images_done = sum(marker.rows for marker in done.values())
    seconds = _sum(marker.seconds for marker in done.values())
    damaged = [_damaged(run, spec) for spec in run.shards if spec.index not in done]
    return Status(
        out=str(run.out),
        source=", ".join(dict.fromkeys(part.named for part in run.parts)),
        model=run.file.about.model,
        methods=tuple(run.record.methods),
        layers=tuple(dict.fromkeys(column.layer for column in run.columns)),
        fingerprint=run.fingerprint,
        columns={column.name: column.shape for column in run.columns},
        images=run.n_items,
        shards=len(run.shards),
        images_done=images_done,
        shards_done=len(done),
        ok=sum(marker.ok for marker in done.values()),
        errors=_sum(marker.errors for marker in done.values()),
        flags=_sum(marker.flags for marker in done.values()),
        bytes=sum(marker.bytes for marker in done.values()),
        seconds=seconds,
        rates={stage: images_done / seconds[stage] for stage in (*BUSY, "total") if seconds.get(stage)},
        pending=tuple(spec.index for spec in run.shards if spec.index not in done),
        damaged=tuple(found for found in damaged if found is not None),
        leftovers=tuple(finding.path for finding in _leftovers(run)),
    )


def verify(
    out: str | Path, progress: Callable[[int, int], None] | None = None, *, source: str | Source | None = None
) -> Verification:
    """Read every finished shard again, and compare it with its marker and with the plan.

    The plan must be that of the record. Each shard must have the size and the SHA-256 that its marker says, the columns
    of the run, and every key of its part of the plan, once and in order, with a map for each image without an error and
    NaN for the others. With a source, each of its pictures must have the hash that its row says.

    Args:
        out: the folder of the run.
        progress: called with the number of shards looked at and of all shards.
        source: the pictures of the run, named as for `tsm-fast extract`, or from this program; read again.

    Raises:
        FileNotFoundError: there is no run in this folder.
        ValueError: run.json cannot be understood, there is no such source, or the run keeps no hashes of pictures.
    """
    run = Run.open(out)
    keys, problems = _plan_keys(run)
    problems += _homeless(run)
    pictures = None if source is None else _Pictures(run, source)
    checked, rows = 0, 0
    marked = urls.sizes(run.out / "markers")
    pending = [spec.index for spec in run.shards if marker_path("", spec.index).name not in marked]
    left = frozenset(pending)

    def look(spec: ShardSpec) -> Finding | None:
        return None if spec.index in left else _check_shard(run, spec, keys)

    for number, (spec, found) in enumerate(zip(run.shards, urls.each(run.out, look, run.shards), strict=True)):
        if spec.index in left:
            pass
        elif found is not None:
            problems.append(found)
        else:
            checked, rows = checked + 1, rows + spec.stop - spec.start
            problems += [] if pictures is None else pictures.compare(spec)
        if progress is not None:
            progress(number + 1, len(run.shards))
    return Verification(
        out=str(run.out),
        images=run.n_items,
        shards=len(run.shards),
        images_checked=rows,
        shards_checked=checked,
        problems=tuple(problems),
        pending=tuple(pending),
        notes=tuple(_leftovers(run)),
        pictures_compared=0 if pictures is None else pictures.compared,
    )


class _Pictures:
    """The pictures of a source as they are now, beside those that a run has the maps of."""

    def __init__(self, run: Run, source: str | Source) -> None:
        if run.file.evidence is None:
            raise ValueError(
                f"{run.out} has format version {run.file.version}, whose rows keep no hashes of their pictures: it can "
                "be verified without SOURCE only"
            )
        self._run, self.compared = run, 0
        self._source = open_source(source) if isinstance(source, str) else source
        self._items: dict[str, Item] = {item.key: item for item in self._source.items()}
        parts = range(len(run.parts))
        self._parts = [part for part in parts if not run.added or self._has(plan_file.keys(run.out, part))]

    def _has(self, keys: pa.Array) -> bool:
        """Whether the source knows any of these."""
        return any(key in self._items for key in keys.to_pylist())

    def compare(self, spec: ShardSpec) -> Iterator[Finding]:
        """The pictures of a shard that are other ones now. A row without a hash had no picture that could be read.

        Parts of the run whose pictures are of other sources are passed over.
        """
        if spec.part not in self._parts:
            return
        shard = str(shard_path("", spec.index))
        rows = zip(*read_columns(self._run.out, spec.index, ["key", "sha256", "status"]), strict=True)
        known = [(key, sha, status) for key, sha, status in rows if sha]
        present = list(hashes(self._source, (self._items.get(key) for key, _, _ in known)))
        self.compared += len(known)
        changed = [row for row, now in zip(known, present, strict=True) if now not in (None, row[1])]
        if repaired := [key for key, _, status in changed if status != OK]:
            yield Finding(
                shard,
                f"{counted(len(repaired), 'picture')} without a map {'was' if len(repaired) == 1 else 'were'} replaced "
                f"since: {some(repaired)}",
                "the command of the run with --retry-errors computes these rows again",
            )
        if other := [key for key, _, status in changed if status == OK]:
            was = "was replaced since it was" if len(other) == 1 else "were replaced since they were"
            yield Finding(
                shard,
                f"{counted(len(other), 'picture')} {was} computed: {some(other)}",
                "put back what was computed, or start a run in another folder",
            )
        gone = [key for (key, _, _), now in zip(known, present, strict=True) if now is None]
        if gone and not any(key in self._items for key in gone):
            lacks = f"the source lacks {'it' if len(gone) == 1 else 'them'}"
            yield Finding(
                shard,
                f"{counted(len(gone), 'picture')} cannot be read there: {some(gone)}: {lacks}, its keys are such "
                f"as {some([min(self._items)])}",
                "put back what is gone, or name the source that the run was made of",
            )
        elif gone:
            yield Finding(
                shard,
                f"{counted(len(gone), 'picture')} cannot be read there: {some(gone)}",
                "name the source where they are, with --root for a list or manifest whose paths go from another folder",
            )


def _plan_keys(run: Run) -> tuple[pa.Array | None, list[Finding]]:
    """The planned keys, and what is wrong with the plan of one of its parts."""
    known, problems = list[pa.Array](), list[Finding]()
    for number, part in enumerate(run.parts):
        name, repair = plan_file.path("", number).name, plan_file.anew(number)
        try:
            keys, found = plan_file.keys(run.out, number), plan_file.digests(run.out, number)
        except (OSError, ValueError) as error:
            return None, [Finding(name, f"cannot be read: {error}", repair)]
        if len(keys) != part.source.items:
            return None, [Finding(name, f"must have {part.source.items} rows, got {len(keys)}", repair)]
        if len(keys.unique()) != len(keys):
            problems.append(Finding(name, "lists a key twice", repair))
        elif not plan_file.belongs(found, part):
            where = "run.json" if number == 0 else "its own record"
            problems.append(Finding(name, f"is not that of the run: its hashes are not those in {where}", repair))
        known.append(keys)
    return pa.concat_arrays(known), problems


def _homeless(run: Run) -> Iterator[Finding]:
    """Markers of shards that are not planned: the plan of a part is gone."""
    for name in sorted(urls.sizes(run.out / "markers")):
        number = name.removesuffix(".json")
        if number != name and number.isdecimal() and int(number) >= len(run.shards):
            lost = plan_file.path("", len(run.parts)).name
            yield Finding(
                f"markers/{name}",
                f"is of no shard of the run, whose {lost} is gone",
                f"put {lost} back, or add the same pictures again: their shards stay",
            )


def _check_shard(run: Run, spec: ShardSpec, keys: pa.Array | None) -> Finding | None:
    """The first thing that is wrong with a finished shard."""
    file = str(shard_path("", spec.index))
    try:
        marker = _read_marker(run, spec)
        path = shard_path(run.out, spec.index)
        _expect("bytes", path.stat().st_size, marker.bytes)
        _expect("SHA-256", sha256(path), marker.sha256)
        with urls.parquet(path) as shard:
            _check_rows(run, spec, marker, shard, keys)
    except _Wrong as wrong:
        return Finding(file, str(wrong), _repair(run, spec))
    except FileNotFoundError:
        return Finding(file, "is marked as finished, but not there", _repair(run, spec))
    except (OSError, pa.ArrowException) as error:
        return Finding(file, f"cannot be read: {error}", _repair(run, spec))
    return None


class _Wrong(Exception):
    """What a shard or its marker has, against what it must have."""


def _expect(what: str, got: Any, needed: Any) -> None:
    if got != needed:
        raise _Wrong(f"{what} must be {needed}, got {got}")


def _read_marker(run: Run, spec: ShardSpec) -> Marker:
    name = marker_path(run.out, spec.index).name
    try:
        marker = Marker.read(marker_path(run.out, spec.index))
    except ValueError as error:
        raise _Wrong(f"its marker {name} cannot be understood: {error!r}") from None
    _expect(f"fingerprint in its marker {name}", marker.fingerprint, spec.fingerprint)
    _expect(f"shard in its marker {name}", marker.shard, spec.index)
    _expect(f"rows in its marker {name}", marker.rows, spec.stop - spec.start)
    return marker


def _check_rows(run: Run, spec: ShardSpec, marker: Marker, shard: pq.ParquetFile, keys: pa.Array | None) -> None:
    for column in schema(run.columns, {}, values=run.record.values):
        there = [other.type for other in shard.schema_arrow if other.name == column.name]
        if not there and (run.file.version > 1 or column.name not in ("bytes", "sha256")):
            raise _Wrong(f"column {column.name!r} is not there")
        if there not in ([], [column.type]):
            raise _Wrong(f"column {column.name!r} must be {column.type}, once, got {', '.join(map(str, there))}")
    _expect("number of rows", shard.metadata.num_rows, spec.stop - spec.start)
    row, statuses, flags = spec.start, Counter(), Counter()
    carried = plan_file.carried(run.out, spec.part, spec.group) if keys is not None else None
    for group in range(shard.num_row_groups):
        table = shard.read_row_group(group)
        n = table.num_rows
        if table["index"].to_pylist() != list(range(row, row + n)):
            raise _Wrong(f"rows {row}..{row + n - 1} are not numbered in order")
        if keys is not None and not table["key"].combine_chunks().equals(keys.slice(row, n)):
            raise _Wrong(f"keys of rows {row}..{row + n - 1} are not those of the plan")
        if carried is not None:
            _check_carried(carried.slice(row - spec.start, n), table, row)
        _check_maps(run, table, row)
        statuses.update(table["status"].to_pylist())
        flags.update(name for bits in table["flags"].to_pylist() for name, bit in FLAGS.items() if bits & bit)
        row += n
    _expect("rows without an error", statuses.pop(OK, 0), marker.ok)
    _expect("errors", dict(sorted(statuses.items())), dict(sorted(marker.errors.items())))
    _expect("flags", dict(sorted(flags.items())), dict(sorted(marker.flags.items())))


def _check_maps(run: Run, table: pa.Table, row: int) -> None:
    """Every row without an error has its maps, and every other one NaN."""
    ok = np.array(table["status"].to_pylist()) == OK
    for column in run.columns:
        finite = np.isfinite(maps_of(table, column))
        wrong = np.where(ok, ~finite.all((1, 2)), finite.any((1, 2)))
        for number in wrong.nonzero()[0][:1]:
            what = "has no map" if ok[number] else "has an error and a map"
            raise _Wrong(f"row {row + number} {what} in {column.name!r}")


def _check_carried(planned: pa.Table, table: pa.Table, row: int) -> None:
    for name in planned.column_names:
        there, here = planned[name], table[name] if name in table.column_names else None
        # Text tells what `equals` does not: that a NaN is the same NaN.
        if here is None or not (there.equals(here) or str(there.to_pylist()) == str(here.to_pylist())):
            raise _Wrong(f"column {name!r} of rows {row}..{row + table.num_rows - 1} is not that of the plan")


def _damaged(run: Run, spec: ShardSpec) -> Finding | None:
    """A shard that has a marker and yet does not count as finished."""
    if not marker_path(run.out, spec.index).exists():
        return None
    file = str(shard_path("", spec.index))
    return Finding(file, "does not agree with its marker", _repair(run, spec))


def _repair(run: Run, spec: ShardSpec) -> str:
    marker = marker_path("", spec.index)
    return f"delete {marker} and {AGAIN}: this shard is computed again, the others stay"


def _leftovers(run: Run) -> Iterator[Finding]:
    """Files that are no part of the run, or not yet."""
    there = dict.fromkeys(urls.below(run.out))
    for name in there:
        if not (KNOWN.fullmatch(name) or (run.record.computation is not None and STUDY.fullmatch(name))):
            yield Finding(name, "is no file of the run", "a run that is under way may be writing it; else delete it")
        elif name.startswith("shards/") and marker_path("", int(name[12:-8])).as_posix() not in there:
            yield Finding(name, "has no marker, so it does not count as finished", f"{AGAIN}: it is written again")


def _sum(tables: Any) -> dict[str, Any]:
    total: Counter[str] = Counter()
    for table in tables:
        total.update(table)
    return dict(total)
