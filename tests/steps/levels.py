"""The CPU backend at another SIMD level than this process took, which is fixed for a module as it is loaded."""

from __future__ import annotations

import os
import shutil
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from unittest.mock import patch

from benchmarks.emulation import load_module, over

from ..helpers import NATIVE


def other_levels() -> list[str]:
    """The levels of this machine but its own."""
    cpu: Any = import_module("tsm_fast.steps.cpu") if NATIVE else None
    return [level for level in cpu.simd_levels() if level != cpu.simd_level()] if NATIVE else []


@cache
def at_level(level: str) -> ModuleType:
    """`tsm_fast.steps.cpu` over a copy of the compiled module, which has a state of its own."""
    built = import_module("tsm_fast._cpu").__file__
    assert built is not None
    with TemporaryDirectory() as folder, patch.dict(os.environ, TSM_FAST_SIMD=level):
        compiled = load_module(f"{level}._cpu", Path(shutil.copy(built, folder)))
    module = over(compiled, "cpu", level)
    assert module.simd_level() == level
    return module
