"""All that is decided before the first image: the listing, the model, its layers and preprocessing, the columns."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
from torch import Tensor

from ... import models
from ..._version import __version__, versions
from ...extractor import SaliencyExtractor
from ...methods import METHODS
from ...models import answers, weights
from ...models.forward import check_compiler, takes_channels_last
from ...models.preprocessing import shapes
from ...pictures.decode import POLICY, from_value
from ...variants import variant
from ..files import plan_file, typed
from ..files.record import DECIDING, About, Evidence, Record, RunFile, SourceRecord
from ..files.run import PACKAGES, Command
from ..files.shards import MapColumn, ValueColumn, schema
from ..settings import Settings
from ..sources.columns import renamed
from ..sources.lists import check_some_exist
from ..sources.open import open_source
from ..sources.source import Item, Source, Stamp, listing
from .select import select
from .shard_size import shard_size

BY_THE_DATASET = "by the dataset"
_ROW_BYTES = 86  # of a row beside its maps, compressed; measured on folders of photos
_BYTES = {"float32": 4, "float16": 2, "uint8": 1}
_SCALE_BYTES = 4


@dataclass(frozen=True)
class Draft:
    """A run before anything is written."""

    items: list[Item]
    stamps: list[Stamp] | None
    file: RunFile  # what run.json will say
    command: Command
    source: Source
    carried: pa.Table | None = None  # other columns of the source, a row for each item


def make(
    settings: Settings,
    *,
    source: Source | None = None,
    model: models.Model | None = None,
    devices: Sequence[str] = ("cpu",),
    say: Callable[[str], None] = lambda _: None,
    listed: tuple[SourceRecord, list[Item]] | None = None,
) -> Draft:
    """Decide everything; raises as `prepare` does.

    `listed` is what somebody else has planned: the record, and the first, the middle and the last item.
    """
    source = source or open_source(settings.source, settings.root)
    if listed is not None:
        items, stamps = listed[1], None
    else:
        say("listing the images")
        items = select(listing(source), settings)
        if source.left_out.counts:
            say(f"left out: {source.left_out}")
        stamps = source.stamps(items)
        check_some_exist(source, items, stamps)
    if settings.compile and "cpu" in devices:
        check_compiler()
    say(f"loading the model {settings.model}")
    model = model or models.load(settings.model, **settings.loading)
    say("choosing the layers" if not settings.layers else "checking the layers")
    shape, preprocessing = _probe(model, settings, source, items)
    if settings.shard_size is None:
        size = shard_size(len(items), shape, devices, settings.batch_size)
        settings = replace(settings, shard_size=size)
    extractor = SaliencyExtractor(
        model.module, list(settings.layers) or None, reshape_transform=settings.reshape_transform
    )
    inputs = answers.fixed_inputs(shape)
    features = extractor.features(inputs)
    if settings.channels_last is None:
        channels_last = set(devices) == {"cpu"} and takes_channels_last(
            model.module, extractor.layers, features, inputs, settings.reshape_transform
        )
        settings = replace(settings, channels_last=channels_last)
    columns = [
        _column(method, layer, maps, settings) for method in settings.methods for layer, maps in features.items()
    ]
    more, values = settings.computation, ()
    if more is not None:
        values = more.columns(columns)
    carried = None if listed is not None else source.carried(items)
    if carried is not None:
        carried = renamed(carried, (*schema(columns, {}, values=values).names, *plan_file.SCHEMA.names))
    adding = sorted({package for method in settings.methods if (package := METHODS[variant(method).method].package)})
    found = versions((*PACKAGES, *adding))
    parts = {
        "package": __version__,
        "versions": {name: found[name].partition("+")[0] for name in (*DECIDING, *adding)},
        "source": {
            "kind": source.kind,
            "items": len(items),
            "listing": plan_file.digest(items),
            "content": source.digest(items),
            "carried": None if carried is None else plan_file.record(carried),
        }
        if listed is None
        else {**asdict(listed[0]), "kind": source.kind, "content": source.digest(items)},
        "model": {"name": _name(settings.model), "sha256": weights.digest(model.module)},
        "layers": extractor.layers,
        "preprocessing": preprocessing,
        "images": {**POLICY, "max_pixels": settings.max_pixels},
        "methods": {method: settings.options(method, all_of_them=True) for method in settings.methods},
        "precision": settings.precision,
        "dtype": settings.dtype,
        "shard_size": settings.shard_size,
        "batch_size": settings.batch_size,
        "columns": list(map(asdict, columns)),
        "forward": {name: getattr(settings, name) for name in ("channels_last", "autocast", "compile")},
        "reshape": _name(settings.reshape),
    }
    if more is not None:
        parts["computation"] = {"name": more.name, "options": more.options(), "columns": list(map(asdict, values))}
    record = typed.made(Record, json.loads(json.dumps(parts, default=str)), "record")
    pictures = preprocessing["kind"] != BY_THE_DATASET
    evidence = Evidence(
        None if stamps is None else plan_file.digest(stamps), answers.of(model, features, picture=pictures)
    )
    about = About(
        source=settings.source,
        root=source.root,
        model=settings.model,
        weights=settings.weights,
        reason=extractor.reason,
        estimated_bytes=len(items) * (_ROW_BYTES + sum(map(_column_bytes, columns)) + sum(map(_value_bytes, values)))
        + (0 if carried is None else carried.nbytes),
        versions=found,
    )
    model_file, reshape_file = (
        os.path.abspath(name) if _is_file(name) else name for name in (settings.model, settings.reshape)
    )
    weights_file = settings.weights and os.path.abspath(settings.weights)
    # For workers that run in other folders.
    here = replace(settings, model=model_file, reshape=reshape_file, weights=weights_file)
    file, command = RunFile(record.fingerprint, record, evidence, about), Command(here, source.kind, source.root)
    return Draft(items, stamps, file, command, source, carried)


def _is_file(name: str) -> bool:
    """Whether a model is a file, or a model or function in one."""
    return os.path.isfile(name) or os.path.isfile(name.rpartition(":")[0])


def _name(model: str) -> str:
    """The name of a model; of a file only its own, not its folder's: the weights tell whether it is the same."""
    return os.path.basename(model) if _is_file(model) else model


