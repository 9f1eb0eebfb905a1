"""Heatmaps of FiftyOne's samples: its own classes where it is installed, else ones with the fields that it has."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import tsm_fast
from tsm_fast.integrations import fiftyone

from ..needs import NETWORK, PHOTOS, needs
from ..photos import photos
from ..pipeline.small_run import extract

__all__ = ["photos"]  # a fixture
pytestmark = needs(*NETWORK, *PHOTOS)


class Heatmap(NamedTuple):
    map: np.ndarray
    range: list[float]


class Sample(dict[str, Any]):
    def __init__(self, filepath: str) -> None:
        super().__init__()
        self.filepath = filepath


class Installed(NamedTuple):
    """What is used of the package."""

    Sample: Any
    Heatmap: Any


class View(list[Any]):
    """Samples that are saved as they are iterated."""

    saved = 0

    def iter_samples(self, autosave: bool) -> Any:
        for sample in self:
            yield sample
            self.saved += autosave


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    if find_spec("fiftyone"):
        import fiftyone as installed  # pyright: ignore[reportMissingImports]

        return installed
    stand_in = Installed(Sample, Heatmap)
    monkeypatch.setattr(fiftyone, "peer", lambda *_: stand_in)
    return stand_in


@pytest.fixture
def run(photos: dict[str, Image.Image], tmp_path: Path) -> Path:
    folder = tmp_path / "pictures" / "below"
    folder.mkdir(parents=True)
    photos["cat"].resize((300, 150)).save(folder / "wide.png")
    photos["coffee"].resize((128, 128)).save(folder / "square.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return extract(tmp_path / "maps", tmp_path / "pictures")


def test_samples_get_the_maps_of_their_picture(package: Any, run: Path) -> None:
    folder = run.parent / "pictures" / "below"
    names = ["wide.png", "other.png", "broken.png", "square.png"]
    samples = View(package.Sample(filepath=str(folder / name)) for name in names)
    assert fiftyone.add_heatmaps(samples, run) == 2
    assert samples.saved == 4
    dataset = tsm_fast.SaliencyDataset(run, normalize=True)
    wide, other, broken, square = samples
    for sample in (other, broken):
        with pytest.raises(KeyError):
            sample["tsm_features"]
    for column, field in (("tsm/features", "tsm_features"), ("mtsm/features", "mtsm_features")):
        for heatmap in (wide[field], square[field]):
            assert heatmap.map.dtype == np.uint8
            assert list(heatmap.range) == [0, 255]
        # lite0 sees the central square: all of the one picture, the middle half of the other
        assert np.array_equal(square[field].map, np.rint(255 * dataset["below/square.png"].maps[column]))
        values = torch.from_numpy(dataset["below/wide.png"].maps[column])
        inside = torch.nn.functional.interpolate(values[None, None], (128, 128), mode="bilinear")[0, 0]
        assert wide[field].map.shape == (128, 256)
        assert np.abs(wide[field].map[:, 64:192] - 255 * inside.numpy()).max() <= 0.51
        assert wide[field].map.sum() == wide[field].map[:, 64:192].sum()


def test_lists_of_samples_columns_and_regions(package: Any, run: Path) -> None:
    path = str(run.parent / "pictures" / "below" / "wide.png")
    (sample,) = samples = [package.Sample(filepath=path)]
    assert fiftyone.add_heatmaps(samples, str(run), columns="mtsm/*") == 1
    with pytest.raises(KeyError):
        sample["tsm_features"]
    assert fiftyone.add_heatmaps(samples, run, columns="tsm/features", region="whole") == 1
    stored = tsm_fast.SaliencyDataset(run, "tsm/features", normalize=True)["below/wide.png"].map
    assert np.array_equal(sample["tsm_features"].map, np.rint(255 * stored))


def test_bad_input(package: Any, run: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no sample is of a picture of .*: one is '/elsewhere/a.png', one there '/.*png'"
    ):
        fiftyone.add_heatmaps([package.Sample(filepath="/elsewhere/a.png")], run)
    assert fiftyone.add_heatmaps([], run) == 0
    with pytest.raises(FileNotFoundError):
        fiftyone.add_heatmaps([], run / "none")


@pytest.mark.skipif(bool(find_spec("fiftyone")), reason="fiftyone is installed")
def test_without_the_package(run: Path) -> None:
    with pytest.raises(ImportError, match=r"pip install 'tsm_fast\[fiftyone\]'"):
        fiftyone.add_heatmaps([], run)
