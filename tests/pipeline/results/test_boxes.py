"""Boxes: of known maps, against skimage's parts of real maps, and in pycocotools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsm_fast import SaliencyDataset
from tsm_fast.models.region import region
from tsm_fast.pipeline import Run
from tsm_fast.pipeline.results.boxes import Box, boxes
from tsm_fast.pipeline.results.export import export

from ...needs import NETWORK, needs
from ..small_run import BROKEN, SIZE, changeable, extract, finished, partial

pytestmark = [pytest.mark.slow, needs("scipy", extra="coco"), needs(*NETWORK)]

__all__ = ["changeable", "finished", "partial"]  # fixtures


def test_the_largest_part_comes_first() -> None:
    values = np.zeros((4, 8))
    values[0, 0] = 1  # the peak, alone
    values[2, 4:6] = values[3, 6] = 0.5  # one part, over a corner
    found = boxes(values, 0.2, (100, 50, 180, 90), (1000, 1000))
    assert found == [Box(140, 70, 30, 20, 0.5), Box(100, 50, 10, 10, 1.0)]
    assert boxes(values, 0.6, (100, 50, 180, 90), (1000, 1000)) == found[1:]
    assert boxes(np.zeros((4, 8)), 0.2, (0, 0, 8, 4), (8, 4)) == []


def test_boxes_end_at_the_edges_of_the_picture() -> None:
    values = np.ones((4, 4))
    values[:, 2] = 0
    assert boxes(values, 0.2, (-20, -10, 60, 70), (30, 50)) == [Box(0, 0, 20, 50, 1.0)]


def picture_boxes(out: Path, column: str, threshold: float) -> dict[str, list[tuple[list[float], float]]]:
    """The boxes and scores of each picture, by skimage."""
    measure = pytest.importorskip("skimage.measure", reason="needs the extra demo")
    record, found = Run.open(out).record.preprocessing, {}
    for item in SaliencyDataset(out, column, size=SIZE, normalize=True):
        if item.status != "ok":
            continue
        part = region(record, item.width, item.height)
        assert part is not None
        left, top, right, bottom = part
        regions = measure.regionprops(measure.label(item.map >= threshold, connectivity=2), item.map)
        found[item.key] = []
        for region_ in sorted(regions, key=lambda r: -r.num_pixels):
            y0, x0, y1, x1 = region_.bbox
            across, down = (right - left) / SIZE[1], (bottom - top) / SIZE[0]
            box = [left + x0 * across, top + y0 * down, (x1 - x0) * across, (y1 - y0) * down]
            found[item.key].append((box, region_.intensity_mean))
    return found


def test_coco_of_real_maps(finished: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools")
    for which, threshold, more in (("largest", 0.5, {}), ("all", 0.2, {"threshold": 0.2, "boxes": "all"})):
        path = export(finished, "coco", tmp_path / f"{which}.json", **more)
        loaded = coco.COCO(str(path))
        names = {category["name"]: number for number, category in loaded.cats.items()}
        assert list(names) == ["tsm/features", "mtsm/features"]
        by_key = {image["key"]: image for image in loaded.imgs.values()}
        assert set(BROKEN) & set(by_key) == set()
        several = 0
        for column, category in names.items():
            for key, wanted in picture_boxes(finished, column, threshold).items():
                image = by_key[key]
                ids = loaded.getAnnIds(image["id"], category)
                mine = loaded.loadAnns(ids)
                assert len(mine) == len(wanted if which == "all" else wanted[:1])
                several += len(mine) > 1
                for annotation in mine:
                    x, y, w, h = annotation["bbox"]
                    assert 0 <= x < x + w <= image["width"]
                    assert 0 <= y < y + h <= image["height"]
                    near = [score for box, score in wanted if np.allclose(box, annotation["bbox"], atol=0.02)]
                    assert annotation["score"] == pytest.approx(near[0], abs=1e-4)
        assert bool(several) == (which == "all")
        results = loaded.loadRes(json.loads(path.read_text())["annotations"])
        assert len(results.anns) == len(loaded.anns)


def test_boxes_against_those_of_a_coco_file(tmp_path: Path, photos: dict[str, Image.Image]) -> None:
    """Pictures keep the ids of the COCO file that they came from, so its own tool can compare."""
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    images, annotations = [], []
    for number, name in enumerate(("cat", "coffee", "rocket")):
        photos[name].save(tmp_path / f"{name}.png")
        width, height = photos[name].size
        images.append({"id": 100 + number, "file_name": f"{name}.png", "width": width, "height": height})
    truth = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    out = extract(tmp_path / "maps", tmp_path / "truth.json", methods=("mtsm",))
    made = json.loads(export(out, "coco", tmp_path / "boxes.json").read_text())
    assert {(image["id"], image["file_name"]) for image in made["images"]} == {
        (image["id"], image["file_name"]) for image in images
    }
    for annotation in made["annotations"]:
        annotations.append({**annotation, "id": len(annotations) + 1})
    (tmp_path / "truth.json").write_text(json.dumps({**truth, "annotations": annotations}))
    known = coco.COCO(str(tmp_path / "truth.json"))
    judged = evaluation.COCOeval(known, known.loadRes(made["annotations"]), "bbox")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    assert judged.stats[0] == pytest.approx(1)


def test_the_same_file_again(finished: Path, tmp_path: Path) -> None:
    first, second = (export(finished, "coco", tmp_path / name).read_bytes() for name in "ab")
    assert first == second


def test_a_run_that_is_not_finished(partial: Path, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="not computed yet"):
        export(partial, "coco", tmp_path / "boxes.json")
    done = SaliencyDataset(partial, missing="skip")
    for missing in ("skip", "nan"):
        made = json.loads(export(partial, "coco", tmp_path / f"{missing}.json", missing=missing).read_text())
        assert [image["key"] for image in made["images"]] == done[done.status == "ok"].keys
