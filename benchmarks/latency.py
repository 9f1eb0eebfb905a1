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

import torch

import tsm_fast
from tsm_fast.bench.peers import torch_maps
from tsm_fast.steps import cpu

from .other_tools import RESULTS, processor, timed

SHAPES = ((8, 2, 2), (512, 7, 7), (1280, 7, 7), (2048, 7, 7), (1024, 14, 14))
SECONDS = 3.0  # for each shape


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for shape in SHAPES:
        x = torch.rand(1, *shape) * torch.rand(1, 1, *shape[1:])
        calls = {"tsm_fast": partial(tsm_fast.tsm, x), "plain PyTorch": partial(torch_maps, "tsm", x)}
        difference = float((calls["tsm_fast"]() - calls["plain PyTorch"]()).abs().max())
        assert difference < 1e-3, difference
        us = {name: round(1e3 * time["p50"], 1) for name, time in timed(calls, SECONDS).items()}
        ratio = us["plain PyTorch"] / us["tsm_fast"]
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
