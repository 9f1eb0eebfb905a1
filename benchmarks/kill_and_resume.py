"""`kill -9` at random moments of `tsm-fast extract`, then the same command again: are the shards the same?

python -m benchmarks.kill_and_resume --kills 100 --out benchmarks/results/kill_and_resume.json
python -m benchmarks.kill_and_resume --kills 100 --between --out benchmarks/results/kill_between_shards.json

An undisturbed run over tiles of real photos gives the hashes and the length of a run. Every trial starts the command in
a fresh folder, kills it after a random share of that length, runs it again to its end, and compares the hash of every
shard; no temporary file may remain. By chance the whole group of processes is killed (as by a power cut), the main
process alone, or one of its workers; and the shards are computed in the main process or by two workers. The second run
computes in its main process. With `--between` the moment is that at which a random shard gets its name, or its marker.

Processes are forked from a server that has imported the package already, so that the moments fall into what a run does
and not into the seconds of importing, before which nothing is written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tsm_fast import cli
from tsm_fast.pictures import load_photos
from tsm_fast.pipeline.files.shards import marker_path, shard_path

PHOTOS, TILES, SIDE = 4, 6, 160  # photos, tiles of each, pixels
SHARD, BATCH = 3, 3
LIMIT = 300  # seconds that any process may take
PROCESSES = multiprocessing.get_context("forkserver")
WORKERS = (0, 0, 0, 2)  # starting two workers takes most of the time of such small runs
BETWEEN_WORKERS = (0, 2, 2, 2)
VICTIMS = ("group", "main", "worker")


def main() -> int:
    parser = argparse.ArgumentParser(description="kill -9 and resume, many times")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--between", action="store_true", help="kill where one shard ends and the next begins")
    parser.add_argument("--out", type=Path, help="where to write the result; stdout by default")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    PROCESSES.set_forkserver_preload(["tsm_fast.cli"])
    with tempfile.TemporaryDirectory(prefix="kill-and-resume-") as folder:
        result = measure(Path(folder), options.kills, options.seed, between=options.between)
    text = json.dumps(result, indent=1) + "\n"
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text)
    return 0 if result["equal"] == result["kills"] and not result["leftovers"] else 1


def measure(folder: Path, kills: int, seed: int, *, between: bool) -> dict[str, Any]:
    commit = version_of_the_code()
    source = folder / "tiles"
    write_tiles(source)
    expected, lengths = {}, {}
    finish(source, folder / "first", 0)  # starts the server
    for workers in (0, 2):
        out = folder / f"undisturbed-{workers}"
        start = time.monotonic()
        finish(source, out, workers)
        lengths[workers] = time.monotonic() - start
        hashes = shard_hashes(out)
        if expected not in ({}, hashes):
            raise RuntimeError("undisturbed runs with 0 and 2 workers must give equal shards")
        expected = hashes
    trials = []
    for number in range(kills):
        out = folder / f"trial-{number}"
        trials.append(trial(source, out, f"{seed}/{number}", lengths, expected, between=between))
        print(f"{number + 1}/{kills} {trials[-1]}", file=sys.stderr, flush=True)
    return {
        "kills": kills,
        "equal": sum(row["equal"] for row in trials),
        "leftovers": sum(row["leftovers"] for row in trials),
        "killed_while_running": sum(row["running"] for row in trials),
        "killed_with_a_temporary_file_open": sum(row["temporary_at_kill"] > 0 for row in trials),
        "shards_done_at_kill": dict(sorted(Counter(row["shards_at_kill"] for row in trials).items())),
        "shards": len(expected),
        "seconds_undisturbed": lengths,
        "seed": seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}",
        "commit": commit,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "trials": trials,
    }


def trial(
    source: Path, out: Path, seed: str, lengths: dict[int, float], expected: dict[str, str], *, between: bool
) -> dict[str, Any]:
    """One run, killed and taken up again; everything random follows from the seed."""
    chance = random.Random(seed)
    workers = chance.choice(BETWEEN_WORKERS if between else WORKERS)
    victim = chance.choice(VICTIMS if workers else VICTIMS[:2])
    moment, awaited = chance.uniform(0, lengths[workers]), None
    started = time.monotonic()
    process = start_run(source, out, workers)
    if between:
        index, kind = chance.randrange(len(expected)), chance.choice((shard_path, marker_path))
        awaited = kind(out, index)
        while process.exitcode is None and not awaited.exists():
            time.sleep(1e-4)
        moment = time.monotonic() - started
    else:
        process.join(moment)
    running = process.exitcode is None
    if running:
        kill(process, victim)
    shards, temporary = len(shard_hashes(out)), len(temporary_files(out))
    if victim == "worker":  # the run itself goes on, with another worker
        process.join(LIMIT)
    finish(source, out, 0)
    return {
        "seed": seed,
        "workers": workers,
        "victim": victim,
        "second": round(moment, 3),
        "at": None if awaited is None else str(awaited.relative_to(out)),
        "running": running,
        "shards_at_kill": shards,
        "temporary_at_kill": temporary,
        "equal": shard_hashes(out) == expected,
        "leftovers": len(temporary_files(out)),
    }


def start_run(source: Path, out: Path, workers: int) -> Any:
    """A process of the command, leading its own group."""
    options = ["--out", out, "--workers", workers, "--shard-size", SHARD, "--batch-size", BATCH]
    arguments = ["extract", source, *options, "--map", "tsm", "--map", "mtsm"]
    process = PROCESSES.Process(target=command, args=(list(map(str, arguments)),))
    process.start()
    return process


def command(arguments: list[str]) -> None:
    """`tsm-fast` in this process."""
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    cli.app(arguments)


def kill(process: Any, victim: str) -> None:
    """SIGKILL; for a worker, to the newest child of the process."""
    with suppress(ProcessLookupError, FileNotFoundError):
        if victim == "group":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            workers = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
            os.kill(workers[-1] if victim == "worker" and workers else process.pid, signal.SIGKILL)
    if victim != "worker":
        process.join(LIMIT)


def finish(source: Path, out: Path, workers: int) -> None:
    """Run to the end."""
    process = start_run(source, out, workers)
    process.join(LIMIT)
    if process.exitcode != 0:
        raise RuntimeError(f"the run into {out} ended with exit code {process.exitcode}")


def shard_hashes(out: Path) -> dict[str, str]:
    files = sorted((out / "shards").glob("part-*.parquet"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def temporary_files(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if path.is_file() and path.name.startswith(".")]


def version_of_the_code() -> str | None:
    """The commit that is checked out, None outside a repository; later ones do not count, the code being loaded."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or None


def write_tiles(folder: Path) -> None:
    """Tiles of real photos, as PNG."""
    folder.mkdir()
    for photo in load_photos()[:PHOTOS]:
        for number in range(TILES):
            left = number * (photo.image.width - SIDE) // (TILES - 1)
            top = number * (photo.image.height - SIDE) // (TILES - 1)
            tile = photo.image.crop((left, top, left + SIDE, top + SIDE))
            tile.save(folder / f"{photo.name}-{number}.png")


if __name__ == "__main__":
    sys.exit(main())
