"""Where a process stands among those that a scheduler started, and ranks that start late or twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tsm_fast.pipeline import FingerprintError, Settings
from tsm_fast.pipeline.engines.ranks import Place, place, share
from tsm_fast.pipeline.engines.run import ready, run
from tsm_fast.pipeline.results.check import status, verify

from ..growing import MODEL, net, settings, write
from ..processes import QUICK, SHARDS, arguments, end, expected, hashes, leftovers, needs_photos, photos, start

__all__ = ["net"]  # a fixture

pytestmark = pytest.mark.slow

SLURM_ARRAY = {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_STEP": "1"}


@pytest.mark.parametrize(
    ("environment", "rank", "world", "local"),
    [
        ({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, 2, 4, 1),
        ({"RANK": "0", "WORLD_SIZE": "1", "SLURM_PROCID": "3", "SLURM_NTASKS": "8"}, 0, 1, 0),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}, 3, 8, 1),
        ({**SLURM_ARRAY, "SLURM_ARRAY_TASK_ID": "4"}, 3, 4, 0),
        ({**SLURM_ARRAY, "SLURM_ARRAY_TASK_ID": "4", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, 7, 8, 0),
        (
            {
                "SLURM_ARRAY_TASK_ID": "20",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_COUNT": "5",
                "SLURM_ARRAY_TASK_STEP": "10",
            },
            2,
            5,
            0,
        ),
        ({"JOB_COMPLETION_INDEX": "5", "WORLD_SIZE": "6"}, 5, 6, 0),
    ],
)
def test_place(environment: dict[str, str], rank: int, world: int, local: int) -> None:
    assert place(environment)[:3] == (rank, world, local)


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({}, "needs its place in the environment"),
        ({"RANK": "1"}, "RANK is set but WORLD_SIZE is not"),
        ({"JOB_COMPLETION_INDEX": "1"}, "JOB_COMPLETION_INDEX is set but WORLD_SIZE is not"),
        ({"RANK": "two", "WORLD_SIZE": "3"}, "RANK must be a number in the environment, got 'two'"),
        ({"RANK": "3", "WORLD_SIZE": "3"}, r"the rank must lie in 0\.\.2, got 3"),
        ({"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "1"}, "SLURM_ARRAY_TASK_COUNT must be a number"),
        ({**SLURM_ARRAY, "SLURM_ARRAY_TASK_ID": "9"}, "set RANK and WORLD_SIZE"),
    ],
)
def test_no_place(environment: dict[str, str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        place(environment)


@pytest.mark.parametrize("world", [1, 3, 7, 20])
def test_every_shard_is_of_one_rank(world: int) -> None:
    shares = [share(range(10), Place(rank, world, 0, "test")) for rank in range(world)]
    assert sorted(number for own in shares for number in own) == list(range(10))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_ranks_late_and_twice_give_the_same_shards(tmp_path: Path) -> None:
    needs_photos()

    def rank(number: int) -> subprocess.Popen[str]:
        return start(arguments(tmp_path, "--engine", "rank", "--workers", 0), RANK=str(number), WORLD_SIZE="3")

    # Rank 0, which others leave the plan to, comes late; rank 1 runs twice at the same time.
    first = [rank(1), rank(1)]
    time.sleep(1)
    late = [rank(0), rank(2)]
    for number, process in zip((1, 1, 0, 2), first + late, strict=True):
        code, text, talk = end(process)
        assert code == 0, talk
        assert f"rank {number} of 3 (from RANK, WORLD_SIZE)" in talk
        own = len(range(number, SHARDS, 3))
        assert f"{own} of {own} shards" in text
    assert hashes(tmp_path) == expected()
    assert leftovers(tmp_path) == []
    assert (tmp_path / "report.html").exists()


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Take a run up as a rank of two in this process, or compute its share too: what was said."""

    def take_up(number: int, source: Path, out: Path, *, add: bool = False, go: bool = True, **more: Any) -> list[str]:
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setenv("WORLD_SIZE", "2")
        said: list[str] = []
        planned = ready(settings(source, **more), out, "rank", add=add, say=said.append)
        if go:
            assert run(planned, "rank", workers=0, resources=QUICK).code == 0
        return said

    return take_up


