"""The record of a run: all that decides what is computed, what it rests on, and what run.json says of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from ...methods import BUILT_IN
from ...variants import variant
from ..settings import DTYPES, PILLOW_LIMIT
from . import typed
from .shards import FORMAT_VERSION, MapColumn, ValueColumn

NAME = "run.json"
FORMAT: dict[str, Any] = {"name": "tsm_fast run", "version": FORMAT_VERSION}
READABLE = (1, FORMAT_VERSION)
DECIDING = ("torch", "numpy", "pillow", "pyarrow")  # packages whose versions change the bytes of shards
MAX_SHARDS = 1_000_000
MAX_POSITIONS = 1 << 24  # of a map


@dataclass(frozen=True)
class Carried:
    """The columns of the source that are carried along."""

    columns: dict[str, str]  # name -> type
    sha256: str


@dataclass(frozen=True)
class SourceRecord:
    """Which images."""

    kind: str
    items: int
    listing: str  # sha256 of the keys, and of where in the source each image is
    content: str | None  # of a dataset: its own fingerprint, or a digest; None where `Evidence.stamps` tells
    carried: Carried | None


@dataclass(frozen=True)
class ModelRecord:
    """Which network."""

    name: str
    sha256: str  # of its modules and weights


@dataclass(frozen=True)
class ForwardRecord:
    """How the network is computed (`models.forward.Forward`)."""

    channels_last: bool = False
    autocast: str | None = None
    compile: bool = False


@dataclass(frozen=True)
class ComputationRecord:
    """What is computed beside the maps (`pipeline.computation`), and its columns."""

    name: str
    options: dict[str, Any]
    columns: tuple[ValueColumn, ...]


@dataclass(frozen=True)
class Record:
    """Everything that decides what is computed; its hash is the fingerprint of the run.

    Raises:
        ValueError: its parts do not agree.
    """

    package: str  # version of this package
    versions: dict[str, str]  # of the packages `DECIDING`
    source: SourceRecord
    model: ModelRecord
    layers: tuple[str, ...]
    preprocessing: dict[str, Any]  # the record of a `Preprocess`, and the shape "input" of what it makes
    images: dict[str, Any]  # how pictures are decoded, and "max_pixels"
    methods: dict[str, dict[str, Any]]  # by their names as `Settings` has them, with all their options
    precision: str
    dtype: str
    shard_size: int
    batch_size: int
    columns: tuple[MapColumn, ...]
    forward: ForwardRecord = ForwardRecord()
    reshape: str = "auto"  # how the outputs of layers become [B, C, H, W], as `Settings` has it
    computation: ComputationRecord | None = None

    def __post_init__(self) -> None:
        _between("items", self.source.items, 1)
        _between("shard_size", self.shard_size, 1)
        _between("batch_size", self.batch_size, 1)
        if self.shards > MAX_SHARDS:
            raise ValueError(
                f"a run has at most {MAX_SHARDS:,} shards, got {self.shards:,}: choose a larger shard_size than "
                f"{self.shard_size}"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"this version of tsm_fast does not know {self.dtype!r}")
        for name in self.methods:
            if name.partition(":")[0] not in BUILT_IN:
                continue  # of a package that need not be there to read the run
            named = variant(name)
            if set(self.options(name)) != set(BUILT_IN[named.method].options):
                raise ValueError(f"methods.{name} must have the options {', '.join(BUILT_IN[named.method].options)}")
            if not named.options.items() <= self.options(name).items():
                raise ValueError(f"methods.{name} has other options than its name says")
        scaled = self.dtype != "float32"
        wanted = [
            (f"{method}/{layer}", method, layer, self.dtype, f"{method}/{layer}:scale" if scaled else None)
            for method in self.methods
            for layer in self.layers
        ]
        if not wanted or wanted != [(c.name, c.method, c.layer, c.dtype, c.scale) for c in self.columns]:
            raise ValueError("columns must be one for each method and layer")
        for column in self.columns:
            if min(column.shape) < 1 or prod(column.shape) > MAX_POSITIONS:
                raise ValueError(f"maps must have 1..{MAX_POSITIONS:,} positions, got {column.shape} of {column.name}")
        _between("max_pixels", typed.made(int, self.images.get("max_pixels"), "max_pixels"), 1, PILLOW_LIMIT)
        typed.made(tuple[int, int, int], self.preprocessing.get("input"), "preprocessing.input")

    @property
    def shards(self) -> int:
        return -(-self.source.items // self.shard_size)

    @property
    def max_pixels(self) -> int:
        return self.images["max_pixels"]

    @property
    def values(self) -> tuple[ValueColumn, ...]:
        """The columns beside the maps."""
        return () if self.computation is None else self.computation.columns

    @property
    def fingerprint(self) -> str:
        return digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """A mapping for JSON; of maps alone without "computation"."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("computation", None)}

    def options(self, method: str) -> dict[str, Any]:
        """All keyword arguments of a method."""
        return {name: tuple(v) if isinstance(v, list) else v for name, v in self.methods[method].items()}


