"""pytorch-grad-cam's classes and scripts, beside the package itself."""

from __future__ import annotations

import gc
import sys
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam as stock  # pyright: ignore[reportMissingImports]
import timm  # pyright: ignore[reportMissingImports]
import torch
from pytorch_grad_cam.utils.image import scale_cam_image  # pyright: ignore[reportMissingImports]
from pytorch_grad_cam.utils.reshape_transforms import (  # pyright: ignore[reportMissingImports]
    fasterrcnn_reshape_transform,
    vit_reshape_transform,
)
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn

import tsm_fast
from tsm_fast.integrations.grad_cam import MTSM, TSM, EigenCAM, MultivecEigenCAM, NotFinite, patch

from ..helpers import feature_maps

CLASSES = {"eigencam": EigenCAM, "multivec_eigencam": MultivecEigenCAM, "tsm": TSM, "mtsm": MTSM}
every_class = pytest.mark.parametrize("cam_class", CLASSES.values(), ids=CLASSES)


class Detector(nn.Module):
    """Its output is a dict, of which pytorch-grad-cam makes no targets."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 40, 5, 4), nn.ReLU(), nn.Conv2d(40, 48, 3, 2))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.features(images).mean((2, 3))}


def timm_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name).eval()


def vit_tokens(tokens: Tensor) -> Tensor:
    return vit_reshape_transform(tokens, 6, 6)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], nn.Module], Any, int]] = {
    "resnet50": (lambda: timm_model("resnet50"), lambda m: m.layer4, None, 224),
    "convnext": (lambda: timm_model("convnext_atto"), lambda m: m.stages[-1], None, 96),
    "vit": (
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=96).eval(),
        lambda m: m.blocks[-1].norm1,
        vit_tokens,
        96,
    ),
    "detector": (lambda: Detector().eval(), lambda m: m.features, None, 96),
}


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return timm_model("resnet18")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def up_to_sign(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of signed maps [B, ...], each turned as fits, relative to the largest entry."""
    turn = np.sign((one * other).sum(axis=tuple(range(1, one.ndim)), keepdims=True))
    return float(np.abs(one - turn * other).max() / np.abs(other).max())


