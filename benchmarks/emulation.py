"""The CUDA backend with its kernels executed on the CPU: the emulation that `make build` makes of them."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import tsm_fast

BUILT = Path(os.environ.get("TSM_FAST_EMULATION", Path(tsm_fast.__file__).parents[1] / "build" / "dev" / "emulation"))


@cache
def emulated() -> ModuleType:
    """`tsm_fast.steps.cuda` over the emulation: the same Python, the same kernels, CPU tensors.

    Raises:
        FileNotFoundError: it is not built.
    """
    path = next((p for s in importlib.machinery.EXTENSION_SUFFIXES for p in BUILT.glob(f"cuda_emulation{s}")), None)
    if path is None:
        raise FileNotFoundError(f"the emulation of the CUDA kernels is not built in {BUILT}: run `make build`")
    return over(load_module("cuda_emulation", path), "cuda", "emulated")


def over(compiled: ModuleType, step: str, name: str) -> ModuleType:
    """`tsm_fast.steps.<step>` once more, over another compiled module than its own."""
    own, wrapper = f"_{step}", Path(tsm_fast.__file__).with_name("steps") / f"{step}.py"
    with patch.dict(sys.modules, {f"tsm_fast.{own}": compiled}), patch.object(tsm_fast, own, compiled, create=True):
        return load_module(f"tsm_fast.steps.{step}_{name}", wrapper)


def load_module(name: str, path: Path) -> ModuleType:
    """The module in a file, under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
