"""Tokens and `[B, H, W, C]` as maps, by hand and found in the networks of transformers (with random weights)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tsm_fast import SaliencyExtractor
from tsm_fast.layers import spatial_layers
from tsm_fast.reshape import ChannelsLast, Tokens, tokens


def test_tokens_and_channels_last() -> None:
    maps = torch.rand(2, 32, 3, 5)
    assert torch.equal(Tokens(2, (3, 5))(torch.cat([torch.rand(2, 2, 32), maps.flatten(2).mT], 1)), maps)
    assert Tokens()(torch.rand(2, 17, 8)).shape == Tokens(1)(torch.rand(2, 17, 8)).shape == (2, 8, 4, 4)
    assert torch.equal(ChannelsLast()(maps.permute(0, 2, 3, 1)), maps)
    for bad, text in (
        (lambda: Tokens(1)(torch.rand(2, 16, 8)), "16 tokens are not 1 \\+ 3 x 3: name prefix= and grid="),
        (lambda: Tokens(grid=(4, 5))(torch.rand(2, 16, 8)), "16 tokens are not -4 \\+ 4 x 5"),
        (lambda: Tokens(9)(torch.rand(2, 4, 8)), "4 tokens are not 9"),
        (lambda: Tokens()(maps), r"Tokens takes \[B, N, C\], got shape \(2, 32, 3, 5\)"),
        (lambda: ChannelsLast()(torch.rand(2, 16, 8)), r"ChannelsLast takes \[B, H, W, C\], got shape \(2, 16, 8\)"),
        (lambda: Tokens()({}), "got dict"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=text):
            bad()


def test_the_grid_of_tokens_is_one_of_the_network() -> None:
    assert tokens(16 * 9, [(2, 8, 16, 9)]) == Tokens(0, (16, 9))
    assert tokens(2 + 8 * 5, [(2, 8, 16, 9)]) is None  # only grids that were not halved have registers
    assert tokens(1 + 8 * 5, [(2, 8, 16, 9)]) == Tokens(1, (8, 5))
    assert tokens(16 + 49, [(2, 8, 7, 7)]) == Tokens(16, (7, 7))
    assert tokens(17 + 49, [(2, 8, 7, 7)]) is None
    assert tokens(77, [(1, 8, 7, 7)]) is None  # words
    assert tokens(49, []) is None
    assert tokens(49 + 1, [(1, 8, 14, 14), (1, 8, 7, 7)]) == Tokens(1, (7, 7))  # of a reduced grid in between


SMALL = {"num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 2, "intermediate_size": 48}
SWIN = {"embed_dim": 32, "depths": [1, 1, 1], "num_heads": [2, 2, 2], "window_size": 4}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 48, 64]}


def network(name: str, **config: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="needs the extra dev")
    torch.manual_seed(0)
    return getattr(transformers, name + "Model")(getattr(transformers, name + "Config")(**config)).eval()


@pytest.mark.parametrize(
    ("name", "config", "size", "grid", "prefix"),
    [
        ("ViT", {**SMALL, "image_size": (64, 96)}, (64, 96), (4, 6), 1),
        ("DeiT", {**SMALL, "image_size": 64}, (64, 64), (4, 4), 2),
        ("Beit", {**SMALL, "image_size": 64}, (64, 64), (4, 4), 1),
        ("Dinov2", {**SMALL, "image_size": 56, "patch_size": 14}, (56, 84), (4, 6), 1),
        ("Dinov2WithRegisters", {**SMALL, "image_size": 56, "patch_size": 14}, (56, 84), (4, 6), 5),
        ("CLIPVision", {**SMALL, "image_size": 64, "patch_size": 16}, (64, 64), (4, 4), 1),
        ("SiglipVision", {**SMALL, "image_size": 64, "patch_size": 16}, (64, 64), (4, 4), 0),
        ("Swin", {**SWIN, "image_size": (96, 160)}, (96, 160), (6, 10), 0),
        ("Swinv2", {**SWIN, "image_size": (96, 160)}, (96, 160), (6, 10), 0),
        ("Pvt", {"image_size": 64, "depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 80, 64]}, (64, 64), (2, 2), 1),
    ],
)
def test_vision_transformers_are_read_by_themselves(
    name: str, config: dict[str, Any], size: tuple[int, int], grid: tuple[int, int], prefix: int
) -> None:
    model = network(name, **config)
    pixels = torch.rand(2, 3, *size)
    extract = SaliencyExtractor(model)
    assert extract(pixels).shape == (2, *grid)
    assert f"read as {Tokens(prefix, grid)}" in extract.reason
    (features,) = extract.features(pixels).values()
    with torch.no_grad():
        last = model(pixels).last_hidden_state  # [B, prefix + h * w, C]
    assert torch.equal(features, last[:, prefix:].mT.unflatten(2, grid))
    named = {layer.name: layer for layer in spatial_layers(model, lambda: model(pixels))}
    chosen = named[extract.layers[0]]
    assert (chosen.shape, chosen.layout) == ((last.shape[2], *grid), str(Tokens(prefix, grid)))


def test_every_stage_of_a_swin_is_what_transformers_makes_of_it() -> None:
    model = network("Swin", **SWIN, image_size=(90, 150))  # padded to whole patches, then to even grids
    pixels = torch.rand(2, 3, 90, 150)
    with torch.no_grad():
        wanted = model(pixels, output_hidden_states=True).reshaped_hidden_states
    layers = ["embeddings", *(f"encoder.layers.{stage}.blocks.0" for stage in range(3))]
    found = SaliencyExtractor(model, layers).features(pixels)
    assert [tuple(maps.shape[2:]) for maps in found.values()] == [(23, 38), (23, 38), (12, 19), (6, 10)]
    assert torch.equal(found["embeddings"], wanted[0])


def test_layers_within_a_transformer() -> None:
    model = network("ViT", **SMALL, image_size=64)
    block = next(name for name, _ in model.named_modules() if name.endswith("layers.1"))
    for layer in (block, f"{block}.layernorm_before", "layernorm", "embeddings"):
        assert SaliencyExtractor(model, layer)(torch.rand(2, 3, 64, 64)).shape == (2, 4, 4), layer
    images = torch.rand(2, 3, 64, 64)
    assert SaliencyExtractor(nn.Sequential(model), f"0.{block}")(images).shape == (2, 4, 4)
    with pytest.raises(ValueError, match=r"must give feature maps \[B, C, H, W\] or .*, got \[2, 48\] float32; decl"):
        SaliencyExtractor(model, "pooler")(images)


def test_windows_are_no_maps() -> None:
    model = network("Swin", **SWIN, image_size=224)
    windows = next(name for name, _ in model.named_modules() if name.endswith("layers.0.blocks.0.attention"))
    with pytest.raises(ValueError, match=r"attention' must give feature maps .* got \[392, 16, 32\]"):
        SaliencyExtractor(model, windows)(torch.rand(2, 3, 224, 224))


def test_channels_last_in_a_focal_net() -> None:
    model = network("FocalNet", embed_dim=32, depths=[1, 1], image_size=64)
    extract = SaliencyExtractor(model)
    images = torch.rand(2, 3, 64, 64)
    assert extract(images).shape == (2, 8, 8)


def test_tokens_that_lie_window_by_window_are_left_alone() -> None:
    model = network("Hiera", embed_dim=32, depths=[1, 1], num_heads=[1, 2], image_size=[64, 64], num_query_pool=1)
    with pytest.raises(ValueError, match="name a layer with layers=, and turn its output"):
        SaliencyExtractor(model)(torch.rand(1, 3, 64, 64))


class Windows(nn.Module):
    """Looks at the quarters of a picture as items of their own, after all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.quarters, self.pool = nn.Conv2d(3, 32, 2, 2), nn.Conv2d(32, 48, 1), nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.whole(images).unflatten(3, (2, -1)).unflatten(2, (2, -1))  # [B, C, 2, h, 2, w]
        return self.pool(self.quarters(maps.movedim((2, 4), (1, 2)).flatten(0, 2)))


