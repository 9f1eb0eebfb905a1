"""A run: what is planned, in a folder that holds all that workers and readers need."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import draft, plan_file, publish
from .errors import FingerprintError, OutOfSpace
from .settings import Resources, Settings
from .shards import FORMAT_VERSION, MapColumn, marker_path, shard_path
from .sources import Source

NAME = "run.json"


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
    seconds: dict[str, float]  # by stage, see `worker.STAGES`, and "total"
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
        facts = _read_facts(folder)
        if facts is None:
            raise FileNotFoundError(errno.ENOENT, "holds no run (no run.json)", str(folder))
        if not (folder / plan_file.NAME).is_file():
            raise FileNotFoundError(
                errno.ENOENT, "holds a run without its plan.parquet: the command that made it completes it", str(folder)
            )
        return cls._from_facts(folder, facts, None)

    @classmethod
    def _from_facts(cls, out: Path, facts: dict[str, Any], source: Source | None) -> Run:
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


def prepare(
    settings: Settings,
    out: str | Path,
    *,
    resources: Resources | None = None,
    resume: bool = True,
    source: Source | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Run:
    """Plan a run in the folder `out`, or take up the one that is there.

    Lists the source, loads the model, fixes layers and preprocessing, and writes run.json and plan.parquet; or checks
    that those in the folder agree. Temporary files that a killed run left are removed. Any number of processes may
    do this at the same time in one folder.

    Args:
        settings: what to compute.
        out: the folder; it is made.
        resources: for the device of the check that the disk has room.
        resume: False refuses a folder that holds a run.
        source: images from this program (a `datasets.DatasetSource`), in place of what `settings.source` names.
        say: told what is done next.

    Raises:
        FingerprintError: the folder holds a run with other settings; the message says what differs.
        FileExistsError: the folder holds a run, and `resume` is False.
        OutOfSpace: the disk has less room than the run is estimated to need.
        OSError: the folder cannot be written to.
        ValueError, ModuleNotFoundError, FileNotFoundError: source, model or layers cannot be used.
    """
    folder = Path(out)
    if not resume and (folder / NAME).exists():
        raise FileExistsError(errno.EEXIST, "holds a run already: name another folder, or resume it", str(folder))
    planned = draft.make(settings, source=source, say=say)
    present = _read_facts(folder)
    if present is None:
        _check_space(folder, planned.estimate)
        _make_folders(folder)
        present = _claim(folder, planned.facts)
    if present["fingerprint"] != planned.facts["fingerprint"]:
        raise FingerprintError(_difference(folder, present, planned))
    _make_folders(folder)
    if not (folder / plan_file.NAME).exists():
        plan_file.write(folder, planned.items, settings.shard_size)
    run = Run._from_facts(folder, present, source)
    pending = len(run.pending())
    _check_space(folder, planned.estimate * pending // max(len(run.shards), 1))
    return run


def _claim(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write run.json, or read that of a run that was faster."""
    try:
        publish.publish_json(folder / NAME, facts, replace=False)
    except FileExistsError:
        return _read_facts(folder) or facts
    return facts


def _make_folders(folder: Path) -> None:
    """The folders of a run, without what killed writers left in them."""
    for part in (folder, folder / "shards", folder / "markers"):
        part.mkdir(parents=True, exist_ok=True)
        publish.clean(part)
    publish.check_writable(folder / "shards")


def _read_facts(folder: Path) -> dict[str, Any] | None:
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


def _check_space(folder: Path, needed: int) -> None:
    there = folder
    while not there.exists():
        there = there.absolute().parent
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OutOfSpace(
            errno.ENOSPC,
            f"the maps need about {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free: make room, name another "
            "folder, or store float16 or uint8 maps",
            str(folder),
        )


def _difference(folder: Path, present: Mapping[str, Any], planned: draft.Draft) -> str:
    """What differs between the run in a folder and the one that is asked for."""
    there, here = ({**facts["parts"], "listing": None} for facts in (present, planned.facts))
    lines = list(_differences(there, here))
    if present["parts"]["listing"] != planned.facts["parts"]["listing"]:
        lines.append(_other_keys(folder, [item.key for item in planned.items]))
    more = f"; and {len(lines) - 6} more" if len(lines) > 6 else ""
    return (
        f"{folder} holds a run with other settings: {'; '.join(lines[:6])}{more}. Name another folder, or repeat the "
        "settings of that run"
    )


def _other_keys(folder: Path, now: list[str]) -> str:
    try:
        there = plan_file.keys(folder)
    except FileNotFoundError:
        return f"the listing has other images ({len(now)} now)"
    gone, new = sorted(set(there) - set(now)), sorted(set(now) - set(there))
    parts = [f"{len(keys)} {word}, such as {keys[0]!r}" for keys, word in ((new, "more"), (gone, "fewer")) if keys]
    return f"the listing has {len(there)} images there and {len(now)} now" + (f" ({'; '.join(parts)})" if parts else "")


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """What differs in two nested mappings, in words."""
    for key in {**there, **here}:
        name, old, new = above + key, there.get(key, _ABSENT), here.get(key, _ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{name}.")
        elif old is _ABSENT or new is _ABSENT:
            yield f"{name} is {'new' if old is _ABSENT else 'there and not asked for now'}"
        elif old != new:
            yield f"{name} is {old!r} there and {new!r} now"


_ABSENT = object()
