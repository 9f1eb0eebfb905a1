"""One shard: every planned row once, in order, the same bytes however it is computed, nothing left when it fails."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tsm_fast import models, saliency
from tsm_fast.pictures.decode import FLAGS
from tsm_fast.pipeline import Event, FingerprintError, Marker, Resources, Run, Settings, ShardFailed, Stopped, prepare
from tsm_fast.pipeline import run_shard as run_one
from tsm_fast.pipeline.files.shards import marker_path, shard_path
from tsm_fast.pipeline.sources.datasets import DatasetSource
from tsm_fast.pipeline.worker import network
from tsm_fast.pipeline.worker import run_shard as worker

from ...needs import NETWORK, needs

pytestmark = [pytest.mark.slow, needs(*NETWORK)]

Photos = dict[str, Image.Image]
SIZE = (96, 96)
NETWORKS = """
import torch
from torch import nn


class Net(nn.Module):
    '''A convolution, a pooling, and a classifier that must not run.'''

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 32, 3, stride=8, padding=1)
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.calls = []

    def forward(self, x):
        self.calls.append(len(x))
        return self.after(self.pool(self.body(self.stem(x))))

    def after(self, x):
        return x


class NanForDark(Net):
    '''NaN for pictures whose first channel is dark, as a broken normalisation gives.'''

    def forward(self, x):
        x = self.stem(x)
        return self.pool(self.body(x + torch.where(x.mean((1, 2, 3), keepdim=True) < CUT, torch.nan, 0.0)))


CUT = 0.0


class Huge(Net):
    def forward(self, x):
        return self.pool(self.body(self.stem(x)) * 1e30)


class Failing(Net):
    def forward(self, x):
        if len(x) > 2:
            raise ERROR
        return super().forward(x)


class Late(Net):
    def after(self, x):
        raise AssertionError('the network ran past its last wanted layer')


