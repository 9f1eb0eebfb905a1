"""torch-cam's extractors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchcam.explain import explain
from torchcam.methods.core import _CAM

import tsm_fast
from tsm_fast.integrations.torchcam import MTSM, TSM, EigenCAM, MultivecEigenCAM

CLASSES = {"eigencam": EigenCAM, "multivec_eigencam": MultivecEigenCAM, "tsm": TSM, "mtsm": MTSM}
every_class = pytest.mark.parametrize("cam_class", CLASSES.values(), ids=CLASSES)


@every_class
def test_maps(cam_class: Any, model: nn.Sequential, images: Tensor) -> None:
    with cam_class(model, "3") as extract:
        assert isinstance(extract, _CAM)
        with pytest.raises(AssertionError, match="Inputs need to be forwarded"):
            extract()
        with torch.inference_mode():
            out = model(images)
            (maps,) = extract()
        (raw,) = extract(normalized=False)
        for label, scores in ((0, out), ([0, 3], out), (3, None)):
            assert torch.equal(extract(label, scores)[0], maps)
        assert torch.equal(extract(targets=lambda sample: sample[0])[0], maps)
    function = getattr(tsm_fast, cam_class.method)
    features = model[:4](images).detach()
    assert torch.equal(raw, function(features, normalize=False))
    assert torch.allclose(maps, function(features), atol=1e-6)
    assert not model[3]._forward_hooks


@every_class
def test_layers_and_explain(cam_class: Any, model: nn.Sequential, images: Tensor) -> None:
    extract = cam_class(model, ["1", model[3]])
    out = model(images)
    maps = extract(0, out)
    assert [tuple(m.shape) for m in maps] == [(2, 16, 20), (2, 7, 9)]
    assert extract.fuse_cams(maps).shape == (2, 16, 20)
    extract.remove_hooks()
    explanation = explain(model, images[:1], method=cam_class, target_layer="3")
    assert explanation.cams[explanation.predicted_class_idx][0].shape == (7, 9)


def test_options_transforms_and_volumes(model: nn.Sequential, images: Tensor) -> None:
    with TSM(model, "3", rank=(4, 2, 2)) as extract:
        model(images)
        (maps,) = extract(normalized=False)
    assert torch.equal(maps, tsm_fast.tsm(model[:4](images).detach(), (4, 2, 2), normalize=False))
    with EigenCAM(model, "3", reshape_transform=lambda x: x[:, :, :5]) as extract:
        model(images)
        assert extract()[0].shape == (2, 5, 9)
    deep = nn.Sequential(nn.Conv3d(1, 34, 3), nn.ReLU())
    with MTSM(deep, "1") as extract:
        deep(torch.rand(2, 1, 5, 6, 7))
        assert extract()[0].shape == (2, 3, 4, 5)
    with pytest.raises(TypeError, match="TSM has no option 'center' here; it has rank, nan, precision, backend"):
        TSM(model, "3", center=True)
    with pytest.raises(ValueError, match="unknown `target_layer` names"):
        TSM(model, "33")
