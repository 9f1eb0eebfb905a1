"""Overlays: where the map lies on the picture, what the files are called, and what has none."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsm_fast import SaliencyDataset
from tsm_fast.models.preprocessing import Resize
from tsm_fast.pictures.decode import decode
from tsm_fast.pictures.drawing import STRENGTH, colorize
from tsm_fast.pipeline.results.export import export
from tsm_fast.pipeline.sources.open import open_source

from ...needs import NETWORK, needs
from ..processes import tsm_fast
from ..small_run import BROKEN, SIZE, STRANGE, changeable, extract, finished, partial

pytestmark = [pytest.mark.slow, needs(*NETWORK)]

__all__ = ["changeable", "finished", "partial"]  # fixtures

TURNED = 0x0112


def files_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "rows.csv").open(newline="", encoding="utf-8") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


@pytest.fixture
def run(photos: dict[str, Image.Image], tmp_path: Path) -> Path:
    """Of photos in folders: wide, tall, square, turned by EXIF, and a broken one."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    photos["coffee"].save(folder / "coffee.png")
    photos["cat"].rotate(90, expand=True).save(folder / "more" / "tall.jpg", quality=95)
    photos["astronaut"].save(folder / "more" / "square.webp", lossless=True)
    for number, turn in ((6, Image.Transpose.ROTATE_90), (3, Image.Transpose.ROTATE_180)):
        exif = Image.Exif()
        exif[TURNED] = number
        photos["rocket"].transpose(turn).save(folder / f"turned-{number}.png", exif=exif)
    (folder / "broken.png").write_bytes(b"no picture")
    return extract(tmp_path / "maps", folder)


def test_the_map_lies_where_the_network_saw_it(run: Path, tmp_path: Path) -> None:
    out = export(run, "overlay", tmp_path / "overlays", columns="mtsm/*", colormap="viridis")
    rows = files_of(out)
    assert {key: row["mtsm-features"] for key, row in rows.items()} == {
        "broken.png": "",
        "coffee.png": "mtsm-features/coffee.png.jpg",
        "more/square.webp": "mtsm-features/more/square.webp.jpg",
        "more/tall.jpg": "mtsm-features/more/tall.jpg",
        "turned-3.png": "mtsm-features/turned-3.png.jpg",
        "turned-6.png": "mtsm-features/turned-6.png.jpg",
    }
    for key, row in rows.items():
        if key == "broken.png":
            continue
        picture = decode((run.parent / "pictures" / key).read_bytes(), 10**8).image
        made = np.asarray(Image.open(out / row["mtsm-features"])).astype(float)
        assert made.shape == (picture.height, picture.width, 3)
        left, top, right, bottom = map(int, Resize(SIZE, fraction=1.0).region(*picture.size))
        grey = np.repeat(np.asarray(picture.convert("L"))[..., None], 3, 2).astype(float)
        heat = SaliencyDataset(run, "mtsm/*", size=(bottom - top, right - left), normalize=True)[key].map
        expected = grey.copy()
        inside = np.s_[top:bottom, left:right]
        expected[inside] = (1 - STRENGTH) * grey[inside] + STRENGTH * colorize(heat, "viridis")
        error = np.abs(made - expected)
        framed = np.zeros(error.shape[:2], bool)
        if (right - left, bottom - top) != picture.size:
            framed[max(top - 8, 0) : bottom + 8, max(left - 8, 0) : right + 8] = True  # as far as JPEG spreads it
            framed[top + 10 : bottom - 10, left + 10 : right - 10] = False
            assert made[top : top + 1, left:right].mean() > 200
        assert error[~framed].mean() < 3
        moved = np.abs(np.roll(made, 12, 1) - expected)
        assert moved[~framed].mean() > 2 * error[~framed].mean()


def test_turned_pictures_have_the_overlay_of_the_upright_one(run: Path, tmp_path: Path) -> None:
    out = export(run, "overlay", tmp_path / "overlays", columns="tsm/*")
    names = [out / "tsm-features" / f"turned-{number}.png.jpg" for number in (3, 6)]
    first, second = (np.asarray(Image.open(name)) for name in names)
    assert np.array_equal(first, second)


