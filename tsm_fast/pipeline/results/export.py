"""`export`: the maps of a run as .npy files, pictures, or one Zarr or HDF5 store."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from ...steps import checks
from ..files.publish import replacing
from .reader import SaliencyDataset
from .row_groups import About

FOLDER_SIZE = 1000  # pictures in a folder
PICTURE = (224, 224)  # of exported pictures where no size is given
ABOUT = {name: (int if name in ("index", "height", "width", "bytes", "flags") else str) for name in About._fields}

Part = tuple[int, About, dict[str, np.ndarray]]  # first row, what is said of the rows, maps by column
Progress = Callable[[int, int], None]
Write = Callable[[SaliencyDataset, Path, Progress], None]


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
    progress: Progress | None = None,
) -> Path:
    """Write the maps of a run in another format; `dest` appears when it is whole, and memory stays small.

    | `to` | `dest` |
    | --- | --- |
    | "npy" | a folder with an array [N, h, w] float32 for each column, and rows.csv |
    | "png" | a folder with a grey picture for each map, scaled into 0..255, and rows.csv |
    | "zarr" | a Zarr group (extra `zarr`) with an array for each column, and what is said of the rows |
    | "hdf5" | the same as an HDF5 file (extra `hdf5`) |

    Files are named by column and row number; keys are data, and stand in rows.csv or in the array "key". A picture
    that could not be read keeps its row, with a map of NaN; as PNG it has no file.

    Args:
        run: the output folder of `tsm-fast extract`.
        to: the format.
        dest: what to write; it must not exist yet, unless `overwrite`.
        columns, size, normalize, missing: as in `SaliencyDataset`. Pictures are always normalised, and 224 x 224 where
            no size is given.
        overwrite: replace what is there, at the end.
        progress: called with the number of rows written and of all rows.

    Returns:
        `dest`.

    Raises:
        FileExistsError: `dest` is there already.
        LookupError: the run is not finished, and `missing` is "raise".
        ModuleNotFoundError: the extra is not installed.
        OSError: a file cannot be written; nothing is left behind.
        TypeError, ValueError: an unknown format or column, or a wrong option.
    """
    checks.choice("to", to, WRITERS)
    write, module = WRITERS[to]
    if module is not None and find_spec(module) is None:
        raise ModuleNotFoundError(f"to={to!r} needs the extra {to!r}: pip install 'tsm_fast[{to}]'", name=module)
    picture = to == "png"
    dataset = SaliencyDataset(
        run,
        columns,
        size=size or PICTURE if picture else size,
        normalize=normalize or picture,
        missing=missing,
    )
    dest = Path(dest)
    if missing == "raise":
        dataset.require_finished()
    with replacing(dest, replace=overwrite) as temporary:
        write(dataset, temporary, progress or (lambda _done, _rows: None))
    return dest


def _parts(dataset: SaliencyDataset, progress: Progress) -> Iterator[Part]:
    """The rows of a dataset in order, some at a time."""
    rows = dataset.part_rows()
    for start in range(0, len(dataset), rows):
        part = dataset[start : start + rows]
        yield start, part.about(), {name: part.numpy(name) for name in dataset.columns}
        progress(start + len(part), len(dataset))


def _write_npy(dataset: SaliencyDataset, folder: Path, progress: Progress) -> None:
    folder.mkdir()
    carried = dataset.carried()
    with ExitStack() as files:
        rows = files.enter_context(_rows(folder, *carried.column_names))
        arrays = {name: files.enter_context((folder / f"{file}.npy").open("xb")) for name, file in _files(dataset)}
        for name, file in arrays.items():
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(dataset), *dataset.shape(name))}
            np.lib.format.write_array_header_1_0(file, header)
        for start, about, maps in _parts(dataset, progress):
            rows.writerows(_lines(start, about, carried))
            for name, values in maps.items():
                arrays[name].write(values.astype("<f4", copy=False).tobytes())
        for file in arrays.values():
            _sync(file)


def _write_png(dataset: SaliencyDataset, folder: Path, progress: Progress) -> None:
    folder.mkdir()
    names, carried = dict(_files(dataset)), dataset.carried()
    with _rows(folder, *carried.column_names, *names.values()) as rows:
        for start, about, maps in _parts(dataset, progress):
            for number, row in enumerate(_lines(start, about, carried)):
                index = about.index[number]
                paths = {name: f"{file}/{index // FOLDER_SIZE:06d}/{index:09d}.png" for name, file in names.items()}
                seen = {name: not np.isnan(maps[name][number]).any() for name in names}
                for name, path in paths.items():
                    if seen[name]:
                        (folder / path).parent.mkdir(parents=True, exist_ok=True)
                        pixels = np.rint(maps[name][number] * 255).astype(np.uint8)
                        Image.fromarray(pixels).save(folder / path)
                rows.writerow([*row, *(paths[name] if seen[name] else "" for name in names)])


def _write_zarr(dataset: SaliencyDataset, folder: Path, progress: Progress) -> None:
    import zarr

    group = zarr.open_group(str(folder), mode="w-")
    _fill(dataset, lambda name, **options: group.create_array(name, **options), str, progress)
    group.attrs["columns"] = {file: name for name, file in _files(dataset)}


def _write_hdf5(dataset: SaliencyDataset, path: Path, progress: Progress) -> None:
    import h5py

    with path.open("x+b", buffering=0) as raw:
        sink = _Sink(raw)
        with h5py.File(sink, "w") as file:

            def checked(done: int, rows: int) -> None:
                sink.check()
                progress(done, rows)

            _fill(dataset, file.create_dataset, h5py.string_dtype(), checked)
            for name, array in _files(dataset):
                file[array].attrs["column"] = name
        sink.check()
        os.fsync(raw.fileno())


class _Sink(io.RawIOBase):
    """A file that keeps its first error for `check`, and takes no more: HDF5 crashes on a write that fails."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._error: OSError | None = None

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        end = self._file.tell() + size
        rest = memoryview(data).cast("B")
        try:
            while rest and self._error is None:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._error = error
        self._file.seek(end)
        return size

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0


