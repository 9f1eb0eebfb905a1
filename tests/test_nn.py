"""`SaliencyHead`: the maps by matrix products, against the maps themselves, and written as ONNX."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tsm_fast
from tsm_fast.nn import SaliencyHead

from .needs import NETWORK, PHOTOS, needs

every_method = pytest.mark.parametrize("method", ["eigencam", "tsm"])


def gapped(*shape: int, seed: int = 0) -> Tensor:
    """Features whose second singular value is at most half of the first, with and without their mean."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(*shape, generator=generator)
    channel, place = torch.randn(shape[1], generator=generator), torch.randn(*shape[2:], generator=generator)
    strength = 3 * (channel.numel() ** 0.5 + place.numel() ** 0.5) / (channel.norm() * place.norm())
    return features + strength * channel[:, None, None] * place


@every_method
@pytest.mark.parametrize(
    "shape", [(3, 64, 7, 7), (2, 16, 9, 11), (2, 36, 6, 6), (2, 5, 1, 4), (1, 1, 3, 3), (0, 8, 4, 4)]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_it_gives_the_maps(method: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    features = gapped(*shape).to(dtype)
    precision = "float64" if dtype == torch.float64 else "auto"
    variants: list[dict[str, Any]] = [
        {},
        {"size": (13, 10)},
        {"normalize": False},
        {"relu": False, "normalize": False},
    ]
    for options in variants:
        expected = getattr(tsm_fast, method)(features, precision=precision, **options)
        maps = SaliencyHead(method, **options)(features)
        assert maps.dtype == expected.dtype
        assert maps.shape == expected.shape
        scale = expected.abs().amax((1, 2), keepdim=True)
        assert bool(((maps - expected).abs() <= (1e-10 if precision == "float64" else 1e-5) * scale).all())
    uncentered = SaliencyHead("eigencam", center=False)(features)
    assert torch.allclose(uncentered, tsm_fast.eigencam(features, center=False, precision=precision), atol=1e-5)


@every_method
def test_scales_zeros_and_nan(method: str) -> None:
    features = gapped(6, 24, 5, 5)
    features[1], features[2], features[3] = features[1] * 1e-30, features[2] * 1e30, 0
    features[4], features[5, 0, 0, 0] = 3.0, torch.nan
    maps = SaliencyHead(method)(features)
    expected = getattr(tsm_fast, method)(features, nan="propagate")
    assert torch.allclose(maps, expected, atol=1e-5, equal_nan=True)
    assert not maps[3:5].any()
    assert maps[5].isnan().all()


@every_method
def test_the_ends_of_the_range(method: str) -> None:
    """The map itself is no number of the dtype there; normalised it is one."""
    features = gapped(2, 512, 5, 5)
    features = features / features.abs().amax() * torch.tensor([3e38, 1e-41])[:, None, None, None]
    assert torch.allclose(SaliencyHead(method)(features), getattr(tsm_fast, method)(features), atol=1e-5)


@every_method
def test_autocast_does_not_reach_in(method: str) -> None:
    features = gapped(2, 24, 5, 5)
    head = SaliencyHead(method, size=(9, 9))
    with torch.autocast("cpu", torch.bfloat16):
        maps = head(features)
    assert torch.equal(maps, head(features))


@every_method
def test_gradients_are_those_of_the_map(method: str) -> None:
    features = gapped(2, 12, 4, 3).double().requires_grad_()
    weights = torch.rand(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mine, expected = (
        torch.autograd.grad((weights * maps).sum(), features)[0]
        for maps in (SaliencyHead(method)(features), getattr(tsm_fast, method)(features, precision="float64"))
    )
    assert torch.allclose(mine, expected, atol=1e-8)


def test_close_values_need_more_iterations() -> None:
    features = torch.zeros(1, 4, 2, 2)
    features[0, 0, 0, 0], features[0, 1, 0, 1] = 1.0, 0.999
    expected = tsm_fast.tsm(features)
    few, many = (SaliencyHead("tsm", iterations=n)(features) for n in (1, 14))
    assert torch.allclose(many, expected, atol=1e-5)
    assert not few.isnan().any()


def test_bad_arguments() -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"method": "mtsm"}, "method must be one of 'eigencam', 'tsm', got 'mtsm'"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"iterations": 2.5}, "iterations must be an integer, got 2.5"),
        ({"relu": 1}, "relu must be True or False, got 1"),
        ({"size": 7}, "size must be"),
    ]
    for options, message in bad:
        with pytest.raises((TypeError, ValueError), match=message):
            SaliencyHead(**options)
    for features in (torch.zeros(3, 4, 4), torch.zeros(1, 2, 3, 3, dtype=torch.int64), torch.zeros(1, 2, 0, 3)):
        with pytest.raises(ValueError, match=r"features must be floating-point \[B, C, H, W\], got"):
            SaliencyHead()(features)


class WithMap(nn.Module):
    """A network's class scores and its map, from one pass."""

    def __init__(self, net: nn.Sequential, head: nn.Module) -> None:
        super().__init__()
        self.features, self.classifier, self.head = net[0], net[1:], head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return self.classifier(features), self.head(features)


@pytest.mark.slow
@needs("onnxscript", "onnxruntime", extra="onnx")
@every_method
def test_onnxruntime_gives_the_same(method: str, tmp_path: Path) -> None:
    import onnxruntime

    head, features = SaliencyHead(method, size=(14, 14)), gapped(5, 48, 7, 7)
    session = exported(head, features[:2], tmp_path)
    for count in (1, 5):
        (maps,) = session.run(None, {"features": features[:count].numpy()})
        expected = getattr(tsm_fast, method)(features[:count], size=(14, 14))
        assert abs(maps - expected.numpy()).max() < 1e-5
    assert isinstance(session, onnxruntime.InferenceSession)


@pytest.mark.slow
@needs("onnxscript", "onnxruntime", extra="onnx")
@needs(*NETWORK, *PHOTOS)
def test_a_network_with_its_map_in_onnxruntime(tmp_path: Path) -> None:
    from tsm_fast.models import lite0, lite0_inputs
    from tsm_fast.pictures import load_photos

    net, images = lite0(), lite0_inputs([photo.image for photo in load_photos()[:3]])
    session = exported(WithMap(net, SaliencyHead("tsm", size=(224, 224))), images[:2], tmp_path)
    _, maps = session.run(None, {"images": images.numpy()})
    expected = tsm_fast.tsm(net[0](images).detach(), size=(224, 224))
    assert abs(maps - expected.numpy()).max() < 1e-4  # their convolutions round differently


def exported(module: nn.Module, example: Tensor, folder: Path) -> Any:
    """The module as onnxruntime runs it, with a free batch size."""
    import onnxruntime

    name = "features" if isinstance(module, SaliencyHead) else "images"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(), (example,), dynamo=True, dynamic_shapes={name: {0: "batch"}}, verbose=False
        )
    assert program is not None
    program.save(folder / "model.onnx")
    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def test_a_printed_network_tells_what_its_head_does() -> None:
    assert repr(SaliencyHead("eigencam", size=(14, 14))) == "SaliencyHead('eigencam', size=(14, 14), iterations=10)"
