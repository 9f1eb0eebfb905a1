"""A run of 1.28 million pictures: time and memory to plan it, take it up, follow it as a rank, add to it, look up keys.

    python -m benchmarks.listing --out benchmarks/results/listing.json

The pictures are empty files in a thousand folders, under names like those of ImageNet, and nothing is computed: what is
measured is all that depends on their number before the first shard and after the last. Each step is a process of its
own; its peak is that of the whole process, of which "import" is what the package and PyTorch take alone. "cpu" are the
seconds of processors, all threads together, which other processes of the machine do not change much.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from tsm_fast import SaliencyDataset
from tsm_fast.pipeline import Run, Settings, prepare
from tsm_fast.pipeline.engines.run import ready
from tsm_fast.pipeline.files import plan_file

IMAGES, FOLDERS, MORE, SHARD, LOOKUPS, RANKS = 1_280_000, 1_000, 1_000, 4096, 10_000, 8


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 32, 3, stride=16), nn.AdaptiveAvgPool2d(1))


def name(number: int) -> str:
    return f"n{number % FOLDERS:08d}/n{number % FOLDERS:08d}_{number:08d}.JPEG"


def write(folder: Path, first: int, last: int) -> None:
    for number in range(first, last):
        if number < FOLDERS:
            (folder / name(number)).parent.mkdir(parents=True)
        os.close(os.open(f"{folder}/{name(number)}", os.O_CREAT | os.O_WRONLY))


def keys(images: int) -> list[str]:
    return [name(number) for number in np.random.default_rng(0).integers(0, images, LOOKUPS).tolist()]


def settings(source: Path) -> Settings:
    return Settings(str(source), model="benchmarks.listing:net", layers=("0",), size=(64, 64), shard_size=SHARD)


def follow(source: Path, out: Path) -> None:
    os.environ |= {"RANK": str(RANKS - 1), "WORLD_SIZE": str(RANKS)}
    ready(settings(source), out, "rank", workers=0)


def one_shard(out: Path) -> None:
    """What a worker reads before it computes a shard."""
    spec = Run.open(out).shards[-1]
    assert plan_file.read(out, spec.group, spec.part)


def look_up(out: Path, wanted: list[str]) -> None:
    dataset = SaliencyDataset(out, missing="nan")
    started = time.process_time()
    dataset[wanted[:1]]
    first = time.process_time() - started
    started = time.process_time()
    found = dataset[wanted]
    each = (time.process_time() - started) / len(wanted)
    assert len(found) == len(wanted)
    kept = dataset._store.keys.nbytes
    print(json.dumps({"first_ms": round(1e3 * first), "each_us": round(1e6 * each, 1), "kept_mb": round(kept / 1e6)}))


STEPS: dict[str, Callable[[Path, Path, int], Any]] = {
    "import": lambda source, out, images: None,
    "plan": lambda source, out, images: prepare(settings(source), out),
    "take up": lambda source, out, images: prepare(settings(source), out),
    "follow": lambda source, out, images: follow(source, out),
    "one shard": lambda source, out, images: one_shard(out),
    "look up": lambda source, out, images: look_up(out, keys(images)),
    "add": lambda source, out, images: prepare(settings(source), out, add=True),
    "look up, grown": lambda source, out, images: look_up(out, [*keys(images)[1:], name(images + MORE - 1)]),
}


def step(what: str, source: Path, out: Path, images: int) -> dict[str, Any]:
    line = [sys.executable, "-m", "benchmarks.listing", "--step", what, str(source), str(out), "--images", str(images)]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
    found = {name: value for text in done.stdout.splitlines() for name, value in json.loads(text).items()}
    print(f"{what:>15}: {found}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step is not None:
        what, source, out = given.step
        started, busy = time.perf_counter(), time.process_time()
        STEPS[what](Path(source), Path(out), given.images)
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": round(seconds, 2), "cpu": round(busy, 2), "peak_mb": round(peak)}))
        return
    with tempfile.TemporaryDirectory(prefix="tsm-fast-listing-") as folder:
        source, out = Path(folder) / "pictures", Path(folder) / "maps"
        write(source, 0, given.images)
        steps = {}
        for what in STEPS:
            if what == "add":
                write(source, given.images, given.images + MORE)
            steps[what] = step(what, source, out, given.images)
        size = {path.name: path.stat().st_size for path in sorted(out.glob("plan*.parquet"))}
    versions = {"python": platform.python_version(), "torch": torch.__version__, "pyarrow": pa.__version__}
    result = {
        "images": given.images,
        "added": MORE,
        "ranks": RANKS,
        "versions": versions,
        "bytes": size,
        "steps": steps,
    }
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
