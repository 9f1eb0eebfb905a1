"""A benchmark survives what it measures: real processes, which here fail as told."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_rows import Case, Lost, Process, Record, Row, case_of, measured

from ..helpers import ended

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


class Failing:
    """Measures its process, or does what the name of the work says."""

    def __init__(self) -> None:
        self.faulty = False

    def facts(self) -> dict[str, Any]:
        return {"gpu": "none"}

    def row(self, case: Case) -> Row:
        if case.work == "CUDA fault":
            self.faulty = True
        if self.faulty:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with more words")
        if case.work == "wrong result":
            raise AssertionError("an error of 0.5, where 0.1 is allowed")
        if case.work == "compiler":
            raise RuntimeError("PassManager::run failed " + 5000 * "x")
        if case.work == "segfault":
            ctypes.string_at(0)
        if case.work == "exit":
            os._exit(7)
        if case.work == "hang":
            time.sleep(60)
        return {"us": 1.0, "process": os.getpid()}

    def synchronize(self) -> None:
        if self.faulty:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")


def no_start() -> Any:
    raise RuntimeError("no GPU")


def rows_of(*works: str, seconds: float = 30) -> list[Row]:
    return list(measured([Case(work, "7x7", "cuda", 1) for work in works], Failing, seconds=seconds))


def test_what_a_case_raises_is_its_row():
    good, wrong, broken, same = rows_of("one", "wrong result", "compiler", "two")
    assert good == {**Case("one", "7x7", "cuda", 1)._asdict(), "us": 1.0, "process": good["process"]}
    assert wrong["failed"] == "AssertionError: an error of 0.5, where 0.1 is allowed"
    assert broken["failed"].startswith("RuntimeError: PassManager::run failed xxx")
    assert len(broken["failed"]) == 400
    assert same["process"] == good["process"]


@pytest.mark.parametrize(
    ("work", "text"),
    [
        ("CUDA fault", "RuntimeError: CUDA error: an illegal memory access was encountered Compile with more words"),
        ("segfault", "the process ended with exit status -11"),
        ("exit", "the process ended with exit status 7"),
        ("hang", "no result in 3 s"),
    ],
)
def test_a_process_that_is_lost_takes_one_row_along(work, text):
    before, lost, after = rows_of("one", work, "two", seconds=3)
    assert lost == {**Case(work, "7x7", "cuda", 1)._asdict(), "failed": text}
    assert after["us"] == before["us"] == 1.0
    assert after["process"] != before["process"]


def test_a_process_that_ended_between_two_cases_takes_one_row_along():
    process = Process(Failing)
    process._process.kill()
    process._process.join()
    lost, after = measured([Case(work, "7x7", "cuda", 1) for work in ("one", "two")], Failing, process)
    assert lost["failed"] == "the process ended with exit status -9"
    assert after["us"] == 1.0


def test_a_process_that_does_not_start_ends_the_run():
    with pytest.raises(Lost, match="the process ended with exit status 1"):
        Process(no_start)


def row(work: str, **results: Any) -> Row:
    return Case(work, "7x7", "cuda", 1)._asdict() | results


def test_rows_are_kept_as_they_come(tmp_path):
    path = tmp_path / "new" / "gpu.json"
    record = Record(path, {"machine": {"gpu": "none"}})
    for i, work in enumerate(("one", "two", "three")):
        record.add(row(work, us=float(i)))
        assert json.loads(path.read_text()) == {"machine": {"gpu": "none"}, "rows": record.rows}
        assert len(record.rows) == i + 1
    record.add(row("two", us=9.0))
    assert [r["us"] for r in json.loads(path.read_text())["rows"]] == [0.0, 9.0, 2.0]
    assert [p.name for p in path.parent.iterdir()] == ["gpu.json"]


def test_a_later_run_goes_on_where_the_machine_is_the_same(tmp_path):
    path, facts = tmp_path / "gpu.json", {"machine": {"gpu": "none"}}
    Record(path, facts).take_over()
    first = Record(path, facts)
    first.add(row("one", us=1.0))
    first.add(row("two", failed="no result in 120 s"))
    later = Record(path, facts)
    later.take_over()
    assert [later.lacks(case_of(row(work))) for work in ("one", "two", "three")] == [False, True, True]
    other = Record(path, {"machine": {"gpu": "another"}})
    other.take_over()
    assert other.rows == []


# A run that is ended from outside in its third case, as a time limit does it.
INTERRUPTED = """
import sys
from pathlib import Path
from benchmarks.gpu_rows import Case, Record, measured
from tests.cuda.test_gpu_rows import Failing
if __name__ == "__main__":
    record = Record(Path(sys.argv[1]), {})
    for row in measured([Case(work, "", "", 1) for work in ("one", "wrong result", "hang", "two")], Failing):
        record.add(row)
        print(row["work"], flush=True)
"""


def test_an_interrupted_run_keeps_what_it_has(tmp_path):
    (tmp_path / "run.py").write_text(INTERRUPTED)
    path = tmp_path / "gpu.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        [sys.executable, tmp_path / "run.py", path], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    assert [run.stdout.readline(), run.stdout.readline()] == ["one\n", "wrong result\n"]
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    run.kill()
    run.wait()
    assert children
    assert all(ended(int(child)) for child in children)
    assert [r["work"] for r in json.loads(path.read_text())["rows"]] == ["one", "wrong result"]
