"""One image at a time: a whole call of `tsm_fast.tsm` beside the same map in plain PyTorch, on one thread.

    .venv/bin/python -m benchmarks.latency

Gram matrix, `torch.linalg.eigh`, last vector, scaled into 0..1; the two agree before they are timed, and take turns.
The result goes into `benchmarks/results/latency.json`.
"""

from __future__ import annotations

import json
import os
from datetime import date
from functools import partial
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

import tsm_fast
from tsm_fast.steps import cpu

from .other_tools import RESULTS, processor

SHAPES = ((8, 2, 2), (512, 7, 7), (1280, 7, 7), (2048, 7, 7), (1024, 14, 14))
ROUNDS, CALLS = 25, 60


def plain(x: Tensor) -> Tensor:
    unfolded = x.flatten(2)
    values, vectors = torch.linalg.eigh(unfolded.mT @ unfolded)
    maps = (vectors[:, :, -1] * values[:, -1:].sqrt()).abs().view(len(x), *x.shape[2:])
    lowest = maps.amin((1, 2), keepdim=True)
    return (maps - lowest) / (maps.amax((1, 2), keepdim=True) - lowest)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for shape in SHAPES:
        x = torch.rand(1, *shape) * torch.rand(1, 1, *shape[1:])
        calls = {"tsm_fast": partial(tsm_fast.tsm, x), "plain PyTorch": partial(plain, x)}
        difference = float((calls["tsm_fast"]() - plain(x)).abs().max())
        assert difference < 1e-3, difference
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                start = perf_counter()
                for _ in range(CALLS):
                    call()
                times[name].append((perf_counter() - start) / CALLS * 1e6)
        ratio = median(a / b for a, b in zip(times["plain PyTorch"], times["tsm_fast"], strict=True))
        us = {name: round(median(row), 1) for name, row in times.items()}
        rows.append({"shape": shape, "us": us, "ratio": round(ratio, 2), "difference": difference})
        print("x".join(map(str, shape)), us, f"{ratio:.2f}x")
    run = {
        "machine": processor(),
        "level": cpu.simd_level(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "load": "{:.1f}, {:.1f}, {:.1f}".format(*os.getloadavg()),
        "rows": rows,
    }
    (RESULTS / "latency.json").write_text(json.dumps(run, indent=1) + "\n")


if __name__ == "__main__":
    main()
