"""A run is one record: another source, model or transform never continues it, and a moved source does."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tsm_fast import SaliencyDataset
from tsm_fast.pipeline import FingerprintError, Resources, Run, Settings, prepare, run_shard
from tsm_fast.pipeline.engines.run import run as run_engine
from tsm_fast.pipeline.results.check import verify
from tsm_fast.pipeline.sources import folder as folders
from tsm_fast.pipeline.sources.datasets import DatasetSource

from ...needs import PHOTOS, needs
from ..processes import tsm_fast

pytestmark = [pytest.mark.slow, needs(*PHOTOS)]

Photos = dict[str, Image.Image]
SIZE = (64, 64)
NET = """
import numpy as np, torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 32, 3, stride=8, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return self.pool(ACTIVATION(self.stem(x)))

def transform(image):
    pixels = np.asarray(image.resize((64, 64)), np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1) * SCALE

def make():
    return Net(), transform

ACTIVATION, SCALE = torch.relu, 1.0
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A network with a transform of the user's own, in a module that can be changed."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path / "code")
    import own_net  # pyright: ignore[reportMissingImports]

    yield own_net
    del sys.modules["own_net"]


def write(folder: Path, images: list[Image.Image]) -> Path:
    """Pictures under the names 0.bmp, 1.bmp, ...: the same names and sizes for other pictures."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        image.resize((100, 80)).save(folder / f"{number}.bmp")
    return folder


@pytest.fixture
def two(photos: Photos, tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of eight pictures each, with the same names and sizes in bytes."""
    images = list(photos.values())[:8]
    mirrored = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
    return write(tmp_path / "a", images), write(tmp_path / "b", mirrored)


def settings_of(source: Path | str, **more: Any) -> Settings:
    return Settings(str(source), **{"model": "own_net:make", "layers": ("stem",), "shard_size": 4, **more})


def compute(run: Run, shards: int | None = None) -> Run:
    for spec in run.pending()[:shards]:
        run_shard(spec, Resources(max_errors=1.0), source=run.source)
    return run


def command(source: Path | str, out: Path, *more: object) -> Any:
    options = ("--model", "own_net:make", "--layer", "stem", "--shard-size", 4, "--workers", 0, *more)
    return tsm_fast("extract", source, "--out", out, *map(str, options))


# Case 1: other pictures under the same names


