"""Pictures and lists in places that fsspec reaches, by URL."""

from __future__ import annotations

from typing import IO, Any

from ...pictures.decode import ImageError
from .schemes import file_system
from .source import SourceError


def read(url: str, start: int | None = None, end: int | None = None, *, below: str = "") -> bytes:
    """The bytes of a file, or of that `below` a folder, or a part; OSError or ImageError where they cannot be had."""
    system, path = file_system(url)
    try:
        return system.cat_file(_folder(path) + below if below else path, start=start, end=end)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # clients raise anything
        raise ImageError("unreadable", f"{type(error).__name__}: {error}") from None


def open_file(url: str) -> IO[bytes]:
    """A file for reading."""
    system, path = file_system(url)
    return _asked(url, system.open, path, "rb")


def about(url: str) -> dict[str, Any]:
    """What the file system says of a file: "size", and more."""
    system, path = file_system(url)
    return _asked(url, system.info, path)


def files_below(url: str) -> dict[str, dict[str, Any]]:
    """The files below a folder, by their path below it, and what the file system says of each."""
    system, path = file_system(url)
    folder = _folder(path)
    found = _asked(url, system.find, path, detail=True)
    return {name.removeprefix(folder): about for name, about in found.items()}


def glob(url: str) -> list[str]:
    """The URLs that match a pattern, sorted."""
    system, path = file_system(url)
    return sorted(map(system.unstrip_protocol, _asked(url, system.glob, path)))


def _folder(path: str) -> str:
    return path.rstrip("/") + "/"


def _asked(url: str, function: Any, *arguments: Any, **options: Any) -> Any:
    try:
        return function(*arguments, **options)
    except FileNotFoundError:
        raise SourceError(f"source {url!r} does not exist") from None
    except OSError as error:
        raise SourceError(f"source {url!r} cannot be read: {error}") from None
    except Exception as error:  # clients raise anything: no credentials, no connection
        raise SourceError(f"source {url!r} cannot be reached: {type(error).__name__}: {error}") from None
