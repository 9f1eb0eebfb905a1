"""report.html of a run: settings, throughput, errors, histograms and contact sheets in one file that works offline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ... import variants
from ...models.region import Region, region
from ...pictures.decode import FLAGS, ImageError
from ...pictures.drawing import colorize
from ...pictures.page import Table, data_uri, render
from ...readable import digits, size
from ..files.publish import publish_bytes
from ..files.run import BUSY, Run
from ..files.shards import OK
from ..sources.source import Source
from .check import Status, status
from .pictures import Pictures
from .reader import MapRow, SaliencyDataset

PART = 1024  # rows in memory at once
SIDE = 160  # pixels of a picture in the page
EXAMPLES = 5  # of each kind of error
BINS = 40

Show = Callable[
    [MapRow], Image.Image | None
]  # what the network saw of a picture; None where it cannot be read any more


class Figures(NamedTuple):
    """Some numbers of every map of a column, NaN for rows without one."""

    peak: np.ndarray  # [n] float32, the largest value
    mean: np.ndarray  # [n] float32
    concentration: np.ndarray  # [n] float32 in 0..1: 0 for a constant map, 1 for a single position
    position: np.ndarray  # [n] int64, of the largest value among the h * w; -1 without a map


def write_report(out: str | Path, *, pictures: int = 12, source: Source | None = None) -> Path:
    """Write `report.html` into the folder of a run, finished or not.

    One file that needs nothing else and makes no request: settings, versions, images per second by stage, errors by
    kind with examples, histograms of every column, and contact sheets with the pictures, as far as the source can still
    be read. Which pictures are shown depends on the run alone.

    Args:
        out: the folder of the run.
        pictures: how many a contact sheet shows.
        source: where the pictures are now; None for where they were when the run was planned, if they are files.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: there is no run in this folder.
        OSError: a shard is damaged, or the file cannot be written.
    """
    run = Run.open(out)
    path = run.out / "report.html"
    publish_bytes(path, page(run, pictures, source).encode())
    return path


def page(run: Run, pictures: int, source: Source | None = None) -> str:
    """The text of report.html."""
    about = status(run.out)
    dataset = SaliencyDataset(run.out, missing="skip")
    usable, flags, examples = _survey(dataset)
    figures = {name: measure(dataset, name) for name in dataset.columns}
    values = {
        "columns": 1 + len(dataset.columns),
        "numbers": _numbers(about),
        "sheets": _sheets(run, _opener(run, source), dataset, figures, usable, flags, pictures),
        "errors": [
            {"kind": kind, "count": f"{count:,}", "examples": examples.get(kind, [])}
            for kind, count in sorted(about.errors.items(), key=lambda entry: -entry[1])
        ],
        "graphs": [_graphs(name, figures[name], dataset.shape(name)) for name in dataset.columns if usable.any()],
    }
    subtitle = f"{about.model}, {_list(about.layers)}: {_list([variants.title(name) for name in about.methods])}"
    title = f"Saliency maps of {about.source}"
    return render("tsm_fast.pipeline.results", "run.html", title, subtitle, _tables(about), _facts(run), values)


def _survey(dataset: SaliencyDataset) -> tuple[np.ndarray, np.ndarray, dict[str, list[tuple[str, str]]]]:
    """Which rows have maps [n], the flags of all [n], and a few (key, error) of each kind of error."""
    usable, flags = np.zeros(len(dataset), bool), np.zeros(len(dataset), np.int32)
    examples: dict[str, list[tuple[str, str]]] = {}
    for start in range(0, len(dataset), PART):
        about = dataset[start : start + PART].about()
        usable[start : start + PART] = [state == OK for state in about.status]
        flags[start : start + PART] = about.flags
        for state, key, error in zip(about.status, about.key, about.error, strict=True):
            if state != OK and len(known := examples.setdefault(state, [])) < EXAMPLES:
                known.append((key, error))
    return usable, flags, examples


def measure(dataset: SaliencyDataset, column: str) -> Figures:
    """The figures of a column."""
    n = len(dataset)
    peak, mean, spread = (np.full(n, np.nan, np.float32) for _ in range(3))
    figures = Figures(peak, mean, spread, np.full(n, -1, np.int64))
    for start in range(0, n, PART):
        maps = dataset[start : start + PART].numpy(column)
        flat = maps.reshape(len(maps), -1)
        seen = np.flatnonzero(np.isfinite(flat).all(axis=1))
        flat = flat[seen].astype(np.float64)
        figures.peak[start + seen] = flat.max(1)
        figures.mean[start + seen] = flat.mean(1)
        figures.concentration[start + seen] = concentration(flat)
        figures.position[start + seen] = flat.argmax(1)
    return figures


def concentration(maps: np.ndarray) -> np.ndarray:  # [n, S], not negative -> [n]
    """One minus the entropy of a map as a distribution over its positions, over that of a constant map."""
    positions = maps.shape[1]
    total = maps.sum(1, keepdims=True)
    share = np.divide(maps, total, out=np.full_like(maps, 1 / positions), where=total > 0)
    entropy = -(share * np.log(share, out=np.zeros_like(share), where=share > 0)).sum(1)
    return np.clip(1 - entropy / np.log(positions), 0, 1) if positions > 1 else np.zeros(len(maps))


def _numbers(about: Status) -> list[tuple[str, str]]:
    errors = sum(about.errors.values())
    numbers = [
        (f"{about.images_done:,}", f"of {about.images:,} images" + (", unfinished" if about.pending else "")),
        (f"{errors:,}", f"without a map ({errors / max(about.images_done, 1):.2%})"),
    ]
    if "total" in about.rates:
        numbers.append((digits(about.rates["total"]), "images a second and worker"))
    return [*numbers, (size(about.bytes), f"in {about.shards_done} of {about.shards} shards")]


def _tables(about: Status) -> list[Table]:
    total = sum(about.seconds.get(stage, 0) for stage in BUSY)
    if not total:
        return []
    rows = [
        (
            stage,
            f"{digits(about.seconds[stage])} s",
            f"{digits(about.rates[stage])}",
            f"{about.seconds[stage] / total:.1%}",
        )
        for stage in BUSY
        if stage in about.rates
    ]
    return [Table("Throughput by stage, all workers together", ("stage", "time", "images a second", "share"), rows)]


def _facts(run: Run) -> list[tuple[str, str]]:
    record, about = run.record, run.file.about
    places = [f"{part.named} ({part.root}): {part.source.items:,} images" for part in run.parts]
    facts = [("source", "; ".join(places)), ("model", about.model), ("weights", about.weights)]
    facts += [("layer", f"{_list(record.layers)}: {about.reason}")]
    names = ("methods", "precision", "dtype", "shard_size", "batch_size", "preprocessing", "images")
    facts += [(name, _plain(getattr(record, name))) for name in names]
    facts += [("sha256 of the model", record.model.sha256), ("sha256 of the listing", record.source.listing)]
    facts += [("content", record.source.content), ("fingerprint", run.fingerprint)]
    return [(name, value) for name, value in facts if value] + [("versions", _plain(about.versions))]


def _plain(value: Any) -> str:
    """A value of run.json as one line."""
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_plain(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(entry) for entry in value)
    return str(value)


def _sheets(
    run: Run,
    show: Show,
    dataset: SaliencyDataset,
    figures: dict[str, Figures],
    usable: np.ndarray,
    flags: np.ndarray,
    pictures: int,
) -> list[dict[str, Any]]:
    first = dataset.columns[0]
    good = usable.nonzero()[0]
    order = good[np.argsort(figures[first].concentration[good], kind="stable")]
    random = np.random.default_rng(int(run.fingerprint[:15], 16)).permutation(good)[:pictures]
    half = (pictures + 1) // 2
    flagged = good[flags[good] > 0]
    note = (
        f"by {_title(dataset, first)}: the map's entropy over its positions, 0 for a constant map, 1 for one position"
    )
    wanted = [
        ("Random", f"{len(random)} of {len(good):,} images with a map", np.sort(random)),
        ("Most concentrated", note, order[::-1][:half]),
        ("Least concentrated", note, order[:half]),
        ("Flagged", ", ".join(f"{name}: {count:,}" for name, count in _flag_counts(flags)), flagged[:pictures]),
    ]
    sheets = []
    for title, text, rows in wanted:
        if len(rows):
            cards = [
                _card(f"p{len(sheets)}-{number}", dataset, item, show(item), float(figures[first].concentration[row]))
                for number, (row, item) in enumerate(zip(rows.tolist(), dataset[rows], strict=True))
            ]
            sheets.append({"title": title, "note": text, "pictures": cards})
    return sheets


def _card(
    name: str, dataset: SaliencyDataset, item: MapRow, photo: Image.Image | None, concentrated: float
) -> dict[str, Any]:
    """One picture of a contact sheet, with its maps scaled to 0..1 each."""
    maps = [(_title(dataset, column), data_uri(_heat(values))) for column, values in item.maps.items()]
    flags = [flag for flag, bit in FLAGS.items() if item.flags & bit]
    note = ", ".join(
        [f"row {item.index}", f"{item.width} x {item.height}", f"concentration {digits(concentrated)}", *flags]
    )
    return {"id": name, "key": item.key, "note": note, "maps": maps, "photo": photo and data_uri(photo)}


def _heat(values: np.ndarray) -> Image.Image:
    """A map in colour, smoothly enlarged."""
    low, high = values.min(), values.max()
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    grey = Image.fromarray(scaled.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return Image.fromarray(colorize(np.asarray(grey)))


def _opener(run: Run, source: Source | None) -> Show:
    """A function from a row to the part of its picture that the network saw; all of it where that is not known."""
    pictures, record = Pictures(run, source), run.record.preprocessing

    def show(item: MapRow) -> Image.Image | None:
        try:
            image = pictures.read(item.index, item.sha256)
        except ImageError:
            return None
        return seen_square(image, region(record, *image.size) or (0, 0, *image.size))

    return show


def seen_square(image: Image.Image, part: Region) -> Image.Image:
    """A part of a picture as a square of `SIDE` pixels; grey where it reaches over the picture."""
    left, top, right, bottom = part
    box = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
    x0, x1 = (round((x - left) / (right - left) * SIDE) for x in (box[0], box[2]))
    y0, y1 = (round((y - top) / (bottom - top) * SIDE) for y in (box[1], box[3]))
    square = Image.new("RGB", (SIDE, SIDE), "grey")
    square.paste(image.resize((max(x1 - x0, 1), max(y1 - y0, 1)), Image.Resampling.BICUBIC, box=box), (x0, y0))
    return square


def _flag_counts(flags: np.ndarray) -> list[tuple[str, int]]:
    counts = [(name, int(((flags & bit) > 0).sum())) for name, bit in FLAGS.items()]
    return [(name, count) for name, count in counts if count]


def _graphs(column: str, figures: Figures, shape: tuple[int, int]) -> dict[str, Any]:
    """The histograms of a column, and how often each position is the peak."""
    h, w = shape
    graphs = [
        _histogram("Concentration", "0 is a constant map, 1 a single position", figures.concentration),
        _histogram("Peak", "largest value of the stored map", figures.peak),
        _histogram("Mean", "mean of the stored map", figures.mean),
    ]
    counts = np.bincount(figures.position[figures.position >= 0], minlength=h * w).reshape(h, w)
    most = counts.max() / counts.sum()
    note = f"share of the images; the brightest of {h} x {w} has {most:.1%}"
    peaks = data_uri(Image.fromarray(colorize(counts / counts.max())), "PNG")
    return {"title": column, "graphs": graphs, "peaks": peaks, "peaks_note": note}


def _histogram(title: str, note: str, values: np.ndarray) -> dict[str, Any]:
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    counts, _ = np.histogram(values, BINS, (low, high) if high > low else (low - 0.5, high + 0.5))
    tops = 100 - 100 * counts / counts.max()
    bars = [f"M{bin * 8} 100V{top:.4g}h7V100z" for bin, top in enumerate(tops) if top < 100]
    names = {"low": low, "median": float(np.median(values)), "high": high}
    return {"title": title, "note": note, "path": "".join(bars), "width": 8 * BINS} | {
        name: digits(value) for name, value in names.items()
    }


def _title(dataset: SaliencyDataset, column: str) -> str:
    """The method of a column, and the layer where the run has several."""
    method, _, layer = column.partition("/")
    several = len({name.partition("/")[2] for name in dataset.columns}) > 1
    return variants.title(method) + (f" {layer}" if several else "")


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