def corrected(model: nn.Module, layers: list[nn.Module], images: Tensor, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """pytorch-grad-cam's maps with its own correction of the sign, which is our rule."""
    fixed = stock.utils.svd_on_activations.get_2d_projection_with_sign_correction
    monkeypatch.setattr(stock.eigen_cam, "get_2d_projection", fixed)
    maps = stock.EigenCAM(model, layers)(images, [0] * len(images))
    monkeypatch.undo()
    return maps


@pytest.mark.parametrize("network", NETWORKS)
def test_projections_are_those_of_grad_cam_up_to_sign(network: str) -> None:
    make, find, reshape, size = NETWORKS[network]
    model = make()
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    seen: list[np.ndarray] = []

    class Looking(stock.EigenCAM):
        def get_cam_image(self, *args: Any) -> np.ndarray:
            seen.append(super().get_cam_image(*args))
            return seen[-1]

    class OursLooking(EigenCAM):
        def get_cam_image(self, *args: Any, **kwargs: Any) -> np.ndarray:
            seen.append(super().get_cam_image(*args, **kwargs))
            return seen[-1]

    Looking(model, [find(model)], reshape)(images, [0, 0])
    maps = OursLooking(model, [find(model)], reshape)(images)
    theirs, mine = seen
    assert mine.shape == theirs.shape
    assert mine.dtype == theirs.dtype == np.float32
    assert up_to_sign(mine, theirs) < 1e-5
    assert maps.shape == (2, size, size)
    assert maps.dtype == np.float32


def test_maps_are_those_of_grad_cam_with_its_sign_corrected(small, images, monkeypatch) -> None:
    for layers in ([small.layer4], [small.layer3, small.layer2], [small.layer3, small.layer3]):
        theirs = corrected(small, layers, images, monkeypatch)
        assert np.abs(EigenCAM(small, layers)(images) - theirs).max() < 1e-5


@every_class
def test_maps_of_every_method(cam_class, small, images) -> None:
    cam = cam_class(small, [small.layer3])
    maps = cam(images, None, False, False)
    (features,) = cam.activations_and_grads.activations
    raw = getattr(tsm_fast, cam_class.method)(features, normalize=False)
    expected = scale_cam_image(scale_cam_image(raw.numpy(), (96, 96)))
    assert np.abs(maps - expected).max() < 1e-6
    assert maps.min() >= 0
    assert maps.max() <= 1


@every_class
def test_real_subclasses_that_other_classes_take(cam_class, small, images) -> None:
    cam = cam_class(model=small, target_layers=[small.layer4], reshape_transform=None)
    assert isinstance(cam, stock.base_cam.BaseCAM)
    refined = stock.RefineCAM(small, [small.layer4, small.layer3], base_method=cam_class)(images)
    assert refined.shape == (2, 96, 96)
    sess = stock.SESS(small, [small.layer4], base_method=cam_class, num_scales=2)
    assert sess(images[:1], [stock.base_cam.ClassifierOutputTarget(3)]).shape == (1, 96, 96)


def test_options_reach_the_method(small, images) -> None:
    plain, ranked = TSM(small, [small.layer4])(images), TSM(small, [small.layer4], rank=(4, 2, 2))(images)
    assert not np.allclose(plain, ranked)
    uncentred = EigenCAM(small, [small.layer4], center=False, sign="sum", backend="reference")(images)
    assert not np.allclose(uncentred, EigenCAM(small, [small.layer4])(images))
    with pytest.raises(TypeError, match="has no option 'rank'"):
        EigenCAM(small, [small.layer4], rank=3)
    with pytest.raises(TypeError, match="TSM has no option 'normalize' here"):
        TSM(small, [small.layer4], normalize=False)
    with pytest.raises(TypeError, match="target_layers must be a list of modules, got None"):
        TSM(small)


def test_the_forward_pass_stops_early_and_has_no_gradients(small, images) -> None:
    ran = []
    handles = [getattr(small, name).register_forward_hook(lambda *_: ran.append(1)) for name in ("layer4", "fc")]
    cam = EigenCAM(small, [small.layer3])
    cam(images)
    for handle in handles:
        handle.remove()
    assert not ran
    assert not cam.activations_and_grads.activations[0].requires_grad
    assert all(parameter.grad is None for parameter in small.parameters())
    assert not small.layer3._forward_hooks


def test_attributes_that_scripts_touch(small, images) -> None:
    with EigenCAM(small, [small.layer4, small.layer3]) as cam:
        assert cam.model is small
        assert cam.target_layers == [small.layer4, small.layer3]
        assert cam.device == torch.device("cpu")
        assert cam.reshape_transform is None
        cam.batch_size = 32
        with pytest.raises(AttributeError, match="there was none yet"):
            _ = cam.outputs
        cam(input_tensor=images, targets=None)
        assert cam.outputs.shape == (2, 1000)
        assert [tuple(a.shape) for a in cam.activations_and_grads.activations] == [(2, 512, 3, 3), (2, 256, 6, 6)]
        cam.tta_transforms = [next(iter(cam.tta_transforms))]
        assert cam(images, aug_smooth=True).shape == (2, 96, 96)
    assert not cam.activations_and_grads.activations


def test_aug_smooth_is_that_of_grad_cam(small, images, monkeypatch) -> None:
    fixed = stock.utils.svd_on_activations.get_2d_projection_with_sign_correction
    monkeypatch.setattr(stock.eigen_cam, "get_2d_projection", fixed)
    theirs = stock.EigenCAM(small, [small.layer3])(images, [0, 0], aug_smooth=True)
    assert np.abs(EigenCAM(small, [small.layer3])(images, aug_smooth=True, eigen_smooth=True) - theirs).max() < 1e-5


def test_volumes(monkeypatch) -> None:
    model = nn.Sequential(nn.Conv3d(1, 34, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)).eval()
    volumes = torch.rand(2, 1, 9, 11, 13, generator=torch.Generator().manual_seed(0))
    model(volumes)
    theirs = corrected(model, [model[1]], volumes, monkeypatch)
    maps = EigenCAM(model, [model[1]])(volumes)
    assert maps.shape == theirs.shape == (2, 9, 11, 13)
    assert np.abs(maps - theirs).max() < 1e-5
    assert MTSM(model, [model[1]])(volumes).shape == (2, 9, 11, 13)
    assert TSM(model, [model[1]], rank=2)(volumes).shape == (2, 9, 11, 13)
    with pytest.raises(ValueError, match="rank must have one number for each of the 4 modes of an item, got 3"):
        TSM(model, [model[1]], rank=(2, 2, 2))(volumes)


def test_a_transform_gets_what_the_layer_gives() -> None:
    class Pyramid(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"0": x, "pool": x[:, :, ::2, ::2]}

    model = nn.Sequential(nn.Conv2d(3, 40, 5, 4), Pyramid(), nn.Identity()).eval()
    maps = EigenCAM(model, [model[1]], fasterrcnn_reshape_transform)(torch.rand(1, 3, 65, 65))
    assert maps.shape == (1, 65, 65)
    pair = nn.Sequential(nn.Conv2d(3, 40, 5, 4), nn.Identity()).eval()
    pair[1].forward = lambda x: (x, -x)  # pyright: ignore[reportAttributeAccessIssue]
    seen: list[Any] = []
    EigenCAM(pair, [pair[1]], lambda given: (seen.append(type(given)), given[1])[1])(torch.rand(1, 3, 65, 65))
    assert seen == [tuple]
    with pytest.raises(ValueError, match=r"layer '2' must give feature maps \[B, C, H, W\] or \[B, C, T, H, W\], got"):
        EigenCAM(model, [model[2]])(torch.rand(1, 3, 65, 65))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_that_grad_cam_cannot(dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 40, 5, 4), nn.ReLU()).eval()
    images = torch.rand(1, 3, 65, 65, generator=torch.Generator().manual_seed(0))
    expected = EigenCAM(model, [model[1]])(images)
    assert np.abs(EigenCAM(model.to(dtype), [model[1]])(images.to(dtype)) - expected).max() < 0.05
    with pytest.raises(TypeError):
        stock.EigenCAM(model, [model[1]])(images.to(dtype), [0])