ERROR = torch.OutOfMemoryError('CUDA out of memory')
"""


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module with small networks, as users have one."""
    (tmp_path / "small_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    import small_networks  # pyright: ignore[reportMissingImports]

    yield small_networks
    del sys.modules["small_networks"]


def extract(run: Run, resources: Resources | None = None, **options: Any) -> list[Marker]:
    return [run_one(spec, resources, **options) for spec in run.pending()]


def rows_of(run: Run) -> dict[str, list[Any]]:
    return (
        pq.read_table([shard_path(run.out, spec.index) for spec in run.shards])
        .drop_columns([column.name for column in run.columns])
        .to_pydict()
    )


def maps_of(run: Run, column: str) -> np.ndarray:
    tables = [pq.read_table(shard_path(run.out, spec.index)) for spec in run.shards]
    return np.concatenate([table[column].combine_chunks().to_numpy_ndarray() for table in tables])


def hashes(run: Run) -> dict[int, str]:
    done = run.done(check_hash=True)
    return {index: marker.sha256 for index, marker in done.items()}


def leftovers(out: Path) -> list[str]:
    return [path.name for path in out.rglob("*") if path.name.startswith(".")]


@pytest.fixture(scope="module")
def mixed(folder: Path, photos: Photos, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty photos, and files that are none or that need care."""
    root = tmp_path_factory.mktemp("mixed")
    for name in ("upright", "mirrored"):
        (root / name).symlink_to(folder / name)
    whole = (folder / "upright" / "cat.jpg").read_bytes()
    (root / "a truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "empty.png").write_bytes(b"")
    (root / "text\n<img>.png").write_text("no picture")
    (root / "thin.png").write_bytes(png(photos["cat"].crop((0, 0, 100, 1))))
    (root / "white.png").write_bytes(png(Image.new("RGB", (64, 64), "white")))
    Path(os.path.join(root, os.fsdecode(b"z\xff.gif"))).write_bytes(gif(photos["cat"], photos["coffee"]))
    (root / "dangling.png").symlink_to(root / "nowhere.png")
    os.mkfifo(root / "pipe.png")
    return root


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def gif(*images: Image.Image) -> bytes:
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:])
    return file.getvalue()


@pytest.fixture(scope="module")
def finished(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = Settings(str(mixed), methods=("tsm", "mtsm"), size=SIZE, shard_size=12, batch_size=4)
    run = prepare(settings, tmp_path_factory.mktemp("finished") / "out")
    extract(run)
    return run


def test_every_row_once_and_in_order(finished: Run, mixed: Path) -> None:
    rows = rows_of(finished)
    expected = sorted(
        "/".join(path.relative_to(mixed).parts)
        for below in (mixed, mixed / "upright", mixed / "mirrored/png")
        for path in below.iterdir()
        if path.suffix in (".png", ".jpg")
    )
    assert rows["key"] == [*expected, "z\\xff.gif"]
    assert rows["index"] == list(range(28)) == list(range(finished.n_items))
    assert {key: status for key, status in zip(rows["key"], rows["status"], strict=True) if status != "ok"} == {
        "a truncated.jpg": "truncated",
        "dangling.png": "missing",
        "empty.png": "empty",
        "pipe.png": "unreadable",
        "text\n<img>.png": "format",
    }
    for status, error in zip(rows["status"], rows["error"], strict=True):
        assert (error is None) == (status == "ok")
        assert error != ""
    for column in finished.columns:
        nan = np.isnan(maps_of(finished, column.name)).all(axis=(1, 2))
        np.testing.assert_array_equal(nan, [status != "ok" for status in rows["status"]])
    row = rows["key"].index("z\\xff.gif")
    assert rows["flags"][row] == FLAGS["first_frame"]
    assert (rows["height"][row], rows["width"][row]) == (213, 320)


def test_markers_say_what_is_there(finished: Run) -> None:
    markers = finished.done(check_hash=True)
    assert sorted(markers) == [0, 1, 2]
    assert finished.pending() == []
    rows = rows_of(finished)
    for index, marker in markers.items():
        statuses = rows["status"][12 * index : 12 * index + 12]
        assert (marker.rows, marker.ok) == (len(statuses), statuses.count("ok"))
        assert marker.errors == {kind: statuses.count(kind) for kind in sorted(set(statuses) - {"ok"})}
        data = shard_path(finished.out, index).read_bytes()
        assert (marker.bytes, marker.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert set(marker.seconds) == {*worker.STAGES, "total"}
        assert (marker.batch_size, marker.torch_threads, marker.device) == (4, 1, "cpu")


def test_maps_are_those_of_the_functions(finished: Run, mixed: Path) -> None:
    """Each image alone through the network: up to the last bits, which depend on the micro-batch."""
    model = models.load("lite0", size=SIZE)
    rows = rows_of(finished)
    for column in finished.columns:
        maps = maps_of(finished, column.name)
        for number, key in enumerate(rows["key"]):
            if not key.startswith("upright"):
                continue
            with Image.open(mixed / key) as image, torch.no_grad():
                features = model.module.features(model.preprocess(image)[None])  # pyright: ignore[reportCallIssue]
            expected = getattr(saliency, column.method)(features, normalize=False)[0].numpy()
            np.testing.assert_allclose(maps[number], expected, atol=1e-3 * expected.max())


SCRIPT = """
import pickle, sys, torch
from tsm_fast.pipeline import Resources, run_shard
torch.set_num_threads(2)
for spec in reversed(pickle.load(sys.stdin.buffer)):
    run_shard(spec, Resources(decode_threads=5))
"""


def copy_plan(run: Run, out: Path) -> Run:
    """The same run in another folder, nothing of it computed."""
    assert run.command is not None
    copy = prepare(run.command.settings, out)
    assert copy.fingerprint == run.fingerprint
    assert (copy.out / "plan.parquet").read_bytes() == (run.out / "plan.parquet").read_bytes()
    return copy


def test_same_bytes_in_another_process_in_another_order(finished: Run, tmp_path: Path) -> None:
    run = copy_plan(finished, tmp_path / "out")
    environment, specs = {**os.environ, "OMP_NUM_THREADS": "2"}, pickle.dumps(run.pending())
    subprocess.run([sys.executable, "-c", SCRIPT], input=specs, check=True, env=environment)
    assert hashes(run) == hashes(finished)


class Stop(threading.Event):
    """Set after so many micro-batches."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def count(self, _: Event) -> None:
        self.limit -= 1
        if not self.limit:
            self.set()


def test_same_bytes_after_interruptions(finished: Run, tmp_path: Path) -> None:
    run = copy_plan(finished, tmp_path / "out")
    for limit in (1, 2, 3):
        stop = Stop(limit)
        for spec in run.pending():
            if not stop.is_set():
                with suppress(Stopped):
                    run_one(spec, Resources(decode_threads=3), tell=stop.count, stop=stop)
                assert leftovers(run.out) == []
    assert len(run.pending()) == 2  # three micro-batches make a shard, and the third interruption came after them
    torch.set_num_threads(2)
    extract(run, Resources(decode_threads=1))
    assert torch.get_num_threads() == 2
    assert hashes(run) == hashes(finished)


def test_a_shard_that_is_there_is_not_computed_again(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(worker._Shard, "publish", refuse)
        assert run_one(finished.shards[1]) == finished.done()[1]


def test_a_damaged_shard_is_computed_again(finished: Run, tmp_path: Path) -> None:
    run = copy_plan(finished, tmp_path / "out")
    extract(run)
    data = bytearray(shard_path(run.out, 1).read_bytes())
    data[500] ^= 1
    shard_path(run.out, 1).write_bytes(data)
    marker_path(run.out, 2).write_text('{"shard": 2}')
    shard_path(run.out, 0).unlink()
    assert sorted(run.done()) == [1]
    assert sorted(run.done(check_hash=True)) == []
    for spec in run.shards:
        run_one(spec)
    assert hashes(run) == hashes(finished)


def test_the_error_of_one_image_does_not_touch_another(folder: Path, photos: Photos, tmp_path: Path) -> None:
    """A broken image leaves its place in the micro-batch blank: the others keep their bits."""
    maps = []
    for name, data in (("whole", png(photos["rocket"])), ("broken", b"")):
        root = tmp_path / name
        root.mkdir()
        (root / "b.png").write_bytes(data)
        for key in ("a", "c", "d", "e"):
            (root / f"{key}.png").write_bytes(png(photos["coins"].crop((ord(key), 0, 300, 200))))
        run = prepare(Settings(str(root), methods=("mtsm",), size=SIZE, batch_size=5), tmp_path / f"{name} out")
        extract(run)
        maps.append(maps_of(run, "mtsm/features"))
    assert np.isnan(maps[1][1]).all()
    np.testing.assert_array_equal(maps[0][[0, 2, 3, 4]], maps[1][[0, 2, 3, 4]])


def test_events_add_up_to_the_marker(finished: Run, tmp_path: Path) -> None:
    run = copy_plan(finished, tmp_path / "out")
    events: list[Event] = []
    markers = extract(run, tell=events.append)
    assert [event.shard for event in events] == [0, 0, 0, 1, 1, 1, 2]
    for marker in markers:
        own = [event for event in events if event.shard == marker.shard]
        assert sum(event.images for event in own) == marker.rows
        assert sum(event.errors for event in own) == sum(marker.errors.values())
        for stage in ("read", "wait", "forward", "decomposition"):
            assert sum(event.seconds[stage] for event in own) == pytest.approx(marker.seconds[stage], abs=1e-5)
        assert 0 < marker.seconds["decomposition"] < marker.seconds["forward"] < marker.seconds["total"]


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_small_numbers(dtype: Any, finished: Run, tmp_path: Path) -> None:
    assert finished.command is not None
    run = prepare(replace(finished.command.settings, dtype=dtype), tmp_path / "out")
    extract(run)
    rows = rows_of(run)
    exact, stored = maps_of(finished, "mtsm/features"), maps_of(run, "mtsm/features")
    assert stored.dtype == dtype
    restored = stored * np.asarray(rows["mtsm/features:scale"], np.float64)[:, None, None]
    np.testing.assert_array_equal(np.isnan(restored), np.isnan(exact))
    peak = np.nanmax(exact, axis=(1, 2), keepdims=True, initial=0.0)
    assert np.nanmax(np.abs(restored - exact) / np.where(peak == 0, 1, peak)) < 0.5 / 254


def test_several_layers_and_methods_share_one_forward(folder: Path, networks: Any, tmp_path: Path) -> None:
    settings = Settings(
        str(folder),
        model="small_networks:Late",
        layers=("body.*", "stem"),
        methods=("eigencam", "tsm", "mtsm"),
        rank=(4, 3, 3),
        size=(64, 64),
        batch_size=8,
    )
    run = prepare(settings, tmp_path / "out")
    assert [column.name for column in run.columns] == [
        f"{method}/{layer}" for method in settings.methods for layer in ("body.0", "body.1", "stem")
    ]
    extract(run)
    model = next(iter(network._networks.values())).model.module
    assert model.calls == [2, 8, 8, 4]  # two fixed inputs tell that the model is that of the plan
    assert maps_of(run, "eigencam/body.1").shape == (20, 8, 8)


def test_a_model_that_gives_nan(folder: Path, networks: Any, tmp_path: Path) -> None:
    settings = Settings(str(folder), methods=("mtsm",), model="small_networks:Net", layers=("body.1",), size=(64, 64))
    plain = prepare(settings, tmp_path / "plain")
    extract(plain)
    run = prepare(replace(settings, model="small_networks:NanForDark"), tmp_path / "nan")
    (marker,) = extract(run)
    rows = rows_of(run)
    bad = np.asarray([status == "non-finite" for status in rows["status"]])
    assert marker.errors == {"non-finite": bad.sum()}
    assert 0 < bad.sum() < 20
    assert {error for error in rows["error"] if error} == {"the model gives NaN or Inf at layer 'body.1'"}
    maps = maps_of(run, "mtsm/body.1")
    assert np.isnan(maps[bad]).all()
    np.testing.assert_array_equal(maps[~bad], maps_of(plain, "mtsm/body.1")[~bad])


def test_a_map_too_large_for_float32(folder: Path, networks: Any, tmp_path: Path) -> None:
    settings = Settings(
        str(folder), methods=("mtsm",), model="small_networks:Huge", layers=("body.1",), size=(64, 64), limit=3
    )
    networks.Huge.forward = lambda self, x: self.pool(self.body[1](self.body[0](self.stem(x)) * 1e20))
    run = prepare(settings, tmp_path / "out")
    (marker,) = extract(run)
    assert marker.errors == {"overflow": 3}
    assert "finite, but the map 'mtsm/body.1' is too large for float32" in rows_of(run)["error"][0]


def test_a_batch_that_does_not_fit_is_halved(folder: Path, networks: Any, tmp_path: Path) -> None:
    """With the error that CUDA's allocator raises."""
    settings = Settings(
        str(folder), methods=("mtsm",), model="small_networks:Failing", layers=("body.1",), size=(64, 64), batch_size=8
    )
    run = prepare(settings, tmp_path / "out")
    (marker,) = extract(run)
    assert (marker.ok, marker.batch_size) == (20, 2)
    plain = prepare(replace(settings, model="small_networks:Net"), tmp_path / "plain")
    extract(plain)
    expected = maps_of(plain, "mtsm/body.1")
    np.testing.assert_allclose(maps_of(run, "mtsm/body.1"), expected, atol=1e-4 * expected.max())


def test_a_model_that_fails(folder: Path, networks: Any, tmp_path: Path) -> None:
    settings = Settings(
        str(folder), methods=("mtsm",), model="small_networks:Failing", layers=("body.1",), size=(64, 64)
    )
    run = prepare(settings, tmp_path / "out")
    networks.ERROR = RuntimeError("broken kernel")
    with pytest.raises(ShardFailed, match=r"shard 0, images 0\.\.15: RuntimeError: broken kernel"):
        extract(run)
    assert leftovers(run.out) == []
    assert list((run.out / "shards").iterdir()) == list((run.out / "markers").iterdir()) == []


class Strange:
    """Pictures, except one that raises and one that never comes."""

    def __init__(self, image: Image.Image, patience: float) -> None:
        self.image, self.patience = image, patience

    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> Image.Image:
        if number == 2:
            raise RuntimeError("no such picture\n in caf\udce9.zip")
        if number == 4:
            time.sleep(self.patience)
        return self.image


def test_a_dataset_that_raises(photos: Photos, tmp_path: Path) -> None:
    source = DatasetSource(Strange(photos["cat"], 0))
    run = prepare(Settings("archive", size=SIZE), tmp_path / "out", source=source)
    extract(run, source=source)
    rows = rows_of(run)
    assert rows["status"] == ["ok", "ok", "item", "ok", "ok", "ok"]
    assert rows["error"][2] == "RuntimeError: no such picture in caf\\udce9.zip"


def test_a_machine_in_trouble_is_not_the_fault_of_an_image(photos: Photos, tmp_path: Path) -> None:
    class Crowded(Strange):
        def __getitem__(self, number: int) -> Image.Image:
            if number == 5 and self.patience:
                raise OSError(errno.EMFILE, "Too many open files")
            return self.image

    source = DatasetSource(Crowded(photos["cat"], 1))
    run = prepare(Settings("archive", size=SIZE), tmp_path / "out", source=source)
    with pytest.raises(ShardFailed, match=r"shard 0: images could not be read: OSError: .*Too many open files"):
        extract(run, source=source)
    assert leftovers(run.out) == []


def test_a_read_that_hangs_meets_the_deadline(photos: Photos, tmp_path: Path) -> None:
    source = DatasetSource(Strange(photos["cat"], 4))
    run = prepare(Settings("archive", size=SIZE), tmp_path / "out", source=source)
    started = time.monotonic()
    with pytest.raises(ShardFailed, match=r"took longer than shard_timeout=0\.5 seconds"):
        extract(run, Resources(shard_timeout=0.5), source=source)
    assert time.monotonic() - started < 3.5
    assert leftovers(run.out) == []


def test_tensors_of_a_dataset_go_in_as_they_are(photos: Photos, tmp_path: Path) -> None:
    model = models.load("lite0", size=SIZE)
    inputs = [model.preprocess(image) for image in photos.values()]
    source = DatasetSource([*inputs, inputs[0][:, :50]], [*photos, "small"])
    run = prepare(Settings("tensors", methods=("mtsm",)), tmp_path / "out", source=source)
    extract(run, source=source)
    rows = rows_of(run)
    assert rows["status"][rows["key"].index("small")] == "shape"
    with torch.no_grad():
        features = model.module.features(torch.stack(inputs))  # pyright: ignore[reportCallIssue]
    expected = saliency.mtsm(features, normalize=False).numpy()
    found = maps_of(run, "mtsm/features")[[rows["key"].index(name) for name in photos]]
    np.testing.assert_allclose(found, expected, atol=1e-3 * expected.max())


def test_a_spec_of_another_run(finished: Run) -> None:
    with pytest.raises(FingerprintError, match="holds another run than the one that shard 0 was planned for"):
        run_one(replace(finished.shards[0], fingerprint="0"))


def test_other_weights_than_planned(folder: Path, networks: Any, tmp_path: Path) -> None:
    run = prepare(Settings(str(folder), methods=("mtsm",), model="small_networks:Net", size=(64, 64)), tmp_path / "out")
    init = networks.Net.__init__

    def other(self: Any) -> None:
        init(self)
        torch.nn.init.ones_(self.stem.weight)

    networks.Net.__init__ = other
    with pytest.raises(FingerprintError, match="has other weights or layers here than when the run was planned"):
        extract(run)
