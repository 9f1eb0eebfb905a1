"""`package.module:name`: a function that somebody wrote, named on the command line."""

from __future__ import annotations

import importlib
import re
from typing import Any


def is_factory(text: str) -> bool:
    """Whether a text has the form of such a name."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text) is not None


def call(text: str, what: str, error: type[ValueError] = ValueError) -> Any:
    """What the function returns when called without arguments; `error`, naming `what`, where there is none.

    >>> call("torch.nn:Identity", "model")
    Identity()
    """
    module, _, name = text.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name is None or not (module == missing.name or module.startswith(missing.name + ".")):
            raise
        raise error(f"{what} {text!r}: there is no module {module!r} (is its folder in PYTHONPATH?)") from None
    function = getattr(found, name, None)
    if not callable(function):
        raise error(f"{what} {text!r}: module {module!r} has no function {name!r}")
    return function()
