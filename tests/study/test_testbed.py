"""The whole testbed, small: composites, networks, their studies and comparison, once and again."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tsm_fast import models
from tsm_fast.cli import app
from tsm_fast.study import Comparison
from tsm_fast.study.testbed import run, running
from tsm_fast.study.testbed.running import held_out
from tsm_fast.study.testbed.training import RECIPES

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_network")]

SMALL = {name: replace(RECIPES[name], steps=min(RECIPES[name].steps, 2), batch=8) for name in RECIPES}
OPTIONS: dict[str, Any] = {
    "recipes": SMALL,
    "faithful_images": 2,
    "maps": ("eigencam", "tsm"),
    "metrics": ("localisation", "faithfulness"),
    "pages": False,
    "workers": 0,
}


class Bed:
    def __init__(self, stamps: Path, grounds: Path, folder: Path) -> None:
        self.out, self.said = folder / "out", []
        self.asked = {"stamps": stamps, "grounds": grounds, "cache": folder / "cache", "say": self.said.append}

    def run(self) -> Comparison:
        self.said.clear()
        return run(self.out, **self.asked, **OPTIONS)


@pytest.fixture(scope="module", autouse=True)
def _few() -> Iterator[None]:
    """One composite of each new cut-out, and no lite0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "find_spec", _without_lite0)
        patch.setattr(running, "POSES", 1)
        patch.setattr(running, "COSTLY", 2)
        yield


@pytest.fixture(scope="module")
def bed(stamps: Path, grounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Bed:
    made = Bed(stamps, grounds, tmp_path_factory.mktemp("testbed"))
    made.found = made.run()  # pyright: ignore[reportAttributeAccessIssue]
    return made


def _without_lite0(name: str) -> Any:
    from importlib.util import find_spec

    return None if name.startswith("efficientnet") else find_spec(name)


def test_comparison(bed: Bed) -> None:
    """Four networks, and what the object-trained ones are above the scene-trained one."""
    found: Comparison = bed.found  # pyright: ignore[reportAttributeAccessIssue]
    assert list(found.studies) == ["supervised", "self-supervised", "scene", "untrained"]
    assert {"contrast-supervised-scene", "contrast-self-supervised-scene", "roc_auc"} <= set(found.tables)
    assert any("lite0 is left out" in text for text in bed.said)
    assert (bed.out / "factorial.md").read_text().startswith("The rule recommends")
    for study in found.studies.values():
        assert np.isfinite(study.values("roc_auc", "tsm")).all()
        assert np.isfinite(study.values("roc_auc", "mask")).all()


def test_masks_and_groups(bed: Bed) -> None:
    """Every composite has its mask, bit for bit, and the cut-out is its unit."""
    with (bed.out / "groups.csv").open() as file:
        groups = {row["key"]: row["group"] for row in csv.DictReader(file)}
    made = held_out(running.gathered(**bed.asked))
    assert groups.keys() == made.keys()
    for key, (image, mask, group) in made.items():
        assert groups[key] == group
        assert torch.equal(torch.from_numpy(np.asarray(Image.open(bed.out / "masks" / key)) > 0), mask)
        read = torch.from_numpy(np.array(Image.open(bed.out / "images" / key))).permute(2, 0, 1) / 255
        torch.testing.assert_close(read, image, rtol=0, atol=0.5 / 255 + 1e-6)


def test_networks_are_models(bed: Bed) -> None:
    """Each is a factory that any command takes; its input is the picture as it is."""
    model = models.load(f"{bed.out / 'networks.py'}:self_supervised")
    picture = Image.open(next((bed.out / "images" / "new").iterdir())).convert("RGB")
    assert model.preprocess(picture).shape == (3, 64, 64)
    torch.testing.assert_close(
        model.preprocess(picture) * 0.25 + 0.5, torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    )


def test_again(bed: Bed) -> None:
    """The same call again trains nothing and measures nothing."""
    before = {path: path.stat().st_mtime_ns for path in bed.out.rglob("*.parquet") if "studies" in path.parts}
    bed.run()
    assert before == {path: path.stat().st_mtime_ns for path in bed.out.rglob("*.parquet") if "studies" in path.parts}
    assert not any("training" in text for text in bed.said)


def test_command(stamps: Path, grounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is said in a line."""
    monkeypatch.setenv("TSM_FAST_CACHE", str(tmp_path / "cache"))
    done = CliRunner().invoke(app, ["study", "pictures", "--testbed", "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    (tmp_path / "empty").mkdir()
    asked = ["study", "--testbed", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*asked, "--stamps", str(tmp_path / "empty"), "--grounds", str(grounds)])
    assert done.exit_code == 1
    assert "needs 10 cut-outs and 5 grounds" in done.output
    done = CliRunner().invoke(app, [*asked, "--stamps", str(stamps), "--grounds", str(tmp_path / "missing")])
    assert done.exit_code == 1
    assert "missing: " in done.output