def test_one_rank_lists(net: Path, tmp_path: Path, as_rank: Callable[..., list[str]]) -> None:
    source, out = write(tmp_path / "a", "abcdefghij"), tmp_path / "out"
    assert "listing the images" in as_rank(1, source, out)
    assert "listing the images" in as_rank(0, source, out, go=False)  # rank 0 compares a plan that was there
    shutil.copytree(source, tmp_path / "copy")  # with other times
    for folder in (source, tmp_path / "copy"):
        assert "listing the images" not in as_rank(1, folder, out)
    as_rank(0, source, out)
    assert verify(out, source=str(source)).problems == ()
    # With --add each looks for itself.
    write(source, "uvwxyz")
    assert "listing the images" not in as_rank(1, source, out)  # without --add it has its share, and no more
    assert "adding 6 images to 10" in as_rank(1, source, out, add=True)
    assert "listing the images" in as_rank(1, source, out, add=True)
    as_rank(0, source, out, add=True)
    assert (status(out).images_done, status(out).complete) == (16, True)


def test_ranks_add_to_an_unfinished_run(net: Path, tmp_path: Path, as_rank: Callable[..., list[str]]) -> None:
    """What is pending is no sign that another rank has added what is new."""
    source, out = write(tmp_path / "a", "abcdefgh"), tmp_path / "out"
    as_rank(0, source, out)
    write(source, "uvwxyz")
    assert "adding 6 images to 8" in as_rank(1, source, out, add=True)
    as_rank(0, source, out, add=True)
    assert (status(out).images_done, status(out).complete) == (14, True)


@pytest.mark.slow
def test_of_ranks_that_start_together_one_lists(net: Path, tmp_path: Path) -> None:
    source, out = write(tmp_path / "a", "abcdefghij"), tmp_path / "out"
    path = f"{Path(__file__).parents[3]}{os.pathsep}{net}"

    def all_ranks(*more: str) -> list[str]:
        line = ["extract", str(source), "--out", str(out), *map(str, MODEL), "--shard-size", "2", "--engine", "rank"]
        ranks = [start([*line, *more], RANK=str(n), WORLD_SIZE="3", PYTHONPATH=path) for n in range(3)]
        ends = [end(process) for process in ranks]
        assert [code for code, _, _ in ends] == [0, 0, 0], ends
        return [talk for _, _, talk in ends]

    assert sum("listing the images" in talk for talk in all_ranks()) in (1, 2)  # two, where rank 0 comes late
    write(source, "klmno")
    assert sum("adding 5 images to 10" in talk for talk in all_ranks("--add")) == 1
    assert verify(out, source=str(source)).problems == ()
    assert (status(out).images_done, status(out).complete, leftovers(out)) == (15, True, [])


def test_a_rank_with_other_pictures(net: Path, tmp_path: Path, as_rank: Callable[..., list[str]]) -> None:
    source, out = write(tmp_path / "a", "abcdefghij"), tmp_path / "out"
    as_rank(0, source, out)
    other = write(tmp_path / "b", "abcdefghij", shift=1)  # the same names and sizes
    with pytest.raises(FingerprintError, match="holds a run of other pictures"):
        as_rank(1, other, out)
    for name, text in (("e", "1 picture that was not found in"), ("f", "2 pictures that were not found in")):
        (source / f"{name}.bmp").unlink()
        with pytest.raises(FingerprintError, match=text):  # shard 1 of 4 pictures is its share: e, f, g, h
            as_rank(1, source, out)
    write(source, "ef")
    (source / "a.bmp").unlink()  # of the share of rank 0
    said = as_rank(1, source, out)
    assert "2 pictures without a map were replaced since the run was planned: 'e.bmp', 'f.bmp'" in said
    write(source, "f", shift=1)
    with pytest.raises(FingerprintError, match=r"1 picture was replaced since its map was computed: 'f\.bmp'"):
        as_rank(1, source, out)


