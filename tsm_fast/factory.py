"""`package.module:name` or `file.py:name`: a function that somebody wrote, named on the command line."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def is_factory(text: str) -> bool:
    """Whether a text has the form of such a name."""
    return re.fullmatch(r"([A-Za-z_][\w.]*|.+\.py):[A-Za-z_]\w*", text) is not None


def call(text: str, what: str, error: type[ValueError] = ValueError) -> Any:
    """What the function returns when called without arguments; errors as in `find`.

    >>> call("torch.nn:Identity", "model")
    Identity()
    """
    return find(text, what, error)()


def find(text: str, what: str, error: type[ValueError] = ValueError) -> Callable[..., Any]:
    """The function of a name; `error`, naming `what`, where there is none.

    Modules are looked for in the current folder too, after all other places.
    """
    module, _, name = text.rpartition(":")
    try:
        found = _of_file(module) if module.endswith(".py") else _of_name(module)
    except FileNotFoundError as missing:
        if missing.filename != os.path.abspath(module):
            raise
        raise error(f"{what} {text!r}: there is no file {module!r}") from None
    except ModuleNotFoundError as missing:
        if missing.name is None or not (module == missing.name or module.startswith(missing.name + ".")):
            raise
        raise error(f"{what} {text!r}: there is no module {module!r} here or in PYTHONPATH") from None
    function = getattr(found, name, None)
    if not callable(function):
        close = difflib.get_close_matches(name, [n for n, value in vars(found).items() if callable(value)], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        place = "file" if module.endswith(".py") else "module"
        raise error(f"{what} {text!r}: {place} {module!r} has no function {name!r}{hint}")
    return function


def _of_name(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        if os.getcwd() in sys.path:
            raise
    _search(os.getcwd())
    return importlib.import_module(module)


def _of_file(file: str) -> ModuleType:
    """The module in a file, under its whole path, so that it hides no other; those beside it can be imported."""
    path = os.path.abspath(file)
    if path not in sys.modules:
        spec = importlib.util.spec_from_file_location(path, path)
        assert spec is not None  # by the name's ending
        assert spec.loader is not None
        _search(os.path.dirname(path))
        sys.modules[path] = importlib.util.module_from_spec(spec)  # where dataclasses look for it
        try:
            spec.loader.exec_module(sys.modules[path])
        except BaseException:
            del sys.modules[path]
            raise
    return sys.modules[path]


def _search(folder: str) -> None:
    """Look for modules in a folder too, after all other places."""
    if folder not in sys.path:
        sys.path.append(folder)
        importlib.invalidate_caches()
