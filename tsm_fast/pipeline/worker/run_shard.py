"""`run_shard`: from a planned range of images to a published shard of maps."""

from __future__ import annotations

import platform
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..._version import versions
from ...models import Model
from ...pictures.content import Content
from ...pictures.decode import FLAGS, quiet_decoders
from ..computation import Batch, Problem
from ..errors import FingerprintError, ShardFailed, Stopped
from ..files import plan_file, publish
from ..files.run import PACKAGES, STAGES, Marker, Run, ShardSpec, given
from ..files.shards import ALL, OK, Rows, ShardWriter, marker_path, read_columns, shard_path
from ..files.urls import parquet
from ..files.writing import writing
from ..settings import Resources
from ..sources.source import Source
from .inputs import Slot
from .maps import POISON
from .network import Network, network, torch_state
from .threads import Ahead, Behind

WRITES_BEHIND = 2  # micro-batches of maps that wait for the writing thread
AHEAD_BYTES = 256 << 20  # of inputs that wait for the network
NAMED = 5  # error rows that an event names
BLANK = Slot(None, None, None, None, 0, Content(None, None), 0.0)
NOTHING: Mapping[int, Problem] = {}


class Bad(NamedTuple):
    """An error row."""

    key: str
    kind: str
    error: str | None


class Event(NamedTuple):
    """What happened since the last event of this shard."""

    shard: int
    images: int  # rows finished, with those that failed
    errors: int
    seconds: dict[str, float]  # by stage
    bad: tuple[Bad, ...] = ()  # the first few of the errors


class At(NamedTuple):
    """Where a worker is in a shard, said before each step: a sign of life, and a hint if it is the last."""

    shard: int
    rows: tuple[int, ...]  # those that go through the network, then those that may be read meanwhile


def run_shard(
    spec: ShardSpec,
    resources: Resources | None = None,
    *,
    tell: Callable[[Event], None] | None = None,
    alive: Callable[[At], None] | None = None,
    stop: threading.Event | None = None,
    source: Source | None = None,
    model: Model | None = None,
    poison: Mapping[int, Problem] = NOTHING,
    retry: str | None = None,
) -> Marker:
    """Compute and publish one shard, or raise and leave nothing behind.

    The bytes of the shard depend on the plan alone: a second call publishes them again, and returns at once where the
    shard is there, whole. The model stays in memory for the next shard.

    Args:
        spec: which rows of which run.
        resources: how; default `Resources()`.
        tell: told after every micro-batch.
        alive: told before it, and when images were read.
        stop: once set, the shard is given up.
        source, model: needed where `prepare` was given them.
        poison: rows that are not to be computed, and their problems; only those the network raises for are read.
        retry: "all" or a kind of error: of a shard that is there, such error rows are computed again and no others.

    Raises:
        Stopped: `stop` was set.
        ShardFailed: it took longer than `resources.shard_timeout`, or the model failed.
        FingerprintError: the folder holds another run, or the model here is another one.
        ValueError: the run was only opened, or is of an older version of the format.
        OutOfSpace: the disk is full.
        OSError: the folder cannot be written to.
    """
    resources = resources or Resources()
    run = Run.open(spec.out)
    if [known.fingerprint for known in run.shards[spec.index : spec.index + 1]] != [spec.fingerprint]:
        raise FingerprintError(f"{spec.out} holds another run than the one that shard {spec.index} was planned for")
    command = given(spec.command, spec.out)
    present = run.marker(spec.index)
    if present is not None and not run.is_whole(present):
        present = None
    if present is not None and not has_errors(present, retry):
        return present
    path, marked = shard_path(spec.out, spec.index), marker_path(spec.out, spec.index)
    for left in (path, marked):  # by a worker that was killed
        publish.clean(left.parent, left.name)
    with torch_state(resources) as device, quiet_decoders():
        found = network(run, command, device, resources, source, model)
        shard = _Shard(run, spec, found, resources, tell, alive, stop, poison)
        marker = shard.publish(path) if present is None else shard.repair(path, present, retry)
    publish.publish_json(marked, marker.to_json())
    return marker


def has_errors(marker: Marker, kind: str | None) -> bool:
    """Whether a shard has error rows of a kind, or "all" kinds; None is no kind."""
    return bool(marker.errors if kind == ALL else marker.errors.get(kind or ""))


def find_poison(
    spec: ShardSpec,
    rows: Iterable[int],
    resources: Resources | None = None,
    *,
    alive: Callable[[At], None],
    stop: threading.Event | None = None,
    source: Source | None = None,
    model: Model | None = None,
) -> tuple[int, Problem] | None:
    """The first of some rows of a shard that cannot be read or computed in memory; each is read and computed alone.

    Where one of them ends this process or hangs, `alive` was told which; a blank image comes before them, as no row.
    """
    run, resources = Run.open(spec.out), resources or Resources()
    items = plan_file.read(run.out, spec.group, spec.part)
    with torch_state(resources) as device, quiet_decoders():
        net = network(run, given(spec.command, spec.out), device, resources, source, model)
        alive(At(spec.index, ()))
        net.batches.poison(Batch(torch.zeros(1, *net.inputs.shape), [None]))
        for row in rows:
            if stop is not None and stop.is_set():
                raise Stopped(f"shard {spec.index} was stopped")
            alive(At(spec.index, (row,)))
            try:
                slot = net.read(items[row - spec.start])
            except MemoryError:
                return row, Problem("too_large", "MemoryError: there is too little memory to read this image")
            found = {} if slot.input is None else net.batches.poison(Batch(slot.input[None], [slot.extra]))
            if found:
                return row, found[0]
    return None


