"""The factorial: its maps are those of the package, and its rule is the one that was fixed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tsm_fast.models import Model
from tsm_fast.pictures import load_photos
from tsm_fast.steps.choice import resolve
from tsm_fast.study import factorial
from tsm_fast.study.factorial import BASELINE, METRICS, SETTINGS, Rows, Setting
from tsm_fast.study.testbed import networks
from tsm_fast.variants import variant


@pytest.fixture(scope="module")
def pictures() -> dict[str, Image.Image]:
    pytest.importorskip("skimage", reason="needs the extra demo")
    pytest.importorskip("sklearn", reason="needs the extra demo")
    return {photo.name: photo.image.resize((64, 64)) for photo in load_photos()}


@pytest.fixture(scope="module")
def model() -> Model:
    network = networks.made(10, 0).eval()
    return Model("small", network, networks.INPUT)


@pytest.mark.parametrize("setting", [one for one in SETTINGS if one.variant], ids=lambda one: one.name)
@pytest.mark.parametrize("signs", [False, True])
def test_settings_are_maps_of_the_package(
    setting: Setting, signs: bool, model: Model, pictures: dict[str, Image.Image]
) -> None:
    features = torch.stack([model.preprocess(picture) for picture in pictures.values()])
    with torch.no_grad():
        features = model.module.layer2(model.module.layer1(model.module.stem(features)))  # pyright: ignore
    if signs:
        features = features - features.mean()
    name = variant(setting.variant or "")
    theirs = name.function(features, **name.options, precision="float64")
    maps = factorial.maps_of(features)[setting]
    torch.testing.assert_close(
        resolve(None, maps).finish(maps.float(), None, normalize=True), theirs.float(), rtol=0, atol=1e-4
    )


def test_signs_of_one_vector() -> None:
    """Of one vector, the absolute value of the sum is the sum of the absolute values: ten settings, not twelve."""
    assert len(SETTINGS) == 10
    assert not any(setting.sign == "signed" and not setting.all_vectors for setting in SETTINGS)


def rows(shift: dict[Setting, float], noise: float = 0.01, images: int = 60) -> list[Rows]:
    """Two networks in which a setting is above EigenCAM by so much in every metric."""
    random = np.random.default_rng(0)
    keys = [str(number) for number in range(images)]
    found = []
    for network in ("one", "two"):
        base = random.uniform(0, 1, images)
        values = {
            metric: np.stack(
                [base + shift.get(setting, 0.0) + noise * random.normal(size=images) for setting in SETTINGS]
            )
            for metric in METRICS
        }
        found.append(Rows(network, keys, keys, values))
    return found


def test_rule() -> None:
    better, worse, equal = SETTINGS[1], SETTINGS[2], SETTINGS[3]
    verdicts = {one.setting: one for one in factorial.decide(rows({better: 0.05, worse: -0.05}))}
    assert BASELINE not in verdicts
    assert len(verdicts) == len(SETTINGS) - 1
    assert verdicts[better].recommended
    assert verdicts[better].above == 8
    assert not verdicts[worse].recommended
    assert verdicts[worse].worst < -0.04
    assert not verdicts[equal].recommended  # it is not above
    assert factorial.sentence(list(verdicts.values())) == f"The rule recommends, against EigenCAM: {better.name}" + (
        f" (`{better.variant}`)." if better.variant else "."
    )


def test_one_bad_cell_is_enough() -> None:
    better = SETTINGS[1]
    made = rows({better: 0.05})
    made[1].values["jpeg"][1] -= 0.06
    (verdict,) = (one for one in factorial.decide(made) if one.setting == better)
    assert verdict.above == 7
    assert verdict.worst == pytest.approx(-0.01, abs=0.005)
    assert not verdict.recommended


def test_nothing_is_recommended() -> None:
    verdicts = factorial.decide(rows({}))
    assert factorial.sentence(verdicts).startswith("The rule recommends no setting")
    assert len(factorial.table(verdicts).splitlines()) == len(SETTINGS) + 1


@pytest.mark.slow
@pytest.mark.parametrize("score", ["class", "embedding"])
def test_measure(score: str, model: Model, pictures: dict[str, Image.Image]) -> None:
    """Every metric of every setting; the costly ones of the first pictures only."""
    masks = {name: np.zeros((64, 64), bool) for name in pictures}
    for number, mask in enumerate(masks.values()):
        mask[number : number + 20, 10:40] = True
    found = factorial.measure("small", model, "layer3", score, pictures, masks, {name: name for name in pictures}, 4)
    assert {values.shape for values in found.values.values()} == {(len(SETTINGS), len(pictures))}
    for metric, values in found.values.items():
        there = 4 if metric in ("kept", "insertion_deletion") else len(pictures)
        assert np.isfinite(values[:, :there]).all(), metric
        assert np.isnan(values[:, there:]).all(), metric
