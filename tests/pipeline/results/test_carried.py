"""Columns of a manifest or dataset from the plan into the shards, and out of them again."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tsm_fast import SaliencyDataset
from tsm_fast.pipeline import FingerprintError, Resources, Run, Settings, prepare, run_shard
from tsm_fast.pipeline.results.check import verify
from tsm_fast.pipeline.results.export import export
from tsm_fast.pipeline.sources.datasets import DatasetSource

from ...needs import NETWORK, needs

pytestmark = needs(*NETWORK)

NAMES = ("cat", "coins", "rocket", "chelsea", "coffee")
LABELS = {
    "label": [3, 1, None, 1, 5],
    "height": [0.5, float("nan"), 1.0, 2.0, 3.0],
    "tags": [["a"], [], ["b", "c"], None, ["é"]],
}


def manifest(folder: Path, file: Path, labels: dict[str, list[Any]]) -> Path:
    there = sorted((folder / "upright").glob("*.jpg"))[: len(NAMES)]
    pq.write_table(pa.table({"path": list(map(str, there)), "key": NAMES, **labels}), file)
    return file


def computed(source: Path, out: Path, **settings: Any) -> Run:
    run = prepare(Settings(str(source), size=(64, 64), shard_size=3, **settings), out)
    for spec in run.shards:
        run_shard(spec, Resources(max_errors=1.0))
    return run


def test_from_a_manifest_into_the_shards(folder: Path, tmp_path: Path) -> None:
    source = manifest(folder, tmp_path / "m.parquet", LABELS)
    run = computed(source, tmp_path / "out", dtype="float16")
    order = sorted(range(len(NAMES)), key=NAMES.__getitem__)
    expected = {name: [values[i] for i in order] for name, values in LABELS.items()}
    shard = pq.read_table(run.out / "shards" / "part-000001.parquet")
    assert str(shard.schema.field("label").type) == "int64"
    assert str(shard.schema.field("source_height").type) == "double"
    assert shard["tags"].to_pylist() == expected["tags"][3:]
    assert shard["height"].to_pylist() != expected["height"][3:]
    parts = json.loads((run.out / "run.json").read_text())["record"]["source"]["carried"]
    assert parts["columns"] == {"label": "int64", "source_height": "double", "tags": "list<element: string>"}

    ds = SaliencyDataset(run.out)
    assert ds.carried().column_names == ["label", "source_height", "tags"]
    assert ds.carried()["label"].to_pylist() == expected["label"]
    assert ds[[4, 1]].carried()["tags"].to_pylist() == [expected["tags"][4], expected["tags"][1]]
    assert ds[ds.status == "ok"].arrow()["label"].to_pylist() == expected["label"]
    assert verify(run.out).ok
    export(run.out, "npy", tmp_path / "npy")
    rows = list(csv.DictReader((tmp_path / "npy" / "rows.csv").open(newline="")))
    assert [row["label"] for row in rows] == ["" if label is None else str(label) for label in expected["label"]]


def test_other_labels_are_another_run(folder: Path, tmp_path: Path) -> None:
    settings = Settings(str(manifest(folder, tmp_path / "m.parquet", LABELS)), size=(64, 64))
    prepare(settings, tmp_path / "out")
    prepare(settings, tmp_path / "out")
    manifest(folder, tmp_path / "m.parquet", {**LABELS, "label": [3, 1, 2, 1, 5]})
    with pytest.raises(FingerprintError, match=r"carried\.sha256 is "):
        prepare(settings, tmp_path / "out")


def test_verify_sees_another_value(folder: Path, tmp_path: Path) -> None:
    run = computed(manifest(folder, tmp_path / "m.parquet", LABELS), tmp_path / "out")
    shard = run.out / "shards" / "part-000000.parquet"
    table = pq.read_table(shard)
    other = table.set_column(table.column_names.index("label"), "label", pa.array([7, 7, 7]))
    pq.write_table(other, shard)
    marker = run.out / "markers" / "000000.json"
    from tsm_fast.pipeline.files.publish import sha256

    said = {**json.loads(marker.read_text()), "bytes": shard.stat().st_size, "sha256": sha256(shard)}
    marker.write_text(json.dumps(said))
    (problem,) = verify(run.out).problems
    assert problem.what == "column 'label' of rows 0..2 is not that of the plan"


class Targets(list[Any]):
    targets = (2, 0)
    classes = ("a", "b", "c")


def test_the_classes_of_a_dataset(folder: Path, tmp_path: Path) -> None:
    pictures = [path.read_bytes() for path in sorted((folder / "upright").glob("*.jpg"))[:2]]
    for number, (source, names) in enumerate(
        (
            (DatasetSource(Targets(pictures)), ["label"]),
            (DatasetSource(pictures, ["x", "y"], columns={"label": [2, 0], "who": ["me", None]}), ["label", "who"]),
        )
    ):
        run = prepare(Settings("a dataset", size=(64, 64)), tmp_path / str(number), source=source)
        for spec in run.shards:
            run_shard(spec, source=source)
        shard = pq.read_table(run.out / "shards" / "part-000000.parquet")
        assert shard["label"].to_pylist() == [2, 0]
        assert SaliencyDataset(run.out).carried().column_names == names
        classes = (shard.schema.field("label").metadata or {}).get(b"names")
        assert classes == (None if number else b'["a", "b", "c"]')
    with pytest.raises(ValueError, match="columns must have a row for each of the 2 items, got 1"):
        DatasetSource(pictures, columns={"label": [1]})


@pytest.mark.parametrize("kind", ["coco", "jsonl", "dataset"])
def test_lists_can_be_taken_up_and_verified(kind: str, folder: Path, tmp_path: Path) -> None:
    """Parquet calls what is in a list by another name than Arrow does."""
    there = sorted((folder / "upright").glob("*.jpg"))[:4]
    own = None
    file = tmp_path / ("all.json" if kind == "coco" else "all.jsonl")
    if kind == "dataset":
        own = DatasetSource([path.read_bytes() for path in there], columns={"tags": [["a"], [], ["b", "c"], ["d"]]})
    elif kind == "coco":
        images = [{"id": number, "file_name": str(path)} for number, path in enumerate(there)]
        seen = [{"image_id": number, "category_id": 7} for number in range(2)]
        file.write_text(json.dumps({"images": images, "annotations": seen, "categories": [{"id": 7, "name": "cat"}]}))
    else:
        file.write_text("".join(json.dumps({"path": str(path), "sizes": [[1, 2], [3]]}) + "\n" for path in there))
    settings = Settings(str(file), size=(64, 64), shard_size=2)
    run_shard(prepare(settings, tmp_path / "out", source=own).shards[0], source=own)
    again = prepare(settings, tmp_path / "out", source=own)
    for spec in again.pending():
        run_shard(spec, source=own)
    assert verify(tmp_path / "out").problems == ()


def test_a_folder_carries_nothing(folder: Path, tmp_path: Path) -> None:
    run = computed(folder, tmp_path / "out", limit=2)
    assert SaliencyDataset(run.out).carried().num_columns == 0
    assert json.loads((run.out / "run.json").read_text())["record"]["source"]["carried"] is None
