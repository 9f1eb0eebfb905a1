"""Times the GPU backends beside plain PyTorch on the GPU of this machine: `make gpu-bench`.

Writes gpu.json (machine, versions, measurements), gpu.md (the tables) and gpu.svg (the plot) into benchmarks/results or
`--out`, anew after every row: an interrupted run keeps what it has, and `--resume` goes on with what is missing or
failed. What is measured is in gpu_cases.py; what fails is a row that says how, see gpu_rows.py. The share of a ceiling
counts the bytes and operations that the work needs at least against ceilings measured in the same run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.cuda_build import ROOT
from benchmarks.gpu_cases import BACKENDS, SMALL_BATCHES, cases, on_this_gpu, quick
from benchmarks.gpu_rows import Case, Process, Record, Row, measured, publish

RESULTS = ROOT / "benchmarks" / "results"


def table(run: dict[str, Any]) -> str:
    """The rows as Markdown, each of ours beside the fastest peer of the same work and shape; then our kernels."""
    machine, rows = run["machine"], run["rows"]
    copied, multiplied = ceiling(rows, "copy", "bytes"), ceiling(rows, "float64 product", "flop")
    lines = [
        f"{machine['gpu']}, torch {machine['torch']}, CUDA {machine['cuda']}, Triton {machine['triton']}; copy "
        f"{1e-3 * copied:.0f} GB/s, float64 products {1e-6 * multiplied:.1f} TFLOP/s. Written by `make gpu-bench`.",
        "",
        "| work | shape | features | batch | backend | µs an item (20 % to 80 %) | M items/s | x fastest peer "
        "| of copying | of products | error |",
        f"| {' | '.join(['---'] * 11)} |",
    ]
    peers = fastest_peers(rows)
    for row in rows:
        kind = row["dtype"] + ("" if row["layout"] == "contiguous" else f" {row['layout']}")
        head = f"| {row['work']} | {row['shape']} | {kind} | {row['batch']} | {row['backend']} |"
        if "failed" in row:
            lines.append(f"{head} {row['failed'].replace('|', '/')} | | | | | |")
            continue
        comparable = row["backend"] in BACKENDS and row["batch"] not in SMALL_BATCHES
        peer = peers.get((row["work"], row["shape"])) if comparable else None
        cells = [
            f"{row['us']:.3f} ({row['p20']:.3f} to {row['p80']:.3f})",
            f"{1 / row['us']:.3f}",
            f"{peer / row['us']:.1f}" if peer else "",
            share(row, "bytes", copied),
            share(row, "flop", multiplied),
            f"{row['error']:.1e}" if "error" in row else "",
        ]
        lines.append(f"{head} {' | '.join(cells)} |")
    return "\n".join([*lines, "", *kernels(rows)]) + "\n"


def kernels(rows: list[Row]) -> list[str]:
    """Times of kernels beside what was predicted."""
    lines = [
        "| work | shape | features | batch | backend | kernel | µs an item | predicted |",
        f"| {' | '.join(['---'] * 8)} |",
    ]
    for row in rows:
        for name, times in row.get("kernels", {}).items():
            place = f"{row['dtype']}, {row['layout']} | {row['batch']} | {row['backend']} | {name.replace('|', '/')}"
            us, predicted = ("" if times[key] is None else f"{times[key]:.4f}" for key in ("us", "predicted"))
            lines.append(f"| {row['work']} | {row['shape']} | {place} | {us} | {predicted} |")
    return lines


def ceiling(rows: list[Row], work: str, amount: str) -> float:
    """Bytes or operations a microsecond; NaN where that was not measured."""
    return next((row[amount] / row["us"] for row in rows if row["work"] == work and "us" in row), float("nan"))


def share(row: Row, amount: str, most: float) -> str:
    return f"{row[amount] / row['us'] / most:.0%}" if amount in row and most == most else ""


def fastest_peers(rows: list[Row]) -> dict[tuple[str, str], float]:
    """Microseconds an item, by work and shape."""
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        if row["backend"] not in BACKENDS and "us" in row:
            key = row["work"], row["shape"]
            found[key] = min(found.get(key, row["us"]), row["us"])
    return found


def plot(run: dict[str, Any], path: Path) -> None:
    """Items a second of every backend, one panel a work; nothing where none of these was timed."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    timed = [row for row in run["rows"] if "us" in row]
    works = [work for work in ("tsm", "mtsm", "eigencam", "svd auto") if any(row["work"] == work for row in timed)]
    if not works:
        return
    figure, axes = pyplot.subplots(len(works), 1, figsize=(9, 4 * len(works)), squeeze=False, layout="constrained")
    for axis, work in zip(axes[:, 0], works, strict=True):
        rows = [row for row in timed if row["work"] == work]
        labels = [f"{row['shape']} {row['dtype']}, {row['batch']} by {row['backend']}" for row in rows]
        colors = ["#c0392b" if row["backend"] in BACKENDS else "#9aa5b1" for row in rows]
        axis.barh(range(len(rows)), [1 / row["us"] for row in rows], color=colors, tick_label=labels)
        axis.set(xscale="log", xlabel="million items a second", title=f"{work}, {run['machine']['gpu']}")
        axis.invert_yaxis()
    figure.savefig(path)
    pyplot.close(figure)


def until(deadline: float, wanted: list[Case]) -> Iterator[Case]:
    """The cases, until there is no time to begin another."""
    for i, case in enumerate(wanted):
        if time.monotonic() > deadline:
            print(f"no time for {len(wanted) - i} cases: --resume goes on with them", flush=True)
            return
        yield case


def line(row: Row) -> str:
    result = row.get("failed") or f"{1 / row['us']:10.3f} M/s"
    return f"{row['work']:16} {row['shape']:12} {row['dtype']:8} {row['batch']:6} {row['backend']:11} {result}"


def run(record: Record, rows: Iterable[Row], out: Path) -> int:
    """Writes rows as they come; how many failed."""
    failed = 0
    for row in rows:
        record.add(row)
        publish(out / "gpu.md", table({**record.facts, "rows": record.rows}))
        failed += "failed" in row
        print(line(row), flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small batches, short timings; needs --out")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", default="", help="cases that have this text in them: 'tsm 2048x7x7', 'bfloat16'")
    parser.add_argument("--resume", action="store_true", help="keep the rows in --out that this machine measured")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after that time")
    arguments = parser.parse_args()
    if arguments.quick and arguments.out == RESULTS:
        parser.error("quick measurements are not recorded: give --out")
    if not torch.cuda.is_available():
        parser.error("needs an NVIDIA GPU, and torch finds none")
    deadline = time.monotonic() + arguments.seconds
    start = partial(on_this_gpu, 0.3 if arguments.quick else 1.0)
    process = Process(start)
    record = Record(arguments.out / "gpu.json", {"machine": process.facts, "quick": arguments.quick})
    if arguments.resume:
        record.take_over()
    absent = set(BACKENDS) - set(process.facts["backends"])
    wanted = [
        case
        for case in (quick(case) if arguments.quick else case for case in cases())
        if case.backend not in absent and arguments.only in " ".join(map(str, case)) and record.lacks(case)
    ]
    failed = run(record, measured(until(deadline, wanted), start, process), arguments.out)
    try:
        plot({**record.facts, "rows": record.rows}, arguments.out / "gpu.svg")
    except ImportError:
        print("no plot: matplotlib is not installed")
    print(f"{len(record.rows)} rows in {record.path}, {failed} failed")
    return min(failed, 1)


if __name__ == "__main__":
    raise SystemExit(main())
