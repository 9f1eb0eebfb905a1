"""Which texts are URLs (s3://, gs://, hf://, https://, memory://, ...), and the file systems of fsspec behind them."""

from __future__ import annotations

import re
from typing import Any

from .source import SourceError

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "hf": "hf"}


def is_remote(text: str) -> bool:
    """Whether a text is a URL."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def file_system(url: str, **options: Any) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    from fsspec.core import url_to_fs

    scheme = url.partition("://")[0].lower()
    try:
        return url_to_fs(url, **options)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        needed = f"needs the extra {extra!r}: pip install 'tsm_fast[{extra}]'" if extra else str(error)
        raise ModuleNotFoundError(f"{url!r} {needed}", name=error.name) from None
    except ValueError as error:
        raise SourceError(f"{url!r}: {error}") from None
