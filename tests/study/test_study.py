"""Studies: what rows must say whatever the network is, bad input, studies without a network."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tsm_fast
from tsm_fast import study
from tsm_fast.metrics import ScoreError
from tsm_fast.pipeline import FingerprintError
from tsm_fast.pipeline.results.check import verify
from tsm_fast.study import Study, names
from tsm_fast.study import masks as mask_files
from tsm_fast.study.groups import groups_of

from ..needs import NETWORK, PHOTOS, needs
from . import nets
from .discs import OPTIONS, Discs

pytestmark = [needs(*PHOTOS), pytest.mark.slow]

LOCAL = [name for name, metric in names.METRICS.items() if metric.family == "localisation"]
MAPS = ["eigencam", "tsm", "mtsm:combine=absolute"]
CHEAP: dict[str, Any] = {**OPTIONS, "metrics": ["localisation"], "pages": False}


def same(one: Study, other: Study) -> None:
    """In every bit."""
    assert one.rows.column_names == other.rows.column_names
    for name in one.rows.column_names:
        np.testing.assert_array_equal(one.column(name), other.column(name), err_msg=name)


def test_every_image_is_a_row_and_every_family_is_measured(made: Study) -> None:
    assert made.families == list(names.FAMILIES)
    assert made.left_out == {}
    assert len(made.keys) == 20
    assert made.keys == sorted(made.keys)
    assert made.column("faithful").sum() == 4
    assert set(made.column("mask")) == {"ok"}
    assert verify(made.out).ok


def test_the_mask_is_first_in_localisation(made: Study) -> None:
    for metric in LOCAL:
        mask = made.values(metric, "mask").mean()
        for arm in made.maps:
            if made.has(metric, arm):
                assert made.values(metric, arm).mean() <= mask + 1e-6, (metric, arm)
    assert (made.values("roc_auc", "mask") == 1).all()


def test_controls_have_what_they_must(made: Study) -> None:
    faithful = made.column("faithful") == 1
    assert made.values("drop", "uniform")[faithful] == pytest.approx(0, abs=1e-6)
    assert made.values("roc_auc", "uniform") == pytest.approx(0.5, abs=1e-6)
    assert np.nanmean(made.values("shuffled_auc", "centre")) == pytest.approx(0.5, abs=0.03)
    for arm in MAPS:
        assert np.nanmean(made.values("roc_auc", f"{arm}@elsewhere")) == pytest.approx(0.5, abs=0.2)
    assert np.isnan(made.values("drop", "tsm")[~faithful]).all()
    assert np.isfinite(made.values("drop", "tsm")[faithful]).all()


def test_maps_stay_bit_equal_above_randomised_layers(made: Study) -> None:
    """A quarter of three layers is the last one, which no map reads; all of them is another network."""
    for arm in MAPS:
        stages = made.values("randomised", arm)[made.column("faithful") == 1]
        assert (stages[:, 0] == 1).all()
        assert (stages[:, -1] < 1).all()


def test_small_changes_move_maps_a_little(made: Study) -> None:
    for change in ("jpeg", "shift", "noise", "rescale"):
        found = made.values(change, "tsm")[made.column("faithful") == 1]
        assert (found > 0.5).all()
        assert (found <= 1).all()


def test_spectra_fall(made: Study) -> None:
    for name in names.SPECTRA:
        values = made.column(f"{made.layers[0]}:{name}")
        assert (np.diff(values, axis=1) <= 1e-6).all()
        assert (values[:, 0] > 0.1).all()
    assert (made.column(f"{made.layers[0]}:gap") >= 1).all()


def test_batches_and_shards_do_not_matter(made: Study, discs: Discs, tmp_path: Path) -> None:
    other = study.run(
        discs.images,
        tmp_path,
        model=nets.classes(),
        masks=discs.masks,
        pages=False,
        batch_size=3,
        shard_size=7,
        **OPTIONS,
    )
    assert other.rows.column_names == made.rows.column_names
    for name in made.rows.column_names:
        there, here = made.column(name), other.column(name)
        if there.dtype == object:
            assert (there == here).all(), name
        else:
            np.testing.assert_allclose(here, there, rtol=1e-3, atol=1e-3, equal_nan=True, err_msg=name)


def test_a_run_of_maps_has_the_same_maps(made: Study, discs: Discs, tmp_path: Path) -> None:
    maps = tsm_fast.extract(
        discs.images, tmp_path, model=nets.classes(), maps=[*MAPS, "mean_activation"], size=(48, 48), fit="stretch"
    )
    for column in maps.columns:
        np.testing.assert_array_equal(made.dataset.numpy(column), maps.numpy(column))


def test_a_finished_run_needs_no_network(
    made: Study, discs: Discs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"size": (48, 48), "fit": "stretch"}
    maps = tsm_fast.extract(discs.images, tmp_path / "maps", model=nets.classes(), maps=MAPS, **options)
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *_, **__: pytest.fail("a network ran"))
    found = study.run(tmp_path / "maps", tmp_path / "study", masks=discs.masks)
    assert found.keys == made.keys
    assert found.families == ["localisation"]
    assert (tmp_path / "study" / "index.html").is_file()
    for arm in (*MAPS, "centre", "smooth", "mask", "tsm@elsewhere"):
        for metric in ("roc_auc", "energy_in_mask", "shuffled_auc"):
            np.testing.assert_allclose(found.values(metric, arm), made.values(metric, arm), atol=0.02)
    for column in maps.columns:
        np.testing.assert_array_equal(found.dataset.numpy(column), maps.numpy(column))
    assert verify(found.out).ok
    with pytest.raises(ValueError, match="needs the network"):
        study.run(tmp_path / "maps", tmp_path / "no masks")


def test_masks_that_cannot_be_used_have_a_status(discs: Discs, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    shutil.copytree(discs.masks, masks)
    there = sorted(masks.glob("*/0.png"))
    size = Image.open(there[0]).size
    there[0].unlink()
    Image.new("L", size).save(there[1])
    Image.new("L", size, 1).save(there[2])
    Image.new("L", (size[0], size[1] // 2), 1).save(there[3])
    there[4].write_bytes(b"no picture")
    corner = Image.new("L", size)
    corner.putpixel((0, 0), 1)
    corner.save(there[5])
    Image.open(there[6]).resize((2 * size[0], 2 * size[1]), Image.Resampling.NEAREST).save(there[6])
    half = Image.new("L", (size[0], size[1] // 2))
    half.putpixel((3, 3), 1)
    half.save(there[7])
    found = study.run(discs.images, tmp_path / "out", model=nets.classes(), masks=masks, **{**CHEAP, "fit": "crop"})
    status = {key: kind for key, kind in zip(found.keys, found.column("mask"), strict=True) if key.endswith("/0.png")}
    kinds = [status[path.relative_to(masks).as_posix()] for path in there[:8]]
    assert kinds == ["none", "empty", "full", "full", "unreadable", "no-object", "ok", "size"]
    for metric in LOCAL:
        bad = found.column("mask") != "ok"
        assert np.isnan(found.values(metric, "tsm")[bad]).all()
        assert np.isfinite(found.values(metric, "tsm")[~bad]).all()


def test_masks_from_boxes_and_from_this_program(discs: Discs, tmp_path: Path) -> None:
    keys = sorted(path.relative_to(discs.images).as_posix() for path in discs.images.glob("*/*.png"))
    boxes = {key: Image.open(discs.masks / key).point(lambda value: value * 255).getbbox() for key in keys}
    with (tmp_path / "boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("key", "left", "top", "right", "bottom"), *((k, *b) for k, b in boxes.items() if b)]
        )
    squares = {}
    for key, box in boxes.items():
        assert box is not None
        squares[key] = np.zeros((80, 80), bool)
        squares[key][box[1] : box[3], box[0] : box[2]] = True
    one = study.run(discs.images, tmp_path / "a", model=nets.classes(), masks=tmp_path / "boxes.csv", **CHEAP)
    two = study.run(discs.images, tmp_path / "b", model=nets.classes(), masks=squares, **CHEAP)
    for metric in LOCAL:
        np.testing.assert_array_equal(one.values(metric, "tsm"), two.values(metric, "tsm"))


def test_without_classes_the_score_is_of_embeddings(discs: Discs, tmp_path: Path) -> None:
    options: dict[str, Any] = {**OPTIONS, "limit": 6, "faithful_images": 2, "maps": "tsm", "pages": False}
    found = study.run(discs.images, tmp_path / "out", model=nets.Headless(), metrics=["faithfulness"], **options)
    assert found.about["score"] == "embedding"
    assert found.left_out["localisation"] == "it was not asked for"
    seen = found.column("faithful") == 1
    assert found.column("score_value")[seen] == pytest.approx(1, abs=1e-5)
    assert (found.values("drop", "tsm")[seen] > 0).all()
    with pytest.raises(ValueError, match="score 'class' needs a model that gives"):
        study.run(discs.images, tmp_path / "no", model=nets.Headless(), score="class", **options)


def test_scores_that_tell_nothing_are_refused(discs: Discs, tmp_path: Path) -> None:
    options: dict[str, Any] = {**OPTIONS, "limit": 6, "pages": False}
    with pytest.raises(ScoreError, match="must depend on the inputs"):
        study.run(discs.images, tmp_path / "a", model=nets.Broken("constant"), **options)
    with pytest.raises(ScoreError, match="one number an input"):
        study.run(discs.images, tmp_path / "b", model=nets.classes(), score=lambda inputs: inputs, **options)
    with pytest.raises(ValueError, match="localisation: no masks were given"):
        study.run(discs.images, tmp_path / "c", model=nets.classes(), metrics=["localisation"], **options)


def test_a_score_that_is_nan_is_a_status(discs: Discs, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(discs.images, images)
    Image.new("RGB", (80, 80)).save(images / "cat" / "0.png")
    options: dict[str, Any] = {**OPTIONS, "limit": 8, "faithful_images": 8, "maps": "tsm", "pages": False}
    found = study.run(images, tmp_path / "out", model=nets.Broken("nan"), metrics=["faithfulness"], **options)
    status = dict(zip(found.keys, found.column("score"), strict=True))
    assert status.pop("cat/0.png") == "nan"
    assert set(status.values()) == {"ok"}
    assert np.isnan(found.values("drop", "tsm")[found.keys.index("cat/0.png")])


def test_another_model_or_other_masks_are_refused(made: Study, discs: Discs, tmp_path: Path) -> None:
    out = tmp_path / "study"
    shutil.copytree(made.out, out)
    again = study.run(discs.images, out, model=nets.classes(), masks=discs.masks, pages=False, **OPTIONS)
    same(again, made)
    with pytest.raises(FingerprintError, match="model"):
        study.run(discs.images, out, model=nets.other(), masks=discs.masks, **OPTIONS)
    with pytest.raises(FingerprintError, match=r"computation\.options"):
        study.run(discs.images, out, model=nets.classes(), **OPTIONS)


def test_masks_of_the_same_number_of_bytes_are_other_masks(tmp_path: Path) -> None:
    folder = mask_files.FolderMasks(str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"one")
    before = folder.digest(["a.jpg"])
    (tmp_path / "a.png").write_bytes(b"two")
    assert folder.digest(["a.jpg"]) != before


def test_edges_of_boxes_that_are_no_pixels(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("\ufeffkey,left,top,right,bottom\na.jpg,inf,1e30,inf,2e30\nb.jpg,-1e30,2,inf,4\n", encoding="utf-8")
    boxes = mask_files.find(str(path), None, "", [])
    assert boxes is not None
    assert boxes.read("a.jpg", (8, 8)).status == "empty"
    assert np.asarray(boxes.read("b.jpg", (8, 8)).mask)[:, 0].tolist() == [0, 0, 255, 255, 0, 0, 0, 0]
    path.write_text("key,left,top,right,bottom\na.jpg,0,0,nan,5\n")
    with pytest.raises(ValueError, match=r"boxes\.csv, line 2: edges must be numbers, got"):
        mask_files.find(str(path), None, "", [])


def test_groups_that_are_two_or_none(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_text("key,group\na.jpg,1\na.jpg,1\nb.jpg,2\n")
    assert groups_of(path) == {"a.jpg": "1", "b.jpg": "2"}
    path.write_text("key,group\na.jpg,1\na.jpg,2\n")
    with pytest.raises(ValueError, match=r"got both '1' and '2' for 'a\.jpg' in .*groups\.csv, line 3"):
        groups_of(path)
    path.write_text("key,group\na.jpg\n")
    with pytest.raises(ValueError, match=r"got none for 'a\.jpg'"):
        groups_of(path)


def test_names_of_studies_are_names_of_files(made: Study, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="studies must have names without '/', got 'b/c'"):
        study.compare({"a": made, "b/c": made}, tmp_path)


def test_few_units_have_no_interval(discs: Discs, tmp_path: Path, made: Study) -> None:
    groups = {key: key[:1] for key in made.keys}
    found = study.run(
        discs.images, tmp_path, model=nets.classes(), masks=discs.masks, groups=groups, **{**CHEAP, "pages": True}
    )
    table = found.tables["localisation"]
    cell = table.cell("roc_auc", "tsm")
    assert cell is not None
    assert (cell.low, cell.best, cell.units) == (None, False, len(set(groups.values())))
    assert "too few for intervals" in table.caption
    assert table.sentences == []
    assert made.tables["localisation"].cell("roc_auc", "tsm").low is not None  # pyright: ignore[reportOptionalMemberAccess]


@needs(*NETWORK)
def test_lite0_on_photos(photos: dict[str, Image.Image], tmp_path: Path) -> None:
    """Boxes that were drawn by hand: around a cat's head, a cup."""
    boxes = {"cat": (60, 20, 220, 200), "coffee": (90, 20, 260, 180)}
    images = tmp_path / "images"
    images.mkdir()
    masks = {}
    for name, (left, top, right, bottom) in boxes.items():
        photos[name].save(images / f"{name}.png")
        mask = np.zeros((photos[name].height, photos[name].width), bool)
        mask[top:bottom, left:right] = True
        masks[f"{name}.png"] = mask
    families = ["localisation", "stability", "spectra"]
    found = study.run(images, tmp_path / "out", masks=masks, metrics=families, maps=["tsm", "mtsm"], faithful_images=2)
    assert found.layers == ["features"]
    assert (found.values("roc_auc", "tsm") > 0.5).all()
    assert (found.values("jpeg", "tsm")[found.column("faithful") == 1] > 0.9).all()
    about = json.loads((tmp_path / "out" / "study.json").read_text())
    assert set(about["left_out"]) == {"faithfulness", "road", "randomisation"}
