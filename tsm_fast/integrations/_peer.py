"""Whether a tool is there, in a version that is supported, and a message with the way out where it is not."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from .._version import release


def peer(distribution: str, module: str, oldest: str, extra: str) -> ModuleType:
    """The module of a tool; ImportError that names the extra, or the versions, where it cannot be used."""
    remedy = f"pip install 'tsm_fast[{extra}]'"
    try:
        found = version(distribution)
    except PackageNotFoundError:
        raise ImportError(f"{distribution} is not installed: {remedy}", name=module) from None
    if release(found) < release(oldest):
        raise ImportError(f"{distribution} must be {oldest} or newer, got {found}: {remedy}", name=module)
    return import_module(module)
