"""Peak memory of a call beyond its input and output: by the kernel's high-water mark (Linux), or by torch on a GPU."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def extra(run: Callable[[], Any], device: str) -> tuple[Any, float | None]:
    """What a call gives, and its extra megabytes; None where the system does not tell.

    Memory that earlier calls keep for the next is counted there, not here.
    """
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = run()
        return result, _rest(torch.cuda.max_memory_allocated(device) - before, result)
    try:
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)  # memory freed so far would be used again unseen
        CLEAR.write_text("5")  # the high-water mark starts here
        before = _status("VmRSS")
    except (OSError, TypeError, KeyError):
        return run(), None
    result = run()
    return result, _rest(_status("VmHWM") - before, result)


def available() -> float:
    """Bytes that can still be taken; infinite where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024.0 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    except (OSError, StopIteration):
        return float("inf")


def _rest(used: float, result: Any) -> float:
    return round(max(used - size(result), 0.0) / 2**20, 2)


def _status(key: str) -> float:
    """A line of /proc/self/status, in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024.0 * int(line.split()[1])
    raise KeyError(key)


def size(result: Any) -> float:
    """Bytes of the arrays in a result."""
    if hasattr(result, "nbytes"):
        return float(result.nbytes)
    if dataclasses.is_dataclass(result):
        return size([getattr(result, field.name) for field in dataclasses.fields(result)])
    if isinstance(result, dict):
        return size(list(result.values()))
    return sum(map(size, result)) if isinstance(result, (list, tuple)) else 0.0
