"""Datasets with a length and items by number: Hugging Face, and any map-style `torch.utils.data.Dataset`."""

from __future__ import annotations

import json
import operator
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ...factory import call
from ...pictures.decode import ImageError
from .columns import as_table, plain_columns
from .hashes import sampled
from .keys import encode_key
from .picture_files import read_file
from .source import Item, LeftOut, Source, SourceError

PICTURE_NAMES = ("image", "img", "pixel_values", "picture")


class DatasetSource(Source):
    """A map-style dataset: `len(dataset)` and `dataset[i]`.

    Args:
        dataset: its items are PIL pictures, bytes of image files, `[H, W]` or `[H, W, 3]` uint8 arrays, `[3, H, W]`
            uint8 tensors, `[C, H, W]` float tensors (which go into the network as they are), or a tuple, list or
            mapping that holds one of these: its first entry, or that under "image".
        keys: one for each item; None for their numbers, with leading zeros.
        columns: what else is known of the items, to be carried along: a mapping of names to values, or an Arrow table.
            None for the attribute `targets` that torchvision's datasets have, as column "label".
        kind, root: how a worker finds the dataset again; it cannot where it is an object of this program.
        fingerprint: changes with the content; None for that of a Hugging Face dataset, or for a digest of what the
            first, the middle and the last item hold, which have to be the same whenever they are asked for.

    One item is fetched at a time: a dataset need not be safe for threads.
    """

    def __init__(
        self,
        dataset: Any,
        keys: Sequence[str] | None = None,
        *,
        columns: Mapping[str, Any] | pa.Table | None = None,
        kind: str = "dataset",
        root: str = "",
        fingerprint: str | None = None,
    ) -> None:
        if isinstance(dataset, Mapping) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise TypeError(f"dataset must have a length and items by number, got {type(dataset).__name__}")
        if keys is not None and len(keys) != len(dataset):
            raise ValueError(f"keys must be one for each of the {len(dataset)} items, got {len(keys)}")
        self.kind: str = kind
        self.root: str = root or type(dataset).__qualname__
        self.left_out: LeftOut = LeftOut()
        self.dataset: Any = dataset
        self._keys = keys
        own = getattr(dataset, "_fingerprint", None)
        self._fingerprint = fingerprint or (own if isinstance(own, str) else None)
        self._columns = _targets(dataset) if columns is None else as_table(columns)
        if self._columns is not None and len(self._columns) != len(dataset):
            raise ValueError(f"columns must have a row for each of the {len(dataset)} items, got {len(self._columns)}")
        self._guard = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_guard"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._guard = threading.Lock()

    def items(self) -> list[Item]:
        count = len(self.dataset)
        if not count:
            raise SourceError(f"source {self.root!r} is empty")
        width = len(str(count - 1))
        keys = [f"{i:0{width}d}" for i in range(count)] if self._keys is None else map(encode_key, self._keys)
        return [Item(key, None, number) for number, key in enumerate(keys)]

    def carried(self, items: Sequence[Item]) -> pa.Table | None:
        return (
            None if self._columns is None else self._columns.take(pa.array([item.offset for item in items], pa.int64()))
        )

    def read(self, item: Item) -> Any:
        with self._guard:
            found = picture_of(self.dataset[item.offset])
        return read_file(found) if isinstance(found, str) else found

    def digest(self, items: Sequence[Item]) -> str:
        return self._fingerprint or sampled(self, items)


def _targets(dataset: Any) -> pa.Table | None:
    """The class numbers of a dataset as torchvision's have them, with the names of the classes."""
    targets, names = getattr(dataset, "targets", None), getattr(dataset, "classes", None)
    try:
        labels = pa.array([operator.index(label) for label in targets or ()], pa.int64())
    except (TypeError, ValueError, RuntimeError):
        return None
    if len(labels) != len(dataset):
        return None
    named = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return pa.table([labels], schema=pa.schema([class_field("label", names if named else None)]))


def class_field(name: str, names: Sequence[str] | None) -> pa.Field:
    """A column of class numbers; the names of the classes are in its metadata, as JSON."""
    return pa.field(name, pa.int64(), metadata=None if names is None else {"names": json.dumps(list(names))})


def picture_of(value: Any) -> Any:
    """The picture in an item: itself, the first of a tuple or list, or the entry of a mapping that is named so."""
    if isinstance(value, Mapping):
        if isinstance(value.get("bytes"), bytes):
            return value["bytes"]
        if value.get("path") and set(value) <= {"bytes", "path"}:
            return str(value["path"])
        name = next((name for name in PICTURE_NAMES if name in value), None)
        if name is None:
            names = ", ".join(map(str, value))
            raise ImageError("item", f"it holds none of {', '.join(PICTURE_NAMES)}, but {names}")
        return picture_of(value[name])
    if isinstance(value, tuple | list):
        if not value:
            raise ImageError("item", "it is an empty sequence")
        return picture_of(value[0])
    return value


def from_factory(text: str) -> DatasetSource:
    """The dataset, or `DatasetSource`, that a factory (`factory.call`) returns."""
    made = call(text, "source", SourceError)
    source = made if isinstance(made, DatasetSource) else DatasetSource(made)
    module, _, name = text.rpartition(":")
    source.kind = "factory"
    source.root = f"{os.path.abspath(module)}:{name}" if module.endswith(".py") else text
    return source


def hugging_face(text: str) -> DatasetSource:
    """A dataset of the Hugging Face hub, or a folder of `save_to_disk`; "#SPLIT" names a split."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"source {text!r} needs the extra 'hf': pip install 'tsm_fast[hf]'", name="datasets"
        ) from None
    name, _, split = text.partition("#")
    on_disk = os.path.isdir(name)
    loaded: Any = datasets.load_from_disk(name) if on_disk else datasets.load_dataset(name, split=split or None)
    if isinstance(loaded, Mapping):
        if not split and len(loaded) == 1:
            split = next(iter(loaded))
        if split not in loaded:
            raise SourceError(
                f"source {text!r} must name a split as {name}#SPLIT, one of {', '.join(map(str, loaded))}"
            )
        loaded = loaded[split]
    fingerprint = loaded._fingerprint
    columns = [column for column, feature in loaded.features.items() if isinstance(feature, datasets.Image)]
    if not columns:
        raise SourceError(f"source {text!r} has no column of images, got {', '.join(loaded.features)}")
    left_out, features = LeftOut(), loaded.features
    others = plain_columns(loaded.features.arrow_schema, columns[:1], left_out)
    known = loaded.select_columns(others).with_format("arrow")[:] if others else None
    # Undecoded, so that a broken image is an error row and not an exception of the whole dataset.
    loaded = loaded.select_columns(columns[:1]).cast_column(columns[0], datasets.Image(decode=False))
    root = (os.path.abspath(name) if on_disk else name) + (f"#{split}" if split else "")
    source = DatasetSource(
        _Column(loaded, columns[0]),
        columns=_with_classes(known, features),
        kind="hf",
        root=root,
        fingerprint=fingerprint,
    )
    source.left_out = left_out
    return source


def _with_classes(table: pa.Table | None, features: Mapping[str, Any]) -> pa.Table | None:
    for number, name in enumerate(table.column_names if table is not None else ()):
        if table is not None and hasattr(features[name], "names"):
            field = class_field(name, features[name].names)
            table = table.set_column(number, field, table.column(number).cast(pa.int64()))
    return table


class _Column:
    """One column of a Hugging Face dataset."""

    def __init__(self, dataset: Any, column: str) -> None:
        self.dataset, self.column = dataset, column

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> Any:
        return self.dataset[number][self.column]
