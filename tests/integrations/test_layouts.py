"""Which layer of the networks of timm and torchvision is read, and how; their weights are random."""

from __future__ import annotations

from typing import Any

import pytest
import timm  # pyright: ignore[reportMissingImports]
import torch
import torchvision  # pyright: ignore[reportMissingImports]
from torch import nn

from tsm_fast import SaliencyExtractor
from tsm_fast.reshape import ChannelsLast, Tokens

SWIN = {"depths": (1, 1, 1, 1)}


@pytest.mark.parametrize(
    ("name", "options", "size", "layer", "layout"),
    [
        ("vit_tiny_patch16_224", {"img_size": (64, 96), "depth": 2}, (64, 96), "norm", Tokens(1, (4, 6))),
        ("vit_tiny_patch16_224", {"dynamic_img_size": True, "depth": 2}, (80, 48), "norm", Tokens(1, (5, 3))),
        ("vit_small_patch14_reg4_dinov2", {"img_size": (56, 84), "depth": 2}, (56, 84), "norm", Tokens(5, (4, 6))),
        ("deit_tiny_distilled_patch16_224", {"img_size": 64, "depth": 2}, (64, 64), "norm", Tokens(2, (4, 4))),
        ("eva02_tiny_patch14_224", {"img_size": 56, "depth": 2}, (56, 56), "norm", Tokens(1, (4, 4))),
        ("vit_base_patch16_siglip_224", {"img_size": 64, "depth": 1}, (64, 64), "norm", Tokens(0, (4, 4))),
        ("mvitv2_tiny", {}, (224, 224), "norm", Tokens(0, (7, 7))),
        ("levit_128s", {}, (224, 224), "stages", Tokens(0, (4, 4))),
        ("swin_tiny_patch4_window7_224", {**SWIN, "img_size": (128, 192)}, (128, 192), "norm", ChannelsLast()),
        ("swinv2_tiny_window8_256", {**SWIN, "img_size": (128, 192)}, (128, 192), "norm", ChannelsLast()),
        ("mambaout_femto", {}, (64, 96), "stages", ChannelsLast()),
        ("convnext_atto", {}, (96, 64), "norm_pre", None),
        ("pvt_v2_b0", {}, (64, 96), "stages", None),
        ("resnet18", {}, (64, 96), "layer4", None),
    ],
)
def test_networks_of_timm(name: str, options: dict[str, Any], size: tuple[int, int], layer: str, layout: Any) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, **options).eval()
    images = torch.rand(2, 3, *size)
    extract = SaliencyExtractor(model)
    maps = extract(images)
    assert extract.layers == (layer,)
    assert (f"read as {layout}" if layout else "it gives [2, ") in extract.reason
    (features,) = extract.features(images).values()
    assert maps.shape[1:] == features.shape[2:]
    with torch.no_grad():
        wanted = model.forward_features(images)
    wanted = wanted if layout is None else layout(wanted)
    torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "swin_tiny_patch4_window7_224"]
)
def test_every_block_is_as_timm_has_it(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=224).eval()
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        wanted = model.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
    found = SaliencyExtractor(model, "layers.*" if "swin" in name else "blocks.*").features(images)
    for own, reference in zip(found.values(), wanted, strict=True):
        torch.testing.assert_close(own, reference)


def test_a_backbone_in_a_network_of_ones_own() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1, num_classes=0)
            self.head = nn.Linear(192, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(self.backbone(images))

    extract = SaliencyExtractor(Net(), size="input")
    assert extract(torch.rand(2, 3, 64, 64)).shape == (2, 64, 64)
    assert extract.layers == ("backbone.norm",)


def test_networks_of_torchvision() -> None:
    models: Any = torchvision.models
    swin = models.swin_transformer.SwinTransformer([4, 4], 32, [1, 1], [1, 2], [7, 7])
    for model, size, layer, grid in (
        (models.VisionTransformer(64, 16, 2, 2, 48, 96), (64, 64), "encoder", (4, 4)),
        (swin, (96, 160), "norm", (12, 20)),
        (models.convnext_tiny(), (96, 64), "features", (3, 2)),
    ):
        extract = SaliencyExtractor(model)
        assert extract(torch.rand(2, 3, *size)).shape == (2, *grid)
        assert extract.layers == (layer,)
    images = torch.rand(2, 3, 96, 160)
    found = SaliencyExtractor(swin, ["norm", "permute"]).features(images)
    assert torch.equal(found["norm"], found["permute"])


def test_layers_of_detectors() -> None:
    """Boxes need compiled operators of torchvision, but the forward pass stops before them."""
    torch.manual_seed(0)
    detection: Any = torchvision.models.detection
    images = [torch.rand(3, 90, 120), torch.rand(3, 90, 120)]
    for model in (
        detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None),
        detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None),
    ):
        layer = "backbone.body" if hasattr(model.backbone, "body") else "backbone.features.1"
        last = [
            name
            for name, module in model.named_modules()
            if name.startswith(layer + ".") and isinstance(module, nn.Conv2d)
        ][-1]
        maps = SaliencyExtractor(model, last, size="input")((images,))
        assert maps.shape == (2, 90, 120)
