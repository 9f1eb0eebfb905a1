"""How many float32 operations a second the machine makes, by fma_peak.c, which the C compiler builds when asked."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("fma_peak.c")


@cache
def _library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "fma_peak.so"
        options = ("-O3", "-march=native", "-shared", "-fPIC", "-o", built)
        subprocess.run([os.environ.get("CC", "cc"), *options, SOURCE], check=True)
        library = ctypes.CDLL(str(built))
    library.fma_steps.restype = ctypes.c_double
    library.fma_steps.argtypes = [ctypes.c_long]
    return library


def fma_peak(seconds: float, threads: int) -> float:
    """Operations a second of so many threads that work for so long."""
    steps = _library().fma_steps
    start = time.perf_counter()

    def work(_: int) -> float:
        done = 0.0
        while time.perf_counter() - start < seconds:
            done += steps(1 << 16)  # without the GIL
        return done

    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(work, range(threads)))
    return done / (time.perf_counter() - start)
