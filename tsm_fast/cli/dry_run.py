"""`tsm-fast extract --dry-run`: the plan, and what a few timed batches tell of the time it takes."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..pipeline import Marker, Resources, Run, Settings, prepare, run_shard
from ..pipeline.engines.progress import Reporter, shares
from ..pipeline.engines.ranks import place, share
from ..pipeline.engines.run import all_devices, devices
from ..pipeline.files.urls import url
from ..pipeline.planning import draft
from ..pipeline.planning.compare import compare
from ..pipeline.planning.grow import plan_part
from ..pipeline.planning.prepare import as_planned, check_added, readable
from ..readable import duration

BATCHES = 2  # that are timed, after as many that are not


def dry_run(
    settings: Settings,
    out: Path,
    resources: Resources,
    engine: str,
    workers: int | None,
    add: bool,
    progress: Reporter,
) -> dict[str, Any]:
    """What a run would do; nothing is written into `out`."""
    where = place() if engine == "rank" else None
    names = all_devices(resources, workers, where)
    planned = draft.make(as_planned(settings, readable(out)), devices=names, say=progress.say)
    file = planned.file
    run = _present(out, planned, add, names, settings.shard_size, progress)
    specs = run.shards if where is None else share(run.shards, where)
    done = run.done()
    left = sum(spec.stop - spec.start for spec in specs if spec.index not in done)
    progress.say("timing a few batches")
    device = devices(resources.device, 1, 1)[0]
    timed, seconds = _timed(settings, replace(resources, device=device))
    parallel = 1 if engine == "ray" else len(devices(resources.device, workers, len(specs), where))
    rate = timed.rows / seconds
    return {
        "source": settings.source,
        "out": str(out),
        "images": run.n_items,
        "left_out": dict(planned.source.left_out.counts),
        "shards": len(run.shards),
        "shard_size": run.parts[-1].shard_size,
        "shards_done": len(done),
        "images_left": left,
        "model": settings.model,
        "layers": list(file.record.layers),
        "layers_reason": file.about.reason,
        "columns": {column.name: list(column.shape) for column in file.record.columns},
        "bytes": sum(part.estimated_bytes for part in run.parts),
        "bytes_left": file.about.estimated_bytes * left // len(planned.items),
        "bytes_free": None if url(out) is not None else shutil.disk_usage(_existing(out)).free,
        "device": device,
        "images_per_second": rate,
        "workers": parallel,
        "seconds": left / rate / parallel,
        "stages": timed.seconds,
        "fingerprint": run.fingerprint,
    }


def lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The same for people."""
    done = f", {facts['shards_done']:,} of them done" if facts["shards_done"] else ""
    workers = f", times {facts['workers']} workers" if facts["workers"] > 1 else ""
    free = "" if facts["bytes_free"] is None else f", {facts['bytes_free'] / 1e9:,.3g} GB free"
    return [
        ("images", f"{facts['images']:,} in {facts['source']}"),
        ("shards", f"{facts['shards']:,} of {facts['shard_size']:,} images{done}, in {facts['out']}"),
        ("layer", f"{', '.join(facts['layers'])}: {facts['layers_reason']}"),
        ("maps", ", ".join(f"{name} {h}x{w}" for name, (h, w) in facts["columns"].items())),
        ("size", f"{facts['bytes_left'] / 1e6:,.3g} MB to write{free}"),
        ("speed", f"{facts['images_per_second']:.3g} images/s on {facts['device']}{workers}"),
        ("busy time", shares(facts["stages"])),
        ("time", f"about {duration(facts['seconds'])} for {facts['images_left']:,} images"),
    ]


def _present(
    out: Path, planned: draft.Draft, add: bool, devices: Sequence[str], size: int | None, progress: Reporter
) -> Run:
    """The run in the folder, as it would be; raises as `prepare` does."""
    run = readable(out)
    if run is None:
        check_added(out, add)
        return Run(out, planned.file)
    found = compare(run, planned, progress.say, add=add)
    if not found.new:
        return run
    part, _ = plan_part(run, planned, found.new, size, devices)
    return replace(run, added=(*run.added, part))


def _timed(settings: Settings, resources: Resources) -> tuple[Marker, float]:
    """A small shard in a temporary folder, and its seconds, the model being loaded and warm."""
    size = BATCHES * settings.batch_size
    limit = min(2 * size, settings.limit or 2 * size)
    with tempfile.TemporaryDirectory(prefix="tsm-fast-") as folder:
        run = prepare(replace(settings, shard_size=size, limit=limit), folder, resources=resources)
        run_shard(run.shards[0], resources)
        start = time.monotonic()
        return run_shard(run.shards[-1], resources), time.monotonic() - start


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
