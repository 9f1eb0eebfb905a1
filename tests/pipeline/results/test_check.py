"""`status` and `verify`: every kind of damage is found, named, and repaired as they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tsm_fast.pipeline import prepare
from tsm_fast.pipeline.files.publish import sha256
from tsm_fast.pipeline.files.shards import marker_path, shard_path
from tsm_fast.pipeline.results.check import Verification, status, verify

from ..small_run import BROKEN, CROPS, SHARD_SIZE, STRANGE, changeable, extract, finished, partial, settings

pytestmark = pytest.mark.slow

__all__ = ["changeable", "finished", "partial"]  # fixtures

ROWS = CROPS + len(STRANGE) + len(BROKEN) + 3


def test_status_of_a_finished_run(finished: Path) -> None:
    found = status(finished)
    assert found.complete
    assert (found.images, found.images_done, found.ok) == (ROWS, ROWS, ROWS - len(BROKEN))
    assert (found.shards, found.shards_done) == (3, 3)
    assert found.errors == {"empty": 1, "format": 1, "truncated": 1}
    assert found.flags == {"first_frame": 1, "reduced": 1}
    assert found.columns == {"tsm/features": (3, 3), "mtsm/features": (3, 3)}
    assert found.bytes == sum(path.stat().st_size for path in (finished / "shards").iterdir())
    assert found.rates["forward"] == pytest.approx(ROWS / found.seconds["forward"])
    assert set(found.rates) == {"read", "forward", "decomposition", "write", "total"}
    assert (found.pending, found.damaged, found.leftovers) == ((), (), ())
    assert json.loads(json.dumps(found.to_json()))["complete"] is True


def test_status_of_a_run_that_is_not_finished(partial: Path) -> None:
    (partial / "shards" / ".part-000001.parquet.0123.tmp").write_bytes(b"half")
    found = status(partial)
    assert not found.complete
    assert found.pending == (1,)
    assert (found.images, found.images_done) == (ROWS, ROWS - SHARD_SIZE)
    assert found.leftovers == ("shards/.part-000001.parquet.0123.tmp",)
    shard_path(partial, 0).write_bytes(b"short")
    found = status(partial)
    assert found.pending == (0, 1)
    assert [finding.path for finding in found.damaged] == ["shards/part-000000.parquet"]


def test_a_good_run_has_no_problem(finished: Path) -> None:
    told: list[tuple[int, int]] = []
    found = verify(finished, lambda done, shards: told.append((done, shards)))
    assert found == Verification(str(finished), ROWS, 3, ROWS, 3)
    assert found.ok
    assert found.complete
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_what_is_not_computed_yet_is_no_problem(partial: Path) -> None:
    found = verify(partial)
    assert found.ok
    assert not found.complete
    assert found.pending == (1,)
    assert found.shards_checked == 2
    assert json.loads(json.dumps(found.to_json()))["ok"] is True


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.999])
def test_any_flipped_bit_is_found(changeable: Path, place: float) -> None:
    path = shard_path(changeable, 1)
    flip(path, int(place * path.stat().st_size))
    found = verify(changeable)
    assert [problem.path for problem in found.problems] == ["shards/part-000001.parquet"]
    assert "SHA-256 must be" in found.problems[0].what
    assert "delete markers/000001.json" in found.problems[0].repair
    assert found.shards_checked == 2


def test_damage_is_repaired_as_said(changeable: Path, finished: Path) -> None:
    before = shard_path(changeable, 2).read_bytes()
    flip(shard_path(changeable, 2), 1000)
    (problem,) = verify(changeable).problems
    assert "delete markers/000002.json and run the same `tsm-fast extract` command again" in problem.repair
    marker_path(changeable, 2).unlink()
    extract(changeable, finished.parent / "pictures")
    assert verify(changeable) == Verification(str(changeable), ROWS, 3, ROWS, 3)
    assert shard_path(changeable, 2).read_bytes() == before


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 16
    path.write_bytes(data)


def test_files_that_are_gone_or_cut(changeable: Path) -> None:
    shard_path(changeable, 0).unlink()
    data = shard_path(changeable, 1).read_bytes()
    shard_path(changeable, 1).write_bytes(data[:-1])
    marker_path(changeable, 2).write_text("{")
    what = {problem.path: problem.what for problem in verify(changeable).problems}
    assert what["shards/part-000000.parquet"] == "is marked as finished, but not there"
    assert what["shards/part-000001.parquet"] == f"bytes must be {len(data)}, got {len(data) - 1}"
    assert "000002.json cannot be understood" in what["shards/part-000002.parquet"]


def remake(out: Path, change: Callable[[pa.Table], pa.Table], **marker: object) -> str:
    """A shard that is wrong and yet agrees with its hash; what `verify` says of it."""
    path = shard_path(out, 1)
    with path.open("wb") as file:
        pq.write_table(change(pq.read_table(shard_path(out, 1).with_suffix(".before"))), file)
    said = json.loads(marker_path(out, 1).read_text())
    said |= {"sha256": sha256(path), "bytes": path.stat().st_size, **marker}
    marker_path(out, 1).write_text(json.dumps(said))
    problems = verify(out).problems
    assert [problem.path for problem in problems] == ["shards/part-000001.parquet"]
    return problems[0].what


def column(table: pa.Table, name: str, values: list) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.column_names.index(name), field, pa.array(values, field.type))


def test_rows_that_are_wrong_though_the_hash_is_right(changeable: Path) -> None:
    shard_path(changeable, 1).with_suffix(".before").write_bytes(shard_path(changeable, 1).read_bytes())
    good = pq.read_table(shard_path(changeable, 1))
    keys, index, state = (good[name].to_pylist() for name in ("key", "index", "status"))

    assert "number of rows must be 260, got 259" in remake(changeable, lambda t: t.slice(1))
    assert "not numbered in order" in remake(changeable, lambda t: column(t, "index", index[1:] + index[:1]))
    swapped = [keys[1], keys[0], *keys[2:]]
    assert "not those of the plan" in remake(changeable, lambda t: column(t, "key", swapped))
    assert "not those of the plan" in remake(changeable, lambda t: column(t, "key", [keys[0], *keys[:-1]]))
    lost = ["truncated", *state[1:]]
    assert "row 260 has an error and a map in 'tsm/features'" in remake(changeable, lambda t: column(t, "status", lost))
    assert "column 'mtsm/features' is not there" in remake(changeable, lambda t: t.drop_columns("mtsm/features"))
    assert "rows without an error must be 259, got 260" in remake(changeable, lambda t: t, ok=259)
    assert "errors must be {'format': 1}, got {}" in remake(changeable, lambda t: t, ok=260, errors={"format": 1})
    assert "rows in its marker" in remake(changeable, lambda t: t, rows=259)

    def without_a_map(table: pa.Table) -> pa.Table:
        maps = table["tsm/features"].combine_chunks().to_numpy_ndarray().copy()
        maps[7] = np.nan
        kind = table.schema.field("tsm/features").type
        flat = pa.FixedSizeListArray.from_arrays(pa.array(maps.reshape(-1)), 9)
        place = table.column_names.index("tsm/features")
        return table.set_column(place, table.schema.field("tsm/features"), pa.ExtensionArray.from_storage(kind, flat))

    assert "row 267 has no map in 'tsm/features'" in remake(changeable, without_a_map, rows=260, ok=260, errors={})
    assert "fingerprint in its marker" in remake(changeable, lambda t: t, fingerprint="0" * 64)


def test_a_plan_that_is_not_the_one_of_the_run(changeable: Path) -> None:
    plan = pq.read_table(changeable / "plan.parquet")
    pq.write_table(plan.slice(1), changeable / "plan.parquet")
    found = verify(changeable)
    assert [problem.path for problem in found.problems] == ["plan.parquet"]
    assert f"must have {ROWS} rows, got {ROWS - 1}" in found.problems[0].what
    keys = plan["key"].to_pylist()
    pq.write_table(column(plan, "key", [keys[0], *keys[:-1]]), changeable / "plan.parquet")
    assert verify(changeable).problems[0].what == "lists a key twice"
    (changeable / "plan.parquet").write_bytes(b"nothing")
    assert "cannot be read" in verify(changeable).problems[0].what


def test_leftovers_are_named_and_harmless(changeable: Path) -> None:
    (changeable / "markers" / ".000001.json.77.tmp").touch()
    (changeable / "shards" / "notes.txt").touch()
    marker_path(changeable, 2).unlink()
    (changeable / "report.html").touch()
    found = verify(changeable)
    assert found.ok
    assert {note.path for note in found.notes} == {
        "markers/.000001.json.77.tmp",
        "shards/notes.txt",
        "shards/part-000002.parquet",
    }


def test_folders_without_a_run(tmp_path: Path) -> None:
    for look in (status, verify):
        with pytest.raises(FileNotFoundError, match="holds no run"):
            look(tmp_path)
        with pytest.raises(FileNotFoundError):
            look(tmp_path / "nowhere")


def test_a_run_that_has_only_been_planned(finished: Path, tmp_path: Path) -> None:
    run = prepare(settings(finished.parent / "pictures"), tmp_path / "new")
    found = status(run.out)
    assert (found.images_done, found.rates, found.pending) == (0, {}, (0, 1, 2))
    assert verify(run.out).pending == (0, 1, 2)
