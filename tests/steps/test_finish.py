"""What `saliency.py` does around the step: items with NaN or Inf, range, resizing, normalising."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tsm_fast
from tsm_fast.saliency import _FAINT
from tsm_fast.steps import reference
from tsm_fast.steps.backend import map_noise, peak_range
from tsm_fast.steps.scaling import peaks

from ..helpers import MAP_ERROR, feature_maps, randn

METHODS = ["eigencam", "tsm", "multivec_eigencam", "mtsm", "mean_activation"]


def compute(method: str, backend, x: Tensor, **options) -> Tensor:
    return getattr(tsm_fast, method)(x, backend=backend.name, **options)


def spoiled(dtype: torch.dtype = torch.float32) -> Tensor:
    x = feature_maps(5, 30, 6, 7).to(dtype)
    x[1, 3, 2, 1], x[3, 0, 0, 0], x[3, 4] = torch.nan, torch.inf, -torch.inf
    return x


# --- NaN and Inf ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_raise_names_the_items(backend, method):
    with pytest.raises(ValueError, match=r"features must be finite, got NaN or Inf in items 1, 3; nan='zero'"):
        compute(method, backend, spoiled())
    with pytest.raises(ValueError, match=r"in item 1;"):
        compute(method, backend, spoiled()[:3])


def test_raise_counts_what_it_does_not_name(backend):
    x = torch.full((30, 3, 2, 2), torch.nan)
    with pytest.raises(ValueError, match=r"in items 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 20 more;"):
        tsm_fast.tsm(x, backend=backend.name)


@pytest.mark.parametrize("rank", [None, (4, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_zero_counts_them_as_zero(backend, dtype, rank):
    x = spoiled(dtype)
    cleaned = torch.nan_to_num(x, 0.0, 0.0, 0.0)
    maps = tsm_fast.mtsm(x, rank, nan="zero", backend=backend.name)
    assert (maps - tsm_fast.mtsm(cleaned, rank, backend=backend.name)).abs().max() <= 1e-6
    assert x.isnan().any(), "the caller's features are not touched"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("size", [None, (9, 5)])
def test_propagate_leaves_the_others_untouched(backend, method, normalize, size):
    maps = compute(method, backend, spoiled(), nan="propagate", normalize=normalize, size=size)
    good = [0, 2, 4]
    assert maps[[1, 3]].isnan().all()
    expected = compute(method, backend, spoiled()[good], normalize=normalize, size=size)
    torch.testing.assert_close(maps[good], expected, rtol=1e-6, atol=1e-6)


def test_only_bad_items(backend):
    x = torch.full((2, 5, 3, 4), torch.inf)
    assert tsm_fast.tsm(x, nan="propagate", backend=backend.name).isnan().all()
    assert (tsm_fast.tsm(x, nan="zero", backend=backend.name) == 0).all()
    assert tsm_fast.tsm(x, (2, 2, 2), nan="propagate", backend=backend.name).isnan().all()


# --- range ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_normalized_maps_of_any_scale_in_one_batch(backend, method, scale):
    x = feature_maps(4, 30, 6, 7)
    expected = compute(method, backend, x)
    mixed = x.clone()
    mixed[1] *= scale
    mixed[2] = 0
    maps = compute(method, backend, mixed)
    assert (maps[2] == 0).all()
    assert (maps - expected)[[0, 1, 3]].abs().max() <= 2 * MAP_ERROR[method]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("exponent", [-1000, -500, 500, 1000])
def test_float64_of_any_scale(backend, method, exponent):
    x = feature_maps(2, 30, 6, 7).double()
    for precision in ("auto", "float64"):
        maps = compute(method, backend, x * 2.0**exponent, precision=precision)
        assert (maps - compute(method, backend, x, precision=precision)).abs().max() <= 2e-7


SCALES = {
    torch.float16: (-24, -14, 15),
    torch.bfloat16: (-133, -100, 127),
    torch.float32: (-149, -126, -70, 64, 127),
    torch.float64: (-1074, -1022, -600, -511, 511, 600, 1023),
}
VARIANTS = [
    ("eigencam", {}),
    ("eigencam", {"center": False, "sign": "sum"}),
    ("tsm", {}),
    ("tsm", {"rank": (2, 2, 2)}),
    *((method, {"combine": combine}) for method in ("multivec_eigencam", "mtsm") for combine in ("signed", "absolute")),
    ("mtsm", {"rank": (4, 2, 2)}),
    ("eigencam", {"center": False, "sign": "sum", "relu": False}),
    ("tsm", {"rank": (2, 2, 2), "relu": False}),
    ("mtsm", {"relu": False}),
]


def at_scale(x: Tensor, exponent: int, dtype: torch.dtype) -> Tensor:
    wide = x * 2.0 ** (exponent // 2) * 2.0 ** (exponent - exponent // 2)
    return wide.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)


@pytest.mark.parametrize("half", SCALES, ids=str)
@pytest.mark.parametrize(("method", "options"), VARIANTS, ids=str)
def test_finite_features_of_any_scale_give_finite_maps(backend, method, options, half):
    """Features of one scale, with a zero position and a constant channel, from the smallest number to the largest."""
    x = torch.randn(2, 9, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, :, 1, 2] = 0
    x[:, 4] = 1.5
    for exponent in SCALES[half]:
        features = at_scale(x, exponent, half)
        like = features.double() / features.double().abs().max().clamp(min=2.0**-1074)  # the same digits
        for precision in ("auto", "float64"):
            maps = compute(method, backend, features, precision=precision, **options)
            expected = compute(method, backend, like, precision="float64", **options)
            assert (maps - expected).abs().max() <= MAP_ERROR[method], exponent
            for size in (None, (9, 5)):
                raw = compute(method, backend, features, precision=precision, normalize=False, size=size, **options)
                assert not raw.isnan().any(), exponent


@pytest.mark.parametrize("ratio", [-40, -140, -260, -1000])
@pytest.mark.parametrize("method", ["eigencam", "multivec_eigencam"])
def test_a_large_constant_channel_hides_nothing(backend, method, ratio):
    """Centring takes it away; what is left decides, however little it is."""
    half = torch.float32 if ratio > -250 else torch.float64
    x = torch.randn(2, 9, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    peak = 120 if half == torch.float32 else 900
    features = at_scale(x, peak + ratio, half)
    features[:, 3] = 2.0**peak
    expected = compute(
        method, backend, torch.where(features == 2.0**peak, 0, features).double() * 2.0 ** -(peak + ratio)
    )
    for precision in ("auto", "float64"):
        maps = compute(method, backend, features, precision=precision)
        assert (maps - expected).abs().max() <= MAP_ERROR[method]


CONSTANTS = [1.0, 0.1, -3.3, 1e-3, 3e-39, 1e-42, 1e37]
CONSTANT_SHAPES = [(40, 7, 6), (130, 7, 7), (9, 13, 6), (200, 14, 14), (300, 17, 17)]


@pytest.mark.parametrize("shape", CONSTANT_SHAPES, ids=str)
@pytest.mark.parametrize(("method", "options"), VARIANTS, ids=str)
def test_constant_features_of_any_scale_give_zeros(backend, dtype, method, options, shape):
    channels = torch.randn(shape[0], generator=torch.Generator().manual_seed(1), dtype=torch.float64).abs()
    if backend.name == "reference" and shape[0] > 130:
        channels, shape = channels[:60], (60, *shape[1:])
    for value in CONSTANTS:
        for features in (value * channels, torch.full_like(channels, value)):
            x = features.to(dtype)[None, :, None, None].expand(1, *shape)
            for precision in ("auto", "float64"):
                maps = compute(method, backend, x, precision=precision, size=(20, 11), **options)
                assert (maps == 0).all(), (value, precision)


@pytest.mark.parametrize("size", [None, (20, 11)])
def test_constant_negative_maps_are_zeros(backend, dtype, size):
    """Their largest entry is the one of least magnitude."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    noise = 2 * torch.finfo(wide).eps * torch.rand(3, 6, 7, generator=torch.Generator().manual_seed(0), dtype=wide)
    assert (backend.finish(-3.7 * (1 + noise), size, normalize=True) == 0).all()


