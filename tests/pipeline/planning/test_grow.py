"""`--add`: new pictures in a run that is there; no map of another picture or model ever comes into it."""

from __future__ import annotations

import json
import os
import random
import shutil
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tsm_fast import SaliencyDataset
from tsm_fast.pictures import load_photos
from tsm_fast.pipeline import FingerprintError, Run, prepare
from tsm_fast.pipeline.files import parts, plan_file
from tsm_fast.pipeline.files.record import digest
from tsm_fast.pipeline.planning import prepare as preparing
from tsm_fast.pipeline.results.check import status, verify
from tsm_fast.pipeline.sources.datasets import DatasetSource

from ...needs import PHOTOS, needs
from ..growing import MODEL, command, compute, files, net, settings, write
from ..processes import end, hashes, leftovers, markers, start, tsm_fast, wait_for
from ..results.test_edits import SPITE, places

pytestmark = [pytest.mark.slow, needs(*PHOTOS)]

__all__ = ["net"]  # a fixture


def keys(out: Path) -> str:
    return "".join(key[0] for key in SaliencyDataset(out).keys)


def is_right(out: Path, *sources: Path) -> None:
    for source in sources or (None,):
        found = verify(out, source=None if source is None else str(source))
        assert (found.problems, found.complete, found.notes) == ((), True, ())


# The source has grown


