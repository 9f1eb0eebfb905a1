"""The CPU backend at another SIMD level than this process took, which is fixed for a module as it is loaded."""

from __future__ import annotations

import os
import shutil
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from unittest.mock import patch

import tsm_fast
from benchmarks.emulation import load_module

from ..helpers import NATIVE


def other_levels() -> list[str]:
    """The levels of this machine but its own."""
    cpu: Any = import_module("tsm_fast.steps.cpu") if NATIVE else None
    return [level for level in cpu.simd_levels() if level != cpu.simd_level()] if NATIVE else []


@cache
def at_level(level: str) -> ModuleType:
    """`tsm_fast.steps.cpu` over a copy of the compiled module, which has a state of its own."""
    built = import_module("tsm_fast._cpu").__file__
    wrapper = Path(tsm_fast.__file__).with_name("steps") / "cpu.py"
    assert built is not None
    with TemporaryDirectory() as folder, patch.dict(os.environ, TSM_FAST_SIMD=level):
        compiled = load_module(f"{level}._cpu", Path(shutil.copy(built, folder)))
    with patch.dict(sys.modules, {"tsm_fast._cpu": compiled}), patch.object(tsm_fast, "_cpu", compiled):
        module = load_module(f"tsm_fast.steps.cpu_{level}", wrapper)
    assert module.simd_level() == level
    return module
