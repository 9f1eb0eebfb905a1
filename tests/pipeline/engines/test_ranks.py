"""Where a process stands among those that a scheduler started, and ranks that start late or twice."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tsm_fast.pipeline import Settings
from tsm_fast.pipeline.engines.ranks import Place, place, share
from tsm_fast.pipeline.engines.run import ready, run

from ..processes import SHARDS, arguments, end, expected, hashes, leftovers, needs_photos, photos, start

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


def test_a_rank_writes_the_plan_where_rank_0_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_photos()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    run_ = ready(Settings(str(photos()), shard_size=4, limit=8), tmp_path, "rank")
    outcome = run(run_, "rank", workers=0)
    assert (outcome.code, outcome.complete, outcome.shards, outcome.shards_done) == (0, False, 1, 1)
    assert list(hashes(tmp_path)) == ["part-000001.parquet"]
