"""Names that a package hands on and imports when they are first asked for (PEP 562), and the extras that they need."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

# What an extra brings, by the names of modules. Beside PyTorch and NumPy nothing else is imported unless it is used.
_PICTURES = ("PIL", "cmap")
_DATASETS = (*_PICTURES, "pyarrow", "rich", "jinja2")
EXTRAS = {"pictures": _PICTURES, "datasets": _DATASETS, "cli": (*_DATASETS, "typer", "yaml")}


class MissingExtra(ModuleNotFoundError):
    """What an extra brings is not installed."""


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """MissingExtra, which says what to install, where an import in the block fails for what `extra` brings."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS[extra]:
            raise
        raise MissingExtra(f"{what} needs {module}: pip install 'tsm_fast[{extra}]'", name=error.name) from None


def lazy(
    package: str, homes: Mapping[str, str], extras: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that has some names only in its modules `homes`, by name.

    A name whose home is called as itself is that module. Names in `extras` need that extra, and are not listed without
    it. Where the package has `__all__`, nothing else is listed.
    """
    wanted = extras or {}

    def getattribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if name not in wanted:
            value = _found(package, homes[name], name)
        else:
            with needs(wanted[name], f"{package}.{name}"):
                value = _found(package, homes[name], name)
        vars(sys.modules[package])[name] = value  # the next time it is found at once
        return value

    def listed(name: str) -> bool:
        return name not in wanted or all(map(find_spec, EXTRAS[wanted[name]]))

    def names() -> list[str]:
        own = vars(sys.modules[package])
        public = [*own.get("__all__", (*own, *homes)), *(name for name in own if name.startswith("__"))]
        return sorted(set(filter(listed, public)))

    return getattribute, names


def _found(package: str, home: str, name: str) -> Any:
    module = import_module(home, package)
    return module if home == f".{name}" else getattr(module, name)
