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
FORMAT = {"name": "tsm_fast run", "version": FORMAT_VERSION}
PACKAGES = ("torch", "numpy", "pillow", "pyarrow", "timm", "torchvision", "transformers", "datasets")  # on record

# Seconds of each are in a marker: "read" that of the decoding threads together, "wait" that of the model for images,
# "write" that of the writing thread. All but "wait" keep a processor busy.
AGAIN = "run the same `tsm-fast extract` command again"
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
class RunFile:
    """What run.json says: all that was decided when the run was planned."""

    fingerprint: str  # of `parts`
    items: int  # images in the plan
    settings: Settings
    source_kind: str
    source_root: str  # with which `sources.open.reopen` finds the source again
    layers: tuple[str, ...]
    reason: str  # why these layers
    columns: tuple[MapColumn, ...]
    estimated_bytes: int  # of all shards
    parts: dict[str, Any]  # everything that decides the result, as JSON has it
    versions: dict[str, str]

    @property
    def shard_size(self) -> int:
        """Images in a shard; a run has settings that leave nothing open."""
        assert self.settings.shard_size is not None
        return self.settings.shard_size

    @property
    def shards(self) -> int:
        return -(-self.items // self.shard_size)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The record of a `Preprocess`, and the shape "input" of what it makes."""
        return self.parts["preprocessing"]

    @property
    def model_sha256(self) -> str:
        return self.parts["model"]["sha256"]

    @property
    def listing_sha256(self) -> str:
        return self.parts["listing"]["sha256"]

    def to_json(self) -> dict[str, Any]:
        """A mapping for JSON, which `from_json` reads."""
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "items": self.items,
            "shards": self.shards,
            "settings": self.settings.to_json(),
            "source": {"kind": self.source_kind, "root": self.source_root},
            "layers": {"names": list(self.layers), "reason": self.reason},
            "columns": [column.to_json() for column in self.columns],
            "estimated_bytes": self.estimated_bytes,
            "parts": self.parts,
            "versions": self.versions,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunFile:
        """What run.json says, from what `to_json` gave."""
        return cls(
            fingerprint=values["fingerprint"],
            items=values["items"],
            settings=Settings.from_json(values["settings"]),
            source_kind=values["source"]["kind"],
            source_root=values["source"]["root"],
            layers=tuple(values["layers"]["names"]),
            reason=values["layers"]["reason"],
            columns=tuple(map(MapColumn.from_json, values["columns"])),
            estimated_bytes=values["estimated_bytes"],
            parts=values["parts"],
            versions=values["versions"],
        )

    @classmethod
    def read(cls, folder: Path) -> RunFile | None:
        """That of a folder; None where there is none.

        Raises:
            ValueError: it is broken, or of another version of the format.
        """
        try:
            values = json.loads((folder / NAME).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{folder / NAME} is broken: {error}") from None
        version = values.get("format", {}).get("version") if isinstance(values, dict) else None
        if version != FORMAT_VERSION:
            raise ValueError(f"{folder / NAME} must have format version {FORMAT_VERSION}, got {version!r}")
        try:
            return cls.from_json(values)
        except KeyError as error:
            raise ValueError(f"{folder / NAME} is broken: it has no {error}") from None


@dataclass(frozen=True)
class Run:
    """A planned run; `Run.open(out)` makes it again from the folder alone.

    `source` is there only where `prepare` was given one that lives in this program (a dataset from Python): then it
    has to be passed on to `run_shard`.
    """

    out: Path
    file: RunFile
    source: Source | None = None

    @classmethod
    def open(cls, out: str | Path) -> Run:
        """The run in a folder.

        Raises:
            FileNotFoundError: the folder holds no run, or one whose planning was interrupted.
            ValueError: its run.json is broken, or of another version of the format.
        """
        folder = Path(out)
        file = RunFile.read(folder)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, "holds no run (no run.json)", str(folder))
        if not (folder / plan_file.NAME).is_file():
            raise FileNotFoundError(
                errno.ENOENT, "holds a run without its plan.parquet: the command that made it completes it", str(folder)
            )
        return cls(folder, file)

    @property
    def settings(self) -> Settings:
        return self.file.settings

    @property
    def fingerprint(self) -> str:
        return self.file.fingerprint

    @property
    def n_items(self) -> int:
        return self.file.items

    @property
    def columns(self) -> tuple[MapColumn, ...]:
        return self.file.columns

    @property
    def shards(self) -> Sequence[ShardSpec]:
        """Every shard of the plan, in order."""
        size, out = self.file.shard_size, str(self.out.absolute())
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
