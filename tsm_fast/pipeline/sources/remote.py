"""Places that fsspec reaches, by URL: s3://, gs://, hf://, https://, memory:// and others."""

from __future__ import annotations

import re
from typing import IO, Any

from ...pictures.decode import ImageError
from .source import SourceError

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "hf": "hf"}


def is_remote(text: str) -> bool:
    """Whether a text is a URL."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def read(url: str, start: int | None = None, end: int | None = None, *, below: str = "") -> bytes:
    """The bytes of a file, or of that `below` a folder, or a part; OSError or ImageError where they cannot be had."""
    system, path = _system(url)
    try:
        return system.cat_file(_folder(path) + below if below else path, start=start, end=end)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # clients raise anything
        raise ImageError("unreadable", f"{type(error).__name__}: {error}") from None


def open_file(url: str) -> IO[bytes]:
    """A file for reading."""
    system, path = _system(url)
    return _asked(url, system.open, path, "rb")


def about(url: str) -> dict[str, Any]:
    """What the file system says of a file: "size", and more."""
    system, path = _system(url)
    return _asked(url, system.info, path)


def files_below(url: str) -> dict[str, dict[str, Any]]:
    """The files below a folder, by their path below it, and what the file system says of each."""
    system, path = _system(url)
    folder = _folder(path)
    found = _asked(url, system.find, path, detail=True)
    return {name.removeprefix(folder): about for name, about in found.items()}


def glob(url: str) -> list[str]:
    """The URLs that match a pattern, sorted."""
    system, path = _system(url)
    return sorted(map(system.unstrip_protocol, _asked(url, system.glob, path)))


def _folder(path: str) -> str:
    return path.rstrip("/") + "/"


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    from fsspec.core import url_to_fs

    scheme = url.partition("://")[0].lower()
    try:
        return url_to_fs(url)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        needed = f"needs the extra {extra!r}: pip install 'tsm_fast[{extra}]'" if extra else str(error)
        raise ModuleNotFoundError(f"source {url!r}: {needed}", name=error.name) from None
    except ValueError as error:
        raise SourceError(f"source {url!r}: {error}") from None


def _asked(url: str, function: Any, *arguments: Any, **options: Any) -> Any:
    try:
        return function(*arguments, **options)
    except FileNotFoundError:
        raise SourceError(f"source {url!r} does not exist") from None
    except OSError as error:
        raise SourceError(f"source {url!r} cannot be read: {error}") from None
    except Exception as error:  # clients raise anything: no credentials, no connection
        raise SourceError(f"source {url!r} cannot be reached: {type(error).__name__}: {error}") from None
