"""All that is decided before the first image: the listing, the model, its layers and preprocessing, the columns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from ... import models
from ..._version import __version__, versions
from ...extractor import SaliencyExtractor
from ...models import weights
from ...pictures.decode import POLICY, from_value
from ...saliency import METHODS
from ..files import plan_file
from ..files.run import PACKAGES, RunFile
from ..files.shards import FORMAT_VERSION, MapColumn, schema
from ..settings import Settings
from ..sources.columns import renamed
from ..sources.open import open_source
from ..sources.source import Item, LeftOut, Source, listing
from .select import select
from .shard_size import shard_size

_ROW_BYTES = 48  # of a row beside its maps, compressed; measured on folders of photos
_BYTES = {"float32": 4, "float16": 2, "uint8": 1}
_SCALE_BYTES = 4


@dataclass(frozen=True)
class Draft:
    """A run before anything is written."""

    items: list[Item]
    file: RunFile  # what run.json will say
    left_out: LeftOut
    carried: pa.Table | None = None  # other columns of the source, a row for each item


def make(
    settings: Settings,
    *,
    source: Source | None = None,
    devices: Sequence[str] = ("cpu",),
    say: Callable[[str], None] = lambda _: None,
) -> Draft:
    """Decide everything; raises as `prepare` does."""
    say("listing the images")
    source = source or open_source(settings.source, settings.root)
    items = select(listing(source), settings)
    if source.left_out.counts:
        say(f"left out: {source.left_out}")
    say(f"loading the model {settings.model}")
    model = models.load(
        settings.model, weights=settings.weights, trust_model_code=settings.trust_model_code, size=settings.size
    )
    say("choosing the layers" if not settings.layers else "checking the layers")
    inputs, preprocessing = _probe(model, settings, source, items)
    if settings.shard_size is None:
        size = shard_size(len(items), inputs.shape, devices, settings.batch_size)
        settings = replace(settings, shard_size=size)
    extractor = SaliencyExtractor(model.module, list(settings.layers) or None)
    features = extractor.features(inputs)
    columns = tuple(
        _column(method, layer, maps, settings) for method in settings.methods for layer, maps in features.items()
    )
    carried = source.carried(items)
    if carried is not None:
        carried = renamed(carried, (*schema(columns, {}).names, *plan_file.SCHEMA.names))
    parts = {
        "package": __version__,
        "format": FORMAT_VERSION,
        "listing": {"items": len(items), "sha256": plan_file.digest(items)},
        "carried": {} if carried is None else plan_file.record(carried),
        "model": {"name": settings.model, "sha256": weights.digest(model.module)},
        "layers": list(extractor.layers),
        "preprocessing": preprocessing,
        "images": {**POLICY, "max_pixels": settings.max_pixels},
        "methods": {method: settings.options(method, all_of_them=True) for method in settings.methods},
        "precision": settings.precision,
        "dtype": settings.dtype,
        "shard_size": settings.shard_size,
    }
    parts = json.loads(json.dumps(parts, default=str))
    file = RunFile(
        fingerprint=fingerprint(parts),
        items=len(items),
        settings=settings,
        source_kind=source.kind,
        source_root=source.root,
        layers=extractor.layers,
        reason=extractor.reason,
        columns=columns,
        estimated_bytes=len(items) * (_ROW_BYTES + sum(map(_column_bytes, columns)))
        + (0 if carried is None else carried.nbytes),
        parts=parts,
        versions=versions(PACKAGES),
    )
    return Draft(items, file, source.left_out, carried)


def fingerprint(parts: dict[str, Any]) -> str:
    """sha256 of everything that decides the result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _probe(
    model: models.Model, settings: Settings, source: Source, items: Sequence[Item]
) -> tuple[Tensor, dict[str, Any]]:
    """Two inputs of the network, and the record of how they are made.

    They are noise in two aspects, so that a preprocessing whose size follows the picture is seen at once; or what the
    dataset holds, where those are tensors.
    """
    own = _first_tensor(source, items, settings.max_pixels) if source.kind in ("dataset", "factory") else None
    if own is not None:
        return torch.stack([own, own]), {"kind": "by the dataset", "input": list(own.shape)}
    noise = np.random.default_rng(0).integers(0, 256, (640, 480, 3), dtype=np.uint8)
    tall, wide = (model.preprocess(Image.fromarray(pixels)) for pixels in (noise, noise.transpose(1, 0, 2).copy()))
    if tall.shape != wide.shape:
        raise ValueError(
            f"the preprocessing of {settings.model} gives inputs of several sizes ({list(tall.shape)} for a tall "
            f"picture, {list(wide.shape)} for a wide one), but the maps of a run have one: set size=(h, w)"
        )
    return torch.stack([tall, wide]), {**model.preprocess.record(), "input": list(tall.shape)}


def _first_tensor(source: Source, items: Sequence[Item], max_pixels: int) -> Tensor | None:
    """The first usable item of a dataset, where it is a float tensor."""
    for item in items[:16]:
        try:
            found = from_value(source.read(item), max_pixels)
        except Exception:  # a dataset raises anything, and gets an error row for it later
            continue
        return found if isinstance(found, Tensor) else None
    return None


def _column(method: str, layer: str, features: Tensor, settings: Settings) -> MapColumn:
    """The column of a method and layer, after trying the method's options (a rank, say) on its features."""
    METHODS[method].function(features, nan="propagate", precision=settings.precision, **settings.options(method))
    name = f"{method}/{layer}"
    scale = None if settings.dtype == "float32" else f"{name}:scale"
    return MapColumn(name, method, layer, (features.shape[2], features.shape[3]), settings.dtype, scale)


def _column_bytes(column: MapColumn) -> int:
    numbers = column.shape[0] * column.shape[1]
    return numbers * _BYTES[column.dtype] + (_SCALE_BYTES if column.scale else 0)
