"""`SaliencyDataset`: the maps of a run, finished or not, by number or by key, lazily."""

import os
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, cast, overload

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from ...steps import checks
from ...steps.choice import resolve
from ..files.shards import ABOUT
from .row_groups import About, Block, Store

POLICIES = ("raise", "nan", "skip")
PART_ROWS, PART_BYTES = 1024, 2**24  # of maps read at once, the smaller of both


class MapRow(NamedTuple):
    """One row of a run. A `DataLoader` puts several together as one `MapRow` of tensors and lists."""

    index: int  # in the listing
    key: str
    status: str  # "ok", the kind of the error, or "missing" where its shard is not finished
    error: str  # what went wrong; "" for "ok"
    height: int  # of the picture in pixels; 0 where that is not known
    width: int
    bytes: int  # of the picture as it was read, and their hash; 0 and "" where it could not be
    sha256: str
    flags: int  # bits of `pictures.decode.FLAGS`
    maps: dict[str, Any]  # column -> [h, w] float32, NaN where there is no map

    @property
    def map(self) -> Any:
        """The map of the only column; ValueError where there are several."""
        return self.maps[_only(list(self.maps))]


class SaliencyDataset(Dataset[MapRow]):
    """The saliency maps that `tsm-fast extract` wrote, of a finished or a half-finished run.

    `ds[7]` and `ds["cats/1.jpg"]` are one `MapRow`: index, key, status, error, height, width, bytes and sha256 of the
    picture, flags, `maps` by column, and `map` where there is one column. A slice, a list of numbers or of keys, or a
    boolean mask gives the `SaliencyDataset` of those rows, for which nothing is read yet. `numpy()`, `torch()` and
    `arrow()` read all its rows at once; `len`, iteration and `torch.utils.data.DataLoader` work as with any map-style
    dataset.

    A picture that could not be read has its error and a map of NaN, never another picture's map. Maps stored as float16
    or uint8 come back as float32. Safe to use from several threads and to send to other processes; each keeps at most
    some 16 MB of maps. Which shards are finished is looked up once, when the dataset is made.

    Args:
        path: the output folder of the run, or its URL (s3://, gs://, hf://, ...); or a list of those of several, which
            are read as one, in this order: they must be made by the same settings of different pictures.
        columns: which maps to read: a column such as "mtsm/features", a glob ("mtsm/*"), or a list of these; None for
            all. The attribute `columns` tells what was found.
        size: None for the maps as stored, or `(h, w)` to resize them to, bilinear (`align_corners=False`).
        normalize: scale every map into [0, 1] after resizing, as the map functions do.
        missing: for the pictures of shards that are not finished, "raise" a LookupError when one is read, give a map of
            "nan" with the status "missing", or "skip" them from the start.

    Raises:
        FileNotFoundError: there is no run at this path.
        FingerprintError: several runs cannot be read as one.
        TypeError, ValueError: no such column, or a wrong option.
        KeyError, IndexError: on reading, no such key or row.
        LookupError: on reading, the row is not computed yet.
        OSError: on reading, a file is damaged or gone.

    >>> import tempfile, tsm_fast
    >>> from pathlib import Path
    >>> from tsm_fast.pictures import load_photos
    >>> from tsm_fast.pipeline import Settings, prepare, run_shard
    >>> folder = Path(tempfile.mkdtemp())
    >>> for photo in load_photos()[:3]:
    ...     photo.image.save(folder / f"{photo.name}.png")
    >>> run = prepare(Settings(str(folder), methods=("tsm", "mtsm")), folder / "maps")
    >>> for spec in run.shards:
    ...     _ = run_shard(spec)
    >>> ds = tsm_fast.SaliencyDataset(run.out, size=(224, 224), normalize=True)
    >>> ds.keys, ds.columns
    (['astronaut.png', 'cat.png', 'coffee.png'], ['tsm/features', 'mtsm/features'])
    >>> ds["cat.png"].maps["mtsm/features"].shape, ds[:2].torch("tsm/features").shape
    ((224, 224), torch.Size([2, 224, 224]))
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        columns: str | Sequence[str] | None = None,
        *,
        size: tuple[int, int] | None = None,
        normalize: bool = False,
        missing: str = "raise",
    ) -> None:
        checks.choice("missing", missing, POLICIES)
        checks.flag("normalize", normalize)
        self.size: tuple[int, int] | None = checks.size(size)
        self.normalize = normalize
        self.missing = missing
        paths = [path] if isinstance(path, str | os.PathLike) else list(cast("Sequence[str | Path]", path))
        if not paths:
            raise ValueError("path must name at least one run, got none")
        self._store = Store(paths, columns)
        self._rows: range | np.ndarray = (
            self._store.finished_rows() if missing == "skip" else range(self._store.n_items)
        )

    @property
    def columns(self) -> list[str]:
        """The columns of maps that are read, "method/layer" each."""
        return list(self._store.columns)

    def shape(self, column: str | None = None) -> tuple[int, int]:
        """(h, w) of the maps of a column, after resizing; it must be named where there are several."""
        return self.size or self._store.columns[self._column(column)].shape

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        """Whether one of the rows has this key."""
        try:
            return isinstance(key, str) and len(self._positions([key])) == 1
        except KeyError:
            return False

    def __repr__(self) -> str:
        paths = list(map(str, self._store.outs))
        path = paths if len(paths) > 1 else paths[0]
        return f"SaliencyDataset({path!r}, {len(self)} rows, columns={self.columns})"

    @overload
    def __getitem__(self, index: int | str) -> MapRow: ...
    @overload
    def __getitem__(
        self, index: slice | Sequence[int] | Sequence[str] | np.ndarray | torch.Tensor
    ) -> "SaliencyDataset": ...
    def __getitem__(self, index: Any) -> "MapRow | SaliencyDataset":
        if isinstance(index, slice):
            return self._view(self._rows[index])
        if isinstance(index, str):
            return self.__getitems__(self._positions([index]))[0]
        if np.ndim(index) == 0:
            return self.__getitems__([checks.integer("index", index)])[0]
        return self._view(self._at(self._positions(index)))

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> list[MapRow]:
        """Several items in one go, which is how a `DataLoader` asks for a batch."""
        items: dict[int, MapRow] = {}
        for places, offsets, block in self._parts(self._at(indices)):
            maps = {name: self._finish(block.maps[name][offsets]) for name in self.columns}
            for number, (place, offset) in enumerate(zip(places.tolist(), offsets.tolist(), strict=True)):
                own = {name: values[number] for name, values in maps.items()}
                items[place] = MapRow(*(column[offset] for column in block.about), maps=own)
        return [items[place] for place in range(len(indices))]

    def __iter__(self) -> Iterator[MapRow]:
        rows = self.part_rows()
        for start in range(0, len(self), rows):
            yield from self.__getitems__(range(start, min(start + rows, len(self))))

    def part_rows(self) -> int:
        """How many rows to read at once, so that all goes quickly and takes little memory."""
        size = sum(4 * prod(self.shape(name)) for name in self.columns)
        return max(1, min(PART_ROWS, PART_BYTES // size))

    @property
    def keys(self) -> list[str]:
        """The keys of all rows, in order."""
        return self._store.keys.take(pa.array(_array(self._rows))).to_pylist()

    def carried(self) -> pa.Table:
        """What else the source knows of the pictures, such as labels: a column each, for all rows; perhaps none."""
        carried = self._store.carried()
        return pa.table({}) if carried is None else carried.take(pa.array(_array(self._rows)))

    @property
    def status(self) -> np.ndarray:  # [n] of str
        """The status of every row, to be compared as an array: `ds[ds.status == "ok"]`."""
        return np.array(self.about().status, str)

    def numpy(self, column: str | None = None) -> np.ndarray:  # [n, h, w]
        """The maps of all rows, float32; the column must be named where there are several."""
        name = self._column(column)
        out = np.empty((len(self), *self.shape(name)), np.float32)
        for places, offsets, block in self._parts(_array(self._rows)):
            out[places] = self._finish(block.maps[name][offsets])
        return out

    def torch(self, column: str | None = None) -> torch.Tensor:  # [n, h, w]
        """As `numpy`, as a tensor on the CPU."""
        return torch.from_numpy(self.numpy(column))

    def arrow(self) -> pa.Table:
        """All rows as a table, as the shards have them, with every column of maps as a float32 tensor."""
        about = self.about()
        table = {name: pa.array(values, ABOUT.field(name).type) for name, values in about._asdict().items()}
        for name in self.columns:
            h, w = self.shape(name)
            flat = pa.array(self.numpy(name).reshape(-1))
            kind = pa.fixed_shape_tensor(pa.float32(), (h, w))
            table[name] = pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, h * w))
        whole, carried = pa.table(table), self.carried()
        for field in carried.schema:
            whole = whole.append_column(field, carried[field.name])
        return whole

    def require_finished(self) -> None:
        """LookupError where a row is not computed yet."""
        shards = np.unique(self._store.places(_array(self._rows))[0])
        for shard in shards[~np.isin(shards, list(self._store.done))][:1]:
            self._store.block(int(shard), 0)

    def _view(self, rows: range | np.ndarray) -> "SaliencyDataset":
        view = object.__new__(type(self))
        vars(view).update(vars(self), _rows=rows)
        return view

    def _column(self, column: str | None) -> str:
        if column is None:
            return _only(self.columns)
        checks.choice("column", column, self.columns)
        return column

    def _at(self, indices: Any) -> np.ndarray:  # [n] numbers of rows of this dataset -> [n] rows of the plan
        """Numbers from the end when negative; IndexError out of range."""
        numbers = np.asarray(indices, np.int64).reshape(-1)
        bad = numbers[(numbers < -len(self)) | (numbers >= len(self))]
        if len(bad):
            raise IndexError(f"index must lie in {-len(self)}..{len(self) - 1}, got {bad[0]}")
        if isinstance(self._rows, range):
            return self._rows.start + self._rows.step * (numbers % max(len(self), 1))
        return self._rows[numbers]

    def _positions(self, index: Any) -> list[int] | np.ndarray:
        """The numbers in this dataset that a list of numbers or keys, or a boolean mask, means."""
        if len(index) and all(isinstance(key, str) for key in index):
            rows = [self._store.find(key) for key in index]
            return self._numbers_of(rows, index)
        chosen = np.asarray(index)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise IndexError(f"a mask must have shape ({len(self)},), got {chosen.shape}")
            return chosen.nonzero()[0]
        if len(chosen) and chosen.dtype.kind not in "iu":
            raise TypeError(f"index must be integers, keys or a boolean mask, got {chosen.dtype}")
        return chosen

    def _numbers_of(self, rows: list[int], keys: Sequence[str]) -> list[int]:
        if isinstance(self._rows, range) and len(self._rows) == self._store.n_items and self._rows.step == 1:
            return rows
        own = _array(self._rows)
        order = np.argsort(own, kind="stable")
        found = np.searchsorted(own, rows, sorter=order)
        for number, row, key in zip(found, rows, keys, strict=True):
            if number == len(own) or own[order[number]] != row:
                raise KeyError(key)
        return order[found].tolist()

    def _parts(self, rows: np.ndarray, missing: str | None = None) -> Iterator[tuple[np.ndarray, np.ndarray, Block]]:
        """The row groups that hold some rows of the plan: the places among the rows, those in the group, the group."""
        shard, group, offset = self._store.places(rows)
        order = np.lexsort((group, shard))
        cuts = np.flatnonzero(np.diff(shard[order]) | np.diff(group[order])) + 1
        for places in np.split(order, cuts) if len(order) else ():
            where = int(shard[places[0]]), int(group[places[0]])
            lacking = (missing or self.missing) == "nan" and where[0] not in self._store.done
            yield places, offset[places], (self._store.absent if lacking else self._store.block)(*where)

    def about(self) -> About:
        """What is said of all rows beside their maps, a list each."""
        about = About(*([None] * len(self) for _ in About._fields))  # pyright: ignore[reportArgumentType]
        for places, offsets, block in self._parts(_array(self._rows), "nan"):
            for whole, column in zip(about, block.about, strict=True):
                for place, offset in zip(places.tolist(), offsets.tolist(), strict=True):
                    whole[place] = column[offset]
        return about

    def _finish(self, maps: np.ndarray) -> np.ndarray:  # [n, h, w] -> [n, h, w] or [n, *size]
        if self.size is None and not self.normalize:
            return maps
        stored = torch.from_numpy(maps)
        return resolve(None, stored).finish(stored, self.size, normalize=self.normalize).numpy()


def _array(rows: range | np.ndarray) -> np.ndarray:
    return np.arange(rows.start, rows.stop, rows.step) if isinstance(rows, range) else rows


def _only(columns: Sequence[str]) -> str:
    if len(columns) != 1:
        raise ValueError(f"column must be one of {', '.join(map(repr, columns))} where there are several, got none")
    return columns[0]
