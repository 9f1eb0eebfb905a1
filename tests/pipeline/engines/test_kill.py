"""`kill -9` of real processes at random moments, and the same command again: the short version of the benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ..processes import LIMIT, ROOT, needs_photos

pytestmark = pytest.mark.slow

KILLS = 3


def test_killed_runs_end_with_the_same_shards(tmp_path: Path) -> None:
    needs_photos()
    result = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.kill_and_resume", "--kills", str(KILLS), "--out", str(result)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2 * LIMIT)
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert (found["kills"], found["equal"], found["leftovers"]) == (KILLS, KILLS, 0)
    assert found["killed_while_running"] > 0
    assert len({trial["second"] for trial in found["trials"]}) == KILLS
