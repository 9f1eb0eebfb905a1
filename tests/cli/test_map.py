"""`tsm-fast map`: overlays of a few pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

import tsm_fast as package
from tsm_fast.models import LITE0, lite0

from ..pipeline.processes import needs_photos, tsm_fast

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photos in the current folder."""
    needs_photos()
    from tsm_fast.pictures import load_photos

    for photo in load_photos()[1:4:2]:
        photo.image.save(tmp_path / f"{photo.name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_overlay_of_a_picture(here: Path) -> None:
    done = tsm_fast("map", "cat.png")
    assert done.exit_code == 0, done.stderr
    layer, *written = done.stdout.splitlines()
    assert layer.startswith("layer features: the last module before the global pooling")
    assert written == ["wrote cat.tsm.png"]
    maps = package.SaliencyExtractor(lite0(), "features")("cat.png")
    expected = package.overlay("cat.png", maps[0], region=LITE0.region)
    assert Image.open("cat.tsm.png").convert("RGB") == expected


def test_several_pictures_and_methods(here: Path) -> None:
    (here / "other").mkdir()
    (here / "cat.png").rename(here / "other" / "rocket.png")
    options = ["--map", "mtsm:rank=4", "--map", "tsm", "--out", "new/folder", "--json", "--layer", "feature*"]
    done = tsm_fast("map", "rocket.png", "other/rocket.png", *options)
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    names = ["rocket.mtsm-rank-4.png", "rocket.tsm.png", "rocket.mtsm-rank-4-2.png", "rocket.tsm-2.png"]
    assert [Path(file) for file in told["files"]] == [Path("new/folder", name) for name in names]
    assert (told["layer"], told["reason"]) == ("features", "named by the caller")
    sizes = [Image.open(file).size for file in told["files"]]
    assert sizes == [Image.open("rocket.png").size] * 2 + [Image.open("other/rocket.png").size] * 2


def test_a_file_and_how_it_looks(here: Path) -> None:
    assert tsm_fast("map", "rocket.png", "-o", "plain.jpg").exit_code == 0
    done = tsm_fast("map", "rocket.png", "-o", "bright.jpg", "--opacity", "1", "--colormap", "turbo", "--fit", "pad")
    assert done.exit_code == 0, done.stderr
    plain, bright = (np.asarray(Image.open(name)).astype(float) for name in ("plain.jpg", "bright.jpg"))
    assert bright.mean() > plain.mean() + 20


def net() -> tuple[nn.Module, object]:
    """With a preprocessing that does not tell what it takes."""
    return nn.Sequential(nn.Conv2d(3, 32, 8, 8), nn.ReLU()), LITE0.__call__


def test_a_network_that_does_not_tell_what_it_sees(here: Path) -> None:
    command = ["map", "cat.png", "--model", f"{__name__}:net"]
    refused = tsm_fast(*command)
    assert refused.exit_code == 1
    assert "has a preprocessing of kind 'factory', which does not tell" in refused.stderr
    assert "--region center" in refused.stderr
    for region in ("center", "whole"):
        done = tsm_fast(*command, "--region", region, "--out", f"{region}.png")
        assert done.exit_code == 0, done.stderr
    assert Image.open("center.png").tobytes() != Image.open("whole.png").tobytes()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["none.jpg"], 1, "none.jpg: No such file or directory"),
        (["text.png"], 1, "text.png is not a readable picture: need one of"),
        (["cat.png", "--map", "gradcam"], 2, "methods must be one of 'eigencam', 'tsm'"),
        (["cat.png", "--layer", "feature"], 1, "layer 'feature' does not exist in Sequential; close names: 'features'"),
        (["cat.png", "--layer", "*"], 1, "layer must name one layer, got '*', which is features, pool"),
        (["cat.png", "rocket.png", "--out", "one.png"], 2, "out must be a folder for 2 overlays, got 'one.png'"),
        (["cat.png", "--out", "./cat.png"], 2, "out must be another file than the picture"),
        (["cat.png", "--out", "maps.gif"], 2, "out must be a folder, or a file that ends with one of .png"),
        (["cat.png", "--opacity", "2"], 2, "opacity must lie in 0..1, got 2"),
        (["cat.png", "--colormap", "infernoo"], 2, "colormap must be one of the package cmap, got 'infernoo'; close"),
        (["cat.png", "--region", "left"], 2, "region must be center or whole, got 'left'"),
        (["cat.png", "--reshape", "token"], 2, "reshape must be auto, tokens, nhwc"),
        (["cat.png", "--model", "resnet50"], 2, "model must be lite0, timm:NAME"),
    ],
)
def test_errors_are_a_line(here: Path, arguments: list[str], code: int, text: str) -> None:
    (here / "text.png").write_text("no picture")
    before = sorted(here.iterdir())
    done = tsm_fast("map", *arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.splitlines()[-1].startswith(f"tsm-fast: {text}")
    assert sorted(here.iterdir()) == before


def test_a_constant_map_is_said(here: Path) -> None:
    done = tsm_fast("map", "cat.png", "--layer", "pool")
    assert done.exit_code == 0
    assert done.stderr == "tsm-fast: the map tsm of cat.png is constant: nothing stands out in it\n"
