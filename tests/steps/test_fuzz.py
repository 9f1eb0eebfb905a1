"""Random calls of the compiled CPU backend with guarded workspaces (fuzz.py), at each SIMD level."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tsm_fast.steps.choice import load

from ..helpers import NATIVE
from .fuzz import one

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NATIVE, reason="needs the compiled backend, which this install was built without"),
]

ROOT = Path(__file__).parents[2]
CALLS = 250


@pytest.mark.parametrize("level", load("cpu").simd_levels() if NATIVE else [])  # type: ignore[attr-defined]
def test_random_calls(level):
    command = [sys.executable, "-m", "tests.steps.fuzz", "--calls", str(CALLS), "--seed", "1", "--keep-going"]
    environment = {**os.environ, "TSM_FAST_SIMD": level}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"SIMD level {level}, seed 1: {CALLS} calls, 0 wrong" in done.stdout


@pytest.mark.parametrize(("seed", "number", "what"), [(0, 409, "maps")])  # a leading pair 0.7 % apart, 16 sweeps
def test_calls_that_were_wrong(seed, number, what):
    assert one(seed, number)[0] == what


def test_the_guards_of_workspaces_see_what_they_are_for(tmp_path):
    """A program that keeps to its pieces of memory, and then does not."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    sources = [str(Path(__file__).with_name("workspace.cpp")), str(ROOT / "csrc" / "cpu" / "workspace.cpp")]
    program = str(tmp_path / "workspace")
    subprocess.run([compiler, "-std=c++17", "-O1", f"-I{ROOT / 'csrc'}", *sources, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
