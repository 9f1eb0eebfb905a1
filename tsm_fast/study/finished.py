"""A study of a finished run of `extract`: its maps against masks, at the speed of reading, without a network."""

from __future__ import annotations

import platform
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import metrics as measured
from .._version import __version__, versions
from ..models.region import region
from ..pipeline.errors import FingerprintError, Stopped, Unfinished
from ..pipeline.files import plan_file, publish
from ..pipeline.files.hold import held
from ..pipeline.files.record import NAME, ComputationRecord, RunFile
from ..pipeline.files.run import PACKAGES, STAGES, Marker, Run, ShardSpec
from ..pipeline.files.shards import OK, Rows, marker_path, shard_path
from ..pipeline.files.writing import writing
from ..pipeline.results.reader import SaliencyDataset
from ..pipeline.settings import Settings
from ..readable import counted
from . import masks as mask_files
from . import names
from .asking import families_of
from .before import POOL, STRANGERS, Before, at_grid, chosen, grid, number
from .groups import groups_of
from .masks import BoxMasks, Found, Masks
from .measures import Measures, column, finished, localised
from .rows import Study, write_about

SHARD = 4096  # rows
CONTROLS = ("uniform", "smooth", "centre", "mask")  # that need neither the picture nor its features


def is_run(source: Any) -> bool:
    """Whether it is the folder of a run of maps."""
    if not isinstance(source, str | Path) or not (Path(source) / NAME).is_file():
        return False
    return RunFile.read(Path(source)) is not None


def as_of(source: str | Path, settings: Settings) -> Settings:
    """Settings for a study with a network: the pictures, layers and maps of a run, where they are not named."""
    run = Run.open(source)
    if run.record.source.kind not in ("folder", "list", "manifest", "tar"):
        raise ValueError(f"{source} is a run of a {run.record.source.kind}: name its pictures as SOURCE")
    layers = settings.layers or tuple(run.record.layers)
    return replace(settings, source=run.file.about.source, root=settings.root, layers=layers)


