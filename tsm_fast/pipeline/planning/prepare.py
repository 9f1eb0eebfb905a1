"""`prepare`: the run in a folder, planned there, or taken up."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ...models import Model
from ...readable import counted
from ..errors import FingerprintError, OutOfSpace
from ..files import plan_file, publish, urls
from ..files.record import NAME, RunFile
from ..files.run import Run
from ..settings import Resources, Settings
from ..sources.source import Source
from . import draft
from .compare import compare
from .grow import plan_part


def prepare(
    settings: Settings,
    out: str | Path,
    *,
    resources: Resources | None = None,
    resume: bool = True,
    add: bool = False,
    source: Source | None = None,
    model: Model | None = None,
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
        add: take pictures that the run in the folder does not have into it, as new shards; those with keys that it has
            must be the same pictures. Where there are none, the run goes on.
        source: images from this program (a `sources.datasets.DatasetSource`), in place of what `settings.source` names.
        model: a model from this program, in place of what `settings.model` names; it is taken to stay as it is.
        devices: of all workers, on which the size of shards depends where `settings` leaves it open.
        say: told what is done next.

    Raises:
        FingerprintError: the folder holds a run of other pictures, with another model or other settings, or one that
            this version cannot continue; the message says what differs.
        FileNotFoundError: `add` is True, and the folder holds no run.
        FileExistsError: the folder holds a run, and `resume` is False.
        OutOfSpace: the disk has less room than the run is estimated to need.
        OSError: the folder cannot be written to.
        ValueError, ModuleNotFoundError, FileNotFoundError: source, model or layers cannot be used.
    """
    folder = urls.folder(out)
    if not resume and (folder / NAME).exists():
        raise FileExistsError(errno.EEXIST, "holds a run already: name another folder, or resume it", str(folder))
    present = readable(folder)
    if present is None:
        check_added(folder, add)
    planned = draft.make(as_planned(settings, present), source=source, model=model, devices=devices, say=say)
    if present is None:
        _check_empty(folder)
        _check_space(folder, planned.file.about.estimated_bytes)
        _make_folders(folder)
        present = Run(folder, _claim(folder, planned.file))
        if as_planned(settings, present) != as_planned(settings, Run(folder, planned.file)):
            return prepare(
                settings, out, source=source, model=model, devices=devices, say=say
            )  # another process was faster
    run = replace(present, command=planned.command, source=source, model=model)
    found = compare(run, planned, say, add=add)
    run = replace(run, mine=found.mine)
    _make_folders(folder)
    if not (folder / plan_file.NAME).exists():
        plan_file.write(folder, planned.items, planned.stamps, present.record.shard_size, planned.carried)
    if found.new:
        say(f"adding {counted(len(found.new), 'image')} to {run.n_items:,}")
        _check_space(folder, _bytes(planned, len(found.new)))
        try:
            part, table = plan_part(run, planned, found.new, settings.shard_size, devices)
            plan_file.add(folder, len(run.parts), part, table)
        except FileExistsError:  # another process was faster
            return prepare(settings, out, add=add, source=source, model=model, devices=devices, say=say)
        run = replace(run, added=(*run.added, part), mine=run.mine | {len(run.parts)})
    elif run.added:
        _check_shard_size(run, settings.shard_size)
    _check_space(folder, _bytes(planned, sum(spec.stop - spec.start for spec in run.pending())))
    return run


def readable(folder: Path) -> Run | None:
    """The run in a folder, if there is one; ValueError where it is of a version that cannot be continued."""
    file = RunFile.read(folder)
    if file is None:
        return None
    if file.evidence is None:
        raise FingerprintError(
            f"{folder} holds a run of format version {file.version}, which can be read, verified and exported, but not "
            f"continued: name another folder, or finish it with tsm_fast {file.record.package} as it was then"
        )
    return Run(folder, file, added=plan_file.added(folder, file))


def check_added(folder: Path, add: bool) -> None:
    """That nothing is added to a run that is not there."""
    if add:
        raise FileNotFoundError(errno.ENOENT, "holds no run to add pictures to", str(folder))


def as_planned(settings: Settings, present: Run | None) -> Settings:
    """Settings with what was chosen for the run that is there, where they leave it open."""
    if present is None:
        return settings
    record = present.record
    chosen = {"shard_size": record.shard_size, "channels_last": record.forward.channels_last}
    return replace(settings, **{name: value for name, value in chosen.items() if getattr(settings, name) is None})


def _check_shard_size(run: Run, size: int | None) -> None:
    sizes = sorted({run.parts[number].shard_size for number in run.mine})
    if sizes and size not in (None, *sizes):
        there = ", ".join(map(str, sizes))
        raise FingerprintError(f"{run.out} holds a run with other settings: shard_size is {there} there and {size} now")


def _bytes(planned: draft.Draft, rows: int) -> int:
    """What so many rows of a run are estimated to take."""
    return planned.file.about.estimated_bytes * rows // len(planned.items)


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
