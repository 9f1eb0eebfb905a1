"""`prepare`: the run in a folder, planned there, or taken up."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import FingerprintError, OutOfSpace
from ..files import plan_file, publish, urls
from ..files.record import NAME, RunFile
from ..files.run import Run
from ..settings import Resources, Settings
from ..sources.source import Source
from . import draft
from .compare import compare


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
    that those in the folder agree, so that a run never has the maps of other pictures or of another model; a source
    that has moved goes on, which is said. Temporary files that a killed run left are removed. Any number of processes
    may do this at the same time in one folder.

    Args:
        settings: what to compute.
        out: the folder; it is made.
        resources: for the device of the check that the disk has room.
        resume: False refuses a folder that holds a run.
        source: images from this program (a `sources.datasets.DatasetSource`), in place of what `settings.source` names.
        devices: of all workers, on which the size of shards depends where `settings` leaves it open.
        say: told what is done next.

    Raises:
        FingerprintError: the folder holds a run of other pictures, with another model or other settings, or one that
            this version cannot continue; the message says what differs.
        FileExistsError: the folder holds a run, and `resume` is False.
        OutOfSpace: the disk has less room than the run is estimated to need.
        OSError: the folder cannot be written to.
        ValueError, ModuleNotFoundError, FileNotFoundError: source, model or layers cannot be used.
    """
    folder = urls.folder(out)
    if not resume and (folder / NAME).exists():
        raise FileExistsError(errno.EEXIST, "holds a run already: name another folder, or resume it", str(folder))
    present = readable(folder)
    planned = draft.make(with_shard_size(settings, present), source=source, devices=devices, say=say)
    if present is None:
        _check_empty(folder)
        _check_space(folder, planned.file.about.estimated_bytes)
        _make_folders(folder)
        present = _claim(folder, planned.file)
        if settings.shard_size is None and present.record.shard_size != planned.file.record.shard_size:
            return prepare(settings, out, source=source, devices=devices, say=say)  # another process was faster
    run = Run(folder, present, planned.command, source)
    compare(run, planned, say)
    _make_folders(folder)
    if not (folder / plan_file.NAME).exists():
        plan_file.write(folder, planned.items, planned.stamps, present.record.shard_size, planned.carried)
    pending = len(run.pending())
    _check_space(folder, planned.file.about.estimated_bytes * pending // max(len(run.shards), 1))
    return run


def readable(folder: Path) -> RunFile | None:
    """The run.json of a folder, if there is one; ValueError where it is of a version that cannot be continued."""
    file = RunFile.read(folder)
    if file is not None and file.evidence is None:
        raise FingerprintError(
            f"{folder} holds a run of format version {file.version}, which can be read, verified and exported, but not "
            f"continued: name another folder, or finish it with tsm_fast {file.record.package} as it was then"
        )
    return file


def with_shard_size(settings: Settings, present: RunFile | None) -> Settings:
    """Settings with the shard size of the run that is there, where they leave it open."""
    if settings.shard_size is not None or present is None:
        return settings
    return replace(settings, shard_size=present.record.shard_size)


def _check_empty(folder: Path) -> None:
    """Nothing tells of which pictures and of which model shards without a run.json are."""
    if (
        any(name.endswith(".json") for name in urls.sizes(folder / "markers")) and not (folder / NAME).exists()
    ):  # in this order: runs write that first
        raise FingerprintError(
            f"{folder} has shards of a run, but not its run.json: put that back, or name another folder"
        )


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
    if urls.url(folder) is not None:
        return
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
