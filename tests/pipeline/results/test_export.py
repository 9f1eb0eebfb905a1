"""Exports hold what the reader reads, in bounded memory, whole or not at all."""

from __future__ import annotations

import csv
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsm_fast import SaliencyDataset
from tsm_fast.pipeline.results import export as module
from tsm_fast.pipeline.results.export import export

from ..processes import tsm_fast
from ..small_run import BROKEN, HOSTILE, SHARD_SIZE, changeable, finished, partial

pytestmark = pytest.mark.slow

__all__ = ["changeable", "finished", "partial"]  # fixtures

COLUMNS = {"tsm/features": "tsm-features", "mtsm/features": "mtsm-features"}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "rows.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_npy(finished: Path, tmp_path: Path) -> None:
    ds = SaliencyDataset(finished)
    told: list[tuple[int, int]] = []
    out = export(finished, "npy", tmp_path / "a" / "npy", progress=lambda done, rows: told.append((done, rows)))
    assert out == tmp_path / "a" / "npy"
    assert told[-1] == (len(ds), len(ds))
    assert {path.name for path in out.iterdir()} == {"tsm-features.npy", "mtsm-features.npy", "rows.csv"}
    for column, file in COLUMNS.items():
        stored = np.load(out / f"{file}.npy", mmap_mode="r")
        assert stored.dtype == np.float32
        assert np.array_equal(stored, ds.numpy(column), equal_nan=True)
    rows = rows_of(out)
    assert [row["key"] for row in rows] == ds.keys
    assert [row["status"] for row in rows] == ds.status.tolist()
    assert [int(row["index"]) for row in rows] == list(range(len(ds)))
    assert list((tmp_path / "a").iterdir()) == [out]


def test_png(finished: Path, tmp_path: Path) -> None:
    ds = SaliencyDataset(finished, "mtsm/*", size=(32, 48), normalize=True)
    out = export(finished, "png", tmp_path / "png", columns="mtsm/*", size=(32, 48))
    rows = rows_of(out)
    assert [row["key"] for row in rows] == ds.keys
    assert {row["key"] for row in rows if not row["mtsm-features"]} == set(BROKEN)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert names == {row["mtsm-features"] for row in rows} - {""}
    assert {"mtsm-features/crops/0001.jpg.png", "mtsm-features/_img src=x onerror=alert(1)_.png"} <= names
    assert not any(set(name) & set('<>:"\\|?*\n') for name in names)
    for key in (HOSTILE, "crops/0001.jpg"):
        (row,) = (row for row in rows if row["key"] == key)
        picture = Image.open(out / row["mtsm-features"])
        assert (picture.mode, picture.size) == ("L", (48, 32))
        np.testing.assert_allclose(np.asarray(picture) / 255, ds[key].map, atol=0.5 / 255 + 1e-6)


def test_pictures_are_large_without_a_size(finished: Path, tmp_path: Path) -> None:
    out = export(finished, "png", tmp_path / "png", columns="tsm/*")
    assert Image.open(next(out.rglob("*.png"))).size == (224, 224)


