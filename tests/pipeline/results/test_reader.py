"""`SaliencyDataset` against the definition: the extractor's own maps of the same pictures."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

import tsm_fast
from tsm_fast import SaliencyDataset
from tsm_fast.models import load
from tsm_fast.pipeline.files.shards import shard_path
from tsm_fast.pipeline.results.reader import MapRow

from ..small_run import (
    BROKEN,
    CROPS,
    HOSTILE,
    METHODS,
    SHARD_SIZE,
    STRANGE,
    changeable,
    extract,
    finished,
    network_input,
    partial,
)

pytestmark = pytest.mark.slow

__all__ = ["changeable", "finished", "partial"]  # fixtures

COLUMNS = [f"{method}/features" for method in METHODS]
ROWS = CROPS + len(STRANGE) + len(BROKEN) + 3


@pytest.fixture
def ds(finished: Path) -> SaliencyDataset:
    return SaliencyDataset(finished)


def test_every_picture_is_there_once_and_in_order(ds: SaliencyDataset) -> None:
    assert len(ds) == ROWS
    assert ds.columns == COLUMNS
    assert ds.keys == sorted(ds.keys)
    assert len(set(ds.keys)) == ROWS
    assert HOSTILE in ds.keys
    assert [item.index for item in ds] == list(range(ROWS))
    assert [item.key for item in ds] == ds.keys


@pytest.mark.parametrize("key", ["crops/0000.jpg", "crops/0539.jpg", HOSTILE, "two\nlines.png"])
def test_maps_are_those_of_the_extractor(ds: SaliencyDataset, finished: Path, key: str) -> None:
    images = network_input(finished.parent / "pictures" / key)[None]
    for method in METHODS:
        with tsm_fast.SaliencyExtractor(load("lite0").module, "features", method, normalize=False) as extract:
            expected = extract(images)[0].numpy()
        # The same network in another batch: the forward pass rounds differently.
        np.testing.assert_allclose(ds[key].maps[f"{method}/features"], expected, rtol=1e-3, atol=1e-3 * expected.max())


def test_one_item(ds: SaliencyDataset) -> None:
    item = ds["crops/0007.jpg"]
    assert ds[item.index].key == "crops/0007.jpg"
    assert (item.status, item.error, item.height, item.width, item.flags) == ("ok", "", 90, 100, 0)
    assert {name: (values.shape, values.dtype) for name, values in item.maps.items()} == {
        name: ((3, 3), np.dtype(np.float32)) for name in COLUMNS
    }
    with pytest.raises(ValueError, match="column must be one of 'tsm/features', 'mtsm/features'"):
        _ = item.map
    assert ds[-1].key == ds.keys[-1]


def test_file_names_that_are_no_text(ds: SaliencyDataset) -> None:
    name = os.fsdecode(b"latin-\xe9.png")
    assert ds[name].key == "latin-\\xe9.png"
    assert ds[ds[name].key].index == ds[name].index


def test_pictures_that_cannot_be_read(ds: SaliencyDataset) -> None:
    for key, kind in zip(BROKEN, ("empty", "format", "truncated"), strict=True):
        item = ds[key]
        assert item.status == kind
        assert item.error
        assert all(np.isnan(values).all() for values in item.maps.values())
    assert (ds.status == "ok").sum() == ROWS - len(BROKEN)
    assert set(ds[ds.status != "ok"].keys) == set(BROKEN)


def test_views(ds: SaliencyDataset) -> None:
    maps = ds.numpy("mtsm/features")
    assert maps.shape == (ROWS, 3, 3)
    some = ds[250:540:3]
    assert np.array_equal(some.numpy("mtsm/features"), maps[250:540:3], equal_nan=True)
    assert some.keys == ds.keys[250:540:3]
    assert some[5:2:-1].keys == some.keys[5:2:-1]
    mixed = [530, 3, 3, -1, 259]
    assert np.array_equal(ds[mixed].numpy("tsm/features"), ds.numpy("tsm/features")[mixed], equal_nan=True)
    assert ds[np.array(mixed)].keys == [ds.keys[i] for i in mixed]
    assert ds[torch.tensor(mixed)].keys == ds[mixed].keys
    named = [ds.keys[530], ds.keys[3]]
    assert ds[named].keys == named
    assert ds[530:0:-1][named[1]].index == 3
    assert ds[mixed][ds.keys[3]].index == 3
    assert len(ds[[]]) == 0
    assert ds[[]].numpy("tsm/features").shape == (0, 3, 3)
    assert list(ds[[]]) == []
    assert ds[[]].arrow().num_rows == 0


def test_what_is_not_there(ds: SaliencyDataset, tmp_path: Path) -> None:
    for index in (ROWS, -ROWS - 1, [0, ROWS]):
        with pytest.raises(IndexError, match=f"index must lie in -{ROWS}..{ROWS - 1}"):
            ds[index]
    for key in ("nothing.jpg", "crops/0000.JPG", os.fsdecode(b"\xff")):
        with pytest.raises(KeyError, match="no row has this key; the first one is"):
            ds[key]
    with pytest.raises(KeyError):
        ds[:10][ds.keys[10]]
    with pytest.raises(IndexError, match="mask must have shape"):
        ds[np.ones(3, bool)]
    for index in (1.5, [0.5], None, True):
        with pytest.raises(TypeError):
            ds[index]  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(ValueError, match="columns must be of 'tsm/features', 'mtsm/features', got 'eigencam/\\*'"):
        SaliencyDataset(ds._store.outs[0], "eigencam/*")
    with pytest.raises(ValueError, match="columns must name at least one"):
        SaliencyDataset(ds._store.outs[0], [])
    with pytest.raises(ValueError, match="column must be one of"):
        ds.numpy("nothing")
    with pytest.raises(ValueError, match="missing must be one of"):
        SaliencyDataset(ds._store.outs[0], missing="maybe")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        SaliencyDataset(tmp_path)


def test_columns_are_chosen_by_name_or_glob(finished: Path) -> None:
    one = SaliencyDataset(finished, "mtsm/features")
    assert one.columns == ["mtsm/features"]
    assert one.numpy().shape == (ROWS, 3, 3)
    assert one[0].map is one[0].maps["mtsm/features"] or np.array_equal(one[0].map, one[0].maps["mtsm/features"])
    assert SaliencyDataset(finished, "*/features").columns == COLUMNS
    assert SaliencyDataset(finished, COLUMNS[::-1]).columns == COLUMNS[::-1]


def test_resizing_and_normalising_are_those_of_the_map_functions(finished: Path) -> None:
    raw = torch.from_numpy(SaliencyDataset(finished, "tsm/*")[:20].numpy())
    large = SaliencyDataset(finished, "tsm/*", size=(24, 12))[:20]
    expected = torch.nn.functional.interpolate(raw[:, None], (24, 12), mode="bilinear")[:, 0]
    assert large.shape() == (24, 12)
    torch.testing.assert_close(large.torch(), expected, equal_nan=True)
    scaled = SaliencyDataset(finished, "tsm/*", size=(24, 12), normalize=True)
    ok = scaled[scaled.status == "ok"]
    assert float(ok.torch().amin()) == 0
    assert torch.equal(ok.torch().amax((1, 2)), torch.ones(len(ok)))
    assert np.isnan(scaled["empty.png"].map).all()
    assert scaled["empty.png"].map.shape == (24, 12)


def test_arrow_has_the_columns_of_the_shards(ds: SaliencyDataset, finished: Path) -> None:
    stored = pq.read_table(shard_path(finished, 1))
    read = ds[SHARD_SIZE : 2 * SHARD_SIZE].arrow()
    assert read.column_names == stored.column_names
    assert read["key"].equals(stored["key"])
    assert read["status"].equals(stored["status"])
    for column in COLUMNS:
        assert read.schema.field(column).type == stored.schema.field(column).type
        pair = [table[column].combine_chunks().to_numpy_ndarray() for table in (read, stored)]
        assert np.array_equal(*pair, equal_nan=True)


def test_loaders_and_processes(ds: SaliencyDataset) -> None:
    maps = ds.numpy("mtsm/features")
    for context in ("fork", "spawn"):
        loader = DataLoader(ds, batch_size=100, num_workers=2, multiprocessing_context=context)
        batches = list(loader)
        assert isinstance(batches[0], MapRow)
        assert [key for batch in batches for key in batch.key] == ds.keys
        read = torch.cat([batch.maps["mtsm/features"] for batch in batches])
        assert np.array_equal(read.numpy(), maps, equal_nan=True)
    again = pickle.loads(pickle.dumps(ds[100:200]))
    assert np.array_equal(again.numpy("mtsm/features"), maps[100:200], equal_nan=True)
    assert len(pickle.dumps(ds)) < 10_000


def test_threads_read_the_same(ds: SaliencyDataset) -> None:
    maps = ds.numpy("tsm/features")
    rows = np.random.default_rng(0).permutation(ROWS)[: ROWS // 4 * 4].reshape(4, -1)
    with ThreadPoolExecutor(4) as pool:
        for mine, read in zip(
            rows, pool.map(lambda r: [ds[int(i)].maps["tsm/features"] for i in r], rows), strict=True
        ):
            assert np.array_equal(np.stack(read), maps[mine], equal_nan=True)


def test_a_run_that_is_not_finished(partial: Path) -> None:
    whole = SaliencyDataset(partial)
    assert len(whole) == ROWS
    assert whole[0].status == whole[-1].status == "ok"
    assert (whole.status == "missing").nonzero()[0].tolist() == list(range(SHARD_SIZE, 2 * SHARD_SIZE))
    for read in (lambda: whole[SHARD_SIZE], lambda: whole[whole.keys[SHARD_SIZE]], whole.arrow, lambda: list(whole)):
        with pytest.raises(LookupError, match=r"rows 260\.\.519 .* not computed yet .* missing='nan'"):
            read()
    assert len(list(whole[:SHARD_SIZE])) == SHARD_SIZE

    filled = SaliencyDataset(partial, "tsm/*", missing="nan")
    item = filled[SHARD_SIZE + 257]
    assert (item.status, item.key, item.index) == ("missing", whole.keys[SHARD_SIZE + 257], SHARD_SIZE + 257)
    assert np.isnan(filled[SHARD_SIZE : 2 * SHARD_SIZE].numpy()).all()

    rest = SaliencyDataset(partial, missing="skip")
    assert len(rest) == ROWS - SHARD_SIZE
    assert rest.keys == whole.keys[:SHARD_SIZE] + whole.keys[2 * SHARD_SIZE :]
    assert rest[SHARD_SIZE].index == 2 * SHARD_SIZE
    with pytest.raises(KeyError):
        rest[whole.keys[SHARD_SIZE]]


def test_nothing_is_finished(partial: Path) -> None:
    for marker in (partial / "markers").iterdir():
        marker.unlink()
    assert len(SaliencyDataset(partial, missing="skip")) == 0
    assert set(SaliencyDataset(partial, missing="nan").status) == {"missing"}


def test_damage_is_an_error_and_not_a_wrong_map(changeable: Path) -> None:
    path = shard_path(changeable, 0)
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(7).data_page_offset
    data[start + 60] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match=r"part-000000.parquet is damaged .* `tsm-fast verify"):
        SaliencyDataset(changeable)[0]
    path.write_bytes(data[:-1])
    with pytest.raises(LookupError, match="not computed yet"):
        SaliencyDataset(changeable)[0]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2**-11), ("uint8", 1 / 500)])
def test_smaller_types_come_back_scaled(tmp_path: Path, ds: SaliencyDataset, finished: Path, dtype, tolerance) -> None:
    out = extract(tmp_path / dtype, finished.parent / "pictures", dtype=dtype, limit=40)
    small = SaliencyDataset(out)
    for column in COLUMNS:
        read, exact = small.numpy(column), ds[:40].numpy(column)
        assert read.dtype == np.float32
        ok = ds[:40].status == "ok"
        assert np.isnan(read[~ok]).all()
        peak = exact[ok].max((1, 2), keepdims=True)
        assert (np.abs(read[ok] - exact[ok]) / peak).max() <= tolerance


def test_importing_the_package_stays_cheap() -> None:
    program = "import sys, tsm_fast; print('pyarrow' in sys.modules, 'tsm_fast.pipeline' in sys.modules)"
    program += "; print(tsm_fast.SaliencyDataset.__name__, 'SaliencyDataset' in dir(tsm_fast))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "SaliencyDataset", "True"]
