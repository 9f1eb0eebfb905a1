"""`run_shard`: from a planned range of images to a published shard of maps."""

from __future__ import annotations

import platform
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..._version import versions
from ...pictures.decode import FLAGS, quiet_decoders
from ..errors import FingerprintError, ShardFailed, Stopped
from ..files import plan_file, publish
from ..files.record import FORMAT
from ..files.run import PACKAGES, STAGES, Marker, Run, ShardSpec
from ..files.shards import OK, Rows, ShardWriter, marker_path, shard_path
from ..settings import Resources
from ..sources.source import Item, Source
from .inputs import Problem, Slot
from .network import Network, network, torch_state
from .threads import Ahead, Behind

WRITES_BEHIND = 2  # micro-batches of maps that wait for the writing thread


class Event(NamedTuple):
    """What happened since the last event of this shard."""

    shard: int
    images: int  # rows finished, with those that failed
    errors: int
    seconds: dict[str, float]  # by stage


def run_shard(
    spec: ShardSpec,
    resources: Resources | None = None,
    *,
    tell: Callable[[Event], None] | None = None,
    stop: threading.Event | None = None,
    source: Source | None = None,
) -> Marker:
    """Compute and publish one shard, or raise and leave nothing behind.

    The bytes of the shard depend on the plan alone: a second call publishes them again, and returns at once where the
    shard is there, whole. The model stays in memory for the next shard.

    Args:
        spec: which rows of which run.
        resources: how; default `Resources()`.
        tell: told after every micro-batch.
        stop: once set, the shard is given up.
        source: needed where `prepare` was given one.

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
    if run.fingerprint != spec.fingerprint:
        raise FingerprintError(f"{spec.out} holds another run than the one that shard {spec.index} was planned for")
    if spec.command is None:
        raise ValueError(f"the run in {spec.out} was opened for reading: `prepare` takes it up again")
    present = run.marker(spec.index)
    if present is not None and run.is_whole(present):
        return present
    path, marked = shard_path(spec.out, spec.index), marker_path(spec.out, spec.index)
    for left in (path, marked):  # by a worker that was killed
        publish.clean(left.parent, left.name)
    with torch_state(resources) as device, quiet_decoders():
        shard = _Shard(run, spec, network(run, spec.command, device, resources, source), resources, tell, stop)
        marker = shard.publish(path)
    publish.publish_json(marked, marker.to_json())
    return marker


class _Shard:
    """The computation of one shard."""

    def __init__(
        self,
        run: Run,
        spec: ShardSpec,
        network: Network,
        resources: Resources,
        tell: Callable[[Event], None] | None,
        stop: threading.Event | None,
    ) -> None:
        self._run, self._spec, self._network, self._resources = run, spec, network, resources
        self._listener, self._stop = tell, stop
        self._started = time.monotonic()
        self._batch = resources.batch_size or run.record.batch_size
        self._seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._told = dict(self._seconds)
        self._errors: Counter[str] = Counter()
        self._flags: Counter[str] = Counter()

    def publish(self, path: Path) -> Marker:
        """Write the shard, give it its name, and say what is in it."""
        about = {"format": FORMAT, "fingerprint": self._spec.fingerprint, "shard": self._spec.index}
        about["columns"] = [asdict(column) for column in self._run.columns]
        with publish.publishing(path) as file:
            hashing = publish.HashingFile(file)
            carried = plan_file.carried(self._run.out, self._spec.index)
            writer = ShardWriter(hashing, self._run.columns, about, carried)  # pyright: ignore[reportArgumentType]
            try:
                self._write_rows(writer)
                started = time.perf_counter()
                writer.close()
                self._seconds["write"] += time.perf_counter() - started
            except BaseException:
                hashing.abandon()
                raise
        rows = self._spec.stop - self._spec.start
        return Marker(
            shard=self._spec.index,
            rows=rows,
            ok=rows - self._errors.total(),
            errors=dict(sorted(self._errors.items())),
            flags=dict(sorted(self._flags.items())),
            sha256=hashing.sha256.hexdigest(),
            bytes=hashing.tell(),
            seconds={name: round(s, 6) for name, s in self._seconds.items()}
            | {"total": round(time.monotonic() - self._started, 6)},
            fingerprint=self._spec.fingerprint,
            host=platform.node(),
            device=str(self._network.mapper.device),
            batch_size=min(self._batch, self._network.mapper.largest or self._batch),
            torch_threads=torch.get_num_threads(),
            versions=versions(PACKAGES),
        )

    def _write_rows(self, writer: ShardWriter) -> None:
        items = plan_file.read(Path(self._spec.out), self._spec.index)

        def write(rows: Rows) -> None:
            started = time.perf_counter()
            writer.add(rows)
            self._seconds["write"] += time.perf_counter() - started

        with ExitStack() as stack:
            behind = stack.enter_context(Behind(write, waiting=WRITES_BEHIND, name="tsm-fast write"))
            threads, ahead = self._resources.decode_threads, 2 * self._batch
            reader = Ahead(self._network.read, items, threads=threads, ahead=ahead, name="tsm-fast read")
            stack.enter_context(reader)
            for first in range(0, len(items), self._batch):
                batch = items[first : first + self._batch]
                self._check()
                started = time.perf_counter()
                slots = self._take(reader, len(batch))
                self._seconds["wait"] += time.perf_counter() - started
                self._seconds["read"] += sum(slot.seconds for slot in slots)
                rows = self._rows(batch, slots, self._spec.start + first)
                behind.put(rows)
                self._tell(rows)

    def _take(self, reader: Ahead[Item, Slot], count: int) -> list[Slot]:
        try:
            return reader.take(count, self._check)
        except (OSError, MemoryError) as error:  # of this machine: what images are to blame for is in their rows
            text = f"{type(error).__name__}: {error}"
            raise ShardFailed(f"shard {self._spec.index}: images could not be read: {text}") from error

    def _rows(self, items: Sequence[Item], slots: Sequence[Slot], start: int) -> Rows:
        """A micro-batch."""
        maps = {c.name: np.full((len(slots), *c.shape), np.nan, np.float32) for c in self._run.columns}
        problems: dict[int, Problem] = {}
        if any(slot.input is not None for slot in slots):
            try:
                maps, problems = self._network.mapper.maps(self._network.inputs.batch(slots), self._seconds)
            except (RuntimeError, ValueError, TypeError) as error:
                where = f"shard {self._spec.index}, images {start}..{start + len(slots) - 1}"
                raise ShardFailed(f"{where}: {type(error).__name__}: {error}") from error
        status, message, flags = [], [], []
        for number, slot in enumerate(slots):
            problem, bits = slot.problem or problems.get(number), slot.flags
            if problem is not None:
                for values in maps.values():
                    values[number] = np.nan
            elif any(values[number].min() == values[number].max() for values in maps.values()):
                bits |= FLAGS["constant"]
            status.append(OK if problem is None else problem.kind)
            message.append(None if problem is None else problem.message)
            flags.append(bits)
        self._errors.update(kind for kind in status if kind != OK)
        self._flags.update(name for bits in flags for name, bit in FLAGS.items() if bits & bit)
        return Rows(
            index=range(start, start + len(slots)),
            key=[item.key for item in items],
            status=status,
            error=message,
            height=[slot.height for slot in slots],
            width=[slot.width for slot in slots],
            bytes=[slot.content.bytes for slot in slots],
            sha256=[slot.content.sha256 for slot in slots],
            flags=flags,
            maps=maps,
        )

    def _tell(self, rows: Rows) -> None:
        if self._listener is None:
            return
        seconds = {name: value - self._told[name] for name, value in self._seconds.items()}
        self._told = dict(self._seconds)
        errors = sum(kind != OK for kind in rows.status)
        self._listener(Event(self._spec.index, len(rows.index), errors, seconds))

    def _check(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise Stopped(f"shard {self._spec.index} was stopped; nothing of it is kept")
        seconds = self._resources.shard_timeout
        if time.monotonic() - self._started > seconds:
            raise ShardFailed(f"shard {self._spec.index} took longer than shard_timeout={seconds:g} seconds")