def test_windows_are_not_chosen() -> None:
    extract = SaliencyExtractor(Windows())
    assert extract(torch.rand(2, 3, 32, 32)).shape == (2, 16, 16)
    assert extract.layers == ("whole",)


class Apart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 2, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.patches(images.unflatten(3, (2, -1)).unflatten(2, (2, -1)).movedim((2, 4), (1, 2)).flatten(0, 2))


def test_pictures_taken_apart_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match=r"takes \[2, 3, 32, 32\] apart to \[8, 3, 16, 16\] before its first conv"):
        SaliencyExtractor(nn.Sequential(Apart()))(torch.rand(2, 3, 32, 32))


class Backbone(nn.Module):
    """[B, H, W, C] of nobody's package."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 4, 4)
        self.norm = nn.LayerNorm(64)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.patches(images).permute(0, 2, 3, 1))


def test_declared_layouts() -> None:
    model, images = Backbone().eval(), torch.rand(2, 3, 32, 48)
    extract = SaliencyExtractor(model, "norm", reshape_transform="nhwc")
    (features,) = extract.features(images).values()
    assert torch.equal(features, model(images).permute(0, 3, 1, 2))
    assert SaliencyExtractor(model, "norm", reshape_transform=ChannelsLast())(images).shape == (2, 8, 12)
    with pytest.raises(ValueError, match=r"Tokens takes \[B, N, C\], got shape \(2, 8, 12, 64\)"):
        SaliencyExtractor(model, "norm", reshape_transform="tokens")(images)
    assert SaliencyExtractor(model, "norm")(images).shape == (2, 12, 64)  # as it lies: nothing tells, and [B, C, H, W]


@pytest.mark.parametrize("size", [(128, 128), (128, 176)])
def test_queries_of_a_decoder_are_no_picture(size: tuple[int, int]) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra dev")
    backbone = transformers.ResNetConfig(embedding_size=16, hidden_sizes=[32, 32, 48, 64], depths=[1, 1, 1, 1])
    rows, columns = -(-size[0] // 32), -(-size[1] // 32)
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        num_queries=rows * columns,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
    )
    torch.manual_seed(0)
    model = transformers.DetrForObjectDetection(config).eval()
    extract = SaliencyExtractor(model)
    extract(torch.rand(1, 3, *size))
    assert ".encoder." in extract.layers[0], extract.reason
    decoder = next(name for name, _ in model.named_modules() if name.endswith("decoder.layers.1"))
    with pytest.raises(ValueError, match="must give feature maps"):
        SaliencyExtractor(model, decoder)(torch.rand(1, 3, *size))
    encoder = next(name for name, _ in model.named_modules() if name.endswith("encoder.layers.0"))
    assert SaliencyExtractor(model, encoder)(torch.rand(1, 3, *size)).shape == (1, rows, columns)
