"""A run: what is planned, in a folder that holds all that workers and readers need."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..settings import Settings
from ..sources.source import Source
from . import plan_file, publish
from .shards import FORMAT_VERSION, MapColumn, marker_path, shard_path

NAME = "run.json"
PACKAGES = ("torch", "numpy", "pillow", "pyarrow", "timm", "torchvision", "transformers", "datasets")  # on record

# Seconds of each are in a marker: "read" that of the decoding threads together, "wait" that of the model for images,
# "write" that of the writing thread. All but "wait" keep a processor busy.
STAGES = ("read", "wait", "forward", "decomposition", "write")
BUSY = tuple(stage for stage in STAGES if stage != "wait")


@dataclass(frozen=True)
class ShardSpec:
    """The unit of work: rows start..stop of the plan in the folder `out`. Picklable."""

    out: str
    index: int
    start: int
    stop: int
    fingerprint: str


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

    def to_json(self) -> dict[str, Any]:
        """A mapping for JSON, which `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Marker:
        """A marker from what `to_json` gave."""
        return cls(**values)


@dataclass(frozen=True)
class Run:
    """A planned run; `Run.open(out)` makes it again from the folder alone.

    `source` is there only where `prepare` was given one that lives in this program (a dataset from Python): then it
    has to be passed on to `run_shard`.
    """

    out: Path
    settings: Settings
    fingerprint: str
    n_items: int
    columns: tuple[MapColumn, ...]
    facts: dict[str, Any]  # the whole of run.json
    source: Source | None = None

    @classmethod
    def open(cls, out: str | Path) -> Run:
        """The run in a folder.

        Raises:
            FileNotFoundError: the folder holds no run, or one whose planning was interrupted.
            ValueError: its run.json is broken, or of another version of the format.
        """
        folder = Path(out)
        facts = read_facts(folder)
        if facts is None:
            raise FileNotFoundError(errno.ENOENT, "holds no run (no run.json)", str(folder))
        if not (folder / plan_file.NAME).is_file():
            raise FileNotFoundError(
                errno.ENOENT, "holds a run without its plan.parquet: the command that made it completes it", str(folder)
            )
        return cls.from_facts(folder, facts, None)

    @classmethod
    def from_facts(cls, out: Path, facts: dict[str, Any], source: Source | None) -> Run:
        """The run in a folder, from what its run.json says."""
        return cls(
            out,
            Settings.from_json(facts["settings"]),
            facts["fingerprint"],
            facts["items"],
            tuple(map(MapColumn.from_json, facts["columns"])),
            facts,
            source,
        )

    @property
    def shards(self) -> Sequence[ShardSpec]:
        """Every shard of the plan, in order."""
        size, out = self.settings.shard_size, str(self.out.absolute())
        starts = range(0, self.n_items, size)
        return [
            ShardSpec(out, number, start, min(start + size, self.n_items), self.fingerprint)
            for number, start in enumerate(starts)
        ]

    def done(self, *, check_hash: bool = False) -> dict[int, Marker]:
        """The markers of the shards that are published: the file is there with the marker's size (and hash)."""
        found = {}
        for spec in self.shards:
            marker = self.marker(spec.index)
            if marker is not None and self.is_whole(marker, check_hash=check_hash):
                found[spec.index] = marker
        return found

    def pending(self) -> list[ShardSpec]:
        """The shards that are still to be computed."""
        done = self.done()
        return [spec for spec in self.shards if spec.index not in done]

    def marker(self, index: int) -> Marker | None:
        """The marker of a shard of this run, or None where there is none or a broken one."""
        try:
            marker = Marker.from_json(json.loads(marker_path(self.out, index).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return marker if marker.fingerprint == self.fingerprint and marker.shard == index else None

    def is_whole(self, marker: Marker, *, check_hash: bool = True) -> bool:
        """Whether the file of a shard has the size (and the hash) that its marker says."""
        path = shard_path(self.out, marker.shard)
        try:
            if path.stat().st_size != marker.bytes:
                return False
            return not check_hash or publish.sha256(path) == marker.sha256
        except FileNotFoundError:
            return False


def read_facts(folder: Path) -> dict[str, Any] | None:
    """What run.json of a folder says; None where there is none."""
    try:
        facts = json.loads((folder / NAME).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{folder / NAME} is broken: {error}") from None
    version = facts.get("format", {}).get("version") if isinstance(facts, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(f"{folder / NAME} must have format version {FORMAT_VERSION}, got {version!r}")
    return facts
