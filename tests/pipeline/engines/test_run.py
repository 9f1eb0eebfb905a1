"""The local engine: equal shards however many workers, and workers that die, fail or hang."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tsm_fast.pipeline import Resources
from tsm_fast.pipeline.engines.ranks import Place
from tsm_fast.pipeline.engines.run import devices, held, run
from tsm_fast.pipeline.engines.tally import Tally
from tsm_fast.pipeline.engines.tries import RETRIES

from ..processes import (
    BATCH,
    QUICK,
    SHARD,
    SHARDS,
    Watch,
    children,
    expected,
    hashes,
    leftovers,
    markers,
    needs_photos,
    photos,
    plan,
)

pytestmark = pytest.mark.slow

# Networks that misbehave at some image, told by a file in the working folder of the test. The network is tiny and
# real photos go through it.
NETWORKS = """
import os, signal, time
import torch
from pathlib import Path

class Trouble(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 32, 3, stride=16)
        self.calls = 0
        with torch.no_grad():
            self.conv.weight.copy_(torch.linspace(-1, 1, self.conv.weight.numel()).view_as(self.conv.weight))
            self.conv.bias.zero_()

    def forward(self, images):
        self.calls += 1
        trouble = Path(os.environ["TROUBLE"])
        if trouble.exists() and len(images) == 3:
            what = trouble.read_text()
            if what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif what == "hang":
                trouble.unlink()
                while not trouble.with_name("awake").exists():
                    time.sleep(0.02)
            elif what == "fail":
                raise RuntimeError("out of luck")
        return self.conv(images)

def trouble():
    return Trouble().eval()
"""


# Shards of 8 and 3, the second with the batch of three that the networks wait for.
ELEVEN: Any = {"methods": ("tsm",), "limit": 11, "shard_size": 8, "batch_size": 8}


@pytest.fixture
def trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose text is what the network `networks:trouble` does with a batch of three images."""
    (tmp_path / "networks_in_trouble.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TROUBLE", str(tmp_path / "trouble.txt"))
    return tmp_path / "trouble.txt"


def test_a_worker_gives_the_same_shards(tmp_path: Path) -> None:
    needs_photos()
    watch = Watch()
    outcome = run(plan(tmp_path), workers=1, progress=watch)
    assert (outcome.code, outcome.complete, outcome.computed, watch.said) == (0, True, SHARDS * SHARD, [])
    assert hashes(tmp_path) == expected()
    assert leftovers(tmp_path) == []
    assert children(os.getpid()) == []


def test_one_of_two_workers_is_killed_and_replaced(tmp_path: Path) -> None:
    needs_photos()
    killed: list[int] = []

    def kill(tally: Tally) -> None:
        if tally.done and not killed:
            killed.append(children(os.getpid())[-1])
            os.kill(killed[-1], signal.SIGKILL)

    outcome = run(plan(tmp_path), workers=2, progress=Watch(kill))
    assert killed
    assert (outcome.code, outcome.complete, outcome.failed) == (0, True, {})
    assert hashes(tmp_path) == expected()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("what", ["die", "hang", "fail"])