def run(
    source: str | Path,
    out: str | Path,
    *,
    masks: Any,
    groups: Any = None,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    title: str | None = None,
    resume: bool = True,
    say: Callable[[str], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Study:
    """Measure the maps of a finished run against masks; a call that was stopped goes on where it was.

    Raises:
        ValueError: no masks are given, or something else than localisation is asked for.
        Unfinished: the run is not finished.
        FingerprintError: the folder holds another study.
        Stopped: `stop` was set.
    """
    there, folder = Run.open(source), Path(out)
    other = [family for family in families_of(metrics or ()) if family != "localisation"]
    if other or masks is None:
        what = ", ".join(other) or "anything but localisation against masks"
        raise ValueError(f"{what} needs the network of {source}: give its model ({there.file.about.model}), or masks")
    if pending := len(there.pending()):
        raise Unfinished(f"{source} has {counted(pending, 'shard')} to compute: finish it first")
    dataset = SaliencyDataset(source)
    items = [item for part in range(len(there.parts)) for item in plan_file.items(there.out, part)]
    order = sorted(range(len(items)), key=lambda row: items[row].key)
    items = [items[row] for row in order]
    carried = dataset.carried()
    found = mask_files.find(masks, carried.take(order), there.parts[0].root, items)
    assert found is not None
    crop = _Crop(there.record.preprocessing)
    measures = Measures(
        families=("localisation",),
        masks=found,
        masks_digest=found.digest([item.key for item in items]),
        seed=seed,
        before=_before(dataset, found, crop, seed, say),
    )
    columns = tuple(
        one for one in measures.columns(there.record.columns) if _kept(one.name, there.record.layers, there)
    )
    record = replace(
        there.record,
        source=replace(there.record.source, items=len(items), listing=plan_file.digest(items), carried=None),
        shard_size=SHARD,
        computation=ComputationRecord("study", {**measures.options(), "run": there.fingerprint}, columns),
    )
    about = replace(there.file.about, estimated_bytes=0)
    evidence = there.file.evidence and replace(there.file.evidence, stamps=None)
    file = RunFile(record.fingerprint, record, evidence, about)
    present = _planned(folder, file, items, resume)
    why = f"there is no network: name --model ({there.file.about.model}) to run it"
    description = {
        "package": __version__,
        "title": title or there.file.about.model,
        "model": there.file.about.model,
        "source": there.file.about.source,
        "images": len(items),
        "families": ["localisation"],
        "left_out": {family: why for family in names.FAMILIES if family != "localisation"},
        "score": None,
        "faithful_images": 0,
        "seed": seed,
    }
    write_about(folder, description, groups_of(groups))
    with held(folder):
        done = present.done()
        for spec in present.shards:
            if spec.index in done:
                continue
            say(f"{counted(spec.start, 'image')} of {len(items):,}")
            marker = _shard(present, spec, dataset, order[spec.start : spec.stop], measures, crop, stop)
            publish.publish_json(marker_path(folder, spec.index), marker.to_json())
    return Study.open(folder)


class _Crop:
    """The part of masks that a network saw, by the record of its preprocessing."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._record, self.shape = record, tuple(record["input"])
        if region(record, 640, 480) is None:
            raise ValueError(
                f"masks: the preprocessing of kind {record.get('kind')!r} does not tell what part of a picture the "
                "network saw: give the model"
            )

    def __call__(self, mask: Image.Image) -> Tensor:  # -> [H, W] in 0..1
        left, top, right, bottom = region(self._record, *mask.size) or (0, 0, *mask.size)
        h, w = self.shape[-2:]
        inner = max(left, 0), max(top, 0), min(right, mask.width), min(bottom, mask.height)
        x, y = w / (right - left), h / (bottom - top)
        edges = [round((inner[0] - left) * x), round((inner[1] - top) * y)]
        size = max(round((inner[2] - inner[0]) * x), 1), max(round((inner[3] - inner[1]) * y), 1)
        cover = np.zeros((h, w), np.float32)
        small = np.asarray(mask.resize(size, Image.Resampling.BILINEAR, box=inner), np.float32) / 255
        cover[edges[1] : edges[1] + size[1], edges[0] : edges[0] + size[0]] = small[: h - edges[1], : w - edges[0]]
        return torch.from_numpy(cover)


def _kept(name: str, layers: Sequence[str], run: Run) -> bool:
    """Whether a column can be had without pictures and features."""
    for layer in layers:
        arm, cut, _ = name.partition(f"/{layer}:")
        if cut:
            return arm.partition("@")[0] in (*CONTROLS, *run.record.methods)
    return True


def _before(dataset: SaliencyDataset, masks: Masks, crop: _Crop, seed: int, say: Callable[[str], None]) -> Before:
    say("looking at masks that are chosen by hash")
    about = dataset.about()
    rows = {key: row for row, key in enumerate(about.key)}
    good = [key for key in chosen(rows, STRANGERS * 4, seed) if about.status[rows[key]] == OK][:STRANGERS]
    strangers = {name: np.stack([dataset[rows[key]].maps[name] for key in good]) for name in dataset.columns if good}
    keys, pool = [], []
    for key in chosen(rows, POOL, seed):
        found = _mask(masks, key, about, rows[key])
        if found.mask is not None and bool((mask := at_grid(crop(found.mask), grid(crop.shape))).any()):
            keys.append(key)
            pool.append(mask.numpy())
    return Before(None, np.stack(pool) if pool else None, tuple(keys), strangers, tuple(good))


def _mask(masks: Masks, key: str, about: Any, row: int) -> Found:
    width, height = about.width[row], about.height[row]
    size = (int(width), int(height)) if width and height and width > 0 else None
    return Found("none") if size is None and isinstance(masks, BoxMasks) else masks.read(key, size)


def _planned(folder: Path, file: RunFile, items: Sequence[Any], resume: bool) -> Run:
    """Publish run.json and the plan, or see that they are there."""
    for part in (folder, folder / "shards", folder / "markers"):
        publish.make_folder(part)
    known = RunFile.read(folder)
    if known is not None and not resume:
        raise FileExistsError(17, "holds a study already: name another folder, or resume it", str(folder))
    if known is None:
        publish.publish_json(folder / NAME, file.to_json(), replace=False)
    elif known.fingerprint != file.fingerprint:
        raise FingerprintError(f"{folder} holds another study, or one of other masks or maps: name another folder")
    if not (folder / plan_file.NAME).exists():
        plan_file.write(folder, items, None, SHARD)
    return Run.open(folder)


def _shard(
    run: Run,
    spec: ShardSpec,
    dataset: SaliencyDataset,
    places: Sequence[int],
    measures: Measures,
    crop: _Crop,
    stop: threading.Event | None,
) -> Marker:
    """Measure and publish a shard: its marker."""
    started, seconds = time.monotonic(), dict.fromkeys(STAGES, 0.0)
    with writing(run, spec, shard_path(run.out, spec.index)) as (writer, file):
        for first in range(0, len(places), 64):
            if stop is not None and stop.is_set():
                raise Stopped(f"{run.out}: stopped; the same command goes on")
            some = list(places[first : first + 64])
            clock = time.perf_counter()
            part = dataset[some]
            about, maps = part.about(), {name: part.numpy(name) for name in part.columns}
            seconds["read"] += time.perf_counter() - clock
            clock = time.perf_counter()
            values = _measured(run, about, maps, measures, crop)
            seconds["decomposition"] += time.perf_counter() - clock
            start = spec.start + first
            writer.add(
                Rows(
                    index=range(start, start + len(some)),
                    key=about.key,
                    status=about.status,
                    error=[text or None for text in about.error],
                    height=[_or_none(value) for value in about.height],
                    width=[_or_none(value) for value in about.width],
                    bytes=[_or_none(value) for value in about.bytes],
                    sha256=[text or None for text in about.sha256],
                    flags=about.flags,
                    maps=maps,
                    values=values,
                )
            )
        writer.close()
    errors = Counter(writer.errors)
    return Marker(
        shard=spec.index,
        rows=spec.stop - spec.start,
        ok=spec.stop - spec.start - sum(errors.values()),
        errors=dict(sorted(errors.items())),
        flags={},
        sha256=file.sha256.hexdigest(),
        bytes=file.tell(),
        seconds={**seconds, "total": round(time.monotonic() - started, 6)},
        fingerprint=spec.fingerprint,
        host=platform.node(),
        device="cpu",
        batch_size=64,
        torch_threads=torch.get_num_threads(),
        versions=versions(PACKAGES),
    )


def _or_none(value: Any) -> Any:
    return None if value is None or value < 0 else value


def _measured(
    run: Run, about: Any, maps: Mapping[str, np.ndarray], measures: Measures, crop: _Crop
) -> dict[str, np.ndarray]:
    """The values of some rows."""
    values = {one.name: one.blank(len(about.key)) for one in run.record.values}
    assert measures.masks is not None
    there, masks = [], []
    for row, key in enumerate(about.key):
        if about.status[row] != OK:
            continue
        found = _mask(measures.masks, key, about, row)
        status = found.status
        if found.mask is not None:
            cover = crop(found.mask)
            values["mask_area"][row] = float(cover.mean())
            mask = at_grid(cover, grid(crop.shape))
            status = OK if mask.any() and not mask.all() else "full" if mask.any() else "no-object"
            if status == OK:
                there.append(row)
                masks.append(mask)
        values["mask"][row] = status
        values["faithful"][row] = 0.0
    if not there:
        return values
    objects = torch.stack(masks)
    keys = [about.key[row] for row in there]
    seeds = [number(measures.seed, key) for key in keys]
    pool = None if measures.before.pool is None else torch.from_numpy(measures.before.pool)
    for layer in run.record.layers:
        own = {method: torch.from_numpy(maps[f"{method}/{layer}"][there]) for method in run.record.methods}
        size = next(iter(own.values())).shape
        raw = {
            **own,
            "uniform": measured.uniform(size),
            "smooth": measured.smooth_noise(size, seeds),
            "centre": measured.center_gaussian(size),
            "mask": objects.float(),
        }
        for method, one in own.items():
            if method in names.CONTROLS:
                continue
            raw[f"{method}@elsewhere"] = measured.same_histogram(one, seeds)
            other = measures.before.stranger(f"{method}/{layer}", keys, measures.seed)
            if other is not None:
                raw[f"{method}@other"] = other.float()
        local = {arm: finished(one, objects.shape[1:]) for arm, one in raw.items()}
        for (arm, metric), found in localised(local, objects, keys, pool, measures.before.pool_keys).items():
            if (name := column(arm, layer, metric)) in values:
                values[name][there] = found.numpy()
    return values
