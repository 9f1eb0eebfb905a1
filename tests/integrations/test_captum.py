"""captum's layer attributions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum.attr import LayerAttribution, LayerGradCam, NoiseTunnel
from torch import Tensor, nn

import tsm_fast
from tsm_fast.integrations.captum import LayerEigenCam, LayerMTSM, LayerMultivecEigenCam, LayerTSM

CLASSES = {"eigencam": LayerEigenCam, "multivec_eigencam": LayerMultivecEigenCam, "tsm": LayerTSM, "mtsm": LayerMTSM}
every_class = pytest.mark.parametrize("layer_class", CLASSES.values(), ids=CLASSES)


@every_class
def test_attributions_are_raw_maps(layer_class: Any, model: nn.Sequential, images: Tensor) -> None:
    attributions = layer_class(model, model[3]).attribute(images)
    features = model[:4](images).detach()
    signed = {"relu": False} if layer_class is LayerEigenCam else {}
    expected = getattr(tsm_fast, layer_class.method)(features, normalize=False, **signed)
    assert attributions.shape == (2, 1, 7, 9)
    assert torch.equal(attributions[:, 0], expected)
    assert not attributions.requires_grad
    assert bool((attributions < 0).any()) == (layer_class is LayerEigenCam)


@every_class
def test_they_fit_where_those_of_captum_do(layer_class: Any, model: nn.Sequential, images: Tensor) -> None:
    theirs: Any = LayerGradCam(model, model[3]).attribute(images, target=1)
    layer = layer_class(model, model[3])
    mine = layer.attribute(images, target=1)
    assert isinstance(layer, LayerAttribution)
    assert layer.multiplies_by_inputs
    assert mine.shape == theirs.shape
    assert LayerAttribution.interpolate(mine, (33, 41), "bilinear").shape == (2, 1, 33, 41)
    smooth: Any = NoiseTunnel(layer).attribute(images, nt_samples=3, stdevs=0.1)
    assert smooth.shape == mine.shape


def test_layers_inputs_and_arguments(model: nn.Sequential, images: Tensor) -> None:
    first, last = LayerTSM(model, [model[1], model[3]]).attribute(images)
    assert (first.shape, last.shape) == ((2, 1, 16, 20), (2, 1, 7, 9))
    of_input = LayerTSM(model, model[2]).attribute(images, attribute_to_layer_input=True)
    assert torch.equal(of_input, first)

    def forward(one: Tensor, other: Tensor, scale: float) -> dict[str, Tensor]:
        return {"out": model(scale * (one + other))}

    both = LayerTSM(forward, model[3]).attribute((images / 2, images / 2), additional_forward_args=1.0)
    assert torch.allclose(both, last, atol=1e-4)
    ranked = LayerMTSM(model, model[3], rank=(4, 2, 2), combine="absolute").attribute(images)
    expected = tsm_fast.mtsm(model[:4](images).detach(), (4, 2, 2), combine="absolute", normalize=False)
    assert torch.equal(ranked[:, 0], expected)


def test_bad_arguments(model: nn.Sequential, images: Tensor) -> None:
    with pytest.raises(TypeError, match="EigenCAM has no option 'rank' here; it has center, sign, nan, precision"):
        LayerEigenCam(model, model[3], rank=3)
    with pytest.raises(TypeError, match="TSM has no option 'normalize' here"):
        LayerTSM(model, model[3], normalize=False)
    with pytest.raises(ValueError, match="combine must be one of 'signed', 'absolute', got 'sum'"):
        LayerMTSM(model, model[3], combine="sum")
    with pytest.raises(TypeError, match="layer must be a module, or a list of modules, got '0'"):
        LayerTSM(model, "0")
    with pytest.raises(ValueError, match=r"layer must give activations \[N, C, \*positions\], got \(2, 4\)"):
        LayerTSM(model, model[4]).attribute(images)
    with pytest.raises(ValueError, match="features must be finite"):
        LayerTSM(model, model[3]).attribute(images / 0)