def test_another_folder_with_the_same_names(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    for done in (None, 1, 0):  # all shards, one, none
        out = tmp_path / f"out {done}"
        compute(prepare(settings_of(two[0]), out), done)
        refused = command(two[1], out)
        assert refused.exit_code == 1
        assert "other pictures" in refused.stderr or "were replaced" in refused.stderr
        assert "name another folder" in refused.stderr.lower()
        assert "nothing was left" not in refused.stdout


def test_another_dataset_of_the_same_length(photos: Photos, net: Any, tmp_path: Path) -> None:
    images = list(photos.values())
    run = compute(prepare(settings_of("mine"), tmp_path, source=DatasetSource(images)))
    other = DatasetSource([image.transpose(Image.Transpose.ROTATE_180) for image in images])
    with pytest.raises(FingerprintError, match=r"source\.content is '[0-9a-f]{64}' there and '[0-9a-f]{64}' now"):
        prepare(settings_of("mine"), tmp_path, source=other)
    same = DatasetSource([image.copy() for image in images])
    assert prepare(settings_of("mine"), tmp_path, source=same).fingerprint == run.fingerprint


def test_another_factory_of_the_same_length(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    for name, folder in zip("ab", two, strict=True):
        net.__dict__[f"data_{name}"] = lambda folder=folder: [p.read_bytes() for p in sorted(folder.iterdir())]
    compute(prepare(settings_of("own_net:data_a"), tmp_path / "out"), 1)
    refused = command("own_net:data_b", tmp_path / "out")
    assert refused.exit_code == 1
    assert "source.content is" in refused.stderr


def test_another_hugging_face_dataset_of_the_same_length(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for name, folder in zip("ab", two, strict=True):
        files = [str(path) for path in sorted(folder.iterdir())]
        made = datasets.Dataset.from_dict({"image": files}).cast_column("image", datasets.Image())
        made.save_to_disk(tmp_path / f"hf-{name}")
    compute(prepare(settings_of(f"hf:{tmp_path / 'hf-a'}"), tmp_path / "out"), 1)
    refused = command(f"hf:{tmp_path / 'hf-b'}", tmp_path / "out")
    assert (refused.exit_code, "source.content is" in refused.stderr) == (1, True)
    (tmp_path / "hf-a").rename(tmp_path / "moved")
    moved = command(f"hf:{tmp_path / 'moved'}", tmp_path / "out")
    assert moved.exit_code == 0, moved.stderr
    assert "the source has moved" in moved.stderr


def test_another_place_with_the_same_names_and_sizes(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    """Behind a URL: what the store says of each file tells, and the bytes where it has changed."""
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for name, folder in zip("ab", two, strict=True):
        memory.put(str(folder), f"/identity-{name}", recursive=True)
    compute(prepare(settings_of("memory://identity-a"), tmp_path / "out"), 1)
    refused = command("memory://identity-b", tmp_path / "out")
    assert (refused.exit_code, "were replaced since their maps were computed" in refused.stderr) == (1, True)
    memory.put(str(two[0]), "/identity-copy", recursive=True)
    moved = command("memory://identity-copy", tmp_path / "out")
    assert moved.exit_code == 0, moved.stderr
    assert "comparing 4 pictures" in moved.stderr
    assert "the source has moved" in moved.stderr
    assert verify(tmp_path / "out", source="memory://identity-copy").ok


def test_other_labels_are_another_run(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    table = two[0] / "all.csv"
    table.write_text("path,label\n" + "".join(f"{number}.bmp,{number}\n" for number in range(8)))
    compute(prepare(settings_of(table), tmp_path / "out"), 1)
    table.write_text(table.read_text().replace("3.bmp,3", "3.bmp,4"))
    with pytest.raises(FingerprintError, match=r"source\.carried\.sha256 is"):
        prepare(settings_of(table), tmp_path / "out")


# Case 2: a source that moved


def kinds(folder: Path) -> dict[str, Callable[[Path], str]]:
    """How the pictures of a folder are named as sources, from where they are."""

    def tar(where: Path) -> str:
        with tarfile.open(where / "all.tar", "w") as archive:
            for path in sorted(folder.glob("*.bmp")):
                archive.add(path, path.name)
        return str(where / "all.tar")

    def listed(where: Path) -> str:
        (where / "list.txt").write_text("".join(f"{path.name}\n" for path in sorted(folder.glob("*.bmp"))))
        return str(where / "list.txt")

    def manifest(where: Path) -> str:
        rows = "".join(f"{path.name},k{path.stem}\n" for path in sorted(folder.glob("*.bmp")))
        (where / "all.csv").write_text("path,key\n" + rows)
        return str(where / "all.csv")

    return {"folder": str, "tar": tar, "list": listed, "manifest": manifest}


@pytest.mark.parametrize("kind", ["folder", "tar", "list", "manifest"])
def test_a_source_that_moved_goes_on(kind: str, net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    text = kinds(two[0])[kind](two[0])
    run = compute(prepare(settings_of(text), tmp_path / "out"), 1)
    whole = compute(prepare(settings_of(text), tmp_path / "whole"))
    moved = Path(shutil.move(two[0], tmp_path / "elsewhere"))
    gone_on = command(text.replace(str(two[0]), str(moved)), tmp_path / "out")
    assert gone_on.exit_code == 0, gone_on.stderr
    assert "the source has moved" in gone_on.stderr
    assert str(moved) in gone_on.stderr
    assert {marker.errors == {} for marker in run.done().values()} == {True}
    assert hashes(run) == hashes(whole)


def test_other_pictures_of_equal_sizes_and_times_elsewhere(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    """As archives have them whose times are fixed."""
    for folder in two:
        for path in folder.glob("*.bmp"):
            os.utime(path, (1_000_000_000, 1_000_000_000))
    compute(prepare(settings_of(two[0]), tmp_path / "out"), 1)
    refused = command(two[1], tmp_path / "out")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "holds the maps of other pictures" in refused.stderr
    assert "of the same size and time" in refused.stderr


def hashes(run: Run) -> dict[int, str]:
    return {index: marker.sha256 for index, marker in run.done(check_hash=True).items()}


def test_a_copy_with_other_times_goes_on_where_its_content_is_equal(
    net: Any, two: tuple[Path, Path], tmp_path: Path
) -> None:
    run = compute(prepare(settings_of(two[0]), tmp_path / "out"), 1)
    copy = Path(shutil.copytree(two[0], tmp_path / "copy", copy_function=shutil.copyfile))
    said: list[str] = []
    again = prepare(settings_of(copy), tmp_path / "out", say=said.append)
    assert again.fingerprint == run.fingerprint
    assert "comparing 4 pictures" in " ".join(said)
    compute(again)
    assert verify(tmp_path / "out", source=str(copy)).ok


# Case 4: code that changed between two starts


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SCALE", 1.01, "the preprocessing of own_net:make gives another input for the same picture"),
        ("ACTIVATION", None, "the model own_net:make gives other features at 'pool' for the same input"),
    ],
)
def test_code_that_changed(
    name: str, value: Any, message: str, net: Any, two: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = settings_of(two[0], layers=("pool",))
    run = compute(prepare(settings, tmp_path / "out"), 1)
    setattr(net, name, value or (lambda x: x.abs()))
    with pytest.raises(FingerprintError, match=message) as caught:
        prepare(settings, tmp_path / "out")
    assert "undo that, or name another folder" in str(caught.value)
    # A worker on another machine, which has the other code.
    assert run.command is not None
    with pytest.raises(FingerprintError, match=message):
        run_shard(replace(run.shards[1], command=replace(run.command, root=str(two[1]))))
    assert len(run.done()) == 1


# Case 5: files that were edited


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run["record"].update(shard_size=8),
        lambda run: run["record"]["source"].update(items=7),
        lambda run: run["record"]["source"].update(items=10**15),
        lambda run: run["record"]["methods"]["tsm"].update(rank=1),
        lambda run: run["record"]["images"].update(max_pixels=100),
        lambda run: run["about"].update(root="/"),
        lambda run: run.update(fingerprint="0" * 64),
    ],
)
def test_an_edited_record_is_refused(
    change: Callable[[dict[str, Any]], Any], net: Any, two: tuple[Path, Path], tmp_path: Path
) -> None:
    compute(prepare(settings_of(two[0]), tmp_path / "out"), 1)
    edit(tmp_path / "out" / "run.json", change)
    for refused in (command(two[0], tmp_path / "out"), *(tsm_fast(name, tmp_path / "out") for name in READERS)):
        assert refused.exit_code == 1
        assert "run.json was changed after the run was planned" in refused.stderr
        assert isinstance(refused.exception, SystemExit)


READERS = ("status", "verify", "report")


def test_an_edited_plan_is_refused_and_found(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = compute(prepare(settings_of(two[0]), out), 1)
    plan = pq.read_table(out / "plan.parquet")
    for name, value in (("key", "9.bmp"), ("file_bytes", 5), ("path", "../b/0.bmp")):
        values = plan[name].to_pylist()
        values[7] = value
        field = plan.schema.field(name)
        changed = plan.set_column(plan.schema.names.index(name), field, pa.array(values, field.type))
        pq.write_table(changed, out / "plan.parquet", row_group_size=4)
        with pytest.raises(FingerprintError, match=r"plan\.parquet is not the plan of this run: delete it"):
            prepare(settings_of(two[0]), out)
        (problem,) = verify(out).problems
        assert (problem.path, "its hashes are not those" in problem.what) == ("plan.parquet", True)
    (out / "plan.parquet").unlink()
    compute(prepare(settings_of(two[0]), out))
    assert verify(out).ok
    assert len(run.done()) == 2


def test_maps_without_their_record_are_not_taken_over(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    """Whether the plan was deleted, or run.json, or both: of which pictures the shards are, nothing tells then."""
    compute(prepare(settings_of(two[0]), tmp_path / "whole"), 1)
    for lost in (("plan.parquet",), ("run.json",), ("plan.parquet", "run.json")):
        out = Path(shutil.copytree(tmp_path / "whole", tmp_path / "-".join(lost)))
        for name in lost:
            (out / name).unlink()
        refused = command(two[1], out)
        assert (refused.exit_code, refused.stdout) == (1, ""), lost
        assert "name another folder" in refused.stderr
        assert "nothing is computed" not in refused.stderr
        assert isinstance(refused.exception, SystemExit)
    refused = command(two[0], out)
    assert (refused.exit_code, "has shards of a run, but not its run.json" in refused.stderr) == (1, True)


def test_a_plan_in_other_parts_is_refused_and_found(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    """A shard is a row group of the plan: other tools write the same rows in other groups."""
    out = tmp_path / "out"
    run = compute(prepare(settings_of(two[0]), out), 1)
    plan = pq.read_table(out / "plan.parquet")
    for sizes in ((3, 5), (5, 3), (4, 3, 1), (8,)):
        with pq.ParquetWriter(out / "plan.parquet", plan.schema) as writer:
            for end, size in zip(itertools.accumulate(sizes), sizes, strict=True):
                writer.write_table(plan.slice(end - size, size))
        with pytest.raises(FingerprintError, match=r"plan\.parquet is not the plan of this run: delete it"):
            prepare(settings_of(two[0]), out)
        assert [problem.path for problem in verify(out).problems] == ["plan.parquet"]
        with pytest.raises(
            ValueError, match=r"plan\.parquet (is not the plan of this run: |cannot be read: .*; )delete it"
        ):
            run_shard(run.shards[1])


def test_damaged_shards_are_named_where_they_are_looked_into(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    compute(prepare(settings_of(two[0]), out), 1)
    path = out / "shards" / "part-000000.parquet"
    data = path.read_bytes()
    copy = Path(shutil.copytree(two[0], tmp_path / "copy", copy_function=shutil.copyfile))
    for at in (len(data) - 20, *range(200, len(data) // 2, 997)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        done = command(copy, out, "--dry-run")
        assert isinstance(done.exception, SystemExit | None)
        if done.exit_code:
            assert "part-000000.parquet is damaged" in done.stderr or "replaced since" in done.stderr
            assert "tsm-fast verify" in done.stderr


def test_code_named_by_a_file_is_not_run(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    """A record that was forged with all its hashes names a module; whoever goes on names another."""
    from tsm_fast.pipeline.files.record import seal

    (tmp_path / "code" / "trap.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef make(): return []\n")
    out = tmp_path / "out"
    compute(prepare(settings_of(two[0]), out), 1)

    def forge(run: dict[str, Any]) -> None:
        run["record"]["source"]["kind"] = "factory"
        run["record"]["model"]["name"] = "trap:make"
        run["about"].update(source="trap:make", root="trap:make", model="trap:make")
        run.update(seal(run))

    edit(out / "run.json", forge)
    for done in (command(two[0], out), *(tsm_fast(name, out) for name in READERS)):
        assert isinstance(done.exception, SystemExit | None)
        assert "trap" not in sys.modules
    assert not (tmp_path / "ran").exists()
    assert command(two[0], out).exit_code == 1


# Case 6: a picture that was replaced under its name


def test_a_replaced_picture_is_found_and_refused(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    compute(prepare(settings_of(two[0]), out))
    assert tsm_fast("verify", out, two[0]).exit_code == 0
    times = os.stat(two[0] / "2.bmp")
    shutil.copyfile(two[1] / "2.bmp", two[0] / "2.bmp")
    found = tsm_fast("verify", out, two[0])
    assert found.exit_code == 1
    assert "part-000000.parquet 1 picture was replaced since it was computed: '2.bmp'" in found.stderr
    (two[0] / "5.bmp").rename(tmp_path / "5.bmp")
    found = tsm_fast("verify", out, two[0])
    assert "part-000001.parquet 1 picture cannot be read there: '5.bmp'" in found.stderr
    (tmp_path / "5.bmp").rename(two[0] / "5.bmp")
    refused = command(two[0], out)
    assert refused.exit_code == 1
    assert "1 picture was replaced since its map was computed: '2.bmp'" in refused.stderr
    os.utime(two[0] / "2.bmp", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert tsm_fast("verify", out, two[0]).exit_code == 1  # what size and time do not show


def test_a_picture_without_a_map_may_be_repaired(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    """In its place: no map of another picture comes of it."""
    out = tmp_path / "out"
    (two[0] / "1.bmp").write_bytes(b"")
    compute(prepare(settings_of(two[0]), out), 1)
    for name in ("1.bmp", "7.bmp"):  # an error row, and one that is not computed yet
        shutil.copyfile(two[1] / name, two[0] / name)
    said: list[str] = []
    compute(prepare(settings_of(two[0]), out, say=said.append))
    assert any("2 pictures without a map were replaced" in text for text in said)
    rows = SaliencyDataset(out)
    assert rows["7.bmp"].sha256 == sha256(two[1] / "7.bmp")
    assert rows["1.bmp"].status == "empty"


def sha256(path: Path) -> str:
    from tsm_fast.pipeline.files.publish import sha256

    return sha256(path)


def test_relative_paths_of_a_list_have_a_root_there_too(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("0.bmp\n1.bmp\n")
    compute(prepare(settings_of(tmp_path / "list.txt", root=str(two[0])), tmp_path / "out"))
    missing = tsm_fast("verify", tmp_path / "out", tmp_path / "list.txt")
    assert (missing.exit_code, "2 pictures cannot be read there" in missing.stderr) == (1, True)
    assert tsm_fast("verify", tmp_path / "out", tmp_path / "list.txt", "--root", two[0]).exit_code == 0
    assert tsm_fast("report", tmp_path / "out", tmp_path / "list.txt", "--root", two[0]).exit_code == 0


def test_rows_say_which_picture_they_are_of(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    (two[0] / "3.bmp").write_bytes(b"no picture")
    run = compute(prepare(settings_of(two[0]), tmp_path / "out"))
    for row in SaliencyDataset(run.out):
        path = two[0] / row.key
        assert (row.bytes, row.sha256) == (path.stat().st_size, sha256(path))
    pixels = np.zeros((20, 30, 3), np.uint8)
    source = DatasetSource([Image.fromarray(pixels), pixels, {"image": None}, pixels + 1])
    run = compute(prepare(settings_of("mine"), tmp_path / "dataset", source=source))
    rows = list(SaliencyDataset(run.out))
    assert [row.bytes for row in rows] == [1800, 1800, 0, 1800]
    assert rows[2].sha256 == ""
    assert rows[1].sha256 != rows[3].sha256
    assert verify(run.out, source=source).ok


# What a resume may change, and what not


def test_weights_that_moved_go_on(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    import torch

    torch.save(net.Net().state_dict(), tmp_path / "one.pt")
    settings = settings_of(two[0], weights=str(tmp_path / "one.pt"))
    run = compute(prepare(settings, tmp_path / "out"), 1)
    (tmp_path / "one.pt").rename(tmp_path / "two.pt")
    done = command(two[0], tmp_path / "out", "--weights", tmp_path / "two.pt")
    assert done.exit_code == 0, done.stderr
    assert run.pending() == []


def test_another_batch_size_is_refused(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    compute(prepare(settings_of(two[0]), tmp_path / "out"), 1)
    refused = command(two[0], tmp_path / "out", "--batch-size", 7)
    assert (refused.exit_code, "batch_size is 64 there and 7 now" in refused.stderr) == (1, True)


def test_a_run_that_was_only_opened_has_no_command(net: Any, two: tuple[Path, Path], tmp_path: Path) -> None:
    compute(prepare(settings_of(two[0]), tmp_path), 1)
    opened = Run.open(tmp_path)
    for go_on in (lambda: run_shard(opened.pending()[0]), lambda: run_engine(opened)):
        with pytest.raises(ValueError, match="was opened for reading: `prepare` takes it up again"):
            go_on()


def test_taking_up_opens_no_picture(net: Any, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lists, looks at sizes and times, and reads the plan."""
    photos["cat"].resize((16, 16)).save(tmp_path / "one.png")
    (tmp_path / "in").mkdir()
    for number in range(2_000):
        os.link(tmp_path / "one.png", tmp_path / "in" / f"{number:06d}.png")
    settings = settings_of(tmp_path / "in", shard_size=512)
    prepare(settings, tmp_path / "out")
    monkeypatch.setattr(folders, "read_file", None)
    prepare(settings, tmp_path / "out")
