"""The runs under compute-sanitizer, with a script in its place that does what the case says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ..helpers import ended
from ..static.names import kernel_names
from . import sanitize

# Instead of the tests a sleep: a process of its own, which must not outlive the run that has no time to end.
STAND_IN = f"""#!{sys.executable}
import os, subprocess, sys
with open({{log!r}}, "a") as log:
    print(*sys.argv[1:], sep="\\t", file=log)
what = {{outcomes!r}}.get((sys.argv[2], "triton" if "triton" in sys.argv[-1] else "cuda"), 0)
if what == "sleeps":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    open({{log!r}} + ".pid", "w").write(str(child.pid))
    child.wait()
assert os.environ["TSM_FAST_TEST_DEVICE"] == "cuda"
sys.exit(what)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    def install(outcomes: dict) -> Path:
        path, log = tmp_path / "compute-sanitizer", tmp_path / "log"
        path.write_text(STAND_IN.format(log=str(log), outcomes=outcomes))
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return log

    return install


CASES = {
    "nothing found": ({}, 0, "racecheck, triton: nothing found"),
    "found": ({("racecheck", "triton"): 9}, 1, "racecheck, triton: found something"),
    "failed": ({("memcheck", "cuda"): 4}, 1, "memcheck, cuda: failed with exit status 4"),
    "no time": ({("memcheck", "triton"): "sleeps"}, 124, "memcheck, triton: no time to end in 2 s, nothing is known"),
    "found and no time": ({("racecheck", "cuda"): 9, ("memcheck", "cuda"): "sleeps"}, 1, "racecheck, cuda: found"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_lack_of_time_is_told_from_a_finding(stand_in, capfd, case):
    outcomes, code, line = CASES[case]
    log = stand_in(outcomes)
    assert sanitize.main(2) == code
    assert line in capfd.readouterr().out
    runs = [arguments.split("\t") for arguments in log.read_text().splitlines()]
    assert [(run[1], "triton" in run[-1]) for run in runs] == [
        (tool, triton) for triton in (False, True) for tool in ("memcheck", "racecheck")
    ]


def test_what_had_no_time_is_ended(stand_in):
    log = stand_in({("memcheck", "cuda"): "sleeps"})
    assert sanitize.run(str(log.with_name("compute-sanitizer")), "memcheck", "cuda", 2).code == sanitize.TIMED_OUT
    child = int(Path(f"{log}.pid").read_text())
    assert ended(child)


def test_without_it_the_runs_are_left_out(monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sanitize.main() == 0
    assert "no compute-sanitizer on PATH: left out" in capfd.readouterr().out


def test_the_kernels_of_triton_are_among_those_watched():
    assert all(sanitize.KERNELS["triton"] in name for name in kernel_names())
