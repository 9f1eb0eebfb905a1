"""`tsm_fast.metrics` beside the same metrics of scikit-learn, Quantus, torch-cam and pytorch-grad-cam."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tsm_fast import metrics

NAMES = {"quantus": "quantus", "sklearn": "sklearn.metrics", "torchcam": "torchcam.metrics"}
NAMES |= {"pytorch_grad_cam": "pytorch_grad_cam.metrics.road"}


def tool(name: str) -> Any:
    """The module of another package, or a skipped test."""
    if find_spec(name) is None:
        pytest.skip(f"needs {name}: make test-integrations")
    return import_module(NAMES[name])


def maps_of(kind: str, masks: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    made = torch.rand(masks.shape, generator=generator)
    one_pixel = nn.functional.one_hot(torch.tensor([5, 300, 700, 1000, 0, 1088]), 33 * 33).float()
    return {
        "random": made,
        "good": made + masks,
        "tied": (5 * made).round(),
        "smooth": metrics.smooth_noise(masks.shape, 3),
        "constant": torch.linspace(0.1, 1, 6)[:, None, None].expand_as(made).clone(),
        "one pixel": one_pixel.view(masks.shape),
        "mask": masks.float(),
    }[kind]


KINDS = ("random", "good", "tied", "smooth", "constant", "one pixel", "mask")
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def masks() -> Tensor:
    heights = metrics.smooth_noise((6, 33, 33), 2)
    return heights > heights.flatten(1).quantile(0.7, dim=1)[:, None, None]


@pytest.fixture
def inputs() -> Tensor:
    return torch.rand(6, 3, 33, 33, generator=torch.Generator().manual_seed(0))


@every_kind
def test_scikit_learn(kind: str, masks: Tensor) -> None:
    sklearn, maps = tool("sklearn"), maps_of(kind, masks)
    pairs = [(o.flatten().numpy(), m.flatten().numpy()) for o, m in zip(masks, maps, strict=True)]
    assert np.allclose(metrics.roc_auc(maps, masks), [sklearn.roc_auc_score(*pair) for pair in pairs], atol=1e-6)
    expected = [sklearn.average_precision_score(*pair) for pair in pairs]
    assert np.allclose(metrics.average_precision(maps, masks), expected, atol=1e-6)


@every_kind
def test_quantus(kind: str, masks: Tensor, inputs: Tensor) -> None:
    quantus, maps = tool("quantus"), maps_of(kind, masks)
    options = {"normalise": False, "disable_warnings": True, "display_progressbar": False}
    data = {
        "model": nn.Flatten(),
        "x_batch": inputs.numpy(),
        "y_batch": np.zeros(6, int),
        "a_batch": maps[:, None].numpy(),
        "s_batch": masks[:, None].numpy(),
        "device": "cpu",
    }

    def theirs(name: str) -> np.ndarray:
        return np.array(getattr(quantus, name)(**options)(**data), float)

    assert np.allclose(metrics.energy_in_mask(maps, masks), theirs("RelevanceMassAccuracy"), atol=1e-6)
    assert np.allclose(metrics.roc_auc(maps, masks), theirs("AUC"), atol=1e-6)
    found = metrics.pointing_game(maps, masks).numpy()
    assert np.array_equal(found > 0, theirs("PointingGame") == 1)  # any of the largest pixels is a hit there
    if kind in ("random", "good", "smooth", "mask"):  # pixels that tie go in any order there
        iou = metrics.iou_at_mask_area(maps, masks)
        assert np.allclose(2 * iou / (1 + iou), theirs("RelevanceRankAccuracy"), atol=1e-6)


class Given:
    """In place of an extractor of torch-cam: the maps are there already."""

    def __init__(self, model: nn.Module, maps: Tensor) -> None:
        self.model, self._maps = model, maps

    def __call__(self, *_: Any, **__: Any) -> list[Tensor]:
        return [self._maps]

    def fuse_cams(self, maps: list[Tensor]) -> Tensor:
        return maps[0]

    def _hooks_off(self) -> Any:
        return nullcontext()


@every_kind
def test_torch_cam(kind: str, masks: Tensor, inputs: Tensor, model: nn.Sequential) -> None:
    torchcam = tool("torchcam")
    maps = maps_of(kind, masks)
    maps = maps / maps.amax((1, 2), keepdim=True)
    score = metrics.class_score(model).against(inputs)
    logits = partial(torch.softmax, dim=-1)
    metric = torchcam.ClassificationMetric(Given(model, maps), logits)
    metric.update(inputs)
    theirs = metric.summary()
    assert float(metrics.average_drop(score, inputs, maps).mean()) == pytest.approx(theirs["avg_drop"], abs=1e-6)
    assert float(metrics.average_increase(score, inputs, maps).mean()) == theirs["conf_increase"]
    if kind in ("random", "good", "smooth"):  # pixels that tie go by their place there
        metric = torchcam.DeletionInsertionMetric(Given(model, maps), logits, steps=11)
        metric.update(inputs)
        found = metrics.insertion_deletion(score, inputs, maps, 11, torch.zeros(1))
        assert float(found.insertion.mean()) == pytest.approx(metric.summary()["insertion_auc"], abs=1e-6)
        assert float(found.deletion.mean()) == pytest.approx(metric.summary()["deletion_auc"], abs=1e-6)


def targets(model: nn.Module, inputs: Tensor) -> list[Any]:
    with torch.no_grad():
        classes = model(inputs).argmax(1).tolist()
    return [lambda output, label=label: output.softmax(0)[label] for label in classes]


@every_kind
def test_drop_of_pytorch_grad_cam(kind: str, masks: Tensor, inputs: Tensor, model: nn.Sequential) -> None:
    tool("pytorch_grad_cam")
    theirs = import_module("pytorch_grad_cam.metrics.cam_mult_image")
    maps = maps_of(kind, masks)
    maps = maps / maps.amax((1, 2), keepdim=True)
    score = metrics.class_score(model).against(inputs)
    call = inputs, maps.numpy(), targets(model, inputs), model
    lost = metrics.average_drop(score, inputs, maps) * score.untouched  # which is not divided there
    assert np.allclose(lost, theirs.DropInConfidence()(*call), atol=1e-6)
    assert np.array_equal(metrics.average_increase(score, inputs, maps), theirs.IncreaseInConfidence()(*call))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["random", "smooth", "mask"])
def test_imputation_of_pytorch_grad_cam(kind: str, share: float, masks: Tensor, inputs: Tensor) -> None:
    road, maps = tool("pytorch_grad_cam"), maps_of(kind, masks)
    missing = maps <= maps.flatten(1).quantile(share, dim=1)[:, None, None]
    missing[:, 16, 16] = False
    found = metrics.imputed(inputs, missing)
    for image, holes, made in zip(inputs, missing, found, strict=True):
        assert torch.allclose(road.NoisyLinearImputer(noise=0)(image, (~holes).float()), made, atol=1e-3)


@pytest.mark.parametrize("kind", ["random", "good", "smooth"])
def test_road_of_pytorch_grad_cam(
    kind: str, masks: Tensor, inputs: Tensor, model: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    road, maps = tool("pytorch_grad_cam"), maps_of(kind, masks)
    monkeypatch.setattr(road.NoisyLinearImputer.__init__, "__defaults__", (0, road.neighbors_weights))
    theirs = road.ROADCombined()(inputs, maps.numpy(), targets(model, inputs), model)
    found = metrics.road(metrics.class_score(model), inputs, maps, noise=0)
    assert np.allclose(found, theirs, atol=2e-5)
    assert not np.allclose(theirs, 0, atol=2e-4)