@pytest.mark.parametrize(
    ("more", "text"),
    [({"dtype": "uint8"}, "dtype is 'float32' there"), ({"shard_size": 3}, "shard_size is 4 there and 3 now")],
)
def test_a_rank_with_other_settings(
    net: Path, tmp_path: Path, as_rank: Callable[..., list[str]], more: dict[str, Any], text: str
) -> None:
    source, out = write(tmp_path / "a", "abcdefghij"), tmp_path / "out"
    as_rank(0, source, out)
    with pytest.raises(FingerprintError, match=text):
        as_rank(1, source, out, **more)


def test_a_rank_with_another_model(
    net: Path, tmp_path: Path, as_rank: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write(tmp_path / "a", "abcdefghij"), tmp_path / "out"
    as_rank(0, source, out)
    import grow_net  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(grow_net, "SEED", 1)
    with pytest.raises(FingerprintError, match=r"model\.sha256 is"):
        as_rank(1, source, out)


@pytest.mark.parametrize("kind", ["list", "manifest", "tar", "factory", "url"])
def test_ranks_of_other_sources(
    net: Path, tmp_path: Path, as_rank: Callable[..., list[str]], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = write(tmp_path / "a", "abcdefghij"), tmp_path / "out"
    names = [f"a/{name}.bmp" for name in "abcdefghij"]
    source: Path | str = tmp_path / {"list": "all.txt", "manifest": "all.csv", "tar": "all.tar"}.get(kind, "none")
    if kind == "list":
        (tmp_path / "all.txt").write_text("\n".join(names))
    elif kind == "manifest":
        (tmp_path / "all.csv").write_text("path,label\n" + "".join(f"{name},{len(name)}\n" for name in names))
    elif kind == "tar":
        with tarfile.open(source, "w") as tar:
            tar.add(folder, "a")
    elif kind == "url":
        source = f"file://{folder}"
    else:
        (net / "grow_data.py").write_text("PICTURES = []\ndef make(): return PICTURES")
        import grow_data  # pyright: ignore[reportMissingImports]

        monkeypatch.setattr(grow_data, "PICTURES", [(folder / f"{n}.bmp").read_bytes() for n in "abcdefghij"])
        source = "grow_data:make"
    as_rank(0, Path(source) if kind != "url" else source, out)  # pyright: ignore[reportArgumentType]
    said = as_rank(1, Path(source) if kind != "url" else source, out)  # pyright: ignore[reportArgumentType]
    assert ("listing the images" in said) == (kind == "url")  # which tells sizes and times only in a listing
    assert (status(out).images_done, verify(out).problems) == (10, ())
    if kind == "factory":
        monkeypatch.setattr(grow_data, "PICTURES", grow_data.PICTURES[::-1])
        with pytest.raises(FingerprintError, match=r"source\.content is"):
            as_rank(1, Path("grow_data:make"), out)
        sys.modules.pop("grow_data")


def test_a_planner_that_is_killed(net: Path, tmp_path: Path, as_rank: Callable[..., list[str]]) -> None:
    source, out = write(tmp_path / "a", "abcdefghij"), tmp_path / "out"
    out.mkdir()
    held = "import sys, time, pathlib; from tsm_fast.pipeline.files.hold import turn"
    held += "\nwith turn(pathlib.Path(sys.argv[1])): print('mine', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", held, str(out)], stdout=subprocess.PIPE, text=True) as planner:
        assert planner.stdout is not None
        assert planner.stdout.readline() == "mine\n"
        waiting = threading.Thread(target=lambda: said.extend(as_rank(1, source, out)))
        said: list[str] = []
        waiting.start()
        time.sleep(1)
        assert "listing the images" not in said
        assert not (out / "run.json").exists()
        planner.kill()
        waiting.join(60)
    assert "listing the images" in said
    as_rank(0, source, out)
    assert verify(out).complete
    assert leftovers(out) == []


def test_a_rank_writes_the_plan_where_rank_0_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_photos()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    run_ = ready(Settings(str(photos()), shard_size=4, limit=8), tmp_path, "rank")
    outcome = run(run_, "rank", workers=0)
    assert (outcome.code, outcome.complete, outcome.shards, outcome.shards_done) == (0, False, 1, 1)
    assert list(hashes(tmp_path)) == ["part-000001.parquet"]
