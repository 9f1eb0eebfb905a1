"""Files that are there whole or not at all, and the temporary files on the way to them.

A temporary file is locked (flock) by whoever writes it, and the kernel lets go of the lock when that process ends, by
`kill -9` too: so `clean` removes exactly what nobody writes any more. Two runs in one folder do no harm: they publish
the same bytes under the same names, each from its own temporary file.

Behind a URL a file is put whole, as stores of objects do; there is no temporary file, no lock and nothing to sync.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any, BinaryIO, cast

from ..errors import OutOfSpace
from .urls import url

SUFFIX = ".tmp"
_OURS = re.compile(r"\.[0-9a-f]{12}\.tmp$")
OLD = 86_400  # seconds after which a temporary file is left over where the file system has no locks
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def publishing(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """A file to write to, that takes its name at the end of the block, when its bytes are on the disk.

    Behind a URL it is put there at the end of the block. After an exception in the block nothing is left.
    `replace=False` raises FileExistsError where the name is taken.

    Raises:
        OutOfSpace: the disk is full.
    """
    if (there := url(path)) is not None:
        with out_of_space(Path(gettempdir())), TemporaryFile() as file:
            yield cast(BinaryIO, file)
            file.seek(0)
            there.put(file.read(), replace=replace)
        return
    with out_of_space(path):
        temporary, file = _open_temporary(path)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if replace:
                    os.replace(temporary, path)
                else:
                    _take_name(temporary, path)
            sync_folder(path.parent)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


@contextmanager
def out_of_space(path: Path) -> Iterator[None]:
    """`OutOfSpace`, with a way out, for a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL or isinstance(error, OutOfSpace):
            raise
        raise OutOfSpace(
            error.errno,
            f"the disk is full: nothing half-written is left, what was published before is whole; make room or go "
            f"on with the same command ({os.strerror(error.errno or 0)})",
            str(path),
        ) from error


def publish_bytes(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a whole file."""
    with publishing(path, replace=replace) as file:
        file.write(data)


def publish_all(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files by name; none takes its name before the bytes of all are on the disk."""
    for name in files:
        if (folder / name).is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory", str(folder / name))
    with ExitStack() as names:
        for name, data in files.items():
            file = names.enter_context(publishing(folder / name))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    return [folder / name for name in files]


@contextmanager
def replacing(path: Path, *, replace: bool) -> Iterator[Path]:
    """A name beside `path` for a file or folder that somebody else writes; it becomes `path` at the end of the block.

    After an exception in the block nothing is left.
    """
    if not replace and (path.exists() or path.is_symlink()):
        raise FileExistsError(errno.EEXIST, "exists already; give another name, or overwrite=True", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _beside(path, ".part"), _beside(path, ".old")  # which nobody locks, so `clean` may not judge them
    try:
        yield temporary
        if path.is_dir():
            path.rename(old)
        temporary.rename(path)
        _remove(old)
    finally:
        _remove(temporary)


def publish_json(path: Path, value: Any, *, replace: bool = True) -> None:
    """Write a JSON file; its text depends on the value alone."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    publish_bytes(path, text.encode() + b"\n", replace=replace)


def make_folder(folder: Path) -> None:
    """Make a folder, without what killed writers left in it; OSError where no file can be made there."""
    if url(folder) is not None:
        return  # stores of objects have no folders
    folder.mkdir(parents=True, exist_ok=True)
    clean(folder)
    temporary, file = _open_temporary(folder / "check")
    with file:  # locked until it is gone: another process would clean it away
        os.unlink(temporary)


def sync_folder(folder: Path) -> None:
    """Make names in a folder last through a power cut."""
    if url(folder) is not None:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # file systems whose folders cannot be synced
            raise
    finally:
        os.close(descriptor)


def clean(folder: Path, name: str = "") -> int:
    """Remove the temporary files in a folder (of the file `name`, if given) that nobody writes any more: how many."""
    removed = 0
    if url(folder) is not None:
        return removed
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(f".{name}") and _OURS.search(entry.name):
                removed += _remove_if_abandoned(entry.path)
    return removed


def sha256(path: Path) -> str:
    """The hash of a file, as a hexadecimal number."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _beside(path: Path, suffix: str) -> Path:
    """A new name beside `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}{suffix}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _open_temporary(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `path`, locked."""
    while True:
        temporary = _beside(path, SUFFIX)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            locked = _lock(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        # `clean` may have seen the file before it was locked.
        if locked and os.fstat(descriptor).st_nlink:
            return temporary, os.fdopen(descriptor, "wb", buffering=1 << 20)
        os.close(descriptor)


def _take_name(temporary: Path, path: Path) -> None:
    """Name a file, or FileExistsError where there is one."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        if path.exists():  # a file system without hard links
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(temporary, path)


def _lock(descriptor: int) -> bool:
    """Whether this process may write the file; also where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def _remove_if_abandoned(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return False
    try:
        if not _is_abandoned(descriptor):
            return False
        os.unlink(path)  # still locked: nobody can begin to write it
        return True
    except FileNotFoundError:
        return False
    finally:
        os.close(descriptor)


def _is_abandoned(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return time.time() - os.fstat(descriptor).st_mtime > OLD


class HashingFile:
    """A file to write to that keeps the hash and the number of its bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._size = file, 0
        self._abandoned = False
        self.sha256: hashlib._Hash = hashlib.sha256()
        self.closed: bool = False

    def abandon(self) -> None:
        """Let what is written from now on go nowhere: PyArrow writes a footer when it gives up a file."""
        self._abandoned = True

    def write(self, data: bytes) -> int:
        if self._abandoned:
            return len(data)
        self._file.write(data)
        self.sha256.update(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        if not self._abandoned:
            self._file.flush()

    def close(self) -> None:
        self.closed = True
