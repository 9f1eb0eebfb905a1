"""What the machine can do at most, measured in the run that it is compared with."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

SOURCE = Path(__file__).with_name("fma_peak.c")
SECONDS = 0.4  # for each limit
LARGE = 2**28  # bytes of what is read or copied: more than any cache


class Limits(NamedTuple):
    """Float32 operations and bytes a second, and how each was measured."""

    flops: float
    bandwidth: float
    flops_by: str
    bandwidth_by: str

    def seconds(self, flop: float, moved: float) -> float:
        return max(flop / self.flops, moved / self.bandwidth)


def measure(device: str) -> Limits:
    """Of this machine with the threads that torch has now, or of its GPU."""
    flops, flops_by = _flops(device)
    copied, summed = _copy_rate(device), _sum_rate(device)
    by = f"{'copying' if copied > summed else 'summing'} {LARGE // 2**20} MB"
    return Limits(flops, max(copied, summed), flops_by, by)


def _flops(device: str) -> tuple[float, str]:
    if device != "cpu":
        return _product_rate(8192, device), "torch.mm of 8192x8192 float32"
    try:
        rates = [fma_peak(SECONDS / 5, torch.get_num_threads()) for _ in range(5)]
        return max(rates), "independent multiply-adds in registers"
    except (OSError, subprocess.CalledProcessError):
        return _product_rate(1024, device), "torch.mm of 1024x1024 float32, as there is no C compiler"


def _product_rate(n: int, device: str) -> float:
    a = torch.rand(n, n, device=device)
    return 2 * n**3 / _least(lambda: torch.mm(a, a), device)


def _copy_rate(device: str) -> float:
    source = torch.ones(LARGE // 4, device=device)
    target = torch.empty_like(source)
    return 2 * LARGE / _least(lambda: target.copy_(source), device)


def _sum_rate(device: str) -> float:
    source = torch.ones(LARGE // 4, device=device)
    return LARGE / _least(source.sum, device)


def _least(run: Callable[[], Any], device: str) -> float:
    """The shortest of some calls."""
    times, begin = [], time.perf_counter()
    while time.perf_counter() - begin < SECONDS or len(times) < 3:
        start = time.perf_counter()
        run()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


@cache
def _library() -> ctypes.CDLL:
    """fma_peak.c, which the C compiler builds when asked."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "fma_peak.so"
        options = ("-O3", "-march=native", "-shared", "-fPIC", "-o", str(built))
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, *options, str(SOURCE)], check=True, capture_output=True)
        library = ctypes.CDLL(str(built))
    library.fma_steps.restype = ctypes.c_double
    library.fma_steps.argtypes = [ctypes.c_long]
    return library


def fma_peak(seconds: float, threads: int) -> float:
    """Float32 operations a second of so many threads that work for so long."""
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
