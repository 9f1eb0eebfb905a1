"""`export`: the maps of a run as arrays, pictures or boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ...pictures.drawing import check_opacity
from ...steps import checks
from ..files.publish import replacing
from ..files.run import Run
from ..sources.source import Source
from .arrays import write_hdf5, write_npy, write_zarr
from .boxes import BOXES, write_boxes
from .drawn import write_overlays, write_png
from .pictures import REGIONS
from .reader import SaliencyDataset
from .rows import Job, Progress

PICTURE = (224, 224)  # of exported pictures where no size is given


class Format(NamedTuple):
    """What `to` names."""

    write: Callable[..., None]
    options: tuple[str, ...]  # arguments of `export` that not every format has
    module: str | None = None  # of the extra with its name
    size: Callable[[Run], tuple[int, int] | None] = lambda _run: None  # of the maps where none is given
    normalize: bool = False  # whatever is asked for


def _input_size(run: Run) -> tuple[int, int]:
    _, h, w = run.record.preprocessing["input"]
    return h, w


FORMATS = {
    "npy": Format(write_npy, ("size",)),
    "png": Format(write_png, ("size",), size=lambda _run: PICTURE, normalize=True),
    "overlay": Format(write_overlays, ("source", "region", "colormap", "opacity"), normalize=True),
    "coco": Format(write_boxes, ("region", "threshold", "boxes"), "scipy", _input_size, normalize=True),
    "zarr": Format(write_zarr, ("size",), "zarr"),
    "hdf5": Format(write_hdf5, ("size",), "h5py"),
}


def export(
    run: str | Path,
    to: str,
    dest: str | Path,
    *,
    columns: str | Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    normalize: bool = False,
    missing: str = "raise",
    overwrite: bool = False,
    source: Source | None = None,
    region: str | None = None,
    colormap: str | None = None,
    opacity: float | None = None,
    threshold: float | None = None,
    boxes: str | None = None,
    progress: Progress = lambda _done, _rows: None,
    say: Callable[[str], None] = lambda _text: None,
) -> Path:
    """Write the maps of a run in another format; `dest` appears when it is whole, and memory stays small.

    | `to` | `dest` |
    | --- | --- |
    | "npy" | a folder with an array [N, h, w] float32 for each column, and rows.csv |
    | "png" | a folder with a grey picture for each map, scaled into 0..255, and rows.csv |
    | "overlay" | a folder with each map in colour over its whole picture, and rows.csv |
    | "coco" | a JSON file with boxes around what is salient, as COCO has them (extra `coco`) |
    | "zarr" | a Zarr group (extra `zarr`) with an array for each column, and what is said of the rows |
    | "hdf5" | the same as an HDF5 file (extra `hdf5`) |

    Pictures are named after keys (`FileNames`), and rows.csv tells the file of each key. A picture that could not be
    read keeps its row, with a map of NaN, but has no file and no box.

    Args:
        run: the output folder of `tsm-fast extract`.
        to: the format.
        dest: what to write; it must not exist yet, unless `overwrite`.
        columns, size, normalize, missing: as in `SaliencyDataset`. Pictures and boxes are always of normalised maps; of
            "png" 224 x 224 where no size is given.
        overwrite: replace what is there, at the end.
        source: of "overlay": where the pictures are now; None for where they were, if they are files. One that is
            another than when its map was computed gets no overlay.
        region: of "overlay" and "coco": what part of each picture the network saw where its preprocessing does not
            tell: "center", the largest central rectangle of the input's aspect, or "whole", stretched.
        colormap: of "overlay": a colour map of the package cmap; default "inferno".
        opacity: of "overlay": of the colours over the picture, in 0..1; default 0.55, more for dark pictures.
        threshold: of "coco": the share of the range of a map, enlarged to the input of the network, that its salient
            parts have at least; default 0.5.
        boxes: of "coco": a box for the "largest" connected part (default, the CAM paper's), or for "all".
        progress: called with the number of rows written and of all rows.
        say: told of pictures without an overlay.

    Returns:
        `dest`.

    Raises:
        FileExistsError: `dest` is there already.
        LookupError: the run is not finished, and `missing` is "raise".
        ModuleNotFoundError: the extra is not installed.
        OSError: a file cannot be written; nothing is left behind.
        TypeError, ValueError: an unknown format or column, or a wrong option; no picture of the run is in `source`.
    """
    checks.choice("to", to, FORMATS)
    if source is not None and not isinstance(source, Source):
        raise TypeError(f"source must be a Source, as `open_source` or `DatasetSource` gives it, got {source!r}")
    chosen = FORMATS[to]
    named = {"size": size, "source": source, "region": region, "colormap": colormap}
    named |= {"opacity": opacity, "threshold": threshold, "boxes": boxes}
    given = {name: value for name, value in named.items() if value is not None}
    for name in given:
        if name not in chosen.options:
            having = [repr(other) for other, row in FORMATS.items() if name in row.options]
            raise ValueError(f"{name} is an option of to={' and '.join(having)}, got to={to!r}")
    checks.choice("region", region or "whole", REGIONS)
    checks.choice("boxes", boxes or BOXES[0], BOXES)
    if opacity is not None:
        check_opacity(opacity)
    if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, int | float)):
        raise TypeError(f"threshold must be a number, got {threshold!r}")
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"threshold must be a share in 0..1 above 0, got {threshold}")
    if chosen.module is not None and find_spec(chosen.module) is None:
        raise ModuleNotFoundError(f"to={to!r} needs the extra {to!r}: pip install 'tsm_fast[{to}]'", name=chosen.module)
    opened = Run.open(run)
    dataset = SaliencyDataset(
        run,
        columns,
        size=given.pop("size", None) or chosen.size(opened),
        normalize=normalize or chosen.normalize,
        missing=missing,
    )
    dest = Path(dest)
    if missing == "raise":
        dataset.require_finished()
    with replacing(dest, replace=overwrite) as temporary:
        chosen.write(Job(opened, dataset, temporary, progress, say), **given)
    return dest
