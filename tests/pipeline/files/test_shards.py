"""Shards read back as they were written, by PyArrow and by others, and their bytes depend on the rows alone."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tsm_fast.pipeline import MapColumn
from tsm_fast.pipeline.files.shards import FORMAT_VERSION, ROW_GROUP, Rows, ShardWriter, decode, encode

COLUMNS = (
    MapColumn("tsm/a.b", "tsm", "a.b", (3, 5), "float32", None),
    MapColumn("mtsm/a.b", "mtsm", "a.b", (3, 5), "float16", "mtsm/a.b:scale"),
    MapColumn("mtsm/c", "mtsm", "c", (2, 2), "uint8", "mtsm/c:scale"),
)
ABOUT = {"format": FORMAT_VERSION}


def rows(count: int) -> Rows:
    draw = np.random.default_rng(7)
    maps = {c.name: draw.gamma(1.0, 3.0, (count, *c.shape)).astype(np.float32) for c in COLUMNS}
    status = ["truncated" if i % 10 == 3 else "ok" for i in range(count)]
    for values in maps.values():
        values[[i for i in range(count) if status[i] != "ok"]] = np.nan
    keys = [f"class {i // 7}/<b>é\n{i}" for i in range(count)]
    sizes = [None if status[i] != "ok" else 100 + i for i in range(count)]
    errors = [None if status[i] == "ok" else f"cut at {i}" for i in range(count)]
    shas = [None if i % 5 == 1 else f"{i:064x}" for i in range(count)]
    flags = [i % 3 for i in range(count)]
    return Rows(range(count), keys, status, errors, sizes, sizes, sizes, shas, flags, maps)


def cut(all_rows: Rows, start: int, stop: int) -> Rows:
    maps = {name: values[start:stop] for name, values in all_rows.maps.items()}
    lists: list[Any] = [values[start:stop] for values in all_rows[:9]]
    return Rows(*lists, maps=maps)


def written(all_rows: Rows, batch: int, carried: pa.Table | None = None) -> bytes:
    file = io.BytesIO()
    writer = ShardWriter(file, COLUMNS, ABOUT, carried)
    for start in range(0, len(all_rows.index), batch):
        writer.add(cut(all_rows, start, start + batch))
    writer.close()
    return file.getvalue()


def test_read_back() -> None:
    expected = rows(600)
    file = pq.ParquetFile(io.BytesIO(written(expected, 64)), page_checksum_verification=True)
    table = file.read()
    assert json.loads(table.schema.metadata[b"tsm_fast"]) == ABOUT
    for name in ("index", "key", "status", "error", "height", "width", "bytes", "sha256", "flags"):
        assert table[name].to_pylist() == list(getattr(expected, name)), name
    for column in COLUMNS:
        field = table.schema.field(column.name)
        assert isinstance(field.type, pa.FixedShapeTensorType)
        assert field.type.shape == list(column.shape)
        assert str(field.type.value_type) == {"float16": "halffloat", "float32": "float"}.get(
            column.dtype, column.dtype
        )
        stored = table[column.name].combine_chunks().to_numpy_ndarray()
        scale = None if column.scale is None else table[column.scale].to_numpy()
        given = expected.maps[column.name]
        step = {"float32": 0.0, "float16": 2.0**-11, "uint8": 0.5 / 255}[column.dtype]  # half of the last place
        peak = given.max(axis=(1, 2), keepdims=True)
        np.testing.assert_array_equal(np.isnan(decode(stored, scale)), np.isnan(given))
        assert np.nanmax(np.abs(decode(stored, scale) - given) / peak) <= step * 1.001


def test_layout() -> None:
    about = pq.ParquetFile(io.BytesIO(written(rows(600), 600))).metadata
    assert [about.row_group(i).num_rows for i in range(about.num_row_groups)] == [ROW_GROUP, ROW_GROUP, 88]
    group = about.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert all(column.compression == "ZSTD" for column in columns.values())
    for name in ("tsm/a.b", "mtsm/a.b"):
        assert "BYTE_STREAM_SPLIT" in columns[f"{name}.list.element"].encodings
    assert "BYTE_STREAM_SPLIT" not in columns["mtsm/c.list.element"].encodings


@pytest.mark.parametrize("batch", [1, 7, 256, 300])
def test_the_cuts_do_not_show_in_the_bytes(batch: int) -> None:
    assert written(rows(600), batch) == written(rows(600), 600)
    labels = pa.table({"label": range(600), "name": list(map(str, range(600)))})
    data = written(rows(600), batch, labels)
    assert data == written(rows(600), 600, labels)
    assert pq.read_table(io.BytesIO(data), columns=["label", "name"]) == labels


def test_a_flipped_bit_is_noticed() -> None:
    data = bytearray(written(rows(300), 300))
    data[2000] ^= 4
    with pytest.raises(OSError, match="CRC checksum verification failed"):
        pq.ParquetFile(io.BytesIO(bytes(data)), page_checksum_verification=True).read()


values = st.floats(0, 2.0**127, width=32)


@given(arrays(np.float32, (2, 2, 3), elements=values), st.sampled_from(["float16", "uint8"]))
@example(np.zeros((2, 2, 3), np.float32), "float16")
@example(np.full((2, 2, 3), 1e-45, np.float32), "uint8")
@example(np.full((2, 2, 3), 3.4e38, np.float32), "float16")
def test_any_map_is_kept_within_half_a_step(maps: np.ndarray, dtype: str) -> None:
    stored, scale = encode(maps, dtype)
    assert scale is not None
    assert stored.dtype == dtype
    peak = maps.max(axis=(1, 2), keepdims=True).astype(np.float64)
    step = 2.0**-11 if dtype == "float16" else 0.5 / 255
    # The scale itself is a float32, coarse only where a map is smaller than 1e-35.
    allowed = peak * step * 1.001 + 3e-43 * (255 if dtype == "uint8" else 2**14)
    assert (np.abs(decode(stored, scale).astype(np.float64) - maps) <= allowed).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_maps_of_error_rows_are_nan(dtype: str) -> None:
    maps = np.stack([np.full((2, 2), np.nan, np.float32), np.ones((2, 2), np.float32)])
    decoded = decode(*encode(maps, dtype))
    assert np.isnan(decoded[0]).all()
    np.testing.assert_allclose(decoded[1], 1)
