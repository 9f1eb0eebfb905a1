"""`explain_func` for the metrics of Quantus, and those metrics themselves where it is installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

import tsm_fast
from tsm_fast.integrations.quantus import explain

quantus: Any = import_module("quantus") if find_spec("quantus") else None
needs_quantus = pytest.mark.skipif(quantus is None, reason="needs quantus: pip install 'tsm_fast[quantus]'")
every_method = pytest.mark.parametrize("method", ["eigencam", "tsm", "multivec_eigencam", "mtsm"])
LABELS = np.array([1, 3])


@every_method
def test_maps_are_raw_and_as_large_as_the_inputs(method: str, model: nn.Sequential, images: Tensor) -> None:
    maps = explain(model, images.numpy(), LABELS, layers="3", method=method)
    expected = getattr(tsm_fast, method)(model[:4](images).detach(), size=(33, 41), normalize=False)
    assert type(maps) is np.ndarray
    assert maps.shape == (2, 1, 33, 41)
    assert np.array_equal(maps[:, 0], expected.numpy())
    again = explain(model, images.double().numpy(), targets=LABELS, layers=model[3], method=method, normalize=True)
    assert np.array_equal(again[:, 0], getattr(tsm_fast, method)(model[:4](images).detach(), size=(33, 41)).numpy())


def test_arguments(model: nn.Sequential, images: Tensor) -> None:
    x = images.numpy()
    assert explain(model, x, layers="3", device="cpu", rank=(4, 2, 2)).shape == (2, 1, 33, 41)
    assert explain(model.double(), x[:, :, ::-1], layers=None).shape == (2, 1, 33, 41)
    with pytest.raises(ValueError, match="layers must name one layer, got 1, 3"):
        explain(model, x, layers="[13]")
    with pytest.raises(ValueError, match="all maps of layer '3' are constant"):
        explain(model, np.zeros_like(x), layers="3")
    with pytest.raises(TypeError, match="no option 'centre'"):
        explain(model, x, layers="3", centre=True)


@needs_quantus
@every_method
def test_metrics(method: str, model: nn.Sequential, images: Tensor) -> None:
    call = {
        "model": model,
        "x_batch": images.numpy(),
        "y_batch": LABELS,
        "explain_func": explain,
        "explain_func_kwargs": {"layers": "3", "method": method},
        "device": "cpu",
    }
    options = {"disable_warnings": True, "display_progressbar": False}
    masks = np.zeros((2, 1, 33, 41), bool)
    masks[:, :, 10:20, 10:30] = True
    mass = quantus.RelevanceMassAccuracy(**options)(**call, s_batch=masks)
    maps = np.abs(explain(model, images.numpy(), LABELS, layers="3", method=method))
    assert np.allclose(mass, (maps * masks).sum((1, 2, 3)) / maps.sum((1, 2, 3)), atol=1e-5)
    flipped = quantus.PixelFlipping(features_in_step=33 * 41 // 11, **options)(**call)
    assert len(flipped) == 2
    sparse = quantus.Sparseness(**options)(**call)
    assert all(0 <= value <= 1 for value in sparse)


@needs_quantus
def test_randomizing_layers_shows_which_the_map_looks_at(model: nn.Sequential, images: Tensor) -> None:
    metric = quantus.MPRT(
        similarity_func=quantus.correlation_pearson,
        layer_order="independent",
        disable_warnings=True,
        display_progressbar=False,
    )
    kwargs = {"layers": "3", "method": "mtsm"}
    found = metric(model, images.numpy(), LABELS, explain_func=explain, explain_func_kwargs=kwargs, device="cpu")
    similar = {layer: np.mean(scores) for layer, scores in found.items()}
    assert similar["4.2"] == pytest.approx(1)  # the classifier: no label plays a role
    assert similar["2"] < 0.999
