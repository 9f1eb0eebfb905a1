"""Where a run lies: in a folder of this machine, or behind a URL that fsspec reaches (s3://, gs://, hf://, memory://)."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar, cast

import pyarrow.parquet as pq

from ..sources.schemes import file_system, is_remote

T = TypeVar("T")
R = TypeVar("R")
THREADS = 16  # requests under way at once


def folder(where: str | Path) -> Path:
    """A folder or file by its path; for a URL a `Url`, which has the manners of a `Path` that runs need.

    >>> folder("runs/1"), str(folder("s3://bucket/runs/") / "1")
    (PosixPath('runs/1'), 's3://bucket/runs/1')
    """
    if isinstance(where, Url):
        return cast(Path, where)
    text = os.fspath(where)
    if isinstance(where, Path) and re.match(r"[a-z0-9+.-]{2,}:/[^/]", text) and not where.parents[-2].exists():
        raise ValueError(f"a URL must be given as text, got {where!r}, which is a folder {text.partition('/')[0]!r}")
    if not is_remote(text):
        return Path(text)
    if text.startswith(("file://", "local://")):
        return Path(file_system(text)[1])
    return cast(Path, Url(text.rstrip("/")))


def url(path: Path) -> Url | None:
    """What `folder` made of a URL, as what it is; None for a path of this machine."""
    found: Any = path
    return found if isinstance(found, Url) else None


class About(NamedTuple):
    """What `Url.stat` tells."""

    st_size: int


@dataclass(frozen=True)
class Url:
    """A file or folder behind a URL. It is no more than its text, so it goes to other processes, also by a fork.

    Whatever a client raises is an OSError that names the URL.
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def __fspath__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> Url:
        return Url(f"{self.text}/{name}")

    @property
    def name(self) -> str:
        return self.text.rpartition("/")[2]

    @property
    def parent(self) -> Url:
        return Url(self.text.rpartition("/")[0])

    def absolute(self) -> Url:
        return self

    def exists(self) -> bool:
        return self._ask("exists")

    def is_file(self) -> bool:
        return self._ask("isfile")

    def stat(self) -> About:
        return About(int(self._ask("info").get("size") or 0))

    def read_bytes(self) -> bytes:
        return self._ask("cat_file")

    def open(self, mode: str = "rb", **options: Any) -> IO[bytes]:
        return self._ask("open", mode, **options)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self._ask("rm_file")
        except FileNotFoundError:
            if not missing_ok:
                raise

    def put(self, data: bytes, *, replace: bool = True) -> None:
        """Put a whole file, or FileExistsError where it is there; only as sure as the store, where it knows that."""
        if replace:
            self._ask("pipe_file", data)
            return
        try:
            self._ask("pipe_file", data, mode="create")
        except OSError:
            if self.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self.text) from None
            raise

    def sizes(self) -> dict[str, int]:
        """What is in a folder, by name, and how many bytes each has."""
        return {
            about["name"].rstrip("/").rpartition("/")[2]: about.get("size") or 0
            for about in self._ask("ls", detail=True)
        }

    def below(self) -> list[str]:
        """The paths of all files below a folder."""
        found, (_, path) = self._ask("find"), self._system()
        return [name.removeprefix(path.rstrip("/") + "/") for name in found]

    def _system(self) -> tuple[Any, str]:
        return file_system(self.text, use_listings_cache=False)  # other processes write there too

    def _ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        there, path = self._system()
        try:
            return getattr(there, method)(path, *arguments, **options)
        except OSError as error:
            if error.filename:
                raise
            number = error.errno or (errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EIO)
            raise type(error)(number, _line(error), self.text) from None
        except MemoryError:
            raise
        except Exception as error:  # clients raise anything: no credentials, no connection
            raise OSError(errno.EIO, f"cannot be reached: {type(error).__name__}: {_line(error)}", self.text) from None


def sizes(where: Path) -> dict[str, int]:
    """What is in a folder, by name, and how many bytes each has; nothing where it is not there."""
    found: dict[str, int] = {}
    with suppress(FileNotFoundError):
        if (there := url(where)) is not None:
            return there.sizes()
        with os.scandir(where) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # a temporary file that is gone
                    found[entry.name] = entry.stat().st_size
    return found


def below(where: Path) -> list[str]:
    """The paths of all files below a folder, sorted, with "/"."""
    if (there := url(where)) is not None:
        return sorted(there.below())
    return sorted(path.relative_to(where).as_posix() for path in where.rglob("*") if not path.is_dir())


def each(where: Path, function: Callable[[T], R], values: Iterable[T]) -> Iterator[R]:
    """A function of files in a folder, in order; many at once where each has to be asked for."""
    if url(where) is None:
        yield from map(function, values)
        return
    with ThreadPoolExecutor(THREADS) as threads:
        yield from threads.map(function, values)


@contextmanager
def parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file for reading; its checksums are compared."""
    if (there := url(path)) is None:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
        return
    with (
        there.open(cache_type="none") as source,  # PyArrow knows what it needs
        pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=True) as file,
    ):
        yield file


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
