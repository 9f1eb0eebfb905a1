"""Builds and loads cusolver_stand_in.cpp: cuSOLVER's functions without a GPU."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

SOURCE = Path(__file__).with_suffix(".cpp")

_Callback = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


@_Callback
def _eigenpairs(n: int, kind: int, matrix: int, values: int) -> None:
    """LAPACK's, by NumPy: the stand-in has filled both triangles in. Vectors go back column by column."""
    number = (ctypes.c_float, ctypes.c_double)[kind]
    at = np.ctypeslib.as_array((number * (n * n)).from_address(matrix)).reshape(n, n)
    found, vectors = np.linalg.eigh(at)
    np.ctypeslib.as_array((number * n).from_address(values))[:] = found
    at[:] = vectors.T


def build(path: Path, *options: str) -> Path:
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        reason = "no C++ compiler to build the stand-in for cuSOLVER with"
        if os.environ.get("TSM_FAST_REQUIRE_NATIVE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-std=c++17", "-O2", "-Wall", "-shared", "-fPIC", "-pthread", *options, "-o", path, SOURCE]
    subprocess.run(command, check=True)
    return path


class StandIn:
    """The loaded library, what it counts (`calls`), and what it is told to do (`unconverged = 1`)."""

    functions: ctypes.CDLL

    def __init__(self, path: Path) -> None:
        self.__dict__["functions"] = ctypes.CDLL(str(path))
        solve = ctypes.cast(_eigenpairs, ctypes.c_void_p)
        ctypes.c_void_p.in_dll(self.functions, "eigenpairs").value = solve.value

    def __getattr__(self, name: str) -> int:
        return ctypes.c_int.in_dll(self.functions, name).value

    def __setattr__(self, name: str, value: int) -> None:
        kind = ctypes.c_int64 if name == "largest" else ctypes.c_int
        kind.in_dll(self.functions, name).value = value
