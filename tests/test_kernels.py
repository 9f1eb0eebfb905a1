"""The Triton backend without a GPU: tests/kernels in Triton's interpreter, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(sys.platform != "linux" or find_spec("triton") is None, reason="Triton is for Linux")
def test_every_kernel_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "TSM_FAST_BACKEND": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 40
    assert "skipped" not in done.stdout


def test_the_kernels_have_one_name():
    """`import kernels` at the root of the repository would load a second copy of them."""
    done = subprocess.run([sys.executable, "-c", "import kernels"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "this folder is the package tsm_fast.kernels" in done.stderr
