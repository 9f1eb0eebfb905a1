"""The parts of a run: the pictures that it began with, and those that were added to it later."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from . import typed
from .record import FORMAT, MAX_SHARDS, RunFile, SourceRecord, digest


@dataclass(frozen=True)
class Part:
    """Some pictures of a run, planned at once and divided into shards of their own.

    The fingerprint is that of the run as far as this part: it rests on the record and on all parts before.
    """

    fingerprint: str
    source: SourceRecord
    shard_size: int
    stamps: str | None  # as in `record.Evidence`
    named: str  # the source as it was named
    root: str  # and where it was
    estimated_bytes: int

    def __post_init__(self) -> None:
        for name, value in (("items", self.source.items), ("shard_size", self.shard_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.shards > MAX_SHARDS:
            raise ValueError(f"a part has at most {MAX_SHARDS:,} shards, got {self.shards:,}")

    @property
    def shards(self) -> int:
        return -(-self.source.items // self.shard_size)


def first(file: RunFile) -> Part:
    """What a run began with."""
    record, about, stamps = file.record, file.about, file.evidence and file.evidence.stamps
    size, planned = record.shard_size, about.estimated_bytes
    return Part(file.fingerprint, record.source, size, stamps, about.source, about.root, planned)


def fingerprint(after: Part, source: SourceRecord, shard_size: int) -> str:
    """That of a run to which these pictures are added."""
    return digest({"after": after.fingerprint, "source": asdict(source), "shard_size": shard_size})


def dump(part: Part) -> bytes:
    """The record of an added part, for the metadata of its plan; `load` reads it."""
    values = {"format": FORMAT, **asdict(part)}
    return json.dumps({**values, "sha256": digest(values)}).encode()


def load(data: bytes, after: Part) -> Part:
    """The part that was added to a run after another one.

    Raises:
        ValueError: its record cannot be understood, was changed, or is of another run.
    """
    values = typed.parse(data)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"its record must have the format {FORMAT['name']!r}, version {FORMAT['version']}")
    part = typed.made(Part, values, "part")
    if values.pop("sha256", None) != digest(values):
        raise ValueError("its record was changed after it was written")
    if part.fingerprint != fingerprint(after, part.source, part.shard_size):
        raise ValueError("it was added to another run, or after other pictures")
    return part
