"""`tsm-fast status`, `verify`, `report`, `export` and `merge`: what is in the folder of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import readable
from ..pipeline.engines.progress import shares
from ..pipeline.files.urls import folder
from ..pipeline.results import check
from ..pipeline.results import export as exports
from ..pipeline.results import merge as merges
from ..pipeline.results.boxes import THRESHOLD
from ..pipeline.sources.open import open_source
from .common import complain, errors, table
from .options import AsJson, Pictures, Root, RunFolder, parse_size


def status(out: RunFolder, as_json: AsJson = False) -> None:
    """How far a run is: images, shards, errors by kind, throughput; quick, from the markers alone."""
    with errors():
        found = check.status(out)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
        return
    state = "complete" if found.complete else f"{readable.counted(len(found.pending), 'shard')} to do"
    rows = [
        ("run", f"{found.out}: {state}"),
        ("source", found.source),
        ("model", f"{found.model}, layers {', '.join(found.layers)}"),
        ("columns", ", ".join(f"{name} {h}x{w}" for name, (h, w) in found.columns.items())),
        ("images", f"{found.images_done:,} of {found.images:,}"),
        ("shards", f"{found.shards_done:,} of {found.shards:,}, {readable.size(found.bytes)}"),
        ("maps", f"{found.ok:,}"),
        ("error rows", _kinds(found.errors)),
        ("flags", _kinds(found.flags)),
        ("busy time", shares(found.seconds) if found.seconds else "none"),
        ("images/s", ", ".join(f"{stage} {rate:,.3g}" for stage, rate in found.rates.items()) or "none"),
        ("fingerprint", found.fingerprint),
    ]
    Console(highlight=False).print(table(("", ""), rows))
    for finding in found.damaged:
        complain(f"{finding.path} {finding.what}: {finding.repair}")
    for path in found.leftovers:
        complain(f"{path} belongs to no finished shard: of a run that is under way, or was killed")


def verify(out: RunFolder, source: Pictures = None, root: Root = None, as_json: AsJson = False) -> None:
    """Read every shard again: sizes, hashes, and each planned key once, in order; with SOURCE also the pictures.

    Exit codes: 0 every shard is there and right, 1 not.
    """
    with errors(), _bar("verifying", "shards") as progress:
        found = check.verify(out, progress, source=None if source is None else open_source(source, root))
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        state = "right" if found.ok else readable.counted(len(found.problems), "problem")
        text = (
            f"{found.shards_checked:,} of {found.shards:,} shards, {found.images_checked:,} images read again"
            + (f", {found.pictures_compared:,} pictures compared" if source is not None else "")
            + f": {state}"
        )
        Console(highlight=False).print(text, markup=False, soft_wrap=True)
    for finding in (*found.problems, *found.notes):
        complain(f"{finding.path} {finding.what}: {finding.repair}")
    if found.pending:
        shards = readable.counted(len(found.pending), "shard")
        complain(f"{shards} {'is' if len(found.pending) == 1 else 'are'} not computed yet: {check.AGAIN}")
    if not (found.ok and found.complete):
        raise typer.Exit(1)


def report(out: RunFolder, source: Pictures = None, root: Root = None) -> None:
    """Write report.html into the folder of a run: one page that works offline."""
    from ..pipeline.results.report import write_report

    with errors():
        path = write_report(out, source=None if source is None else open_source(source, root))
    Console(highlight=False).print(f"wrote {path}", markup=False, soft_wrap=True)


def export(
    out: RunFolder,
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="Folder or file to write.")],
    to: Annotated[str, typer.Option("--to", help=f"{', '.join(exports.FORMATS)}.")],
    source: Pictures = None,
    root: Root = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="Column or glob, repeatable; all by default.")
    ] = None,
    size: Annotated[Any, typer.Option(parser=parse_size, metavar="HxW", help="Resize the maps, bilinear.")] = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Scale every map into 0..1.")] = False,
    colormap: Annotated[
        str | None, typer.Option(help="Of overlay: a colour map of cmap; inferno by default.", show_default=False)
    ] = None,
    opacity: Annotated[
        float | None,
        typer.Option(help="Of overlay: of the colours, in 0..1; 0.55 by default, more for dark pictures."),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(help="Of overlay and coco, where it is not known what the network saw: center or whole."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help=f"Of coco: share of a map's range that is salient; {THRESHOLD} by default.")
    ] = None,
    boxes: Annotated[
        str | None, typer.Option(help="Of coco: largest (connected part of each map; default) or all.")
    ] = None,
    missing: Annotated[str, typer.Option(help="Rows that are not computed yet: raise, nan or skip.")] = "raise",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DEST.")] = False,
) -> None:
    """The maps of a run as arrays, pictures, overlays over the pictures in SOURCE, or boxes.

    npy, zarr and hdf5 are arrays; png a grey picture of each map; overlay each map in colour over its whole picture,
    with a frame around what the network saw; coco boxes around what is salient, as COCO JSON.
    """
    with errors(), _bar("exporting", "rows") as progress:
        written = exports.export(
            out,
            to,
            dest,
            columns=columns,
            size=size,
            normalize=normalize,
            missing=missing,
            overwrite=overwrite,
            source=None if source is None else open_source(source, root),
            region=region,
            colormap=colormap,
            opacity=opacity,
            threshold=threshold,
            boxes=boxes,
            progress=progress,
            say=complain,
        )
    Console(highlight=False).print(f"wrote {written}", markup=False, soft_wrap=True)


def merge(
    runs: Annotated[
        list[Any], typer.Argument(parser=folder, metavar="A B ...", help="Folders of finished runs, in this order.")
    ],
    out: Annotated[
        Any,
        typer.Option(
            "--out", "-o", parser=folder, metavar="FOLDER", help="Folder for all of it. The same command again goes on."
        ),
    ],
) -> None:
    """One run of several that were made by the same settings of different pictures; those stay as they are.

    Nothing is computed, and no map changes. Interrupted in whatever way, the same command goes on where it was.
    """
    with errors(), _bar("merging", "shards") as progress:
        merged = merges.merge(runs, out, progress)
    images, shards = readable.counted(merged.n_items, "image"), readable.counted(len(merged.shards), "shard")
    Console(highlight=False).print(
        f"merged {len(runs)} runs: {images} in {shards} in {merged.out}", markup=False, soft_wrap=True
    )


@contextmanager
def _bar(text: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
    )
    shown = console.is_terminal and not console.is_dumb_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _kinds(counts: dict[str, int]) -> str:
    return ", ".join(f"{kind} {number:,}" for kind, number in sorted(counts.items())) or "none"
