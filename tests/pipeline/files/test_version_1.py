"""A folder that version 1 of the format wrote: read, verified, exported, shown, and not continued."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tsm_fast import SaliencyDataset
from tsm_fast.pipeline import FingerprintError, Run, Settings, prepare
from tsm_fast.pipeline.results.check import status, verify

from ...needs import NETWORK, needs
from ..processes import tsm_fast

WRITTEN = Path(__file__).parent / "version_1"  # six pictures, one of them empty, in two shards


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WRITTEN, tmp_path / "old"))


def test_it_is_read(old: Path, tmp_path: Path) -> None:
    rows = SaliencyDataset(old, "mtsm/*")
    assert [row.status for row in rows] == ["ok", "ok", "ok", "empty", "ok", "ok"]
    assert {(row.bytes, row.sha256) for row in rows} == {(0, "")}
    maps = rows.numpy()
    assert np.isfinite(maps[[0, 1, 2, 4, 5]]).all()
    assert maps.shape == (6, 2, 2)
    assert (status(old).images_done, status(old).errors) == (6, {"empty": 1})
    assert verify(old).ok
    for command in (["verify", old], ["report", old], ["export", old, tmp_path / "npy", "--to", "npy"]):
        done = tsm_fast(*command)
        assert done.exit_code == 0, done.stderr
    compared = tsm_fast("verify", old, tmp_path)
    assert (compared.exit_code, "keep no hashes of their pictures" in compared.stderr) == (1, True)


@needs(*NETWORK)
def test_it_cannot_be_continued(old: Path, folder: Path) -> None:
    (old / "markers" / "000001.json").unlink()
    assert verify(old).pending == (1,)
    with pytest.raises(FingerprintError, match=r"format version 1, which can be read.* name another folder"):
        prepare(Settings(str(folder)), old)
    for command in (["extract", folder, "--out", old], ["extract", folder, "--out", old, "--dry-run"]):
        refused = tsm_fast(*command)
        assert (refused.exit_code, "name another folder" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("items",), 10**15),
        (("items",), "6"),
        (("parts", "shard_size"), 1),
        (("parts",), []),
        (("columns",), 3),
        (("columns", 0, "shape"), [10**6, 10**6]),
        (("source", "root"), 5),
        (("settings",), None),
        (("settings", "batch_size"), True),
        (("versions",), {"torch": 2}),
    ],
)
def test_wrong_types_are_said_in_a_line(path: tuple[Any, ...], value: Any, old: Path) -> None:
    facts = json.loads((old / "run.json").read_text())
    place = facts
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (old / "run.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"run\.json (is broken|was changed)"):
        Run.open(old)
    done = tsm_fast("status", old)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
