"""`prepare`: the run in a folder, planned there, or taken up."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import FingerprintError, OutOfSpace
from ..files import plan_file, publish
from ..files.run import NAME, Run, RunFile
from ..settings import Resources, Settings
from ..sources.source import Source
from . import draft


def prepare(
    settings: Settings,
    out: str | Path,
    *,
    resources: Resources | None = None,
    resume: bool = True,
    source: Source | None = None,
    devices: Sequence[str] = ("cpu",),
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
        source: images from this program (a `sources.datasets.DatasetSource`), in place of what `settings.source` names.
        devices: of all workers, on which the size of shards depends where `settings` leaves it open.
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
    present = RunFile.read(folder)
    planned = draft.make(with_shard_size(settings, present), source=source, devices=devices, say=say)
    if present is None:
        _check_space(folder, planned.file.estimated_bytes)
        _make_folders(folder)
        present = _claim(folder, planned.file)
        if settings.shard_size is None and present.settings.shard_size != planned.file.settings.shard_size:
            return prepare(settings, out, source=source, say=say)  # another process was faster
    if present.fingerprint != planned.file.fingerprint:
        raise FingerprintError(_difference(folder, present, planned))
    _make_folders(folder)
    if not (folder / plan_file.NAME).exists():
        plan_file.write(folder, planned.items, present.shard_size, planned.carried)
    run = Run(folder, present, source)
    pending = len(run.pending())
    _check_space(folder, planned.file.estimated_bytes * pending // max(len(run.shards), 1))
    return run


def with_shard_size(settings: Settings, present: RunFile | None) -> Settings:
    """Settings with the shard size of the run that is there, where they leave it open."""
    if settings.shard_size is not None or present is None:
        return settings
    return replace(settings, shard_size=present.shard_size)


def _claim(folder: Path, file: RunFile) -> RunFile:
    """Write run.json, or read that of a run that was faster."""
    try:
        publish.publish_json(folder / NAME, file.to_json(), replace=False)
    except FileExistsError:
        return RunFile.read(folder) or file
    return file


def _make_folders(folder: Path) -> None:
    for part in (folder, folder / "shards", folder / "markers"):
        publish.make_folder(part)


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


def _difference(folder: Path, present: RunFile, planned: draft.Draft) -> str:
    """What differs between the run in a folder and the one that is asked for."""
    there, here = ({**file.parts, "listing": None} for file in (present, planned.file))
    lines = list(_differences(there, here))
    if present.listing_sha256 != planned.file.listing_sha256:
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