def test_nan_counts_as_zero_and_inf_raises() -> None:
    class Spoiled(nn.Module):
        value = float("nan")

        def forward(self, x: Tensor) -> Tensor:
            x = feature_maps(3, 40, 7, 7)
            x[1, 3, 2, 1] = self.value
            return x

    model = nn.Sequential(Spoiled(), nn.Conv2d(40, 2, 1)).eval()
    assert EigenCAM(model, [model[0]])(torch.zeros(3, 1, 7, 7)).max() <= 1
    assert np.isnan(EigenCAM(model, [model[0]], nan="propagate")(torch.zeros(3, 1, 7, 7))).any()
    with pytest.raises(ValueError, match="features must be finite, got NaN or Inf in item 1"):
        EigenCAM(model, [model[0]], nan="raise")(torch.zeros(3, 1, 7, 7))
    Spoiled.value = float("inf")
    with pytest.raises(NotFinite, match=r"activations must not be infinite, got Inf in items \[1\]"):
        EigenCAM(model, [model[0]])(torch.zeros(3, 1, 7, 7))
    with pytest.raises(np.linalg.LinAlgError):
        stock.EigenCAM(model, [model[0]])(torch.zeros(3, 1, 7, 7), [0])
    with patch(), pytest.raises(np.linalg.LinAlgError):
        stock.EigenCAM(model, [model[0]])(torch.zeros(3, 1, 7, 7), [0])


