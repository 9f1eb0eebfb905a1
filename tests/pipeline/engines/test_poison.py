"""Pictures that make the model raise, or end or hang their worker: one error row each, found in real processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tsm_fast.pipeline import Resources, Run, Settings, prepare
from tsm_fast.pipeline.engines.run import Outcome, run
from tsm_fast.pipeline.engines.tally import Tally
from tsm_fast.pipeline.files.shards import shard_path

from ..processes import Watch, children, hashes, leftovers

pytestmark = pytest.mark.slow

# A dataset of tensors and a network; POISON="9:abort 12:hang" says what happens where, in the network or (capitals) in
# the dataset. A picture carries its number in its first pixel, which no other input has.
MODULE = """
import ctypes, os, signal, time
import torch

def poison():
    return dict(pair.split(":") for pair in os.environ.get("POISON", "").split())

def act(what):
    if what == "raise":
        raise KeyError("no such picture")
    if what == "memory":
        raise MemoryError
    if what == "cuda-memory":
        raise torch.OutOfMemoryError("CUDA out of memory. 7 MiB are free at 0x7f0")
    if what == "abort":
        os.abort()
    if what == "segfault":
        ctypes.string_at(0)
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "twice" and os.path.getsize(os.environ["AT"]) < 2:
        with open(os.environ["AT"], "a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    while what == "hang":
        time.sleep(0.02)

class Images:
    def __len__(self):
        return 20

    def __getitem__(self, number):
        torch.manual_seed(number)
        what = poison().get(str(number), "")
        if what.isupper():
            act(what.lower())
        image = torch.randn(3, 24, 24)
        image[0, 0, 0] = number + 1000
        return image

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 32, 3, stride=2)

    def forward(self, images):
        for number in images[:, 0, 0, 0].tolist():
            act(poison().get(f"{number - 1000:.0f}", ""))
        return self.conv(images)

def images():
    return Images()

def net():
    return Net().eval()
"""
PATIENCE = 3.0  # seconds without a sign of life


@pytest.fixture(autouse=True)
def poisonous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "poisonous.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("POISON", "")


def planned(out: Path) -> Run:
    """Twenty images in shards of eight and batches of four."""
    settings = Settings(
        "poisonous:images",
        model="poisonous:net",
        layers=("conv",),
        methods=("eigencam",),
        shard_size=8,
        batch_size=4,
    )
    return prepare(settings, out)


def computed(run_: Run, workers: int = 1, watch: Watch | None = None, **options: Any) -> Outcome:
    resources = Resources(max_errors=1.0, batch_timeout=PATIENCE)
    return run(run_, workers=workers, resources=resources, progress=watch or Watch(), **options)


def rows_of(run_: Run) -> tuple[list[str], list[str | None], np.ndarray]:
    """Status, error and maps [20, h, w] of every row."""
    table = pq.read_table([shard_path(run_.out, spec.index) for spec in run_.shards])
    maps = table[run_.columns[0].name].combine_chunks().to_numpy_ndarray()
    return table["status"].to_pylist(), table["error"].to_pylist(), maps


@pytest.fixture
def clean(tmp_path: Path) -> np.ndarray:  # [20, h, w]
    """The maps of a run without trouble."""
    run_ = planned(tmp_path / "clean")
    assert computed(run_, workers=0).code == 0
    return rows_of(run_)[2]


@pytest.mark.parametrize(
    ("what", "workers", "status", "error"),
    [
        ("raise", 0, "model", "KeyError: 'no such picture'"),
        ("memory", 0, "model", "MemoryError: the network needs more memory for this image than there is"),
        ("cuda-memory", 0, "model", "OutOfMemoryError: the network needs more memory for this image than there is"),
        ("MEMORY", 0, "too_large", "MemoryError: there is too little memory to read this image"),
        ("kill", 1, "crash", "the worker died (SIGKILL) at this image"),
        ("hang", 1, "timeout", "the worker hung at this image"),
        ("HANG", 1, "timeout", "the worker hung at this image"),
    ],
)
def test_a_poisonous_picture_is_one_error_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean: np.ndarray, what: str, workers: int, status: str, error: str
) -> None:
    run_ = planned(tmp_path / "out")
    monkeypatch.setenv("POISON", f"10:{what}")
    outcome = computed(run_, workers)
    assert (outcome.code, outcome.complete, outcome.failed, outcome.error_kinds) == (0, True, {}, {status: 1})
    statuses, errors, maps = rows_of(run_)
    others = [row for row in range(20) if row != 10]
    assert (statuses[10], errors[10]) == (status, error)
    assert {statuses[row] for row in others} == {"ok"}
    assert np.isnan(maps[10]).all()
    np.testing.assert_array_equal(maps[others], clean[others])  # bit by bit
    assert leftovers(run_.out) == []
    assert outcome.bad == [("10", status, error)]


def test_several_in_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean: np.ndarray) -> None:
    run_, watch = planned(tmp_path / "out"), Watch()
    monkeypatch.setenv("POISON", "0:raise 1:segfault 2:ABORT 7:abort 19:raise")
    outcome = computed(run_, watch=watch)
    assert (outcome.code, outcome.error_kinds) == (0, {"crash": 3, "model": 2})
    statuses, _, maps = rows_of(run_)
    assert [row for row, status in enumerate(statuses) if status != "ok"] == [0, 1, 2, 7, 19]
    good = [row for row, status in enumerate(statuses) if status == "ok"]
    np.testing.assert_array_equal(maps[good], clean[good])
    said = [text for text in watch.said if "becomes an error row" in text]
    assert "shard 0: image 1 ('01'): the worker died (SIGSEGV) at this image; it becomes an error row 'crash'" in said


def test_equal_bytes_however_often_it_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers, of which one is killed from outside, against one that is left alone."""
    monkeypatch.setenv("POISON", "4:abort 13:raise")
    first = planned(tmp_path / "first")
    assert computed(first).code == 0
    killed: list[int] = []

    def kill(tally: Tally) -> None:
        if tally.done and not killed:
            killed.append(children(os.getpid())[-1])
            os.kill(killed[-1], signal.SIGKILL)

    second = planned(tmp_path / "second")
    assert computed(second, 2, Watch(kill)).code == 0
    assert killed
    assert hashes(first.out) == hashes(second.out)


