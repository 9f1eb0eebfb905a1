"""`make gpu-test` is no success where a backend ran few tests, whatever the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from .counting import BACKENDS, FEWEST, Counting

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CODES = [
    (3, 2, pytest.ExitCode.OK, pytest.ExitCode.OK),
    (2, 1, pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED),
    (2, 0, pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED),
    (0, 0, pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.NO_TESTS_COLLECTED),
    (2, 2, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.TESTS_FAILED),
    (0, 2, pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERRUPTED),
]


def report(backend: str | None, when: str = "call", passed: bool = True) -> Any:
    return SimpleNamespace(when=when, passed=passed, user_properties=[("backend", backend)] if backend else [])


@pytest.mark.parametrize(("cuda", "triton", "before", "code"), CODES)
def test_few_tests_on_either_backend_fail_the_run(cuda, triton, before, code):
    counting = Counting(2)
    for done in [report("cuda")] * cuda + [report("triton")] * triton + [report(None)] * 9:
        counting.pytest_runtest_logreport(done)
    for other in (report("cuda", "setup"), report("triton", "teardown"), report("triton", passed=False)):
        counting.pytest_runtest_logreport(other)
    session: Any = SimpleNamespace(exitstatus=before)
    counting.pytest_sessionfinish(session)
    assert session.exitstatus == code
    assert counting.lines() == [
        f"{name}: {count} tests of the steps passed" + (", needed 2" if count < 2 else "")
        for name, count in (("cuda", cuda), ("triton", triton))
    ]


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/steps", *options]
    own = {name: value for name, value in os.environ.items() if name != "TSM_FAST_TEST_DEVICE"}
    return subprocess.run(command, cwd=ROOT, env={**own, **environment}, capture_output=True, text=True)


def test_the_option_counts_what_runs():
    """On the emulation, and too little."""
    done = run("--whole", "-k", "test_core_contraction and a_bad_item and cuda")
    assert done.returncode == 1, done.stdout
    for line in (
        f"cuda: 1 tests of the steps passed, needed {FEWEST}",
        f"triton: 0 tests of the steps passed, needed {FEWEST}",
    ):
        assert line in done.stdout.splitlines()


def test_the_number_is_near_what_there_is():
    done = run("--collect-only", TSM_FAST_TEST_DEVICE="cuda")
    names = [line for line in done.stdout.splitlines() if "::" in line and "network_features" not in line]
    for backend in BACKENDS:
        assert FEWEST <= sum(backend in name.partition("[")[2] for name in names) <= 1.1 * FEWEST
