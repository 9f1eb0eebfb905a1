"""What is known about the machine, and how busy others keep it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .._version import versions
from ..steps import choice

PACKAGES = ("torch", "numpy", "scipy", "tensorly", "grad-cam", "scikit-learn", "jax", "cupy", "triton")
BUSY = 0.1  # share of the CPUs' time above which others move times more than their spread shows


def facts(device: str) -> dict[str, Any]:
    """Of the machine that measures, as JSON has them."""
    found = {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "backend": choice.backends()["cpu"].reason,
        "versions": versions(PACKAGES),
    }
    if device != "cpu":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
    return found


def processor() -> str:
    """The name of the CPU, where Linux tells it."""
    path = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in path.open() if "model name" in line] if path.exists() else []
    return names[0] if names else platform.processor()


def load() -> list[float] | None:
    """The system's load averages of 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


class Load:
    """What others did to this machine since this was made."""

    def __init__(self) -> None:
        self._begin, self._others = time.monotonic(), _others()

    def share(self) -> float | None:
        """Of the CPUs' time that other processes, or a hypervisor, took; None where the system does not tell."""
        others, spent = _others(), (time.monotonic() - self._begin) * (os.cpu_count() or 1)
        return None if others is None or self._others is None else round(max(others - self._others, 0) / spent, 4)


def _others() -> float | None:
    """Seconds that the CPUs have worked for other processes, or were taken away by a hypervisor (Linux), so far."""
    try:
        line = Path("/proc/stat").read_text().splitlines()[0].split()
    except OSError:
        return None
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, line[1:9])
    own = os.times()
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return busy - own.user - own.system - own.children_user - own.children_system


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for PyTorch, and for NumPy where threadpoolctl is installed; 0 leaves them as they are."""
    if not count:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        threadpool_limits = None
    try:
        if threadpool_limits is None:
            yield
        else:
            with threadpool_limits(count, user_api="blas"):
                yield
    finally:
        torch.set_num_threads(before)