def test_a_worker_killed_from_outside_is_no_fault_of_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed once while it computes, and once more while it looks for the picture."""
    (tmp_path / "at").touch()
    monkeypatch.setenv("AT", str(tmp_path / "at"))
    run_, watch = planned(tmp_path / "out"), Watch()
    monkeypatch.setenv("POISON", "10:twice")
    assert computed(run_, watch=watch).error_kinds == {}
    assert (tmp_path / "at").read_text() == "xx"
    assert rows_of(run_)[0] == ["ok"] * 20
    assert [text for text in watch.said if "SIGKILL" in text]


def test_a_network_that_always_dies_fails_its_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a blank image: no picture is to blame."""
    monkeypatch.setattr("tsm_fast.pipeline.engines.tries.RETRIES", 1)
    monkeypatch.setenv("POISON", "-1000:abort")
    run_ = prepare(
        Settings("poisonous:images", model="poisonous:net", layers=("conv",), methods=("eigencam",), limit=4),
        tmp_path / "out",
    )
    (tmp_path / "poisonous.py").write_text(MODULE.replace("return self.conv(images)", "os.abort()"))
    outcome = computed(run_)
    assert (outcome.code, outcome.errors, list(outcome.failed)) == (1, 0, [0])
    assert "its worker died (SIGABRT)" in outcome.failed[0]


def test_only_error_rows_are_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean: np.ndarray) -> None:
    monkeypatch.setenv("POISON", "3:raise 10:abort 12:RAISE")
    run_ = planned(tmp_path / "out")
    assert computed(run_).error_kinds == {"crash": 1, "item": 1, "model": 1}
    monkeypatch.setenv("POISON", "3:raise 0:RAISE 9:RAISE")  # of others, nothing is read
    once = computed(run_, workers=0, retry_errors="crash")
    assert (once.code, once.computed, once.error_kinds) == (0, 1, {"item": 1, "model": 1})
    twice = computed(run_, workers=0, retry_errors="all")
    assert (twice.code, twice.computed, twice.error_kinds) == (0, 2, {"model": 1})
    monkeypatch.setenv("POISON", "")
    assert computed(run_, workers=0, retry_errors="all").error_kinds == {}
    assert hashes(run_.out) == hashes(tmp_path / "clean")  # the bytes of a run that never met trouble
    assert run_.done(check_hash=True).keys() == {0, 1, 2}
    nothing = computed(run_, workers=0, retry_errors="all")
    assert (nothing.code, nothing.computed) == (0, 0)
    assert leftovers(run_.out) == []


def test_an_error_row_that_still_ends_its_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_ = planned(tmp_path / "out")
    monkeypatch.setenv("POISON", "10:abort 11:raise")
    assert computed(run_).error_kinds == {"crash": 1, "model": 1}
    monkeypatch.setenv("POISON", "10:abort")
    again = computed(run_, retry_errors="all")
    assert (again.code, again.error_kinds) == (0, {"crash": 1})
    assert rows_of(run_)[0] == ["ok"] * 10 + ["crash"] + ["ok"] * 9
