"""The `saliency` step and the four public maps: definitions, accuracy, pytorch-grad-cam's steps, invariances."""

from __future__ import annotations

import itertools
from functools import cache, partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tsm_fast

from ..helpers import DOUBLE_ERROR, MAP_ERROR, feature_maps, pines, randn, views
from .definitions import definition, normalized

FEATURES = {
    "pines": pines(4, 7, 7),  # real, positive, more channels than positions
    "pines, signed": pines(4, 7, 7, signed=True),
    "pines, more positions than channels": pines(2, 18, 17),
    "pines, one row": pines(3, 1, 9),
    "blobs": feature_maps(5, 130, 7, 7),
    "blobs, signed": feature_maps(5, 130, 7, 7, relu=False),
    "blobs, few channels": feature_maps(3, 9, 13, 6),
    "blobs, 14 x 14": feature_maps(2, 301, 14, 14),
    "two channels": feature_maps(3, 2, 5, 5, relu=False),
    "one channel": feature_maps(3, 1, 5, 5, relu=False),
    "a row longer than the rest": feature_maps(3, 1, 3, 15, relu=False),
    "a column longer than the rest": feature_maps(3, 2, 13, 2, relu=False),
    "more positions than 256": feature_maps(2, 40, 19, 21),
}

VARIANTS = [
    *(("eigencam", None, {"center": c, "sign": s}) for c in (True, False) for s in ("absmax", "sum", "u", "v")),
    *(("multivec_eigencam", None, {"center": c, "sign": s}) for c in (True, False) for s in ("u", "v")),
    *(("multivec_eigencam", None, {"center": c, "combine": "absolute"}) for c in (True, False)),
    ("tsm", None, {}),
    ("tsm", (8, 4, 4), {}),
    ("tsm", (6, 2, 3), {}),
    ("tsm", (1, 1, 1), {}),
    *(("mtsm", r, {"sign": s}) for r in (None, (8, 4, 4), (12, 4, 3)) for s in ("u", "v")),
    *(("mtsm", r, {"combine": "absolute"}) for r in (None, (8, 4, 4), (3, 2, 2), (1, 2, 2), (2, 2, 1))),
]
DEFAULTS = {"center": True, "combine": "signed"}
DEFAULT_SIGN = {"eigencam": "absmax", "tsm": "absmax", "multivec_eigencam": "u", "mtsm": "u"}


def feasible(rank: tuple[int, ...] | None, shape: torch.Size) -> bool:
    if rank is None:
        return True
    return all(r <= size for r, size in zip(rank, shape, strict=True)) and rank[0] <= rank[1] * rank[2]


