"""A study whose process is killed at any moment goes on, and ends with the rows of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tsm_fast.study import Study

from ..needs import PHOTOS, needs
from .discs import Discs

SHARDS = 10
KILLS = int(os.environ.get("TSM_FAST_KILLS", "3"))  # 20 take some minutes
SCRIPT = """
import sys
from tests.study import nets
from tests.study.discs import OPTIONS
from tsm_fast import study
images, masks, out = sys.argv[1:]
options = {**OPTIONS, "maps": "tsm", "shard_size": 2, "metrics": ["localisation", "stability", "spectra"]}
study.run(images, out, model=nets.classes(), masks=masks, pages=False, torch_threads=1, **options)
"""


def start(discs: Discs, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *map(str, (discs.images, discs.masks, out))])


@pytest.mark.slow
@needs(*PHOTOS)
def test_killed_studies_go_on(discs: Discs, tmp_path: Path) -> None:
    assert start(discs, tmp_path / "whole").wait(300) == 0
    out, seen, dice = tmp_path / "killed", set[int](), random.Random(0)
    for _ in range(KILLS):
        process = start(discs, out)
        before = len(list((out / "markers").glob("*.json"))) if out.exists() else 0
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            done = len(list((out / "markers").glob("*.json"))) if out.exists() else 0
            if done > before:
                time.sleep(dice.random() / 4)
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.add(len(list((out / "markers").glob("*.json"))))
        if max(seen) == SHARDS:
            break
    assert start(discs, out).wait(300) == 0
    assert seen - {SHARDS}
    one, other = Study.open(tmp_path / "whole"), Study.open(out)
    assert one.rows.column_names == other.rows.column_names
    for name in one.rows.column_names:
        np.testing.assert_array_equal(one.column(name), other.column(name), err_msg=name)
    assert not list(out.rglob("*.tmp"))