def test_hdf5(finished: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    ds = SaliencyDataset(finished, size=(6, 6))
    with h5py.File(export(finished, "hdf5", tmp_path / "maps.h5", size=(6, 6))) as file:
        assert file["key"].asstr()[:].tolist() == ds.keys
        assert file["status"].asstr()[:].tolist() == ds.status.tolist()
        assert file["height"][:].tolist() == ds.about().height
        for column, name in COLUMNS.items():
            assert file[name].attrs["column"] == column
            assert np.array_equal(file[name][:], ds.numpy(column), equal_nan=True)


def test_zarr(finished: Path, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    ds = SaliencyDataset(finished)
    group = zarr.open_group(str(export(finished, "zarr", tmp_path / "maps.zarr")), mode="r")
    assert list(group["key"][:]) == ds.keys
    assert list(group["error"][:]) == ds.about().error
    assert group.attrs["columns"] == {name: column for column, name in COLUMNS.items()}
    for column, name in COLUMNS.items():
        assert np.array_equal(group[name][:], ds.numpy(column), equal_nan=True)


@pytest.mark.parametrize("to", ["npy", "png", "zarr", "hdf5"])
def test_what_is_there_is_replaced_only_when_asked_for(finished: Path, tmp_path: Path, to: str) -> None:
    dest = tmp_path / "dest"
    dest.mkdir()
    (dest / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        export(finished, to, dest, size=(8, 8))
    assert (dest / "mine.txt").read_text() == "mine"
    export(finished, to, dest, size=(8, 8), overwrite=True)
    export(finished, to, dest, size=(8, 8), overwrite=True)
    assert not (dest / "mine.txt").exists()
    assert list(tmp_path.iterdir()) == [dest]


def test_runs_that_are_not_finished(partial: Path, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="not computed yet"):
        export(partial, "npy", tmp_path / "npy")
    assert not (tmp_path / "npy").exists()
    whole = SaliencyDataset(partial, missing="nan")
    maps = np.load(export(partial, "npy", tmp_path / "nan", missing="nan") / "tsm-features.npy")
    assert np.array_equal(maps, whole.numpy("tsm/features"), equal_nan=True)
    rest = rows_of(export(partial, "npy", tmp_path / "skip", missing="skip"))
    assert len(rest) == len(whole) - SHARD_SIZE


@pytest.mark.parametrize("to", module.FORMATS)
def test_a_run_of_which_nothing_is_finished(finished: Path, changeable: Path, tmp_path: Path, to: str) -> None:
    for marker in (changeable / "markers").iterdir():
        marker.unlink()
    done = tsm_fast("export", changeable, tmp_path / "dest", "--to", to)
    assert done.exit_code == 1
    assert done.stderr.startswith("tsm-fast: rows 0..259 of ")
    assert "are not computed yet (shard 0; 0 of 3 shards are done): run the same `tsm-fast extract` comm" in done.stderr
    assert "--missing skip" in done.stderr
    more = [finished.parent / "pictures"] if to == "overlay" else []
    done = tsm_fast("export", changeable, tmp_path / "dest", *more, "--to", to, "--missing", "skip")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "dest").exists()


def test_wrong_options(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"to must be one of 'npy', 'png', 'overlay', 'coco', 'zarr', 'hdf5', got 'jpg'"
    ):
        export(finished, "jpg", tmp_path / "x")
    with pytest.raises(ValueError, match="columns must be of"):
        export(finished, "npy", tmp_path / "x", columns="nothing")
    for options, text in (
        ({"threshold": 0.5}, "threshold is an option of to='coco', got to='npy'"),
        ({"region": "whole"}, "region is an option of to='overlay' and 'coco', got to='npy'"),
    ):
        with pytest.raises(ValueError, match=text):
            export(finished, "npy", tmp_path / "x", **options)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"size is an option of to='npy' and 'png' and 'zarr' and 'hdf5', got to='ov"):
        export(finished, "overlay", tmp_path / "x", size=(8, 8))
    with pytest.raises(ValueError, match=r"region must be one of 'center', 'whole', got 'left'"):
        export(finished, "coco", tmp_path / "x", region="left")
    with pytest.raises(ValueError, match=r"colormap must be one of the package cmap, got 'jett'"):
        export(finished, "overlay", tmp_path / "x", colormap="jett")
    for threshold in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"threshold must be a share in 0..1 above 0, got"):
            export(finished, "coco", tmp_path / "x", threshold=threshold)
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tsm_fast\[zarr\]'"):
        export(finished, "zarr", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_when_the_disk_is_full(finished: Path, tmp_path: Path) -> None:
    """Real write errors, from a process that may write no file over 5 kB."""
    program = """
import sys
from tsm_fast.pipeline.results.export import export
for to in ("npy", "png", "zarr", "hdf5"):
    try:
        export(sys.argv[1], to, sys.argv[2], size=(256, 256))
    except OSError as error:
        print(to, error.strerror)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(finished), str(tmp_path / "dest")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines() == [f"{to} File too large" for to in ("npy", "png", "zarr", "hdf5")]
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_size_of_the_maps(finished: Path, tmp_path: Path) -> None:
    """552 maps of 320 x 320 are 226 MB; a few parts of them are all that is held."""
    program = """
import resource, sys
from pathlib import Path
from tsm_fast.pipeline.results.export import export
export(sys.argv[1], "npy", sys.argv[2], columns="tsm/*", size=(8, 8))
Path("/proc/self/clear_refs").write_text("5")
lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
before = int(lines["VmHWM"].split()[0])
export(sys.argv[1], "npy", sys.argv[2], columns="tsm/*", size=(320, 320), overwrite=True)
lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print((int(lines["VmHWM"].split()[0]) - before) / 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(finished), str(tmp_path / "dest")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 100  # MB
