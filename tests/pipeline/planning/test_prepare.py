"""Planning a run: frozen once, taken up again only with the same settings, harmless when done twice at once."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tsm_fast.pipeline import FingerprintError, OutOfSpace, Run, Settings, ShardSpec, prepare, run_shard
from tsm_fast.pipeline.files import plan_file
from tsm_fast.pipeline.files.run import Command
from tsm_fast.pipeline.files.shards import marker_path
from tsm_fast.pipeline.planning import draft
from tsm_fast.pipeline.sources.datasets import DatasetSource
from tsm_fast.pipeline.sources.source import SourceError

from ...needs import NETWORK, needs

pytestmark = [pytest.mark.slow, needs(*NETWORK)]

Photos = dict[str, Image.Image]


@pytest.fixture
def settings(folder: Path) -> Settings:
    return Settings(str(folder), methods=("mtsm",), size=(64, 64), shard_size=8)


def test_the_folder_says_everything(settings: Settings, folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    run = prepare(settings, tmp_path / "a" / "out", say=said.append)
    left_out = "left out: 1 hidden (such as '.hidden.png'), 1 of another kind (such as 'upright/notes.txt')"
    assert said == ["listing the images", left_out, "loading the model lite0", "choosing the layers"]
    again = Run.open(tmp_path / "a" / "out")
    assert again == replace(run, command=None)
    assert run.command == Command(replace(settings, channels_last=True), "folder", str(folder))
    assert [(spec.index, spec.start, spec.stop) for spec in run.shards] == [(0, 0, 8), (1, 8, 16), (2, 16, 20)]
    assert pickle.loads(pickle.dumps(run.shards[2])) == run.shards[2]
    assert run.pending() == list(run.shards)
    assert run.done() == {}
    (column,) = run.columns
    assert (column.name, column.shape, column.scale) == ("mtsm/features", (2, 2), None)
    facts = json.loads((run.out / "run.json").read_text())
    assert facts["record"]["layers"] == ["features"]
    assert "before the global pooling" in facts["about"]["reason"]
    assert facts["record"]["preprocessing"]["mean"] == [0.498, 0.498, 0.498]
    assert (facts["record"]["source"]["kind"], facts["about"]["root"]) == ("folder", str(folder))
    plan = pq.ParquetFile(run.out / "plan.parquet")
    assert plan.num_row_groups == 3
    keys = plan.read(columns=["index", "key"]).to_pydict()
    assert keys["index"] == list(range(20))
    assert keys["key"] == sorted(keys["key"])
    assert [item.key for item in plan_file.read(run.out, 2)] == keys["key"][16:]


def test_it_is_taken_up_again(settings: Settings, tmp_path: Path) -> None:
    run = prepare(settings, tmp_path)
    run_shard(run.shards[1])
    before = (tmp_path / "run.json").read_bytes()
    again = prepare(settings, tmp_path)
    assert [spec.index for spec in again.pending()] == [0, 2]
    with pytest.raises(FingerprintError, match="batch_size is 64 there and 16 now"):  # the last bits depend on it
        prepare(replace(settings, batch_size=16), tmp_path)
    assert (tmp_path / "run.json").read_bytes() == before
    with pytest.raises(FileExistsError, match="holds a run already"):
        prepare(settings, tmp_path, resume=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("tsm",)}, r"methods\.mtsm is there and not asked for now; methods\.tsm is new"),
        ({"rank": 2}, r"methods\.mtsm\.rank is None there and 2 now"),
        ({"combine": "absolute"}, r"methods\.mtsm\.combine is 'signed' there and 'absolute' now"),
        ({"dtype": "uint8"}, "dtype is 'float32' there and 'uint8' now"),
        ({"size": (64, 96)}, r"preprocessing\.size is \[64, 64\] there and \[64, 96\] now"),
        ({"shard_size": 9}, "shard_size is 8 there and 9 now"),
        ({"max_pixels": 10**6}, r"images\.max_pixels is 89478485 there and 1000000 now"),
        ({"layers": ("features.network._blocks.15",)}, r"layers is \['features'\] there and \['features.network"),
        ({"limit": 7}, "the listing has 20 images there and 7 now .13 fewer, such as 'mirrored/png/motorcycle.png'"),
    ],
)
def test_other_settings_are_refused(changes: dict[str, Any], message: str, settings: Settings, tmp_path: Path) -> None:
    prepare(settings, tmp_path)
    with pytest.raises(FingerprintError, match=message) as caught:
        prepare(replace(settings, **changes), tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "Name another folder, or repeat the settings" in str(caught.value)


def test_saying_the_defaults_is_no_difference(settings: Settings, tmp_path: Path) -> None:
    run = prepare(settings, tmp_path)
    named = replace(settings, layers=("features",), combine="signed", sign="u")
    assert prepare(named, tmp_path).fingerprint == run.fingerprint


def test_a_new_picture_is_a_difference(photos: Photos, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    photos["cat"].save(tmp_path / "in" / "1.png")
    settings = Settings(str(tmp_path / "in"), size=(64, 64))
    prepare(settings, tmp_path / "out")
    photos["cat"].save(tmp_path / "in" / "2.png")
    with pytest.raises(FingerprintError, match=r"has 1 images there and 2 now \(1 more, such as '2\.png'\)"):
        prepare(settings, tmp_path / "out")


def test_nothing_is_written_before_everything_is_known(settings: Settings, tmp_path: Path) -> None:
    wrong: Sequence[tuple[dict[str, Any], type[Exception], str]] = (
        ({"source": str(tmp_path)}, SourceError, "holds no picture"),
        ({"model": "lite9"}, ValueError, "model must be lite0, timm:NAME"),
        ({"layers": ("featurs",)}, ValueError, "close names: 'features'"),
        ({"layers": ("flatten",)}, ValueError, r"must give feature maps \[B, C, H, W\]"),
        ({"rank": (2000, 2, 2)}, ValueError, "rank must lie in 1..1280 for mode 0, got 2000"),
    )
    for changes, error, message in wrong:
        with pytest.raises(error, match=message):
            prepare(replace(settings, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_preprocessing_whose_size_follows_the_picture(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "free_size.py").write_text(
        "import numpy as np, torch\n"
        "from torch import nn\n"
        "def make():\n"
        "    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.AdaptiveAvgPool2d(1))\n"
        "    return model, lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    other = replace(settings, model="free_size:make", size=None)
    with pytest.raises(ValueError, match=r"gives inputs of several sizes \(\[3, 640, 480\] .* set size=\(h, w\)"):
        prepare(other, tmp_path / "out")
    assert prepare(replace(other, size=(32, 48)), tmp_path / "out").columns[0].shape == (28, 44)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, FileNotFoundError, "holds no run"),
        ("{", ValueError, "run.json is broken"),
        ("[]", ValueError, "must have format version 1 or 2, got None"),
        ('{"format": {"version": 99}}', ValueError, "must have format version 1 or 2, got 99"),
        ('{"format": {"version": 1}}', ValueError, "run.json is broken: it has no 'parts'"),
        ('{"format": {"version": 2}}', ValueError, "run.json is broken: it has no 'fingerprint'"),
        ('{"format": {"version": true}}', ValueError, "must have format version 1 or 2, got True"),
        ("[" * 100_000, ValueError, "run.json is broken: it is nested too deeply"),
    ],
)
def test_what_is_no_run(text: str | None, error: type[Exception], message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(error, match=message):
        Run.open(tmp_path)


def test_a_plan_that_was_interrupted_is_completed(settings: Settings, tmp_path: Path) -> None:
    run = prepare(settings, tmp_path)
    plan = (tmp_path / "plan.parquet").read_bytes()
    (tmp_path / "plan.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"without its plan\.parquet"):
        Run.open(tmp_path)
    (tmp_path / "shards" / ".part-000000.parquet.0123456789ab.tmp").write_bytes(b"half")
    assert prepare(settings, tmp_path).fingerprint == run.fingerprint
    assert (tmp_path / "plan.parquet").read_bytes() == plan
    assert list((tmp_path / "shards").iterdir()) == []


def test_markers_that_are_not_whole_are_none(settings: Settings, tmp_path: Path) -> None:
    run = prepare(settings, tmp_path)
    run_shard(run.shards[0])
    whole = marker_path(tmp_path, 0).read_text()
    for broken in (
        "",
        "{",
        "[]",
        "{}",
        whole.replace(run.fingerprint, "0" * 64),
        whole.replace('"shard": 0', '"shard": 1'),
    ):
        marker_path(tmp_path, 0).write_text(broken)
        assert run.done() == {}
    marker_path(tmp_path, 0).write_text(whole)
    assert sorted(run.done()) == [0]


def test_many_plan_one_folder_at_once(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal settings share a run; of two different ones the first takes the folder, and the other is told."""
    drafts = [draft.make(replace(settings, dtype=dtype)) for dtype in ("float32", "uint8")]
    outcomes: list[str] = []

    def plan(which: int, start: threading.Barrier) -> None:
        start.wait()
        try:
            outcomes.append(prepare(replace(settings, dtype=("float32", "uint8")[which]), out).fingerprint)
        except FingerprintError:
            outcomes.append("refused")

    monkeypatch.setattr(draft, "make", lambda settings, **_: drafts[settings.dtype == "uint8"])
    for attempt in range(5):
        out, outcomes[:] = tmp_path / str(attempt), []
        start = threading.Barrier(6)
        threads = [threading.Thread(target=plan, args=(number % 2, start)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winner = Run.open(out)
        assert sorted(outcomes) == sorted([winner.fingerprint] * 3 + ["refused"] * 3)
        assert plan_file.keys(out).to_pylist() == [item.key for item in drafts[0].items]
        assert not [path for path in out.rglob("*") if path.name.startswith(".")]


def test_two_workers_on_one_shard(settings: Settings, tmp_path: Path) -> None:
    run = prepare(settings, tmp_path)
    markers = []
    threads = [threading.Thread(target=lambda: markers.append(run_shard(run.shards[0]))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({marker.sha256 for marker in markers}) == 1
    assert sorted(run.done(check_hash=True)) == [0]
    assert len(list((tmp_path / "shards").iterdir())) == 1


def test_what_a_killed_worker_left_is_cleaned_by_the_next(settings: Settings, tmp_path: Path) -> None:
    run = prepare(settings, tmp_path)
    for name in ("shards/.part-000000.parquet.0123456789ab.tmp", "markers/.000000.json.0123456789ab.tmp"):
        (tmp_path / name).write_bytes(b"half")
    run_shard(run.shards[0])
    assert [path.name for folder in ("shards", "markers") for path in (tmp_path / folder).iterdir()] == [
        "part-000000.parquet",
        "000000.json",
    ]


def test_a_dataset_of_this_program(photos: Photos, tmp_path: Path) -> None:
    source = DatasetSource(list(photos.values()), list(photos))
    run = prepare(Settings("my photos", size=(64, 64)), tmp_path, source=source)
    assert run.source is source
    run_shard(run.shards[0], source=run.source)
    assert pq.read_table(tmp_path / "shards")["key"].to_pylist() == sorted(photos)


def test_too_little_room(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OutOfSpace, match=r"need about 0\.0 MB, and 0\.0 MB are free: make room"):
        prepare(settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


SMALL_DISK = """
import os, subprocess, sys
from pathlib import Path
from tsm_fast.pipeline import OutOfSpace, Run, Settings, prepare, run_shard

source, disk = sys.argv[1:]
def mount(*options):
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", disk], check=True)

mount("-o", "size=256k")
settings = Settings(source, size=(64, 64), shard_size=8)
run = prepare(settings, Path(disk) / "out")
filler = Path(disk) / "filler"
with open(filler, "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
try:
    run_shard(run.shards[0])
except OutOfSpace as error:
    print("full:", error)
print(sorted(path.name for path in (run.out / "shards").iterdir()), run.done())
filler.unlink()
for spec in run.pending():
    run_shard(spec)
print([marker.ok for marker in Run.open(run.out).done(check_hash=True).values()])

mount("-o", "remount,ro")
try:
    prepare(settings, run.out)
except OSError as error:
    print("read-only:", error)
"""


def test_a_full_and_a_read_only_disk(settings: Settings, tmp_path: Path) -> None:
    """On a real small disk, in a mount namespace of its own."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no mount namespaces (unshare -rm)")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["unshare", "-rm", sys.executable, "-c", SMALL_DISK, settings.source, str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    full, left, after, read_only = done.stdout.splitlines()
    assert full.startswith("full: [Errno 28] the disk is full: nothing half-written is left")
    assert left == "[] {}"
    assert after == "[8, 8, 4]"
    assert read_only.startswith("read-only: [Errno 30] Read-only file system")


def test_a_spec_is_all_a_worker_needs(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = prepare(settings, "out")
    spec = run.shards[2]
    assert spec == ShardSpec(str(tmp_path / "out"), 2, 16, 20, run.fingerprint, run.command)
    monkeypatch.chdir("/")
    assert run_shard(spec).rows == 4
