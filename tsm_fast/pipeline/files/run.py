"""A run: what is planned, in a folder that holds all that workers and readers need."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ..settings import Settings
from ..sources.source import Source
from . import plan_file, publish, typed, urls
from .parts import Part, first
from .record import Record, RunFile
from .shards import MapColumn, marker_path, shard_path

PACKAGES = ("torch", "numpy", "pillow", "pyarrow", "timm", "torchvision", "transformers", "datasets")  # on record

# Seconds of each are in a marker: "read" that of the decoding threads together, "wait" that of the model for images,
# "write" that of the writing thread. All but "wait" keep a processor busy.
STAGES = ("read", "wait", "forward", "decomposition", "write")
BUSY = tuple(stage for stage in STAGES if stage != "wait")


@dataclass(frozen=True)
class Command:
    """What was asked for now: workers find the source and the model by it, and never by what a file says."""

    settings: Settings
    kind: str  # of the source
    root: str  # with which `sources.open.reopen` finds it
    # Tells what was asked for at another time: what is kept in memory of a source or a model may not be that of now.
    mark: str = field(default_factory=partial(secrets.token_hex, 8), compare=False)


def given(command: Command | None, out: str | Path) -> Command:
    """The command of a run that is to be computed; ValueError for one that was only opened."""
    if command is None:
        raise ValueError(f"the run in {out} was opened for reading: `prepare` takes it up again")
    return command


@dataclass(frozen=True)
class ShardSpec:
    """The unit of work: rows start..stop of the plan in the folder `out`. Picklable."""

    out: str
    index: int
    start: int
    stop: int
    fingerprint: str  # of its part
    command: Command | None = None  # without one nothing can be computed
    part: int = 0  # of the run
    before: int = 0  # shards of the parts before it

    @property
    def group(self) -> int:
        """Its row group in the plan of its part."""
        return self.index - self.before


@dataclass(frozen=True)
class Marker:
    """What `markers/000123.json` says of a published shard."""

    shard: int
    rows: int
    ok: int
    errors: dict[str, int]  # by kind
    flags: dict[str, int]  # rows by flag name
    sha256: str  # of the shard file
    bytes: int
    seconds: dict[str, float]  # by stage of `STAGES`, and "total"
    fingerprint: str
    host: str
    device: str
    batch_size: int
    torch_threads: int
    versions: dict[str, str]

    def __post_init__(self) -> None:
        counts = [self.rows, self.ok, self.bytes, *self.errors.values(), *self.flags.values(), *self.seconds.values()]
        if min(counts) < 0:
            raise ValueError(f"its numbers must be at least 0, got {min(counts)}")

    def to_json(self) -> dict[str, Any]:
        """A mapping for JSON, which `read` reads."""
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> Marker:
        """The marker in a file; ValueError where it cannot be understood."""
        return typed.made(cls, typed.parse(path.read_bytes()), "marker")


@dataclass(frozen=True)
class Run:
    """A planned run; `Run.open(out)` makes it again from the folder alone, for reading.

    `prepare` adds the `command`, without which nothing is computed, and `mine`, the parts whose pictures it has.
    `source` and `model` are there only where `prepare` was given some that live in this program (a dataset from
    Python): then they have to be passed on to `run_shard`.
    """

    out: Path
    file: RunFile
    command: Command | None = None
    source: Source | None = None
    model: Any = None  # a `models.Model`, which readers of a run do not load
    added: tuple[Part, ...] = ()
    mine: frozenset[int] = frozenset({0})

    @classmethod
    def open(cls, out: str | Path) -> Run:
        """The run in a folder.

        Raises:
            FileNotFoundError: the folder holds no run, or one whose planning was interrupted.
            ValueError: its run.json, or the record of what was added to it, is broken, was changed, or is of an unknown
                version of the format.
        """
        folder = urls.folder(out)
        file = RunFile.read(folder)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, "holds no run (no run.json)", str(folder))
        if not (folder / plan_file.NAME).is_file():
            raise FileNotFoundError(
                errno.ENOENT, "holds a run without its plan.parquet: the command that made it completes it", str(folder)
            )
        return cls(folder, file, added=plan_file.added(folder, file))

    @property
    def record(self) -> Record:
        return self.file.record

    @property
    def parts(self) -> tuple[Part, ...]:
        """What it began with, and what was added."""
        return (first(self.file), *self.added)

    @property
    def fingerprint(self) -> str:
        return self.parts[-1].fingerprint

    @property
    def n_items(self) -> int:
        return sum(part.source.items for part in self.parts)

    @property
    def columns(self) -> tuple[MapColumn, ...]:
        return self.record.columns

    @cached_property
    def shards(self) -> Sequence[ShardSpec]:
        """Every shard, in order; those of parts that the command does not have cannot be computed."""
        out, row, specs = str(self.out.absolute()), 0, list[ShardSpec]()
        for number, part in enumerate(self.parts):
            command, before = self.command if number in self.mine else None, len(specs)
            end = row + part.source.items
            for index, start in enumerate(range(row, end, part.shard_size), before):
                stop = min(start + part.shard_size, end)
                specs.append(ShardSpec(out, index, start, stop, part.fingerprint, command, number, before))
            row = end
        return specs

    def done(self, *, check_hash: bool = False) -> dict[int, Marker]:
        """The markers of the shards that are published: the file is there with the marker's size (and hash)."""
        markers, sizes = urls.sizes(self.out / "markers"), urls.sizes(self.out / "shards")
        marked = [spec.index for spec in self.shards if marker_path("", spec.index).name in markers]
        found = zip(marked, urls.each(self.out, self.marker, marked), strict=True)
        return {
            index: marker
            for index, marker in found
            if marker is not None
            and marker.bytes == sizes.get(shard_path("", index).name)
            and (not check_hash or self.is_whole(marker))
        }

    def pending(self) -> list[ShardSpec]:
        """The shards that are still to be computed."""
        done = self.done()
        return [spec for spec in self.shards if spec.index not in done]

    def marker(self, index: int) -> Marker | None:
        """The marker of a shard of this run, or None where there is none or a broken one."""
        try:
            marker = Marker.read(marker_path(self.out, index))
        except (FileNotFoundError, ValueError):
            return None
        spec = self.shards[index]
        mine = (spec.fingerprint, index, spec.stop - spec.start)
        return marker if (marker.fingerprint, marker.shard, marker.rows) == mine else None

    def is_whole(self, marker: Marker, *, check_hash: bool = True) -> bool:
        """Whether the file of a shard has the size (and the hash) that its marker says."""
        path = shard_path(self.out, marker.shard)
        try:
            if path.stat().st_size != marker.bytes:
                return False
            return not check_hash or publish.sha256(path) == marker.sha256
        except FileNotFoundError:
            return False
