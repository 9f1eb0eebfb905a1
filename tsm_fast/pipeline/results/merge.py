"""`merge`: several runs as one."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from ...readable import counted
from ..errors import FingerprintError, Unfinished
from ..files import parts, plan_file, publish, urls
from ..files.hold import held
from ..files.parts import Part
from ..files.plan_file import AGAIN
from ..files.record import NAME, RunFile
from ..files.run import Marker, Run, ShardSpec
from ..files.shards import damaged, marker_path, shard_path
from ..files.writing import writing
from .joined import check_joinable


def merge(paths: Sequence[str | Path], out: str | Path, progress: Callable[[int, int], None] | None = None) -> Run:
    """Write one run with the rows of several, in their order; these stay as they are.

    The rows are those of the runs, without anything computed anew; what differs is their `index`, and the fingerprints.
    The result is a run like one to which the others were added: `extract` takes more pictures into it.
    Interrupted in whatever way, the same call goes on.

    Args:
        paths: folders (or URLs) of finished runs by the same record, of pictures with distinct keys.
        out: the folder to write.
        progress: called with the number of shards that are there and of all shards.

    Raises:
        FileNotFoundError: a folder holds no run.
        Unfinished: a run is not finished.
        FingerprintError: the runs were made in different ways, or have keys in common; or a shard of one is damaged.
        FileExistsError: `out` holds another run.
        RuntimeError: another process is working in `out`.
    """
    runs, folder = [Run.open(path) for path in paths], urls.folder(out)
    if len(runs) < 2:
        raise ValueError(f"merge needs at least two runs, got {len(runs)}")
    for run in runs:
        _check_source(run, folder)
    check_joinable(runs)
    for below in (folder, folder / "shards", folder / "markers"):
        publish.make_folder(below)
    with held(folder):
        homes = _plan(runs, folder)
        merged = Run.open(folder)
        done = merged.done()
        for spec, (run, there) in zip(merged.shards, homes, strict=True):
            if spec.index not in done:
                marker = _copied(run, there, merged, spec)
                publish.publish_json(marker_path(folder, spec.index), marker.to_json())
            if progress is not None:
                progress(spec.index + 1, len(merged.shards))
    return merged


def _check_source(run: Run, out: Path) -> None:
    if run.file.evidence is None:
        raise FingerprintError(f"{run.out} has format version {run.file.version}, whose runs are read, but not merged")
    here = urls.url(out) is None and urls.url(run.out) is None
    if str(out) == str(run.out) or (here and out.exists() and out.samefile(run.out)):
        raise FileExistsError(errno.EEXIST, "is one of the runs: name a new folder for all of them", str(out))
    if pending := len(run.pending()):
        raise Unfinished(f"{run.out} has {counted(pending, 'shard')} to compute: {AGAIN}, then merge")


def _plan(runs: Sequence[Run], out: Path) -> list[tuple[Run, ShardSpec]]:
    """Publish run.json and the plans, or see that they are there: where each shard comes from."""
    first, made = runs[0], [parts.first(runs[0].file)]
    if RunFile.read(out) is None:
        if any(name.endswith(".json") for name in urls.sizes(out / "markers")):
            raise FileExistsError(errno.EEXIST, "has shards of another run: name a new folder", str(out))
        publish.publish_bytes(out / NAME, (first.out / NAME).read_bytes(), replace=False)
    if RunFile.read(out) != first.file:
        raise FileExistsError(errno.EEXIST, "holds another run: name a new folder", str(out))
    if not (out / plan_file.NAME).exists():
        publish.publish_bytes(out / plan_file.NAME, (first.out / plan_file.NAME).read_bytes())
    there, row = plan_file.added(out, first.file), made[0].source.items
    for run, number, part in _others(runs):
        mark = parts.fingerprint(made[-1], part.source, part.shard_size)
        made.append(replace(part, fingerprint=mark))
        if len(there) < len(made) - 1:
            table = plan_file.table(run.out, number)
            index = pa.array(range(row, row + len(table)), pa.int64())
            table = table.set_column(0, table.schema.field(0), index)
            plan_file.add(out, len(made) - 1, made[-1], table)
        row += part.source.items
    if plan_file.added(out, first.file) != tuple(made[1:]):
        raise FileExistsError(errno.EEXIST, "holds another run: name a new folder", str(out))
    return [(run, spec) for run in runs for spec in run.shards]


def _others(runs: Sequence[Run]) -> Iterator[tuple[Run, int, Part]]:
    """All parts but the first of the first run."""
    for number, run in enumerate(runs):
        for index, part in enumerate(run.parts):
            if number or index:
                yield run, index, part


def _copied(run: Run, there: ShardSpec, merged: Run, here: ShardSpec) -> Marker:
    """Publish a shard of one run as that of another: its marker."""
    marker, source = run.marker(there.index), shard_path(run.out, there.index)
    if marker is None or not run.is_whole(marker):
        raise damaged(source, run.out, ValueError("its hash is not that in its marker"))
    shift = here.start - there.start
    with (
        writing(merged, here, shard_path(merged.out, here.index)) as (writer, file),
        urls.parquet(source) as shard,
    ):
        for group in range(shard.num_row_groups):
            writer.copy(shard.read_row_group(group), shift)
        writer.close()
    fingerprint, sha, size = here.fingerprint, file.sha256.hexdigest(), file.tell()
    return replace(marker, shard=here.index, fingerprint=fingerprint, sha256=sha, bytes=size)
