"""The threads of the compiled CPU backend: where they run, when they are woken, and how a process with them ends, forks
and is told to run elsewhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..helpers import NATIVE

pytestmark = pytest.mark.skipif(not NATIVE, reason="needs the compiled backend, which this install was built without")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="threads are placed on Linux only")

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"

FORK = """
import os, signal, sys
import torch, tsm_fast
from tsm_fast import _cpu
torch.set_num_threads(2)
_cpu.share_all_work(True)
x = torch.rand(12, 61, 7, 6, generator=torch.Generator().manual_seed(0))
def maps():
    return torch.stack([tsm_fast.tsm(x, backend="cpu"), tsm_fast.mtsm(x, (6, 3, 3), backend="cpu")])
expected = maps()
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # a child that hangs is killed, and the parent sees it
        grandchild = os.fork()
        same = torch.equal(maps(), expected) and torch.equal(maps(), expected)
        if grandchild:
            same = same and os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) == 0
        os._exit(0 if same else 1)
    children.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
assert torch.equal(maps(), expected), "the parent"
assert codes == [0, 0, 0], codes
"""

POOL = """
import multiprocessing
import torch, tsm_fast
from tsm_fast import _cpu
torch.set_num_threads(2)
_cpu.share_all_work(True)
def maps(seed):
    x = torch.rand(6, 61, 7, 6, generator=torch.Generator().manual_seed(seed)).numpy()
    return tsm_fast.mtsm(x, backend="cpu").tobytes()
if __name__ == "__main__":
    expected = [maps(seed) for seed in range(6)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(maps, range(6)).get(timeout=90) == expected
"""

START = """
import os, threading, time
import torch, tsm_fast
from tsm_fast.steps.choice import load
cpu = load("cpu")
def tasks():
    return {int(task) for task in os.listdir("/proc/self/task")}
x = torch.rand(1, 4000, 64).expand(1000, 4000, 64)
def long_call():  # some tenths of a second of work
    return cpu.mode_gram(x, 1)
"""

OTHER_CPUS = """
# Left to the system helpers can wait for milliseconds on the caller's CPU.
before = os.sched_getaffinity(0)
torch.set_num_threads(3)
x = torch.rand(1, 4000, 64).expand(3000, 4000, 64)
seen = []
worker = threading.Thread(target=lambda: seen.append(cpu.mode_gram(x, 1)))
known = tasks()
worker.start()
helpers = []
while worker.is_alive() and len(helpers) < 2:
    helpers = [cpus for task in tasks() - known if (cpus := os.sched_getaffinity(task)) != before]
worker.join()
assert len(seen) == 1
assert [len(cpus) for cpus in helpers] == [len(before) - 1] * 2, helpers
assert all(cpus < before for cpus in helpers)
assert os.sched_getaffinity(0) == before
"""

NARROWED = """
before = os.sched_getaffinity(0)
torch.set_num_threads(3)
known = tasks()
long_call()
helpers = tasks() - known
assert len(helpers) == 2, helpers
one = {min(before)}
for cpus in (one, before, one):
    os.sched_setaffinity(0, cpus)
    long_call()
    assert tasks() - known == helpers
    for task in helpers:
        assert os.sched_getaffinity(task) <= cpus, (os.sched_getaffinity(task), cpus)
"""

FEW = """
torch.set_num_threads(3)
known = tasks()
long_call()
assert len(tasks() - known) == 2
callers = [threading.Thread(target=lambda: [long_call() for _ in range(2)]) for _ in range(5)]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
for _ in range(50):  # the callers end a little after they are joined
    left = tasks() - known
    if len(left) <= max(2, os.cpu_count()):
        break
    time.sleep(0.1)
else:
    raise AssertionError(left)
"""

SMALL = """
torch.set_num_threads(2)
x = torch.rand(2, 2048, 7, 7)
known = tasks()
tsm_fast.tsm(x)
assert tasks() == known
"""

SIGNALS = """
import signal
torch.set_num_threads(2)
known = tasks()
long_call()
(helper,) = tasks() - known
with open(f"/proc/self/task/{helper}/status") as status:
    (blocked,) = (int(line.split()[1], 16) for line in status if line.startswith("SigBlk"))
assert all(blocked >> number - 1 & 1 for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGALRM))
assert not blocked >> signal.SIGSEGV - 1 & 1
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set(), "the caller"
"""

# PyTorch's threads spin for a while after what they compute, on the CPUs that ours are about to use.
QUIET = """
torch.set_num_threads(2)
x = torch.rand(400, 64, 7, 7)
known = tasks()
for map in (tsm_fast.tsm, tsm_fast.mtsm, tsm_fast.eigencam, tsm_fast.multivec_eigencam, tsm_fast.mean_activation):
    map(x, size=(56, 56))
result = tsm_fast.tucker(x, (4, 3, 3))
result.reconstruct()
tsm_fast.hosvd(x, (4, 3, 3))
tsm_fast.multi_mode_dot(x, [torch.ones(3, 7)] * 2, [1, 2])
u, s, vh = tsm_fast.truncated_svd(x.flatten(2), 4)
tsm_fast.eigh(cpu.mode_gram(x, 0))
assert len(tasks() - known) <= 1, "threads beside the one that helps"
"""

EXIT = """
torch.set_num_threads(2)
long_call()
threading.Thread(target=lambda: [long_call() for _ in range(1000)], daemon=True).start()
time.sleep(0.1)
"""


@pytest.mark.parametrize("script", [FORK, POOL], ids=["os.fork", "multiprocessing"])
def test_after_fork(script, tmp_path):
    path = tmp_path / "main.py"
    path.write_text(script)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(OTHER_CPUS, marks=on_linux, id="start on other CPUs"),
        pytest.param(NARROWED, marks=on_linux, id="go where the caller may"),
        pytest.param(FEW, marks=on_linux, id="are no more than CPUs"),
        pytest.param(SMALL, marks=on_linux, id="sleep while there is little to do"),
        pytest.param(QUIET, marks=on_linux, id="are not disturbed by PyTorch's"),
        pytest.param(SIGNALS, marks=on_linux, id="take no signals of the process"),
        pytest.param(EXIT, id="end with the process"),
    ],
)
def test_helpers(script):
    if script in (OTHER_CPUS, NARROWED) and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one CPU")
    command = [sys.executable, "-c", START + script]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", [(), ("-fsanitize=thread",)], ids=["plain", "races"])
def test_many_calls_at_once(tmp_path, sanitizer):
    """A program that calls from many threads, raises, forks in the middle of a call and ends there."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    sources = [str(HERE / "threads.cpp"), *(str(CSRC / "cpu" / name) for name in ("threads.cpp", "workspace.cpp"))]
    program = str(tmp_path / "threads")
    command = [compiler, "-std=c++17", "-O1", "-pthread", *sanitizer, f"-I{CSRC}", *sources, "-o", program]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if sanitizer and built.returncode:
        pytest.skip("the compiler has no thread sanitizer")
    assert built.returncode == 0, built.stderr
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(
        [program, *sanitizer], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