def test_a_shard_is_tried_again_and_then_fails(
    tmp_path: Path, trouble: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_photos()
    retries = RETRIES if what == "fail" else 1  # a new process each is dear
    monkeypatch.setattr("tsm_fast.pipeline.engines.tries.RETRIES", retries)
    run_ = plan(tmp_path / "out", model="networks_in_trouble:trouble", **ELEVEN)
    trouble.write_text(what)
    watch = Watch()
    resources = Resources(max_errors=1.0, shard_timeout=3)
    workers = 0 if what == "fail" else 1
    outcome = run(run_, workers=workers, resources=resources, progress=watch)
    again = [text for text in watch.said if "trying again" in text]
    if what == "hang":  # once
        assert (outcome.code, outcome.complete, len(again)) == (0, True, 1)
        assert "shard 1: took longer than 3 s and hangs" in again[0]
    else:
        assert (outcome.code, outcome.complete, len(again)) == (1, False, retries)
        reason = "its worker died (SIGKILL)" if what == "die" else "RuntimeError: out of luck"
        assert list(outcome.failed) == [1]
        assert reason in outcome.failed[1]
        trouble.unlink()
        assert run(run_, workers=0).code == 0
    assert markers(tmp_path / "out") == 2
    assert leftovers(tmp_path / "out") == []


def test_a_thread_that_hangs_ends_the_run(tmp_path: Path, trouble: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_photos()
    monkeypatch.setattr("tsm_fast.pipeline.engines.local.HANGING", 0.5)
    monkeypatch.setattr("tsm_fast.pipeline.engines.lanes.GRACE", 0.5)
    run_ = plan(tmp_path / "out", model="networks_in_trouble:trouble", **ELEVEN)
    trouble.write_text("hang")
    before = set(threading.enumerate())
    outcome = run(run_, workers=0, resources=Resources(shard_timeout=1))
    assert (outcome.code, outcome.complete, outcome.shards_done) == (1, False, 1)
    assert outcome.reason == (
        "shard 1 took longer than 1 s and hangs (--shard-timeout): the same command with --workers 1 finds the image"
    )
    trouble.with_name("awake").touch()
    while set(threading.enumerate()) - before:
        time.sleep(0.02)


def test_too_many_errors_stop_a_run(tmp_path: Path) -> None:
    needs_photos()
    source = tmp_path / "source"
    source.mkdir()
    for path in photos().rglob("*.jpg"):
        broken = path.stem in "02"
        name = f"{path.parent.name}-{path.name}"
        (source / name).write_bytes(path.read_bytes()[:500] if broken else path.read_bytes())
    run_ = plan(tmp_path / "out", source=str(source))
    stopped = run(run_, workers=0, resources=Resources(max_errors=0.1))
    assert stopped.code == 3
    assert 1 <= stopped.shards_done < SHARDS
    assert "--max-errors allows 6 of 64" in stopped.reason
    assert leftovers(tmp_path / "out") == []
    finished = run(run_, workers=0, resources=Resources(max_errors=0.25))
    assert (finished.code, finished.complete, finished.errors) == (0, True, 16)
    assert sum(finished.error_kinds.values()) == 16
    assert run(run_, workers=0, resources=Resources(max_errors=0.1)).code == 3  # finished, with too many


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    needs_photos()
    run_ = plan(tmp_path, limit=BATCH)
    with held(tmp_path), pytest.raises(RuntimeError, match=r"another run is working in .*choose another folder"):
        run(run_, workers=0)
    with held(tmp_path, shared=True), held(tmp_path, shared=True):
        pass
    assert run(run_, workers=0, resources=QUICK).code == 0


def test_a_finished_run_computes_nothing(tmp_path: Path) -> None:
    needs_photos()
    run_ = plan(tmp_path, limit=SHARD)
    assert run(run_).computed == SHARD
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = run(run_)
    assert (again.code, again.complete, again.computed, again.images) == (0, True, 0, SHARD)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("device", "workers", "most", "where", "gpus", "found"),
    [
        ("auto", None, 9, None, 2, ["cuda:0", "cuda:1"]),
        ("auto", 3, 9, None, 2, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda", None, 1, None, 4, ["cuda:0"]),
        ("auto", None, 9, Place(5, 8, 1, ""), 4, ["cuda:1"]),
        ("auto", 4, 9, Place(0, 2, 0, ""), 4, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda:3", None, 9, None, 4, ["cuda:3"]),
        ("cpu", 3, 9, None, 4, ["cpu"] * 3),
        ("auto", 3, 2, None, 0, ["cpu"] * 2),
        ("auto", 0, 2, None, 0, ["cpu"]),
    ],
)
def test_devices(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    workers: int | None,
    most: int,
    where: Place | None,
    gpus: int,
    found: list[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert devices(device, workers, most, where) == found


def test_bad_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_photos()
    run_ = plan(tmp_path, limit=BATCH)
    with pytest.raises(ValueError, match="engine must be one of 'local', 'rank', 'ray', got 'spark'"):
        run(run_, "spark")
    for name in ("RANK", "SLURM_PROCID", "SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="engine 'rank' needs its place"):
        run(run_, "rank")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RuntimeError, match="device 'cuda' needs a GPU"):
        run(run_, resources=Resources(device="cuda"))
    with pytest.raises(RuntimeError, match="device 'cuda:1' needs a GPU that PyTorch can use, found none"):
        run(run_, resources=Resources(device="cuda:1"))
    with pytest.raises(ValueError, match="device must be auto, or one of PyTorch's such as cpu or cuda:1, got 'gpu'"):
        run(run_, resources=Resources(device="gpu"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"engine 'ray' needs Ray: pip install 'tsm_fast\[ray\]'"):
        run(run_, "ray")
