"""The version, which pyproject.toml reads from here, and those of other packages."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Our version, that of Python, and those of the packages that are installed."""
    found = {"tsm_fast": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def release(text: str) -> tuple[int, ...]:
    """Of "0.10.0+cpu": (0, 10, 0)."""
    leading = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, leading.group().split("."))) if leading else ()