@pytest.mark.parametrize("contrast", [1e-8, 1e-10, 1e-11])
def test_float64_maps_keep_a_low_contrast(backend, contrast):
    """The bound below which a map is constant lies under what float64 features can tell apart."""
    pattern = torch.rand(7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (1 + torch.rand(1, 40, 1, 1, dtype=torch.float64)) * (1 + contrast * pattern)
    maps = compute("tsm", backend, x, precision="float64")
    expected = (pattern - pattern.min()) / (pattern.max() - pattern.min())
    # Each entry is good to some 1e-15 of the largest.
    assert (maps - expected).abs().max() <= 1e-14 / contrast


def test_what_a_resized_map_leaves_out_still_counts(backend):
    """One position carries everything and is not among those that are averaged: the rest is rounding."""
    x = torch.zeros(1, 26, 3, 2)
    x[0, 3, 0, 1] = 1
    for precision in ("auto", "float64"):
        maps = compute("mtsm", backend, x, size=(1, 19), precision=precision)
        assert (maps == 0).all()


def test_raw_maps_keep_the_scale(backend):
    x = feature_maps(2, 30, 6, 7)
    raw = tsm_fast.tsm(x, normalize=False, backend=backend.name)
    squared = tsm_fast.mtsm(x, normalize=False, backend=backend.name)
    assert torch.equal(tsm_fast.tsm(x * 2.0**40, normalize=False, backend=backend.name), raw * 2.0**40)
    assert torch.equal(tsm_fast.mtsm(x * 2.0**40, normalize=False, backend=backend.name), squared * 2.0**80)


# --- size and normalize --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(224, 224), (1, 1), (3, 20), (6, 7)])
def test_resizing_comes_before_normalizing(backend, method, size):
    x = feature_maps(3, 30, 6, 7)
    raw = compute(method, backend, x, normalize=False)
    resized = F.interpolate(raw[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    found = compute(method, backend, x, size=size, normalize=False)
    torch.testing.assert_close(found, resized, rtol=1e-6, atol=1e-6 * resized.max().item())
    maps = compute(method, backend, x, size=size)
    assert maps.shape == (3, *size)
    low, high = resized.amin((1, 2), keepdim=True), resized.amax((1, 2), keepdim=True)
    expected = torch.where(high > low, (resized - low) / (high - low), 0.0)
    torch.testing.assert_close(maps, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_normalized_maps_reach_0_and_1(backend, method):
    maps = compute(method, backend, feature_maps(5, 30, 6, 7, relu=False))
    assert (maps.amin((1, 2)) == 0).all()
    assert (maps.amax((1, 2)) == 1).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(0, 5, 4, 3), (2, 1, 1, 1), (2, 5, 1, 1), (2, 1, 4, 3), (1, 5, 1, 7), (3, 2, 7, 1)])
def test_small_shapes(backend, dtype, method, shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert compute(method, backend, x).shape == (shape[0], *shape[2:])
    assert compute(method, backend, x, normalize=False).isfinite().all()
    maps = compute(method, backend, x, size=(6, 5), precision="float64")
    assert maps.shape == (shape[0], 6, 5)
    assert maps.dtype == torch.float64
    assert ((maps >= 0) & (maps <= 1)).all()


# --- the step ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, (7, 6), (1, 1), (3, 20), (50, 5), (9, 300)])
@pytest.mark.parametrize("normalize", [True, False])
def test_finish_is_what_the_reference_does(backend, dtype, size, normalize):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    maps = torch.rand(6, 9, 6, generator=torch.Generator().manual_seed(0), dtype=wide)[:, 1:-1]
    maps[1] = 3.7
    maps[2] = 0
    maps[3] *= 1e-30
    maps[4, 2, 3] = torch.nan
    maps[5] -= 0.7
    expected = reference.finish(maps, size, normalize=normalize)
    found = backend.finish(maps, size, normalize=normalize)
    assert found.dtype == wide
    tolerance = 1e-13 if wide == torch.float64 else 1e-6
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    if normalize:
        rest = found[[0, 1, 2, 3, 5]]
        assert ((rest >= 0) & (rest <= 1)).all()
    assert backend.finish(maps[:0], size, normalize=normalize).shape == (0, *(size or maps.shape[1:]))


@pytest.mark.backends("cpu")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_which_maps_are_ordinary(backend, dtype):
    """One pass tells what the ways for maps that need a second look would find, at the limits too."""
    generator = torch.Generator().manual_seed(0)
    limits = torch.finfo(dtype)
    told = []
    for shape in [(1, 1), (1, 3), (2, 2), (3, 5), (7, 7), (8, 9), (14, 14)]:
        maps = torch.rand(3, *shape, dtype=dtype, generator=generator)
        near = [
            1 + maps[1] * share for share in (2**-5, 2**-6, 2**-7, 1e-3, limits.eps, 4 * limits.eps, 64 * limits.eps)
        ]
        others = [maps[1] * limits.tiny, maps[1] * 0, maps[1] - 0.5, maps[1] * torch.inf, maps[1] * torch.nan, *near]
        for other in [*others, *(-other for other in near), torch.full(shape, peak_range(dtype)[0], dtype=dtype)]:
            tried = torch.stack([maps[0], other, maps[2]])
            peak, spread = peaks(tried), tried.amax((1, 2)) - tried.amin((1, 2))
            lost = (peak < peak_range(dtype)[0]) | (peak > limits.max)
            for faint in (_FAINT, 0):
                flat = (spread < faint * peak) & (spread > map_noise(tried) * peak)
                told.append(backend.are_ordinary(tried, faint))
                assert told[-1] == (not (lost | flat).any()), (shape, other, faint)
    assert {*told} == {True, False}
    assert backend.are_ordinary(torch.empty(0, 7, 7, dtype=dtype), _FAINT)


@pytest.mark.parametrize("height", [30, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tall_maps_made_wide(backend, height, dtype):
    """With rows that lie in the shared memory of a GPU's block, 32 kB, or no longer."""
    maps = randn(2, height // (1 if dtype == torch.float32 else 2), 5, dtype=dtype).sigmoid()
    maps[1, 2, 3] = torch.nan
    size = (41, 260)
    for normalize in (True, False):
        expected = reference.finish(maps.double(), size, normalize=normalize).to(dtype)
        made = backend.finish(maps, size, normalize=normalize)
        assert torch.allclose(made, expected, atol=1e-6 if dtype == torch.float32 else 1e-14, equal_nan=True)


@pytest.mark.backends("cpu")
@pytest.mark.parametrize("size", [None, (7, 6), (20, 9)])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("bad", [None, "not finite", "tiny"])
def test_one_call_does_what_the_steps_do(backend, size, normalize, bad):
    """Where an item is not finite, or a map needs a second look, it gives the raw maps back."""
    x = torch.rand(5, 12, 7, 6, generator=torch.Generator().manual_seed(0))
    if bad:
        x[3] *= torch.inf if bad == "not finite" else 1e-38
    how = {"center": False, "combine": "signed", "sign": "u", "relu": True}
    raw, finite = backend.saliency(x, "mtsm", None, **how)
    maps, told = backend.finished_maps(
        x, "mtsm", None, **how, precision="auto", size=size, normalize=normalize, faint=0
    )
    if bad is None or (bad == "tiny" and size is None and not normalize):
        assert told is None
        changed = size is not None or normalize
        assert torch.equal(maps, backend.finish(raw, size, normalize=normalize) if changed else raw)
    else:
        assert torch.equal(told, finite)
        assert torch.equal(maps.nan_to_num(nan=-1), raw.nan_to_num(nan=-1))
    empty, told = backend.finished_maps(
        x[:0], "mtsm", None, **how, precision="auto", size=size, normalize=normalize, faint=0
    )
    assert empty.shape == (0, *(size or (7, 6)))
    assert told is None