def _fill(dataset: SaliencyDataset, create: Callable[..., Any], text: Any, progress: Progress) -> None:
    """An array for each column of maps, and one for each thing that is said of the rows."""
    n, files = len(dataset), dict(_files(dataset))
    chunk = max(1, min(dataset.part_rows(), n))
    about = {
        name: create(name, shape=(n,), dtype=text if kind is str else np.int64, chunks=(chunk,))
        for name, kind in ABOUT.items()
    }
    arrays = {
        name: create(
            file, shape=(n, *dataset.shape(name)), dtype=np.dtype(np.float32), chunks=(chunk, *dataset.shape(name))
        )
        for name, file in files.items()
    }
    for start, said, maps in _parts(dataset, progress):
        for name, values in said._asdict().items():
            about[name][start : start + len(values)] = np.array(values, object if ABOUT[name] is str else np.int64)
        for name, values in maps.items():
            arrays[name][start : start + len(values)] = values


WRITERS: dict[str, tuple[Write, str | None]] = {
    "npy": (_write_npy, None),
    "png": (_write_png, None),
    "zarr": (_write_zarr, "zarr"),
    "hdf5": (_write_hdf5, "h5py"),
}


def _files(dataset: SaliencyDataset) -> Iterator[tuple[str, str]]:
    """Each column with a name for its file: letters, digits, "_" and "-" of the column, distinct."""
    taken: set[str] = {*About._fields, "rows"}
    for column in dataset.columns:
        plain = re.sub(r"[^A-Za-z0-9_]+", "-", column).strip("-")[:100] or "maps"
        name = next(name for i in range(len(taken) + 1) if (name := plain if i == 0 else f"{plain}-{i}") not in taken)
        taken.add(name)
        yield column, name


@contextmanager
def _rows(folder: Path, *more: str) -> Iterator[Any]:
    """rows.csv: what is said of every row; the CSV rules quote whatever a key holds."""
    with (folder / "rows.csv").open("x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*About._fields, *more])
        yield writer
        _sync(file)


def _lines(start: int, about: About, carried: pa.Table) -> Iterator[tuple[Any, ...]]:
    """What is said of some rows, and what the source knows of them."""
    known = carried.slice(start, len(about.index))
    return zip(*about, *(column.to_pylist() for column in known.columns), strict=True)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