class _Shard:
    """The computation of one shard."""

    def __init__(
        self,
        run: Run,
        spec: ShardSpec,
        network: Network,
        resources: Resources,
        tell: Callable[[Event], None] | None,
        alive: Callable[[At], None] | None,
        stop: threading.Event | None,
        poison: Mapping[int, Problem],
    ) -> None:
        self._run, self._spec, self._network, self._resources = run, spec, network, resources
        self._listener, self._alive, self._stop, self._poison = tell, alive, stop, poison
        self._items = plan_file.read(run.out, spec.group, spec.part)
        if len(self._items) != spec.stop - spec.start:
            path = plan_file.path(run.out, spec.part)
            raise FingerprintError(f"{path} is not the plan of this run: {plan_file.anew(spec.part)}")
        self._started = time.monotonic()
        self._batch = resources.batch_size or run.record.batch_size
        self._seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._told = dict(self._seconds)
        self._at = At(spec.index, ())
        self._reads = self._reads_told = 0

    def publish(self, path: Path) -> Marker:
        """Write the shard, give it its name, and say what is in it."""
        with self._writing(path) as writer:
            self._compute(range(len(self._items)), writer.add)
        return self._marker

    def repair(self, path: Path, present: Marker, retry: str | None) -> Marker:
        """Compute the error rows of a shard that is there again, and write it with the others as they are."""
        (status,) = read_columns(self._run.out, self._spec.index, ["status"])
        wanted = [row for row, kind in enumerate(status) if kind != OK and retry in (ALL, kind)]
        self._seconds.update({name: present.seconds.get(name, 0.0) for name in STAGES})
        self._told = dict(self._seconds)
        with self._writing(path) as writer, parquet(path) as shard:
            made: list[Rows] = []
            self._compute(wanted, made.append)
            new = writer.table(made)
            for group in range(shard.num_row_groups):
                writer.replace(shard.read_row_group(group), new)
            # Until the new marker is there, the shard counts as not done: the old one is not of this file.
            marker_path(self._run.out, self._spec.index).unlink(missing_ok=True)
            publish.sync_folder(marker_path(self._run.out, self._spec.index).parent)
        return self._marker

    @contextmanager
    def _writing(self, path: Path) -> Iterator[ShardWriter]:
        """A writer whose file becomes the shard at the end of the block, and then `_marker` is there."""
        with writing(self._run, self._spec, path) as (writer, hashing):
            yield writer
            started = time.perf_counter()
            writer.close()
            self._seconds["write"] += time.perf_counter() - started
        flags = {name: sum(n for bits, n in writer.flags.items() if bits & bit) for name, bit in FLAGS.items()}
        rows, errors = self._spec.stop - self._spec.start, dict(sorted(writer.errors.items()))
        self._marker = Marker(
            shard=self._spec.index,
            rows=rows,
            ok=rows - sum(errors.values()),
            errors=errors,
            flags={name: count for name, count in sorted(flags.items()) if count},
            sha256=hashing.sha256.hexdigest(),
            bytes=hashing.tell(),
            seconds={name: round(s, 6) for name, s in self._seconds.items()}
            | {"total": round(time.monotonic() - self._started, 6)},
            fingerprint=self._spec.fingerprint,
            host=platform.node(),
            device=str(self._network.device),
            batch_size=min(self._batch, self._network.batches.largest or self._batch),
            torch_threads=torch.get_num_threads(),
            versions=versions(PACKAGES),
        )

    def _compute(self, wanted: Sequence[int], sink: Callable[[Rows], None]) -> None:
        """Some rows of the shard in order, each at its place in its micro-batch, where others are left blank."""

        def write(rows: Rows) -> None:
            started = time.perf_counter()
            sink(rows)
            self._seconds["write"] += time.perf_counter() - started

        ahead = self._ahead()
        self._move(wanted[:ahead])  # before anything is read
        with ExitStack() as stack:
            behind = stack.enter_context(Behind(write, waiting=WRITES_BEHIND, name="tsm-fast write"))
            threads = self._resources.decode_threads
            reader = stack.enter_context(Ahead(self._read, wanted, threads=threads, ahead=ahead, name="tsm-fast read"))
            for first, last in self._micro_batches():
                begin, end = bisect_left(wanted, first), bisect_left(wanted, last)
                if begin == end:
                    continue
                self._move(wanted[begin : end + ahead])
                started = time.perf_counter()
                slots = self._take(reader, end - begin)
                self._seconds["wait"] += time.perf_counter() - started
                self._seconds["read"] += sum(slot.seconds for slot in slots)
                self._move(wanted[begin : end + ahead])
                rows = self._rows(first, last, dict(zip(wanted[begin:end], slots, strict=True)))
                behind.put(rows)
                self._tell(rows)

    def _micro_batches(self) -> Iterator[tuple[int, int]]:
        """What goes through the network at once: none reaches over the end of a batch."""
        for first in range(0, len(self._items), self._batch):
            end = min(first + self._batch, len(self._items))
            while first < end:
                last = min(first + (self._network.batches.largest or self._batch), end)
                yield first, last
                first = last

    def _ahead(self) -> int:
        """How many images may be read ahead: two micro-batches, the second as far as its memory goes."""
        step = min(self._batch, self._network.batches.largest or self._batch)
        fitting = AHEAD_BYTES // (4 * prod(self._network.inputs.shape))
        return step + min(step, max(self._resources.decode_threads, fitting))

    def _read(self, row: int) -> Slot:
        problem = self._poison.get(self._spec.start + row)
        if problem is not None and problem.kind != POISON:
            return BLANK._replace(problem=problem)
        slot = self._network.read(self._items[row])
        self._reads += 1
        return slot if problem is None else slot._replace(input=None, problem=problem)

    def _take(self, reader: Ahead[int, Slot], count: int) -> list[Slot]:
        try:
            return reader.take(count, self._check)
        except (OSError, MemoryError) as error:  # of this machine: what images are to blame for is in their rows
            text = f"{type(error).__name__}: {error}"
            raise ShardFailed(f"shard {self._spec.index}: images could not be read: {text}") from error

    def _rows(self, first: int, last: int, slots: Mapping[int, Slot]) -> Rows:
        """A micro-batch: of the rows first..last of the shard, those that `slots` has."""
        maps = {c.name: np.full((len(slots), *c.shape), np.nan, np.float32) for c in self._run.columns}
        blank = {column.name: column.blank(len(slots)) for column in self._run.record.values}
        values = {name: column.copy() for name, column in blank.items()}
        problems: Mapping[int, Problem] = {}
        if any(slot.input is not None for slot in slots.values()):
            inputs = self._network.inputs.batch([slots.get(row, BLANK) for row in range(first, last)])
            try:
                made = self._network.batches.made(inputs, self._seconds, self._beat)
            except ShardFailed:
                raise
            except (RuntimeError, ValueError, TypeError) as error:
                where = f"shard {self._spec.index}, images {self._spec.start + first}..{self._spec.start + last - 1}"
                raise ShardFailed(f"{where}: {type(error).__name__}: {error}") from error
            places = [row - first for row in slots]
            maps, values = ({name: made.columns[name][places] for name in of} for of in (maps, values))
            problems = made.problems
        status, message, flags = [], [], []
        for number, (row, slot) in enumerate(slots.items()):
            problem, bits = slot.problem or problems.get(row - first), slot.flags
            if problem is not None:
                for column in maps.values():
                    column[number] = np.nan
                for name, column in values.items():
                    column[number] = blank[name][number]
            elif any(column[number].min() == column[number].max() for column in maps.values()):
                bits |= FLAGS["constant"]
            status.append(OK if problem is None else problem.kind)
            message.append(None if problem is None else problem.message)
            flags.append(bits)
        return Rows(
            index=[self._spec.start + row for row in slots],
            key=[self._items[row].key for row in slots],
            status=status,
            error=message,
            height=[slot.height for slot in slots.values()],
            width=[slot.width for slot in slots.values()],
            bytes=[slot.content.bytes for slot in slots.values()],
            sha256=[slot.content.sha256 for slot in slots.values()],
            flags=flags,
            maps=maps,
            values=values,
        )

    def _tell(self, rows: Rows) -> None:
        if self._listener is None:
            return
        seconds = {name: value - self._told[name] for name, value in self._seconds.items()}
        self._told = dict(self._seconds)
        bad = [Bad(*row) for row in zip(rows.key, rows.status, rows.error, strict=True) if row[1] != OK]
        self._listener(Event(self._spec.index, len(rows.index), len(bad), seconds, tuple(bad[:NAMED])))

    def _move(self, rows: Sequence[int]) -> None:
        self._at = At(self._spec.index, tuple(self._spec.start + row for row in rows))
        self._reads_told = -1
        self._check()

    def _beat(self) -> None:
        """A sign of life from within a micro-batch."""
        self._reads_told = -1
        self._check()

    def _check(self) -> None:
        """Go on, or raise; a sign of life where something was read since the last one."""
        if self._stop is not None and self._stop.is_set():
            raise Stopped(f"shard {self._spec.index} was stopped; nothing of it is kept")
        seconds = self._resources.shard_timeout
        if time.monotonic() - self._started > seconds:
            raise ShardFailed(f"shard {self._spec.index} took longer than shard_timeout={seconds:g} seconds")
        if self._alive is not None and self._reads != self._reads_told:
            self._reads_told = self._reads
            self._alive(self._at)
