"""One picture in 5 000 makes the network raise, or ends or hangs its worker, or asks for all memory: what is lost.

    python -m benchmarks.poison --out poison.json

Each kind is a run of its own with default settings on two workers; EfficientNet-lite0 computes crops of real photos.
The rows of the other 4 999 pictures must be bit for bit those of a run without trouble.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from tsm_fast import models
from tsm_fast.pictures import load_photos
from tsm_fast.pipeline import Resources, Settings, prepare
from tsm_fast.pipeline.engines.run import run
from tsm_fast.pipeline.files.shards import shard_path

IMAGES, AT, SIDE = 5_000, 3_210, 96
MARK = 1e6  # in the first number of the picture in question
KINDS = {"raise": "model", "memory": "model", "segfault": "crash", "kill": "crash", "hang": "timeout"}


def act(kind: str) -> None:
    if kind == "raise":
        raise IndexError("index 7 is out of bounds for dimension 1 with size 7")
    if kind == "memory":
        torch.empty(1 << 50)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "kill":  # as the kernel does when memory ends
        os.kill(os.getpid(), signal.SIGKILL)
    while kind == "hang":
        time.sleep(0.1)


class Crops:
    """Crops of the photos as inputs of the network."""

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, number: int) -> Tensor:
        photos = _photos()
        photo = photos[number % len(photos)]
        top, left = (37 * number % (side - SIDE) for side in photo.shape[1:])
        crop = photo[:, top : top + SIDE, left : left + SIDE].clone()
        if number == AT and os.environ.get("POISON"):
            crop[0, 0, 0] = MARK
        return crop


@cache
def _photos() -> list[Tensor]:
    images = (np.asarray(photo.image.convert("RGB"), np.float32) for photo in load_photos())
    return [torch.from_numpy(pixels).permute(2, 0, 1) / 64 - 2 for pixels in images]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = models.load("lite0").module

    def forward(self, images: Tensor) -> Any:
        if (images[:, 0, 0, 0] == MARK).any():
            act(os.environ["POISON"])
        return self.network(images)


def crops() -> Crops:
    return Crops()


def net() -> Net:
    return Net().eval()


def extract(out: Path, kind: str) -> tuple[dict[str, Any], np.ndarray]:
    """What a run tells, and its maps [n, h, w]."""
    os.environ["POISON"] = kind
    settings = Settings("benchmarks.poison:crops", model="benchmarks.poison:net", methods=("tsm",))
    planned = prepare(settings, out, devices=["cpu", "cpu"])
    started = time.monotonic()
    outcome = run(planned, workers=2, resources=Resources())
    seconds = time.monotonic() - started
    table = pq.read_table([shard_path(out, spec.index) for spec in planned.shards])
    maps = table[planned.columns[0].name].combine_chunks().to_numpy_ndarray()
    found = {"seconds": round(seconds, 1), "code": outcome.code, "errors": outcome.error_kinds}
    return found | {"bad": outcome.bad, "shards": outcome.shards}, maps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory(prefix="tsm-fast-poison-") as folder:
        plain, expected = extract(Path(folder) / "plain", "")
        others = np.arange(IMAGES) != AT
        result: dict[str, Any] = {"images": IMAGES, "plain": plain, "kinds": {}}
        for kind, status in KINDS.items():
            found, maps = extract(Path(folder) / kind, kind)
            assert (found["code"], found["errors"]) == (0, {status: 1}), found
            assert np.array_equal(maps[others], expected[others])
            assert np.isnan(maps[AT]).all()
            found["lost"] = round(found["seconds"] - plain["seconds"], 1)
            result["kinds"][kind] = found
            print(f"{kind:>8}: {found['seconds']:.0f} s, {found['lost']:+.0f} s; {found['bad'][0].error}", flush=True)
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