def test_a_source_that_has_grown(net: Path, tmp_path: Path) -> None:
    source, out = write(tmp_path / "a", "bdfhj"), tmp_path / "out"
    assert command(source, out).exit_code == 0
    before, times = files(out), {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    assert set(json.loads((out / "run.json").read_text())) == {
        *("format", "fingerprint", "record", "evidence", "about", "sha256")
    }
    write(source, "aceg")
    refused = command(source, out)
    assert refused.exit_code == 1
    assert "4 more, such as 'a.bmp'" in refused.stderr
    assert "take them into it with --add, as new shards" in refused.stderr
    assert files(out) == before
    added = command(source, out, "--add")
    assert added.exit_code == 0, added.stderr
    assert "adding 4 images to 5" in added.stderr
    assert "9 of 9 images have maps" in added.stdout
    assert {name: sha for name, sha in files(out).items() if name in before} == before
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert keys(out) == "bdfhj" + "aceg"
    is_right(out, source)
    assert verify(out, source=str(source)).pictures_compared == 9
    whole = compute(source, tmp_path / "whole")
    ds, other = SaliencyDataset(out), SaliencyDataset(whole.out)
    for key in other.keys:
        assert ds[key].sha256 == other[key].sha256
        assert abs(ds[key].map - other[key].map).max() < 1e-5
    for more in ((), ("--add",)):  # the same again, and what a user of the grown folder gives
        again = command(source, out, *more)
        assert (again.exit_code, "nothing was left to compute" in again.stdout) == (0, True), again.stderr
    write(source, "z")
    assert command(source, out, "--add", shard=None).exit_code == 0
    assert keys(out) == "bdfhj" + "aceg" + "z"
    assert [part.source.items for part in Run.open(out).parts] == [5, 4, 1]
    shown = status(out)
    assert (shown.images, shown.images_done, shown.source, shown.complete) == (10, 10, str(source), True)


def test_another_source(net: Path, tmp_path: Path) -> None:
    first, second, out = write(tmp_path / "a", "abcdef"), write(tmp_path / "b", "ghi"), tmp_path / "out"
    compute(first, out)
    compute(second, out, add=True)
    assert keys(out) == "abcdefghi"
    is_right(out, first, second)
    assert status(out).source == f"{first}, {second}"
    # Each source goes on with its own pictures, and computes no others.
    for source, rows, own in ((first, "6 of 6", {"0", "1"}), (second, "3 of 3", {"2"})):
        for number in range(3):
            (out / "markers" / f"00000{number}.json").unlink()
        result = command(source, out)
        assert result.exit_code == 0, result.stderr
        assert rows in result.stdout
        other = first if source == second else second
        assert f"of pictures in {other}, which this command does not name" in result.stderr
        assert {path.stem[-1] for path in (out / "markers").iterdir()} == own
        assert command(other, out).exit_code == 0
        is_right(out, first, second)


def test_an_added_part_has_its_own_shard_size(net: Path, tmp_path: Path) -> None:
    first, second, out = write(tmp_path / "a", "abcdef"), write(tmp_path / "b", "ghijk"), tmp_path / "out"
    compute(first, out)
    run = compute(second, out, add=True, shard_size=2)
    assert [spec.stop - spec.start for spec in run.shards] == [4, 2, 2, 2, 1]
    is_right(out, first, second)
    refused = command(second, out, shard=3)
    assert refused.exit_code == 1
    assert "shard_size is 2 there and 3 now" in refused.stderr
    chosen = compute(write(tmp_path / "c", "xyz"), out, add=True, shard_size=None)
    assert chosen.parts[2].shard_size >= 3
    ds = SaliencyDataset(out)
    assert [ds[number].key[0] for number in range(14)] == list("abcdefghijkxyz")
    assert [ds[f"{key}.bmp"].index for key in "afgkxz"] == [0, 5, 6, 10, 11, 13]
    assert "".join(row.key[0] for row in ds[[13, 0, 7]]) == "zah"


def test_repair_of_added_rows(net: Path, tmp_path: Path) -> None:
    source, out = write(tmp_path / "a", "abcde"), tmp_path / "out"
    compute(source, out)
    write(source, "xyz")
    good = (source / "y.bmp").read_bytes()
    (source / "y.bmp").write_bytes(b"no picture")
    compute(source, out, add=True)
    assert status(out).errors == {"format": 1}
    (source / "y.bmp").write_bytes(good)
    for more in (("--add",), ()):
        repaired = command(source, out, "--retry-errors", *more)
        assert repaired.exit_code == 0, repaired.stderr
    assert status(out).errors == {}
    is_right(out, source)


# What is refused


def test_pictures_that_were_replaced(net: Path, tmp_path: Path) -> None:
    source, out = write(tmp_path / "a", "abcdef"), tmp_path / "out"
    compute(source, out)
    write(source, "xy")
    write(source, "c", shift=1)  # of the same size
    before = files(out)
    refused = command(source, out, "--add")
    assert refused.exit_code == 1
    assert "1 picture was replaced since its map was computed: 'c.bmp'. Put it back" in refused.stderr
    assert files(out) == before
    write(source, "c")  # with another time
    added = command(source, out, "--add")
    assert added.exit_code == 0, added.stderr
    assert "comparing 1 picture whose size or time has changed with the hashes in their rows" in added.stderr
    assert keys(out) == "abcdefxy"


def test_keys_that_collide(net: Path, tmp_path: Path) -> None:
    first, second, out = write(tmp_path / "a", "abcdef"), write(tmp_path / "b", "fgh", shift=1), tmp_path / "out"
    compute(first, out)
    before = files(out)
    refused = command(second, out, "--add")
    assert refused.exit_code == 1
    assert "1 picture was replaced since its map was computed: 'f.bmp'" in refused.stderr
    assert files(out) == before
    write(second, "f")  # the very picture of the first source is passed over
    assert command(second, out, "--add").exit_code == 0
    assert keys(out) == "abcdefgh"
    is_right(out, first)


def test_colliding_keys_without_a_map_to_compare_with(net: Path, tmp_path: Path) -> None:
    first, second, out = write(tmp_path / "a", "abcd"), write(tmp_path / "b", "dgh", shift=1), tmp_path / "out"
    (first / "d.bmp").write_bytes(b"no picture")
    compute(first, out)
    refused = command(second, out, "--add")
    assert refused.exit_code == 1
    assert "holds a run of other pictures" in refused.stderr


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--layer", "1"), "layers is ['0'] there and ['0', '1'] now"),
        (("--dtype", "uint8"), "dtype is 'float32' there and 'uint8' now"),
        (("--method", "mtsm"), "methods"),
        (("--batch-size", "2"), "batch_size is 64 there and 2 now"),
    ],
)
def test_other_settings(net: Path, tmp_path: Path, more: tuple[str, str], text: str) -> None:
    out = compute(write(tmp_path / "a", "abc"), tmp_path / "out").out
    before = files(out)
    refused = command(write(tmp_path / "b", "xyz"), out, "--add", *more)
    assert refused.exit_code == 1
    assert text in refused.stderr
    assert files(out) == before


