"""A folder of photos to EigenCAM maps, end to end: three programs on the same pictures, the same network and two cores.

    python -m benchmarks.end_to_end [--images 400] [--rounds 3] [--out end_to_end.json]

- `gradcam`: a loop over the pictures with pytorch-grad-cam's EigenCAM (after `make test-integrations`, with
  PYTHONPATH=build/integrations);
- `pytorch`: plain PyTorch as a careful user writes it: a DataLoader with processes, batches, a hook, and the Gram
  matrix with `torch.linalg.eigh` in place of an SVD;
- `extract`: `tsm-fast extract` with its defaults.

Each is a process of its own, timed from its start to its end, in turn and several times; the maps must agree. Without
grad-cam that row is left out. The shares of `extract` are of the busy time of its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tsm_fast import SaliencyDataset, models
from tsm_fast.bench import peers
from tsm_fast.pictures import load_photos
from tsm_fast.pipeline.files.run import BUSY

CORES, BATCH = 2, 16
ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("gradcam", "pytorch", "extract")


class Pictures(Dataset[Tensor]):
    """The pictures of a folder as inputs of the network."""

    def __init__(self, folder: Path) -> None:
        self.paths, self.preprocess = sorted(folder.iterdir()), models.load("lite0").preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Tensor:
        with Image.open(self.paths[number]) as image:
            return self.preprocess(image.convert("RGB"))


def gradcam(folder: Path) -> np.ndarray:
    from tsm_fast.bench.operators import declare_operators

    _library = declare_operators()
    from pytorch_grad_cam import EigenCAM  # pyright: ignore[reportMissingImports]

    model, pictures = models.load("lite0").module, Pictures(folder)
    with EigenCAM(model=model, target_layers=[model.features]) as cam:
        return np.concatenate([cam(pictures[number][None], None) for number in range(len(pictures))])


def pytorch(folder: Path) -> np.ndarray:
    model, found = models.load("lite0").module, []
    model.features.register_forward_hook(lambda _module, _inputs, output: found.append(output))  # pyright: ignore
    maps = []
    with torch.no_grad():
        for batch in DataLoader(Pictures(folder), batch_size=BATCH, num_workers=CORES):
            model(batch)
            maps.append(peers.eigencam(found.pop()))
    return torch.cat(maps).numpy()


def write_photos(folder: Path, count: int) -> None:
    """Crops of the photos, 400 x 300 or as large as they are."""
    photos = [photo.image for photo in load_photos()]
    for number in range(count):
        photo = photos[number % len(photos)]
        w, h = min(400, photo.width - 40), min(300, photo.height - 40)
        left, top = 7 * number % (photo.width - w), 5 * number % (photo.height - h)
        photo.crop((left, top, left + w, top + h)).convert("RGB").save(folder / f"{number:05d}.jpg", quality=90)


def seconds(program: str, pictures: Path, out: Path) -> float:
    """Of a process, from its start to its end."""
    if program == "extract":
        command = ["-m", "tsm_fast", "extract", pictures, "--out", out, "--map", "eigencam", "--no-report"]
    else:
        command = ["-m", "benchmarks.end_to_end", "--program", program, "--pictures", pictures, "--out", out]
    # Threads that wait do not spin, which on a machine with other work costs the first two most of their time.
    env = {**os.environ, "OMP_NUM_THREADS": str(CORES), "OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1"}
    started = time.monotonic()
    subprocess.run([sys.executable, *map(str, command)], check=True, cwd=ROOT, env=env, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


def agree(folder: Path, programs: list[str]) -> None:
    """The maps of the programs, scaled to 0..1 each, differ by rounding; grad-cam enlarges its own to the input."""
    ours = SaliencyDataset(folder / "extract", normalize=True).numpy("eigencam/features")
    plain = peers.normalized(torch.from_numpy(np.load(folder / "pytorch.npy"))).numpy()
    assert np.abs(plain - ours).max() < 1e-3
    if "gradcam" in programs:
        theirs = np.load(folder / "gradcam.npy")
        step = theirs.shape[1] // ours.shape[1]
        coarse = theirs[:, step // 2 :: step, step // 2 :: step]
        same = [
            max(np.corrcoef(a.ravel(), s * b.ravel())[0, 1] for s in (1, -1)) for a, b in zip(coarse, ours, strict=True)
        ]
        assert np.median(same) > 0.9, np.median(same)  # its sign is left to the SVD, and it cuts off the negative part


def measure(images: int, rounds: int) -> dict[str, Any]:
    programs = [name for name in PROGRAMS if name != "gradcam" or find_spec("pytorch_grad_cam")]
    times: dict[str, list[float]] = {name: [] for name in programs}
    with tempfile.TemporaryDirectory(prefix="tsm-fast-end-to-end-") as name:
        work = Path(name)
        (work / "pictures").mkdir()
        write_photos(work / "pictures", images)
        for number in range(rounds):
            for program in programs:
                out = work / (f"extract{number or ''}" if program == "extract" else f"{program}.npy")
                times[program].append(seconds(program, work / "pictures", out))
                print(f"{program:>8}: {times[program][-1]:.1f} s", flush=True)
        agree(work, programs)
        status = subprocess.run(
            [sys.executable, "-m", "tsm_fast", "status", str(work / "extract"), "--json"], capture_output=True, cwd=ROOT
        )
        found = json.loads(status.stdout)
    busy = sum(found["seconds"][stage] for stage in BUSY)
    return {
        "images": images,
        "cores": CORES,
        "torch": torch.__version__,
        "seconds": {name: [round(value, 2) for value in values] for name, values in times.items()},
        "images_per_second": {name: round(images / statistics.median(values), 2) for name, values in times.items()},
        "shards": found["shards"],
        "share": {stage: round(found["seconds"][stage] / busy, 4) for stage in BUSY},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    parser.add_argument("--pictures", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.program is not None:
        np.save(given.out, {"gradcam": gradcam, "pytorch": pytorch}[given.program](given.pictures))
        return
    result = measure(given.images, given.rounds)
    print(json.dumps(result, indent=1))
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
