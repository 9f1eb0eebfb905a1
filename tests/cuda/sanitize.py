"""Small calls of both GPU backends under compute-sanitizer: `python -m tests.cuda.sanitize`, part of `make gpu-test`.

Each tool and backend is a run of its own, which torch's start and the watched kernels make slow. Exits with 1 where a
run found something or failed, with 124 where none did but one had no time to end, and with 0 where there is no
compute-sanitizer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from .counting import BACKENDS, NAMED

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("memcheck", "racecheck")
# Part of the names of our kernels: the namespace of the compiled ones; Triton's are plain, torch's come along.
KERNELS = {"cuda": "tsm", "triton": "_kernel"}
SECONDS = 300  # a run; twelve tests take a minute on a machine of their own
FOUND = 9  # what compute-sanitizer exits with where it found something, whatever the tests say
FAILED, TIMED_OUT = 1, 124


class Outcome(NamedTuple):
    text: str
    code: int


def command(sanitizer: str, tool: str, backend: str) -> list[str]:
    watched = [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), "--kernel-regex", f"kns={KERNELS[backend]}"]
    tests = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/cuda/test_gpu.py",
        "-k",
        f"test_small and {NAMED.format(backend)}",
    ]
    return [*watched, sys.executable, *tests]


def run(sanitizer: str, tool: str, backend: str, seconds: float = SECONDS) -> Outcome:
    # With memory from CUDA itself each tensor has its own bounds.
    environment = {"FAIL_WITHOUT_CUDA": "1", "TSM_FAST_TEST_DEVICE": "cuda", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    process = subprocess.Popen(
        command(sanitizer, tool, backend), cwd=ROOT, env={**os.environ, **environment}, start_new_session=True
    )
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return Outcome(f"no time to end in {seconds:g} s, nothing is known", TIMED_OUT)
    finally:
        _end(process)
    if code == 0:
        return Outcome("nothing found", 0)
    return Outcome("found something" if code == FOUND else f"failed with exit status {code}", FAILED)


def _end(process: subprocess.Popen) -> None:
    """The sanitizer and the Python that it watches."""
    if process.poll() is None:
        os.killpg(process.pid, 9)
        process.wait()


def main(seconds: float = SECONDS) -> int:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        print("no compute-sanitizer on PATH: left out")
        return 0
    outcomes = {}
    for backend in BACKENDS:
        for tool in TOOLS:
            print(f"== {tool}, {backend}", flush=True)
            outcomes[tool, backend] = run(sanitizer, tool, backend, seconds)
    for (tool, backend), outcome in outcomes.items():
        print(f"{tool}, {backend}: {outcome.text}")
    codes = {outcome.code for outcome in outcomes.values()}
    return FAILED if FAILED in codes else max(codes)


if __name__ == "__main__":
    sys.exit(main())