def test_other_weights(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = compute(write(tmp_path / "a", "abc"), tmp_path / "out").out
    import grow_net  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(grow_net, "SEED", 1)
    refused = command(write(tmp_path / "b", "xyz"), out, "--add")
    assert refused.exit_code == 1
    assert "model.sha256 is" in refused.stderr


def test_what_cannot_be_added_to(net: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a", "abcdef")
    nothing = command(source, tmp_path / "none", "--add")
    assert nothing.exit_code == 1
    assert "holds no run to add pictures to" in nothing.stderr
    assert not (tmp_path / "none").exists()
    out = compute(source, tmp_path / "out", shards=1).out
    refused = command(write(tmp_path / "b", "xyz"), out, "--add")
    assert refused.exit_code == 1
    assert f"has 1 shard to compute, of pictures in {source}: finish these first" in refused.stderr
    # Pictures of the same source can be added before it is finished, since this command has them all.
    write(source, "gh")
    assert command(source, out, "--add").exit_code == 0
    assert keys(out) == "abcdefgh"
    (out / "plan.parquet").unlink()
    write(source, "ij")
    refused = command(source, out, "--add")
    assert refused.exit_code == 1
    assert "without its plan.parquet" in refused.stderr


def test_a_grown_run_and_other_listings(net: Path, tmp_path: Path) -> None:
    first, second, out = write(tmp_path / "a", "abc"), write(tmp_path / "b", "xyz"), tmp_path / "out"
    compute(first, out)
    compute(second, out, add=True)
    for source, more, text in (
        (write(tmp_path / "c", "n"), (), "does not have 1 picture of this listing, such as 'n.bmp': take them into it"),
        (first, ("--limit", "2"), "of 6 images there the listing has 2 now"),
    ):
        refused = command(source, out, *more)
        assert refused.exit_code == 1
        assert text in refused.stderr
    second.rename(tmp_path / "moved")
    moved = command(tmp_path / "moved", out)
    assert moved.exit_code == 0, moved.stderr
    assert f"the source has moved: it was {second}" in moved.stderr


def test_a_lost_plan_of_a_grown_run(net: Path, tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", "abcde"), write(tmp_path / "b", "uvw")
    out = tmp_path / "out"
    assert command(first, out).exit_code == command(second, out, "--add").exit_code == 0
    before = files(out)
    (out / "plan.parquet").unlink()
    for more in ((), ("--add",)):
        refused = command(second, out, *more)
        assert refused.exit_code == 1
        assert "run the command with them, without --add" in refused.stderr
    assert command(first, out).exit_code == 0
    assert {name: sha for name, sha in files(out).items() if name != "report.html"} == {
        name: sha for name, sha in before.items() if name != "report.html"
    }
    is_right(out, first, second)


def test_pictures_of_a_grown_run_that_moved_are_drawn(net: Path, tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", "abc"), write(tmp_path / "b", "uvw")
    out = tmp_path / "out"
    assert command(first, out).exit_code == command(second, out, "--add").exit_code == 0
    moved = first.rename(tmp_path / "moved")
    done = tsm_fast("export", out, tmp_path / "drawn", moved, "--to", "overlay")
    assert (done.exit_code, done.stderr) == (0, "")
    assert len(list((tmp_path / "drawn").rglob("*.jpg"))) == 6


# Other kinds of sources


def test_a_dataset_that_has_grown(net: Path, tmp_path: Path) -> None:
    images = [photo.image.resize((90, 80)) for photo in load_photos()]
    out, letters = tmp_path / "out", list("abcdefgh")

    def dataset(n: int, **more: Any) -> DatasetSource:
        return DatasetSource(images[:n], letters[:n], **more)

    compute("mine", out, given=dataset(5))
    changed = DatasetSource([images[7], *images[1:7]], letters[:7])
    with pytest.raises(FingerprintError, match="1 picture was replaced since its map was computed: 'a'"):
        compute("mine", out, given=changed, add=True)
    said: list[str] = []
    run = prepare(settings("mine"), out, source=dataset(7), add=True, say=said.append)
    assert "comparing 5 pictures of a dataset with the hashes in their rows" in said
    said.clear()
    assert [spec.index for spec in run.pending()] == [2]
    prepare(settings("mine"), out, source=dataset(7), add=True, say=said.append)
    assert not any("comparing" in text for text in said)  # it is the dataset that was compared
    compute("mine", out, given=dataset(7), add=True)
    assert SaliencyDataset(out).keys == letters[:7]
    is_right(out)
    with pytest.raises(FingerprintError, match="such as 'h': take them into it with add=True"):
        compute("mine", out, given=dataset(8))


def test_numbers_that_get_wider(net: Path, tmp_path: Path) -> None:
    images = [load_photos()[0].image.resize((90, 80))] * 11
    compute("mine", tmp_path / "out", given=DatasetSource(images[:9]))
    with pytest.raises(FingerprintError, match="numbers have other widths now"):
        compute("mine", tmp_path / "out", given=DatasetSource(images), add=True)


def test_columns_that_are_carried_along(net: Path, tmp_path: Path) -> None:
    write(tmp_path, "abcdef")

    def manifest(rows: str, name: str = "label") -> Path:
        path = tmp_path / "table.csv"
        path.write_text(f"path,{name}\n" + "".join(f"{row[0]}.bmp,{row[1]}\n" for row in rows.split()))
        return path

    out = compute(manifest("a1 b2"), tmp_path / "out").out
    for rows, name, text in (
        ("a1 b3 c4", "label", "has other values in the columns of its source (label)"),
        ("c4 d5", "class", "label: int64 there and class: int64 here"),
        ("c4 dx", "label", "label: int64 there and label: string here"),
    ):
        refused = command(manifest(rows, name), out, "--add")
        assert refused.exit_code == 1
        assert text in refused.stderr
    assert command(manifest("a1 b2 c4 d5"), out, "--add").exit_code == 0
    assert command(manifest("e6 f7"), out, "--add").exit_code == 0
    assert SaliencyDataset(out).arrow()["label"].to_pylist() == [1, 2, 4, 5, 6, 7]
    is_right(out)


def test_a_tar_that_was_packed_again(net: Path, tmp_path: Path) -> None:
    write(tmp_path / "a", "abcdef")

    def pack(names: str) -> Path:
        with tarfile.open(tmp_path / "all.tar", "w") as tar:
            for name in names:
                tar.add(tmp_path / "a" / f"{name}.bmp", f"{name}.bmp")
        return tmp_path / "all.tar"

    out = compute(pack("abcd"), tmp_path / "out").out
    added = command(pack("fdebca"), out, "--add")  # the same pictures in other places
    assert added.exit_code == 0, added.stderr
    assert "comparing 4 pictures" in added.stderr
    assert SaliencyDataset(out).keys == [f"all.tar/{name}.bmp" for name in "abcdef"]
    is_right(out, tmp_path / "all.tar")
    assert command(tmp_path / "all.tar", out).exit_code == 0
    write(tmp_path / "a", "c", shift=1)
    refused = command(pack("abcdefc"[:6]), out, "--add")
    assert refused.exit_code == 1
    assert "1 picture was replaced since its map was computed: 'all.tar/c.bmp'" in refused.stderr


# Kills and races


def test_killed_while_adding(net: Path, tmp_path: Path) -> None:
    source, out = write(tmp_path / "a", "abcdef"), tmp_path / "out"
    compute(source, out)
    old = files(out)
    write(source, "ghijklmnopqrs")
    for name in ("old", "expected"):
        shutil.copytree(out, tmp_path / name)
    expected = hashes(compute(source, tmp_path / "expected", add=True).out)
    line = [str(part) for part in ("extract", source, "--out", out, *MODEL, "--shard-size", 4, "--add")]
    draw = random.Random(0)
    seen = set[str]()
    for trial in range(4):
        shutil.rmtree(out)
        shutil.copytree(tmp_path / "old", out)
        process = start(line, PYTHONPATH=f"{Path(__file__).parents[3]}{os.pathsep}{net}")
        if trial < 2:  # at the moment of planning, and among the shards
            wait_for(lambda trial=trial: (out / "plan-000001.parquet").exists() and markers(out) >= 2 + trial, process)
            time.sleep(0.02 * draw.random())
        else:
            time.sleep(1 + 3 * draw.random())
        process.kill()
        end(process)
        grown = len(Run.open(out).parts) == 2
        seen.add("grown" if grown else "old")
        if grown:
            assert verify(out).ok
            assert status(out).images == 19
            assert len(SaliencyDataset(out, missing="skip")) >= 6
        else:
            is_right(out)
        assert {name: sha for name, sha in files(out).items() if name in old} == old
        again = command(source, out, "--add")
        assert again.exit_code == 0, again.stderr
        assert hashes(out) == expected
        assert leftovers(out) == []
    assert "grown" in seen
    is_right(out, source)


def test_two_at_once(net: Path, tmp_path: Path) -> None:
    source, out = write(tmp_path / "a", "abcdef"), tmp_path / "out"
    compute(source, out)
    write(source, "ghijkl")
    line = [str(part) for part in ("extract", source, "--out", out, *MODEL, "--shard-size", 4, "--add")]
    path = f"{Path(__file__).parents[3]}{os.pathsep}{net}"
    ends = [end(process) for process in [start(line, PYTHONPATH=path) for _ in range(2)]]
    assert 0 in [code for code, _, _ in ends]
    for code, _, talk in ends:
        assert code == 0 or "another run is working in" in talk
    assert keys(out) == "abcdefghijkl"
    assert len(Run.open(out).parts) == 2
    is_right(out, source)


@pytest.mark.parametrize("same", [True, False])
def test_another_adder_is_faster(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool) -> None:
    first, second, out = write(tmp_path / "a", "abc"), write(tmp_path / "b", "xyz"), tmp_path / "out"
    third = write(tmp_path / "c", "klm")
    compute(first, out)
    plain = preparing.plan_part

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr(preparing, "plan_part", plain)
        compute(second if same else third, out, add=True, shards=0 if same else None)
        return plain(*arguments)

    monkeypatch.setattr(preparing, "plan_part", late)
    compute(second, out, add=True)
    assert keys(out) == ("abcxyz" if same else "abcklmxyz")
    is_right(out)


# The record of what was added


def test_forged_parts(net: Path, tmp_path: Path) -> None:
    source, out = write(tmp_path / "a", "abcdef"), tmp_path / "out"
    compute(source, out)
    compute(write(tmp_path / "b", "xyz"), out, add=True)
    other = compute(write(tmp_path / "c", "lmn"), tmp_path / "other").out
    compute(tmp_path / "b", other, add=True)
    plan = out / "plan-000001.parquet"
    data, table = plan.read_bytes(), pq.read_table(plan)
    known = json.loads(table.schema.metadata[b"tsm_fast part"])

    def forge(**changes: Any) -> None:
        values = {**known, **changes}
        if "sha256" not in changes:
            values["sha256"] = digest({name: value for name, value in values.items() if name != "sha256"})
        pq.write_table(table.replace_schema_metadata({b"tsm_fast part": json.dumps(values).encode()}), plan)

    more = {**known["source"], "items": 2}
    for change, text in (
        ({"sha256": "0" * 64}, "its record was changed"),
        ({"source": more}, "it was added to another run, or after other pictures"),
        ({"shard_size": 2}, "it was added to another run"),
        ({"fingerprint": "0" * 64}, "it was added to another run"),
        ({"shard_size": 0}, "shard_size must be at least 1, got 0"),
        ({"shard_size": "4"}, "part.shard_size must be an integer"),
        ({"source": {**more, "items": 10**12}}, "a part has at most 1,000,000 shards"),
        ({"format": {"name": "tsm_fast run", "version": 3}}, "must have the format 'tsm_fast run', version 2"),
        ({"root": 7}, "part.root must be a string"),
    ):
        forge(**change)
        for line in (["status", out], ["verify", out], ["extract", source, "--out", out, *MODEL]):
            result = tsm_fast(*line)
            assert result.exit_code == 1
            assert text in " ".join(result.stderr.split()), change
            assert "plan-000001.parquet" in result.stderr
    shutil.copy(other / "plan-000001.parquet", plan)  # of another run
    with pytest.raises(ValueError, match="it was added to another run"):
        Run.open(out)
    plan.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="delete it and add the same pictures again"):
        Run.open(out)
    # As it says: the shards that are there stay.
    plan.unlink()
    found = verify(out)
    assert [finding.path for finding in found.problems] == ["markers/000002.json"]
    assert "plan-000001.parquet is gone" in found.problems[0].what
    said = command(tmp_path / "b", out, "--add")
    assert "nothing was left to compute" in said.stdout, said.stderr
    is_right(out, tmp_path / "b")


def test_rows_of_an_added_plan_that_were_edited(net: Path, tmp_path: Path) -> None:
    source, out = write(tmp_path / "a", "abcdef"), tmp_path / "out"
    compute(source, out)
    write(source, "xyz")
    compute(source, out, add=True)
    plan = out / "plan-000001.parquet"
    table = pq.read_table(plan)
    for name, values in (("key", ["x.bmp", "w.bmp", "z.bmp"]), ("file_mark", [1, 2, 3])):
        place = table.schema.names.index(name)
        edited = table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))
        pq.write_table(edited, plan)
        found = verify(out)
        assert found.problems[0].path == plan.name
        assert found.problems[0].what == "is not that of the run: its hashes are not those in its own record"
        refused = command(source, out)
        assert refused.exit_code == 1
        assert f"{plan} is not the plan of this run: delete it and add the same pictures again" in refused.stderr
    write(source, "w")
    pq.write_table(table, plan)
    compute(source, out, add=True)
    plan.unlink()
    with pytest.raises(ValueError, match=r"plan-000001\.parquet is gone, and later parts of the run are there"):
        Run.open(out)


def test_random_edits_of_a_part(net: Path, tmp_path: Path) -> None:
    """Each is refused, or found by `verify`, or of what nothing is computed from."""
    out = compute(write(tmp_path / "a", "abcdef"), tmp_path / "out").out
    run = compute(write(tmp_path / "b", "xyz"), out, add=True)
    plan, ends = out / "plan-000001.parquet", Counter[str]()
    table = pq.read_table(plan)
    for seed in range(150):
        draw = random.Random(seed)
        values = json.loads(table.schema.metadata[b"tsm_fast part"])
        way = draw.choice(list(places(values)))
        above = values
        for key in way[:-1]:
            above = above[key]
        if draw.random() < 0.2:
            del above[way[-1]]
        else:
            above[way[-1]] = draw.choice(SPITE)
        if draw.random() < 0.7:
            values["sha256"] = digest({name: value for name, value in values.items() if name != "sha256"})
        pq.write_table(table.replace_schema_metadata({b"tsm_fast part": json.dumps(values).encode()}), plan)
        try:
            found = Run.open(out)
        except ValueError:
            ends["refused"] += 1
            continue
        status(out)
        assert found.shards == Run.open(out).shards
        assert [(spec.start, spec.fingerprint) for spec in found.shards] == [
            (spec.start, spec.fingerprint) for spec in run.shards
        ]
        if not verify(out).ok:
            ends["found"] += 1
        else:
            assert way[0] in ("named", "root", "estimated_bytes", "stamps", "sha256"), (seed, way)
            ends["harmless"] += 1
    assert ends["refused"] > 100
    assert ends["harmless"] < 40


def test_what_a_part_says(net: Path, tmp_path: Path) -> None:
    out = compute(write(tmp_path / "a", "abc"), tmp_path / "out").out
    run = compute(write(tmp_path / "b", "xyz"), out, add=True)
    opened = Run.open(out)
    assert opened.parts == run.parts
    part = opened.parts[1]
    assert parts.load(parts.dump(part), opened.parts[0]) == part
    assert part.fingerprint == opened.fingerprint != opened.file.fingerprint
    assert [spec.fingerprint for spec in opened.shards] == [opened.file.fingerprint, part.fingerprint]
    assert plan_file.table(out, 1)["index"].to_pylist() == [3, 4, 5]
