"""Exports as arrays: .npy files, or one Zarr or HDF5 store."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from .row_groups import About
from .rows import Job, column_files, lines, parts, sync, table

ABOUT = {name: (int if name in ("index", "height", "width", "bytes", "flags") else str) for name in About._fields}


def write_npy(job: Job) -> None:
    job.dest.mkdir()
    dataset, carried = job.dataset, job.dataset.carried()
    with ExitStack() as files:
        rows = files.enter_context(table(job.dest, *carried.column_names))
        names = dict(column_files(dataset))
        arrays = {name: files.enter_context((job.dest / f"{file}.npy").open("xb")) for name, file in names.items()}
        for name, file in arrays.items():
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(dataset), *dataset.shape(name))}
            np.lib.format.write_array_header_1_0(file, header)
        for start, about, maps in parts(job):
            rows.writerows(lines(start, about, carried))
            for name, values in maps.items():
                arrays[name].write(values.astype("<f4", copy=False).tobytes())
        for file in arrays.values():
            sync(file)


def write_zarr(job: Job) -> None:
    import zarr

    group = zarr.open_group(str(job.dest), mode="w-")
    _fill(job, lambda name, **options: group.create_array(name, **options), str)
    group.attrs["columns"] = {file: name for name, file in column_files(job.dataset)}


def write_hdf5(job: Job) -> None:
    import h5py

    with job.dest.open("x+b", buffering=0) as raw:
        sink = _Sink(raw)
        with h5py.File(sink, "w") as file:

            def checked(done: int, rows: int) -> None:
                sink.check()
                job.progress(done, rows)

            _fill(job._replace(progress=checked), file.create_dataset, h5py.string_dtype())
            for name, array in column_files(job.dataset):
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


def _fill(job: Job, create: Callable[..., Any], text: Any) -> None:
    """An array for each column of maps, and one for each thing that is said of the rows."""
    dataset = job.dataset
    n, files = len(dataset), dict(column_files(dataset))
    chunk = max(1, min(dataset.part_rows(), n))

    def array(name: str, dtype: Any, *shape: int) -> Any:
        return create(name, shape=(n, *shape), dtype=dtype, **({"chunks": (chunk, *shape)} if n else {}))

    about = {name: array(name, text if kind is str else np.int64) for name, kind in ABOUT.items()}
    arrays = {name: array(file, np.dtype(np.float32), *dataset.shape(name)) for name, file in files.items()}
    for start, said, maps in parts(job):
        for name, values in said._asdict().items():
            about[name][start : start + len(values)] = np.array(values, object if ABOUT[name] is str else np.int64)
        for name, values in maps.items():
            arrays[name][start : start + len(values)] = values
