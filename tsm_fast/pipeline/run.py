"""A run: what is planned, in a folder that holds all that workers and readers need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .settings import Resources, Settings
from .shards import MapColumn


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
    seconds: dict[str, float]  # by stage: read, forward, decomposition, write, wait (for images), total
    fingerprint: str
    host: str
    device: str
    batch_size: int
    torch_threads: int
    versions: dict[str, str]


@dataclass(frozen=True)
class Run:
    """A planned run; `Run.open(out)` makes it again from the folder alone."""

    out: Path
    settings: Settings
    fingerprint: str
    n_items: int
    columns: tuple[MapColumn, ...]
    facts: dict[str, Any]  # the whole of run.json

    @classmethod
    def open(cls, out: str | Path) -> Run:
        raise NotImplementedError

    @property
    def shards(self) -> Sequence[ShardSpec]:
        raise NotImplementedError

    def done(self, *, check_hash: bool = False) -> dict[int, Marker]:
        raise NotImplementedError

    def pending(self) -> list[ShardSpec]:
        raise NotImplementedError


def prepare(settings: Settings, out: str | Path, *, resources: Resources | None = None, resume: bool = True) -> Run:
    """Plan a run in the folder `out`, or take up the one that is there."""
    raise NotImplementedError
