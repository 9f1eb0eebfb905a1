"""Tables of pictures: their paths and keys, and the columns that are carried along, with their types."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tsm_fast.pipeline.files import plan_file
from tsm_fast.pipeline.sources.columns import as_table, from_text, from_values, renamed
from tsm_fast.pipeline.sources.manifests import ManifestSource
from tsm_fast.pipeline.sources.open import open_source, reopen
from tsm_fast.pipeline.sources.source import SourceError, listing


def carried(file: Path) -> tuple[list[str], dict[str, str], dict[str, list[Any]]]:
    """Keys, and types and values of what else is known, of a manifest."""
    source = open_source(str(file))
    items = listing(source)
    table = source.carried(items)
    assert table is not None
    return [i.key for i in items], {f.name: str(f.type) for f in table.schema}, table.to_pydict()


def test_csv(tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    lines = ["path,label,score,zip,seen,note,big,,none", 'b.png,2,0.5,01234,true,"x, y",12345678901234567890,0,']
    file.write_bytes(("\n".join([*lines, "a.png,,-1e3,99999,False,caf"])).encode() + b"\xe9,1,1,\n")
    keys, types, values = carried(file)
    assert keys == ["a.png", "b.png"]
    assert values == {
        "label": [None, 2],
        "score": [-1000.0, 0.5],
        "zip": ["99999", "01234"],
        "seen": [False, True],
        "note": ["caf\\xe9", "x, y"],
        "big": ["1", "12345678901234567890"],
        "none": [None, None],
    }
    assert list(types.values()) == ["int64", "double", "string", "bool", "string", "string", "string"]


@given(st.lists(st.one_of(st.none(), st.integers(), st.floats(), st.booleans(), st.text())))
@example([2**63, None])
@example([1e400, 0.1])
def test_no_field_of_text_changes(values: list[Any]) -> None:
    """Fields become numbers only where the numbers say the same."""
    texts = ["" if value is None else str(value) for value in values]
    for text, made in zip(texts, from_text(texts).to_pylist(), strict=True):
        if isinstance(made, float):
            assert made == float(text) or made != made
        else:
            assert ("" if made is None else str(made)) == (text.title() if isinstance(made, bool) else text)


@pytest.mark.parametrize("text", ["0.12345678901234567890123", "1e400", "1e-400", "-123456789012345.678"])
def test_numbers_that_float64_does_not_hold_stay_text(text: str) -> None:
    assert from_text([text, "0.5"]).to_pylist() == [text, "0.5"]


def test_numbers_that_float64_holds_are_numbers() -> None:
    given = ["0.5", "-0.0", "1e-300", "12345678901234.5", "0e0", "inf", "nan"]
    assert from_text(given).to_pylist()[:-1] == [float(text) for text in given][:-1]


words = st.text(st.characters(codec="utf-8"))
json_values = st.recursive(
    st.one_of(st.none(), st.integers(), st.floats(allow_nan=False), st.booleans(), words),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=2),
    max_leaves=5,
)


@given(st.lists(json_values))
@example([2**70, 1])
@example([[1], ["a"]])
@example([{"a": 1}, None, "x"])
def test_any_json_is_kept(values: list[Any]) -> None:
    made = from_values(values)
    for value, kept in zip(values, made.to_pylist(), strict=True):
        if pa.types.is_string(made.type) and kept is not None and not isinstance(value, str):
            kept = json.loads(kept)
        assert kept == value


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "json"])
def test_json(suffix: str, tmp_path: Path) -> None:
    rows = [
        {"file_name": "b.png", "key": "first", "label": 3, "tags": ["x", "y"], "more": {"a": [1]}},
        {"file_name": "a.png", "key": "second", "score": 0.5, "tags": []},
    ]
    lines = "\n".join(map(json.dumps, rows)) + "\n\n"
    (tmp_path / f"m.{suffix}").write_text(json.dumps(rows) if suffix == "json" else lines, encoding="utf-8-sig")
    keys, types, values = carried(tmp_path / f"m.{suffix}")
    assert keys == ["first", "second"]
    assert types == {"label": "int64", "tags": "list<item: string>", "more": "string", "score": "double"}
    assert values["label"] == [3, None]
    assert values["tags"] == [["x", "y"], []]
    assert values["more"] == ['{"a": [1]}', None]


def test_coco(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "instances.json"
    coco = {
        "info": {"year": 2017},
        "images": [
            {"id": 7, "file_name": "upright/cat.jpg", "height": 300, "width": 451},
            {"id": 9, "file_name": "upright/coins.jpg", "height": 303, "width": 384},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, "bbox": [0, 0, 1, 1]},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1]},
            {"id": 3, "image_id": 7, "category_id": 2, "bbox": [0, 0, 1, 1]},
        ],
        "categories": [{"id": 1, "name": "whiskers"}, {"id": 2, "name": "cat"}],
    }
    file.write_text(json.dumps(coco))
    keys, types, values = carried(file)
    assert keys == ["upright/cat.jpg", "upright/coins.jpg"]
    assert values == {"id": [7, 9], "height": [300, 303], "width": [451, 384], "categories": [["cat", "whiskers"], []]}
    assert types["categories"] == "list<item: string>"
    source = open_source(str(file), str(folder))
    items = listing(source)
    assert reopen(source.kind, source.root).read(items[0]) == (folder / "upright" / "cat.jpg").read_bytes()
    with pytest.raises(SourceError, match="root='x' is for lists and manifests, got a source of kind folder"):
        open_source(str(folder), "x")
    coco["annotations"].append({"id": 4})
    file.write_text(json.dumps(coco))
    with pytest.raises(SourceError, match="is not as COCO has it: KeyError 'category_id'"):
        listing(open_source(str(file)))


def test_parquet(tmp_path: Path) -> None:
    day = datetime.date(2024, 2, 29)
    table = pa.table(
        {
            "path": ["b", "a"],
            "label": pa.array([1, 2], pa.int16()),
            "name": pa.array(["x", "y"]).dictionary_encode(),
            "day": [day, None],
            "when": pa.array([1, 2], pa.timestamp("ns", "UTC")),
            "vector": pa.array([[0.5, 1], [2, 3]], pa.list_(pa.float32(), 2)),
            "bytes": [b"x", b"y"],
            "struct": [{"a": 1}, {"a": 2}],
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    source = ManifestSource(str(tmp_path / "m.parquet"))
    items = listing(source)
    found = source.carried(items)
    assert found is not None
    assert source.left_out.counts == {"columns of types that are not carried along": 2}
    assert "'bytes'" in str(source.left_out)
    assert found.column_names == ["label", "name", "day", "when", "vector"]
    assert (found.schema.field("name").type, found.schema.field("label").type) == (pa.string(), pa.int16())
    assert found["day"].to_pylist() == [None, day]
    assert found["vector"].to_pylist() == [[2, 3], [0.5, 1]]
    assert plan_file.record(found)["sha256"] == plan_file.record(found.combine_chunks())["sha256"]
    assert plan_file.record(found)["columns"]["when"] == "timestamp[ns, tz=UTC]"
    assert plan_file.record(found.slice(1))["sha256"] != plan_file.record(found)["sha256"]


def test_names_that_are_taken_get_another() -> None:
    table = as_table({"Status": [1], "status": [2], "label": [3], "source_status": [4]})
    assert renamed(table, ["status", "key"]).column_names == [
        "source_Status",
        "source_source_status",
        "label",
        "source_source_source_status",
    ]


def test_names_and_values_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"path,caf\xe9\na,b\xff\n")
    assert carried(tmp_path / "m.csv")[2] == {"caf\\xe9": ["b\\xff"]}
    (tmp_path / "m.jsonl").write_text('{"path": "a", "x\\ud800": "y\\ud800"}')
    assert carried(tmp_path / "m.jsonl")[2] == {"x\\xed\\xa0\\x80": ["y\\xed\\xa0\\x80"]}
    pq.write_table(pa.table({"path": list(map(str, range(1000)))}), tmp_path / "m.parquet", compression="none")
    data = (tmp_path / "m.parquet").read_bytes()
    (tmp_path / "m.parquet").write_bytes(data[:4] + bytes(200) + data[204:])
    with pytest.raises(SourceError, match=r"m\.parquet' cannot be read"):
        listing(open_source(str(tmp_path / "m.parquet")))


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.json"])
def test_another_encoding(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("path\n", "utf-16")
    with pytest.raises(SourceError, match="is in UTF-16: save it as UTF-8"):
        listing(open_source(str(tmp_path / name)))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.jsonl", '{"path": "a"}\n{"path": \n', "line 2 is no JSON"),
        ("m.jsonl", '{"path": "a"}\n[1]\n', "line 2 must be an object, got list"),
        ("m.jsonl", '{"path": 3}\n', "row 0: 'path' must be text, got 3"),
        ("m.jsonl", '{"path": "a"}\n{"label": 3}\n', "row 1 has no path"),
        ("m.jsonl", "\n", "has no row"),
        (
            "m.jsonl",
            '{"path": "\\ud800"}',
            r"m\.jsonl': row 0: keys must be text or file names, got the lone surrogate",
        ),
        ("m.jsonl", '{"label": 1}\n', r"must have a column 'path' .*, got label"),
        ("m.json", "[1]", "entry 0 must be an object, got int"),
        ("m.json", '{"info": 1}', 'must be a list of objects, or have a list "images" as COCO has'),
        ("m.json", "[" * 100_000, "it is no JSON"),
        ("m.json", "{", "it is no JSON"),
        ("m.csv", "Path,label\na,1\n", r"got Path, label; did you mean 'Path'\? Call it 'path'"),
        ("m.csv", "label,filenames\n1,a\n", r"did you mean 'filenames'\? Call it 'path'"),
        ("m.csv", "path;label\na;1\n", r"got path;label; its fields must be separated by ','"),
        ("m.csv", "path,a,a\nx,1,2\n", "has several columns 'a'"),
    ],
)
def test_broken(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=message):
        listing(open_source(str(tmp_path / name)))
