"""A whole dataset, start to end: the 70 000 pictures of Fashion-MNIST through EfficientNet-lite0, TSM and MTSM at once.

    python -m benchmarks.fashion_mnist IDX_FOLDER --work FOLDER [--limit N] [--out RESULTS]

`IDX_FOLDER` holds the idx files of Fashion-MNIST (Debian's package `dataset-fashion-mnist` puts them into
/usr/share/datasets/fashion-mnist). The pictures are written into `FOLDER/pictures` as PNG files once; then `tsm-fast
extract` writes `FOLDER/maps`, `tsm-fast verify` reads all of it again, and `tsm-fast report` makes its page.
Interrupted, the same command goes on where it was. The results go into `benchmarks/results`, those of a run with
`--limit` into `FOLDER`:

- `fashion_mnist.json`: machine, command, time by stage, and two curves over time: images finished and memory;
- `fashion_mnist.md`: the table of it; `fashion_mnist.svg`: the curves.

A whole run also writes its numbers into docs/overnight.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from PIL import Image

from tsm_fast.pipeline.files.run import BUSY

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "overnight.md"  # its numbers stand between the markers
MARKERS = ("<!-- fashion_mnist: begin -->\n", "<!-- fashion_mnist: end -->\n")
IMAGENET, NIGHT = 1_281_167, 10 * 3600.0  # images, seconds
PARTS = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
METHODS = ("tsm", "mtsm")
SETTLED = 5000  # images after which memory must not grow any more
TARGET = 0.05  # of the forward pass, what the decompositions may take
SAMPLES = 400  # at most, that a result file holds


class Sample(NamedTuple):
    """The run at one moment."""

    seconds: float
    images: int
    rss: float  # MB resident in all its processes together; memory that they share counts in each
    pss: float  # MB, shared memory divided among those who share it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("idx", type=Path, help="folder with the idx files")
    parser.add_argument("--work", type=Path, required=True, help="folder for the pictures and the maps")
    parser.add_argument("--limit", type=int, help="only the first N pictures; the results go into the work folder")
    parser.add_argument("--out", type=Path, help="folder for the results")
    arguments = parser.parse_args()
    work, limit = arguments.work.resolve(), arguments.limit
    out = arguments.out or (RESULTS if limit is None else work)

    pictures = write_pictures(arguments.idx, work / "pictures")
    maps = work / ("maps" if limit is None else f"maps-{limit}")
    samples = extract(pictures, maps, limit)
    status = tsm_fast("status", maps)
    started = time.monotonic()
    verified = tsm_fast("verify", maps)
    seconds = {"extract": samples[-1].seconds, "verify": time.monotonic() - started}
    subprocess.run([sys.executable, "-m", "tsm_fast", "report", str(maps)], check=True, cwd=ROOT)

    result = summary(status, verified, samples, seconds, limit)
    out.mkdir(parents=True, exist_ok=True)
    (out / "fashion_mnist.json").write_text(to_json(result))
    (out / "fashion_mnist.md").write_text(table(result))
    plot(result, out / "fashion_mnist.svg")
    if out == RESULTS:
        PAGE.write_text(with_arithmetic(PAGE.read_text(), result))
    print(table(result))
    if not (verified["ok"] and verified["complete"]):
        sys.exit("the run is not what it should be: see `tsm-fast verify`")


def write_pictures(source: Path, folder: Path) -> Path:
    """All pictures as PNG files, train/00000.png to test/09999.png, once: a finished folder is left as it is."""
    if folder.exists():
        return folder
    making = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(making, ignore_errors=True)
    for part, file in PARTS.items():
        (making / part).mkdir(parents=True)
        for number, pixels in enumerate(read_idx(source / file)):
            Image.fromarray(pixels).save(making / part / f"{number:05d}.png")
    return making.rename(folder)


def read_idx(path: Path) -> np.ndarray:  # [N, 28, 28] uint8
    """The pictures of one idx file."""
    with gzip.open(path) as file:
        magic, count, height, width = struct.unpack(">4i", file.read(16))
        if magic != 0x803:
            raise ValueError(f"{path} must be an idx file of pictures (magic number 0x803), got {magic:#x}")
        return np.frombuffer(file.read(), np.uint8).reshape(count, height, width)


def extract(pictures: Path, maps: Path, limit: int | None) -> list[Sample]:
    """Run the command to its end; the samples of all sessions, if it was interrupted before."""
    before = maps.with_name(f"{maps.name}.samples.json")
    samples = [Sample(*row) for row in json.loads(before.read_text())] if before.exists() else []
    log = maps.with_name(f"{maps.name}.log")
    command = [sys.executable, "-m", "tsm_fast", *command_line(str(pictures), str(maps), limit)]
    log.write_bytes(b"")
    start = samples[-1].seconds if samples else 0.0
    with log.open("ab") as lines:
        process = subprocess.Popen(command, stdout=lines, stderr=lines, cwd=ROOT)
    try:
        began = time.monotonic()
        while process.poll() is None:
            moment = Sample(start + time.monotonic() - began, images_said(log), *memory(process.pid))
            if moment.images and moment.rss:
                samples.append(moment)
            time.sleep(2)
    finally:
        process.terminate()
        process.wait()
        before.write_text(json.dumps(samples))
    if process.returncode:
        sys.exit(f"extract ended with {process.returncode}: {log.read_text()[-2000:]}")
    return samples


def command_line(pictures: str, maps: str, limit: int | None) -> list[str]:
    methods = [word for method in METHODS for word in ("--map", method)]
    limits = [] if limit is None else ["--limit", str(limit)]
    return ["extract", pictures, "--model", "lite0", *methods, "--out", maps, *limits]


def images_said(log: Path) -> int:
    """The number of images in the last line of progress."""
    found = re.findall(rb"([\d,]+)/[\d,]+ images", log.read_bytes())
    return int(found[-1].replace(b",", b"")) if found else 0


def memory(pid: int) -> tuple[float, float]:
    """RSS and PSS of a process and all below it, in MB."""
    rss = pss = 0
    try:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            found = process.memory_full_info()
            rss, pss = rss + found.rss, pss + found.pss
    except psutil.NoSuchProcess:
        return 0.0, 0.0
    return rss / 1e6, pss / 1e6


def tsm_fast(command: str, maps: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tsm_fast", command, str(maps), "--json"], cwd=ROOT, capture_output=True
    )
    if not done.stdout:
        sys.exit(f"{command} ended with {done.returncode}: {done.stderr.decode()[-2000:]}")
    return json.loads(done.stdout)


def summary(
    status: dict[str, Any],
    verified: dict[str, Any],
    samples: list[Sample],
    seconds: dict[str, float],
    limit: int | None,
) -> dict[str, Any]:
    """What is recorded."""
    settled = np.array([(s.images, s.rss, s.pss) for s in samples if s.images >= SETTLED and s.rss], float).reshape(
        -1, 3
    )
    early = settled[settled[:, 0] < 2 * SETTLED] if len(settled) else settled
    growth = None
    if len(settled) > 2:
        growth = [round(float(np.polyfit(settled[:, 0], settled[:, i], 1)[0]) * 1e4, 1) + 0.0 for i in (1, 2)]
    spent = {stage: status["seconds"].get(stage, 0.0) for stage in BUSY}
    return {
        "machine": machine(),
        "date": date.today().isoformat(),
        "command": ["tsm-fast", *command_line("pictures", "maps", limit)],
        "images": status["images_done"],
        "errors": status["errors"],
        "bytes": status["bytes"],
        "columns": status["columns"],
        "seconds": seconds,
        "stages": spent,
        "decomposition / forward": spent["decomposition"] / spent["forward"],
        "verified": {key: verified[key] for key in ("ok", "complete", "images_checked", "shards_checked", "problems")},
        "memory": {
            "unit": "MB, all processes together",
            "peak rss": max(s.rss for s in samples),
            "peak pss": max(s.pss for s in samples),
            f"peak rss from {SETTLED} to {2 * SETTLED} images": float(early[:, 1].max()) if len(early) else None,
            f"peak rss after {2 * SETTLED} images": float(settled[len(early) :, 1].max(initial=0)),
            f"growth of rss and pss per 10000 images, from {SETTLED} images on": growth,
        },
        "curves": {name: [getattr(s, name) for s in thinned(samples)] for name in Sample._fields},
    }


def thinned(samples: list[Sample]) -> list[Sample]:
    """At most `SAMPLES` of them, each the highest memory of its stretch."""
    step = -(-len(samples) // SAMPLES)
    return [max(samples[i : i + step], key=lambda s: s.rss) for i in range(0, len(samples), step)]


def machine() -> dict[str, Any]:
    import torch

    import tsm_fast as package

    names = re.findall(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tsm_fast": package.__version__,
        "backend": package.backends()["cpu"].reason,
    }


def to_json(result: dict[str, Any]) -> str:
    """The curves in a line each, rounded."""
    curves = {name: [round(value, 1) for value in values] for name, values in result["curves"].items()}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in curves.items())
    text = json.dumps({**result, "curves": "CURVES"}, indent=1)
    return text.replace('"CURVES"', f"{{\n{lines}\n }}") + "\n"


def table(result: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    images, seconds, stages = result["images"], result["seconds"], result["stages"]
    m, memory_, ratio = result["machine"], result["memory"], result["decomposition / forward"]
    busy = sum(stages.values())
    rows = [f"| {n} | {s:,.0f} | {images / s:,.0f} | {s / busy:.1%} |" for n, s in stages.items() if s]
    growth = memory_[f"growth of rss and pss per 10000 images, from {SETTLED} images on"]
    lines = [
        "# A whole dataset: Fashion-MNIST through EfficientNet-lite0",
        "",
        f"{images:,} images, `{' '.join(result['command'])}`; {m['cpu']}, {m['cores']} cores, {m['backend']}; Python "
        f"{m['python']}, torch {m['torch']}; {result['date']}.",
        "",
        f"- start to end {seconds['extract']:,.0f} s, {images / seconds['extract']:,.0f} images a second; "
        f"{result['bytes'] / 1e6:,.1f} MB of shards; {sum(result['errors'].values())} errors",
        f"- verified in {seconds['verify']:,.1f} s: {result['verified']['images_checked']:,} images, "
        f"{'every key once and in order' if result['verified']['ok'] else 'WITH PROBLEMS'}",
        f"- decompositions / forward pass: {ratio:.1%} (target {TARGET:.0%}: {'met' if ratio <= TARGET else 'missed'})",
        f"- memory of all processes: peak {memory_['peak rss']:,.0f} MB RSS, {memory_['peak pss']:,.0f} MB PSS"
        + (f"; from {SETTLED:,} images on it grows by {growth[0]:+.1f} MB RSS per 10,000 images" if growth else ""),
        "",
        "| stage | seconds, all workers together | images a second | share |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
    ]
    return "\n".join(lines)


def with_arithmetic(page: str, result: dict[str, Any]) -> str:
    """The page with the arithmetic of this result between its markers."""
    head, rest = page.split(MARKERS[0])
    return head + MARKERS[0] + arithmetic(result) + MARKERS[1] + rest.split(MARKERS[1])[1]


def arithmetic(result: dict[str, Any]) -> str:
    """What the measured run says of ImageNet."""
    m, images, seconds = result["machine"], result["images"], result["seconds"]["extract"]
    rate = images / seconds
    need = math.ceil(IMAGENET / NIGHT / (rate / m["cores"]))
    size, night = result["bytes"] / images * IMAGENET / 1e6, NIGHT / 3600
    shape = "x".join(map(str, next(iter(result["columns"].values()))))
    rows = [
        (f"measured: {images:,} images, start to end", f"{seconds:,.0f} s on {m['cores']} cores ({m['cpu']})"),
        ("images a second", f"{images:,} / {seconds:,.0f} = {rate:.1f}, {rate / m['cores']:.1f} a core"),
        ("decompositions / forward pass", f"{result['decomposition / forward']:.1%}"),
        (
            f"{IMAGENET:,} images on this machine",
            f"{IMAGENET:,} / {rate:.1f} / 3600 = {IMAGENET / rate / 3600:.1f} hours",
        ),
        (f"cores for a night of {night:.0f} hours", f"{need}"),
        ("memory of all processes, at most", f"{result['memory']['peak pss']:,.0f} MB"),
        (f"shards, {len(result['columns'])} float32 maps of {shape} for each image", f"{size:,.0f} MB"),
    ]
    text = "".join(f"| {name} | {value} |\n" for name, value in rows)
    return f"| `lite0`, {' and '.join(METHODS)} in one pass, {result['date']} | |\n| --- | --- |\n{text}"


def plot(result: dict[str, Any], path: Path) -> None:
    """Images and memory over time."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "tsm_fast", "font.size": 9})
    matplotlib.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    from matplotlib import pyplot

    curves = result["curves"]
    minutes = np.array(curves["seconds"]) / 60
    figure, (top, bottom) = pyplot.subplots(2, 1, figsize=(8, 6), sharex=True, layout="constrained")
    top.plot(minutes, curves["images"], color="#c0392b")
    top.set(ylabel="images finished", ylim=(0, None))
    for name, color in (("rss", "#c0392b"), ("pss", "#9aa5b1")):
        bottom.plot(minutes, curves[name], color=color, label=name.upper())
    after = [minute for minute, images in zip(minutes, curves["images"], strict=True) if images >= SETTLED]
    if after:
        bottom.axvline(after[0], color="#9aa5b1", linestyle=":", label=f"{SETTLED:,} images")
    bottom.set(ylabel="MB, all processes", xlabel="minutes", ylim=(0, None))
    bottom.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    path.write_text(re.sub(r"[ \t]+$", "", path.read_text(), flags=re.MULTILINE))


if __name__ == "__main__":
    main()