def test_hostile_names_and_every_column(finished: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    out = export(finished, "overlay", tmp_path / "a", progress=lambda done, rows: told.append((done, rows)))
    ds, rows = SaliencyDataset(finished), files_of(out)
    assert list(rows) == ds.keys
    assert told[-1] == (len(ds), len(ds))
    assert {*STRANGE, "latin-\\xe9.png"} <= set(rows)
    for column in ("tsm-features", "mtsm-features"):
        named = {key: row[column] for key, row in rows.items() if row[column]}
        assert set(rows) - set(named) == set(BROKEN)
        assert {path.relative_to(out).as_posix() for path in (out / column).rglob("*.jpg")} == set(named.values())


def test_pictures_that_are_other_ones_now(run: Path, tmp_path: Path) -> None:
    pictures = run.parent / "pictures"
    shutil.copy(pictures / "turned-3.png", pictures / "coffee.png")
    (pictures / "more" / "tall.jpg").unlink()
    done = tsm_fast("export", run, tmp_path / "overlays", "--to", "overlay")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.splitlines() == [
        "tsm-fast: 1 picture without an overlay: replaced since its map was computed: 'coffee.png'",
        "tsm-fast: 1 picture without an overlay: not read (missing): 'more/tall.jpg'",
    ]
    rows = files_of(tmp_path / "overlays")
    assert [key for key, row in rows.items() if not row["tsm-features"]] == [
        "broken.png",
        "coffee.png",
        "more/tall.jpg",
    ]


def test_pictures_that_have_moved(run: Path, tmp_path: Path) -> None:
    moved = (run.parent / "pictures").rename(tmp_path / "photos")
    done = tsm_fast("export", run, tmp_path / "overlays", "--to", "overlay")
    assert done.exit_code == 1
    assert "no picture of the run is in" in done.stderr
    assert "name the SOURCE where they are now" in done.stderr
    assert not (tmp_path / "overlays").exists()
    done = tsm_fast("export", run, tmp_path / "overlays", moved, "--to", "overlay", "--colormap", "turbo")
    assert (done.exit_code, done.stderr) == (0, "")
    assert Image.open(tmp_path / "overlays" / "mtsm-features" / "coffee.png.jpg").size == (320, 213)


def test_a_run_that_is_not_finished(partial: Path, tmp_path: Path) -> None:
    pictures = open_source(json.loads((partial / "run.json").read_text())["about"]["root"])
    with pytest.raises(LookupError, match="not computed yet"):
        export(partial, "overlay", tmp_path / "x", columns="tsm/*", source=pictures)
    out = export(partial, "overlay", tmp_path / "x", columns="tsm/*", source=pictures, missing="nan")
    rows = files_of(out)
    assert {row["status"] for row in rows.values() if row["tsm-features"]} == {"ok"}
    assert sum(row["status"] == "missing" for row in rows.values()) == 260


def test_models_of_ones_own(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("""
import torch
from tsm_fast.models import load

def network():
    lite0 = load("lite0", size=(64, 64))
    return lite0.module, lambda image: lite0.preprocess(image)
""")
    done = tsm_fast("extract", "pictures", "--out", "own", "--model", "mine.py:network", "--max-errors", 1)
    assert done.exit_code == 0, done.stderr
    for to in ("overlay", "coco"):
        done = tsm_fast("export", "own", "dest", "--to", to)
        assert done.exit_code == 1
        assert "name --region center (the largest central rectangle) or --region whole (all, stretched)" in done.stderr
    known = extract(tmp_path / "known", tmp_path / "pictures", methods=("tsm",), size=(64, 64))
    named = export("own", "coco", "named.json", region="center").read_text()
    first, second = json.loads(named), json.loads(export(known, "coco", "known.json").read_text())
    assert first["annotations"] == second["annotations"]
    whole = json.loads(export("own", "coco", "whole.json", region="whole").read_text())
    assert whole["annotations"] != first["annotations"]
    assert tsm_fast("export", "own", "dest", "--to", "overlay", "--region", "center").exit_code == 0


def test_a_dataset_has_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("""
from tsm_fast.pictures import load_photos

def pictures():
    return [photo.image for photo in load_photos()[:3]]
""")
    done = tsm_fast("extract", "mine.py:pictures", "--out", "maps", "--size", "64")
    assert done.exit_code == 0, done.stderr
    done = tsm_fast("export", "maps", "dest", "--to", "overlay")
    assert done.exit_code == 1
    assert "the pictures of maps are not in files of this machine: name their SOURCE" in done.stderr
    done = tsm_fast("export", "maps", "dest", "mine.py:pictures", "--to", "overlay")
    assert done.exit_code == 0, done.stderr
    assert len(list(Path("dest").rglob("*.jpg"))) == 3


def test_a_table_with_keys(run: Path, tmp_path: Path) -> None:
    table = [{"path": "pictures/coffee.png", "key": "1", "label": "cup"}, {"path": "pictures/turned-3.png", "key": "2"}]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, table)))
    out = extract(tmp_path / "labelled", tmp_path / "table.jsonl", methods=("tsm",))
    rows = files_of(export(out, "overlay", tmp_path / "overlays"))
    assert {key: (row["label"], row["tsm-features"]) for key, row in rows.items()} == {
        "1": ("cup", "tsm-features/1.jpg"),
        "2": ("", "tsm-features/2.jpg"),
    }
    made = json.loads(export(out, "coco", tmp_path / "boxes.json").read_text())
    assert [image["file_name"] for image in made["images"]] == ["pictures/coffee.png", "pictures/turned-3.png"]


def test_pictures_that_no_jpeg_holds(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.effect_noise((70_000, 2), 50).save(tmp_path / "pictures" / "long.png")
    out = extract(tmp_path / "maps", tmp_path / "pictures", methods=("tsm",))
    rows = files_of(export(out, "overlay", tmp_path / "overlays"))
    assert rows["long.png"]["tsm-features"] == "tsm-features/long.png.jpg.png"
    assert Image.open(tmp_path / "overlays" / rows["long.png"]["tsm-features"]).size == (70_000, 2)
