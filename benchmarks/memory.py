"""Peak memory beyond input and output, in a process of its own, by the kernel's high-water mark (Linux with glibc)."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

METHODS = ("tsm_fast", "torch")


def measure(method: str, shape: str, batch: int) -> dict[str, float]:
    """Extra megabytes of `tsm_fast` and of plain PyTorch for one call on a batch of the given size."""
    extra = {}
    for who in METHODS:
        command = [sys.executable, "-m", "benchmarks.memory", who, method, shape, str(batch)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
        extra[who] = json.loads(done.stdout.splitlines()[-1])
    return extra


def _status(key: str) -> float:
    """A line of /proc/self/status, in megabytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


def _main(who: str, method: str, shape: str, batch: int) -> None:
    import tsm_fast
    from benchmarks import shapes
    from tsm_fast.bench import peers

    x = shapes.features(shape, batch)
    run = getattr(tsm_fast, method) if who == "tsm_fast" else partial(peers.torch_maps, method)
    run(x[:2, :8, :3, :3])  # libraries are loaded; what a batch needs is not allocated yet
    ctypes.CDLL(None).malloc_trim(0)  # memory freed so far would be used again unseen
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
    before = _status("VmRSS")
    maps = run(x)
    output = maps.numel() * maps.element_size() / 2**20
    print(json.dumps(max(_status("VmHWM") - before - output, 0.0)))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