def test_arguments_of_old_versions_warn(small, images) -> None:
    with pytest.warns(UserWarning, match="is of old versions of pytorch-grad-cam") as told:
        cam = EigenCAM(small, target_layer=small.layer4, use_cuda=True)
    assert [warning.filename for warning in told] == [__file__] * 2
    with pytest.warns(UserWarning, match="target_category="):
        maps = cam(images, target_category=3)
    assert np.array_equal(maps, EigenCAM(small, [small.layer4])(images))


def test_nothing_is_kept(images) -> None:
    model = Detector().eval()
    gone = weakref.ref(model)
    cam = EigenCAM(model, [model.features])
    cam(images)
    del cam, model
    gc.collect()
    assert gone() is None


# ---- patch ----


def bound(name: str) -> list[str]:
    original = getattr(stock.utils.svd_on_activations, name)
    modules = {key: module for key, module in sys.modules.items() if key.startswith("pytorch_grad_cam")}
    return [key for key, module in modules.items() if getattr(module, name, None) is original]


def test_patch_replaces_every_binding_and_puts_them_back() -> None:
    before = get_2d_projection
    names = bound("get_2d_projection")
    assert len(names) == 10
    assert len(bound("get_2d_projection_with_sign_correction")) == 2
    with patch() as outer:
        assert get_2d_projection is not before, "also where a script has imported it by name"
        assert bound("get_2d_projection") == names
        with patch() as inner:
            assert inner is outer
        assert get_2d_projection is not before
    assert get_2d_projection is before
    assert bound("get_2d_projection") == names
    with pytest.raises(KeyError), patch():
        raise KeyError
    assert get_2d_projection is before


def test_patched_classes(small, images, monkeypatch) -> None:
    targets = [stock.base_cam.ClassifierOutputTarget(3)] * 2
    layers = [small.layer3]
    cases = {
        "SegEigenCAM": lambda: stock.SegEigenCAM(small, layers)(images, targets),
        "smooth": lambda: stock.GradCAM(small, layers)(images, targets, eigen_smooth=True),
        "EigenGradCAM": lambda: stock.EigenGradCAM(small, layers)(images, targets),
        "EigenCAM": lambda: stock.EigenCAM(small, layers)(images, targets),
    }
    fixed = stock.utils.svd_on_activations.get_2d_projection_with_sign_correction
    for name, run in cases.items():
        for module in ("base_cam", "eigen_cam", "eigen_grad_cam"):
            monkeypatch.setattr(getattr(stock, module), "get_2d_projection", fixed)
        theirs = run()
        monkeypatch.undo()
        with patch(compare=0) as done:
            maps = run()
        assert np.abs(maps - theirs).max() < 1e-4, name
        assert (done.calls, done.maps, done.compared) == (1, 2, 0), name


def test_turned_maps_are_counted_and_told_once() -> None:
    features = feature_maps(6, 40, 7, 7).numpy()
    theirs = get_2d_projection(features)
    with (
        pytest.warns(UserWarning, match="of the first 5 maps have another sign than NumPy's") as told,
        patch(compare=5) as done,
    ):
        mine = [get_2d_projection(features[:3]), get_2d_projection(features[3:])]
    maps = np.concatenate(mine)
    turned = (maps * theirs).sum(axis=(1, 2)) < 0
    assert done.turned == turned[:5].sum() > 0
    assert (done.calls, done.maps, done.compared) == (2, 6, 5)
    assert len(told) == 1
    assert up_to_sign(maps, theirs) < 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with patch() as done:
            get_2d_projection(features[:5][~turned[:5]])
    assert done.turned == 0


def test_the_compared_sign_is_that_of_the_whole_decomposition() -> None:
    """Comparing takes NumPy's smaller decomposition."""
    rng = np.random.default_rng(0)
    for c, s in [(3, 50), (40, 49), (49, 49), (64, 49), (90, 49), (512, 9), (600, 49)]:
        columns = np.float32(rng.normal(size=(s, c)) + rng.normal(size=c)).clip(0)
        columns -= columns.mean(axis=0)
        whole, part = (np.linalg.svd(columns, full_matrices=full)[2][0] for full in (True, False))
        assert whole @ part > 0.99