def _probe(
    model: models.Model, settings: Settings, source: Source, items: Sequence[Item]
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The shape of an input of the network, and the record of how it is made.

    It is tried with pictures of two aspects, so that a preprocessing whose size follows the picture is seen at once; or
    it is that of what the dataset holds, where those are tensors.
    """
    own = _first_tensor(source, items, settings.max_pixels) if source.kind in ("dataset", "factory") else None
    if own is not None:
        return tuple(own.shape), {"kind": BY_THE_DATASET, "input": list(own.shape)}
    tall, wide = shapes(model.preprocess)
    if tall != wide:
        raise ValueError(
            f"the preprocessing of {settings.model} gives inputs of several sizes ({list(tall)} for a tall "
            f"picture, {list(wide)} for a wide one), but the maps of a run have one: set size=(h, w)"
        )
    return tall, {**model.preprocess.record(), "input": list(tall)}


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
    name = f"{method}/{layer}"
    if features.ndim != 4:
        raise ValueError(f"layer {layer!r} must give feature maps [B, C, H, W], got {tuple(features.shape)}")
    try:
        variant(method).function(features, nan="propagate", precision=settings.precision, **settings.options(method))
    except ValueError as error:
        raise ValueError(f"map {name!r}: {error}") from None
    scale = None if settings.dtype == "float32" else f"{name}:scale"
    return MapColumn(name, method, layer, (features.shape[2], features.shape[3]), settings.dtype, scale)


def _value_bytes(column: ValueColumn) -> int:
    return _BYTES["float32"] * max(column.length, 1)


def _column_bytes(column: MapColumn) -> int:
    numbers = column.shape[0] * column.shape[1]
    return numbers * _BYTES[column.dtype] + (_SCALE_BYTES if column.scale else 0)