@dataclass(frozen=True)
class Evidence:
    """What tells, without being the same for equal content everywhere, whether a run can be continued.

    `stamps` is a digest of the size and time of every file, which are in the plan. `answers` are numbers of what the
    model and its preprocessing give for one fixed input (`models.answers`), whose last digits the machine decides.
    """

    stamps: str | None
    answers: dict[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class About:
    """What a reader may want to know; nothing is computed from it, and nothing is opened that runs code."""

    source: str  # as it was named
    root: str  # where it was
    model: str
    weights: str | None
    reason: str  # why these layers
    estimated_bytes: int  # of all shards
    versions: dict[str, str]


@dataclass(frozen=True)
class RunFile:
    """What run.json says, checked against itself when it is read.

    `version` is that of the format; a run of version 1 has no `evidence`, and can only be read.
    """

    fingerprint: str
    record: Record
    evidence: Evidence | None
    about: About
    version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """What `read` reads."""
        parts = {name: asdict(getattr(self, name)) for name in ("evidence", "about")}
        values = {"format": FORMAT, "fingerprint": self.fingerprint, "record": self.record.to_json(), **parts}
        return json.loads(json.dumps({**values, **seal(values)}))

    @classmethod
    def read(cls, folder: Path) -> RunFile | None:
        """That of a folder; None where there is none.

        Raises:
            ValueError: it is broken, was changed, or is of an unknown version of the format.
        """
        path = folder / NAME
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            values = typed.parse(data)
            version = values["format"]["version"]
        except (KeyError, TypeError):
            version = None
        except ValueError as error:
            raise ValueError(f"{path} is broken: {error}") from None
        if type(version) is not int or version not in READABLE:
            known = " or ".join(map(str, READABLE))
            raise ValueError(f"{path} must have format version {known}, got {version!r}")
        try:
            return _version_1(values) if version == 1 else _current(values)
        except _Changed:
            raise ValueError(
                f"{path} was changed after the run was planned: its hashes do not agree. Put back the file as it was, "
                "or name another folder"
            ) from None
        except ValueError as error:
            raise ValueError(f"{path} is broken: {error}") from None


def digest(value: Any) -> str:
    """sha256 of a value as JSON has it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def seal(values: Mapping[str, Any]) -> dict[str, str]:
    """The hashes in a run.json: of its record, and of all that it says."""
    said = {**values, "fingerprint": digest(values["record"])}
    return {
        "fingerprint": said["fingerprint"],
        "sha256": digest({name: value for name, value in said.items() if name != "sha256"}),
    }


class _Changed(Exception):
    """A file whose hashes do not agree with what it says."""


def _current(values: Mapping[str, Any]) -> RunFile:
    for name in ("fingerprint", "record", "evidence", "about", "sha256"):
        if name not in values:
            raise ValueError(f"it has no {name!r}")
    if any(values[name] != value for name, value in seal(values).items()):
        raise _Changed
    return RunFile(
        values["fingerprint"],
        typed.made(Record, values["record"], "record"),
        typed.made(Evidence, values["evidence"], "evidence"),
        typed.made(About, values["about"], "about"),
    )


def _version_1(values: Mapping[str, Any]) -> RunFile:
    try:
        parts, settings, source, columns = (values[name] for name in ("parts", "settings", "source", "columns"))
        if values["fingerprint"] != digest(parts) or values["items"] != parts["listing"]["items"]:
            raise _Changed
        record = {
            **{name: parts[name] for name in ("package", "model", "layers", "preprocessing", "images", "methods")},
            **{name: parts[name] for name in ("precision", "dtype", "shard_size")},
            "versions": {},
            "source": {
                "kind": source["kind"],
                "items": values["items"],
                "listing": parts["listing"]["sha256"],
                "content": None,
                "carried": parts.get("carried") or None,
            },
            "batch_size": settings["batch_size"],
            "columns": columns,
        }
        about = {
            "source": settings["source"],
            "root": source["root"],
            "model": settings["model"],
            "weights": settings["weights"],
            "reason": values["layers"]["reason"],
            "estimated_bytes": values["estimated_bytes"],
            "versions": values["versions"],
        }
    except KeyError as error:
        raise ValueError(f"it has no {error}") from None
    except TypeError as error:
        raise ValueError(str(error)) from None
    found = typed.made(Record, record, "record"), typed.made(About, about, "about")
    return RunFile(values["fingerprint"], found[0], None, found[1], version=1)


def _between(name: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        needed = f"at least {least}" if most is None else f"in {least}..{most}"
        raise ValueError(f"{name} must be {needed}, got {value}")