@cache
def expected(name: str, variant: int, half: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Normalised maps [B, H, W] and untied items [B] by the definitions."""
    method, rank, options = VARIANTS[variant]
    options = {"sign": DEFAULT_SIGN[method], **DEFAULTS, **options}
    x = FEATURES[name] if half is None else FEATURES[name].to(half)
    maps, ties = zip(*(definition(item, method, rank, **options) for item in x.double().numpy()), strict=True)
    return normalized(torch.from_numpy(np.stack(maps))), ~torch.tensor(ties)


def call(method: str, x, rank=None, **options):
    return getattr(tsm_fast, method)(x, **({} if rank is None else {"rank": rank}), **options)


def cases() -> list:
    return [
        pytest.param(name, i, id=f"{name}-{method}-{rank}-{'-'.join(map(str, options.values()))}")
        for name in FEATURES
        for i, (method, rank, options) in enumerate(VARIANTS)
        if feasible(rank, FEATURES[name].shape[1:])
    ]


@pytest.mark.parametrize(("name", "variant"), cases())
def test_maps_by_the_definitions(backend, name, variant):
    method, rank, options = VARIANTS[variant]
    exact, untied = expected(name, variant)
    for precision, tolerance in (("auto", MAP_ERROR[method]), ("float64", DOUBLE_ERROR)):
        maps = call(method, FEATURES[name], rank, **options, precision=precision, backend=backend.name)
        assert maps.shape == exact.shape
        assert maps.dtype == (torch.float64 if precision == "float64" else torch.float32)
        assert (maps.double() - exact)[untied].abs().max() <= tolerance, precision
        assert (maps >= 0).all()
        assert (maps <= 1).all()
    assert untied.sum() >= len(untied) - 1


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variant", range(len(VARIANTS)))
def test_half_counts_as_its_exact_values(backend, half, variant):
    method, rank, options = VARIANTS[variant]
    exact, untied = expected("blobs", variant, half)
    maps = call(method, FEATURES["blobs"].to(half), rank, **options, backend=backend.name)
    assert maps.dtype == torch.float32
    assert (maps.double() - exact)[untied].abs().max() <= MAP_ERROR[method]


@pytest.mark.parametrize("variant", range(len(VARIANTS)))
def test_the_step_gives_raw_maps(backend, variant):
    method, rank, options = VARIANTS[variant]
    options = {"sign": DEFAULT_SIGN[method], **DEFAULTS, **options}
    x = FEATURES["blobs"]
    raw, finite = backend.saliency(x, method, rank, **options, precision="float64")
    exact = torch.stack([torch.from_numpy(definition(i, method, rank, **options)[0]) for i in x.double().numpy()])
    assert finite.all()
    assert raw.dtype == torch.float64
    assert (raw - exact).abs().max() <= DOUBLE_ERROR * exact.max()
    single, _ = backend.saliency(x, method, rank, **options)
    assert single.dtype == torch.float32
    assert (single - exact).abs().max() <= MAP_ERROR[method] * exact.max()
    not_normalized = call(method, x, rank, **VARIANTS[variant][2], normalize=False, backend=backend.name)
    assert torch.equal(not_normalized, single)


SIGNED = ["pines, signed", "pines, more positions than channels", "blobs", "blobs, few channels", "one channel"]


@pytest.mark.parametrize("name", SIGNED)
@pytest.mark.parametrize("variant", range(len(VARIANTS)))
def test_without_relu_maps_keep_their_sign(backend, name, variant):
    method, rank, options = VARIANTS[variant]
    x = FEATURES[name]
    if not feasible(rank, x.shape[1:]):
        return
    how = {"sign": DEFAULT_SIGN[method], **DEFAULTS, **options}
    maps, ties = zip(*(definition(item, method, rank, **how, relu=False) for item in x.double().numpy()), strict=True)
    exact, untied = torch.from_numpy(np.stack(maps)), ~torch.tensor(ties)
    largest = exact.abs().amax((1, 2), keepdim=True)
    for precision, tolerance in (("auto", MAP_ERROR[method]), ("float64", DOUBLE_ERROR)):
        compute = partial(call, method, x, rank, **options, precision=precision, backend=backend.name)
        signed = compute(relu=False, normalize=False)
        assert ((signed - exact).abs() <= tolerance * largest)[untied].all(), precision
        rectified = signed.clamp(min=0) if method == "eigencam" else signed.abs()
        assert ((compute(normalize=False) - rectified).abs() <= tolerance * largest).all()
        in_range = compute(relu=False)
        assert (in_range - normalized(exact))[untied].abs().max() <= tolerance, precision
    assert untied.sum() >= len(untied) - 1


def test_uncentered_eigencam_is_tsm_up_to_its_sign(backend):
    x = pines(4, 7, 7)
    tsm = tsm_fast.tsm(x, normalize=False, backend=backend.name)
    for sign in ("absmax", "sum", "u", "v"):
        torch.testing.assert_close(
            tsm_fast.eigencam(x, center=False, sign=sign, normalize=False, backend=backend.name), tsm
        )


def test_full_rank_by_number_is_full_rank(backend):
    x = feature_maps(3, 60, 5, 4)
    for method in ("tsm", "mtsm"):
        torch.testing.assert_close(
            call(method, x, (60, 5, 4), backend=backend.name),
            call(method, x, backend=backend.name),
            rtol=0,
            atol=2 * MAP_ERROR[method],
        )


# --- pytorch-grad-cam ----------------------------------------------------------------------------------------------


def grad_cam(activations: np.ndarray, size: tuple[int, int], flip: np.ndarray) -> np.ndarray:
    """The published steps of pytorch-grad-cam 1.5's EigenCAM, its free sign turned where `flip` says."""
    activations = np.where(np.isnan(activations), 0, activations)
    maps = []
    for item, turn in zip(activations, flip, strict=True):
        reshaped = item.reshape(len(item), -1).T
        reshaped = reshaped - reshaped.mean(axis=0)
        _, _, right = np.linalg.svd(reshaped, full_matrices=True)
        maps.append((reshaped @ right[0] * (-1 if turn else 1)).reshape(item.shape[1:]))
    maps = scale_cam_image(np.maximum(np.stack(maps), 0))
    maps = F.interpolate(torch.from_numpy(maps)[:, None], size, mode="bilinear", align_corners=False)[:, 0].numpy()
    return scale_cam_image(maps)


def scale_cam_image(maps: np.ndarray) -> np.ndarray:
    maps = maps - maps.min(axis=(1, 2), keepdims=True)
    return maps / (1e-7 + maps.max(axis=(1, 2), keepdims=True))


@pytest.mark.parametrize("name", ["pines", "pines, signed", "blobs", "blobs, signed", "blobs, few channels"])
@pytest.mark.parametrize("size", [(7, 7), (33, 20)], ids=str)
def test_eigencam_is_that_of_grad_cam_up_to_sign(backend, name, size):
    x = FEATURES[name].clone()
    x[0, 0, 0, 0] = torch.nan
    maps = tsm_fast.eigencam(x, size=size, nan="zero", backend=backend.name).numpy()
    candidates = np.stack([grad_cam(x.double().numpy(), size, np.full(len(x), turn)) for turn in (False, True)])
    errors = np.abs(candidates - maps).max(axis=(2, 3))  # [2, B]
    # The 1e-7 in their denominator is 1e-7 of the largest value at most, features being of order 1 and more.
    assert (errors.min(axis=0) <= MAP_ERROR["eigencam"] + 1e-7).all()


# --- invariances ---------------------------------------------------------------------------------------------------

SOME = [0, 1, 8, 11, 12, 14, 16, 18, 22]
METHODS = [pytest.param(*VARIANTS[i], id=f"{VARIANTS[i][0]}-{VARIANTS[i][1]}-{i}") for i in SOME]


def same(one: Tensor, other: Tensor, backend) -> bool:
    """Bitwise for compiled backends; the reference sums in torch's order, which depends on the shapes."""
    return torch.equal(one, other) if backend.name != "reference" else torch.allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("method", "rank", "options"), METHODS)
