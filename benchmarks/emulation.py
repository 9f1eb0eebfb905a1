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
WRAPPER = Path(tsm_fast.__file__).with_name("steps") / "cuda.py"


@cache
def emulated() -> ModuleType:
    """`tsm_fast.steps.cuda` over the emulation: the same Python, the same kernels, CPU tensors.

    Raises:
        FileNotFoundError: it is not built.
    """
    path = next((p for s in importlib.machinery.EXTENSION_SUFFIXES for p in BUILT.glob(f"cuda_emulation{s}")), None)
    if path is None:
        raise FileNotFoundError(f"the emulation of the CUDA kernels is not built in {BUILT}: run `make build`")
    compiled = load_module("cuda_emulation", path)
    with patch.dict(sys.modules, {"tsm_fast._cuda": compiled}), patch.object(tsm_fast, "_cuda", compiled, create=True):
        return load_module("tsm_fast.steps.cuda_emulated", WRAPPER)


def load_module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
