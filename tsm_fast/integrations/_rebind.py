"""Functions of a tool put in place of its own, in every module that has them by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any


def rebind(replacements: Mapping[Callable[..., Any], Callable[..., Any]]) -> None:
    """Put the functions that are values in place of those that are keys."""
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        for name, value in list(names.items()) if isinstance(names, dict) else ():
            if type(value) is FunctionType and value in replacements:
                setattr(module, name, replacements[value])