def test_batch_size_and_order_do_not_matter(backend, method, rank, options):
    x = torch.cat([feature_maps(9, 61, 7, 6, relu=False), feature_maps(10, 61, 7, 6, seed=1)])
    compute = partial(call, method, rank=rank, backend=backend.name, **options)
    maps = compute(x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert same(compute(x[order]), maps[order], backend)
    for part in (slice(0, 1), slice(3, 5), slice(2, 17)):
        assert same(compute(x[part]), maps[part], backend)


@pytest.mark.parametrize(("method", "rank", "options"), METHODS)
def test_strides_do_not_matter(backend, method, rank, options):
    x = feature_maps(3, 61, 7, 6, relu=False)
    compute = partial(call, method, rank=rank, backend=backend.name, **options)
    maps = compute(x)
    for name, view in {**views(x), "channels_last": x.contiguous(memory_format=torch.channels_last)}.items():
        assert torch.equal(view, x)
        assert (compute(view) - maps).abs().max() <= 2**-23, name


@pytest.mark.parametrize(("method", "rank", "options"), METHODS)
def test_the_scale_does_not_matter(backend, method, rank, options):
    x = feature_maps(3, 61, 7, 6)
    compute = partial(call, method, rank=rank, backend=backend.name, **options)
    maps = compute(x)
    for scale in (2.0**-100, 0.25, 2.0**90):
        again = compute(x * scale)
        if backend.name == "triton" and scale != 0.25:  # its float32 sums are left for float64 ones
            assert (again - maps).abs().max() <= MAP_ERROR[method]
        else:
            assert same(again, maps, backend)
    for scale in (1e-30, 3.7, 1e30):
        assert (compute(x * scale) - maps).abs().max() <= 2 * MAP_ERROR[method]
    small = compute((x * 1e-39).clamp(min=0))
    # The denormal numbers that the features become keep 15 bits at most.
    assert (small - maps).abs().max() <= 1e-3


@pytest.mark.parametrize(("method", "rank", "options"), METHODS)
def test_the_order_of_channels_does_not_matter(backend, method, rank, options):
    if options.get("combine", "signed") == "signed" and method in ("mtsm", "multivec_eigencam"):
        options = {**options, "sign": "v"}
    if options.get("sign") == "u":
        options = {**options, "sign": "absmax"}
    x = feature_maps(3, 61, 7, 6)
    compute = partial(call, method, rank=rank, backend=backend.name, **options)
    order = torch.randperm(61, generator=torch.Generator().manual_seed(0))
    assert (compute(x[:, order]) - compute(x)).abs().max() <= 2 * MAP_ERROR[method]


@pytest.mark.parametrize("precision", ["auto", "float64"])
@pytest.mark.parametrize("sign", ["absmax", "u", "v"])
def test_of_entries_that_tie_the_first_decides(backend, sign, precision):
    """Two positions, centred: a map and its opposite; every channel is there with either sign."""
    half = (randn(3, 20, 1, 1) * torch.tensor([1.0, -1.0])).mul(8).round()
    x = torch.cat([half, -half], 1)
    for features in (x, x.flip(1), x.flip(3)):
        maps = tsm_fast.eigencam(features, sign=sign, precision=precision, backend=backend.name)
        largest = features[:, :, 0, 0].abs().argmax(1)
        exact = features[range(3), largest, 0] if sign == "u" else torch.tensor([1.0, -1.0]).expand(3, 2)
        assert (maps[:, 0] - (exact > 0).to(maps)).abs().max() <= 1e-6


@pytest.mark.parametrize(
    ("method", "rank", "options"), [case for case in METHODS if case.values[1] is None], ids=lambda v: str(v)
)
def test_rotating_the_features_rotates_the_map(backend, method, rank, options):
    x = feature_maps(3, 61, 7, 6)
    compute = partial(call, method, backend=backend.name, **options)
    assert (compute(x.rot90(1, (2, 3))) - compute(x).rot90(1, (1, 2))).abs().max() <= 2 * MAP_ERROR[method]


@pytest.mark.parametrize("name", ["pines, signed", "blobs", "blobs, signed", "blobs, 14 x 14"])
def test_absmax_never_leaves_the_object_a_hole(backend, name):
    x = FEATURES[name]
    raw = tsm_fast.eigencam(x, normalize=False, backend=backend.name).amax((1, 2))
    for turned in (x, -x):
        other = tsm_fast.eigencam(turned, normalize=False, backend=backend.name).amax((1, 2))
        torch.testing.assert_close(other, raw)
        inverse = tsm_fast.eigencam(turned, sign="u", normalize=False, backend=backend.name).amax((1, 2))
        assert (other >= inverse * (1 - 1e-5)).all()


# --- items without a map -------------------------------------------------------------------------------------------

ALL = [("eigencam", None), ("multivec_eigencam", None), *itertools.product(["tsm", "mtsm"], [None, (4, 2, 3)])]


@pytest.mark.parametrize(("method", "rank"), ALL)
@pytest.mark.parametrize("value", [0.0, 1.0, -2.7, 1e-30, 1e30])
def test_constant_features_give_zeros(backend, dtype, method, rank, value):
    if method == "tsm" or method == "eigencam":
        channels = torch.full((1, 40, 1, 1), value, dtype=dtype)
    else:
        channels = value * randn(1, 40, 1, 1, dtype=dtype)
    maps = call(method, channels.expand(2, 40, 7, 6), rank, backend=backend.name)
    assert torch.equal(maps, torch.zeros(2, 7, 6))


@pytest.mark.parametrize(("method", "rank"), ALL)
def test_rank_one_features_give_their_factor(backend, method, rank):
    pattern = torch.rand(2, 7, 6, generator=torch.Generator().manual_seed(1))
    x = torch.rand(2, 40, generator=torch.Generator().manual_seed(2))[:, :, None, None] * pattern[:, None]
    maps = call(method, x, rank, backend=backend.name)
    if method == "multivec_eigencam":
        pattern = (pattern - pattern.mean((1, 2), keepdim=True)).abs()
    elif method == "eigencam":
        centered = pattern - pattern.mean((1, 2), keepdim=True)
        turn = torch.where(centered.amax((1, 2)) < -centered.amin((1, 2)), -1.0, 1.0)
        pattern = (centered * turn[:, None, None]).clamp(min=0)
    elif rank is not None:
        return
    assert (maps - normalized(pattern)).abs().max() <= MAP_ERROR[method]


@pytest.mark.parametrize("name", ["blobs, signed", "more positions than 256", "one channel"])
def test_mean_activation_is_the_mean_of_the_channels(backend, name, dtype):
    x = FEATURES[name].to(dtype)
    exact = x.double().mean(1)
    maps = tsm_fast.mean_activation(x, normalize=False, backend=backend.name)
    torch.testing.assert_close(maps, exact.float())
    wide = tsm_fast.mean_activation(x, precision="float64", backend=backend.name)
    assert (wide - normalized(exact)).abs().max() <= 1e-12
    at = x.clone().requires_grad_()
    tsm_fast.mean_activation(at, normalize=False).sum().backward()
    assert at.grad is not None
    torch.testing.assert_close(at.grad, torch.full_like(x, 1 / x.shape[1]))


def test_the_mean_of_channels_that_nearly_cancel_is_constant_where_they_are(backend):
    channels = randn(1, 96, 1, 1)
    channels = (channels - 0.9998 * channels.mean()).float()
    x = torch.cat([channels.expand(1, 96, 12, 7), randn(1, 96, 12, 7).float()])
    maps = tsm_fast.mean_activation(x, backend=backend.name)
    assert torch.equal(maps[0], torch.zeros(12, 7))
    assert maps[1].min() == 0
    assert maps[1].max() == 1


def test_a_mean_of_channels_does_not_depend_on_the_other_items(backend):
    x = randn(3, 96, 6, 5).float() + 1e3
    broken = x.clone()
    broken[1, 0, 0, 0] = torch.nan
    mean = partial(tsm_fast.mean_activation, normalize=False, backend=backend.name)
    assert torch.equal(mean(broken, nan="propagate")[::2], mean(x)[::2])
    assert torch.equal(mean(broken, nan="zero"), mean(broken.nan_to_num()))


def test_the_spread_of_a_signed_map_may_be_more_than_the_largest_number(backend):
    x = randn(1, 5, 1, 1) * torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
    raw = partial(tsm_fast.eigencam, relu=False, backend=backend.name)
    peak = raw(x, normalize=False, precision="float64").abs().max()
    large = (x * (3e38 / peak)).float()
    torch.testing.assert_close(raw(large), raw(x.float()), rtol=0, atol=MAP_ERROR["eigencam"])
