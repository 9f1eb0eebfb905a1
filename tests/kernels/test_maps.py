"""`saliency` of the Triton backend by the reference's definitions, and the public maps on odd input."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import tsm_fast
from tsm_fast import kernels
from tsm_fast.kernels import launch
from tsm_fast.kernels.launch import Arithmetic
from tsm_fast.kernels.products import extremes
from tsm_fast.steps import reference
from tsm_fast.steps.capture import as_captured

from ..cuda.waits import Waits
from ..helpers import DOUBLE_ERROR, MAP_ERROR, feature_maps, generator, pines, randn, views

pytestmark = pytest.mark.slow

FEATURES = {
    "more channels than positions": feature_maps(2, 40, 2, 4),
    "signed": feature_maps(2, 40, 3, 2, relu=False),
    "more positions than channels": feature_maps(2, 7, 5, 6, relu=False),
}
FULL_RANK = [
    *(("eigencam", center, "signed", sign) for center in (True, False) for sign in ("absmax", "sum", "u", "v")),
    *(("multivec_eigencam", center, "signed", sign) for center in (True, False) for sign in ("u", "v")),
    *(("multivec_eigencam", center, "absolute", "u") for center in (True, False)),
    ("tsm", False, "signed", "u"),
    ("mtsm", False, "signed", "u"),
    ("mtsm", False, "absolute", "u"),
]
TRUNCATED = [("tsm", "signed", "absmax"), ("mtsm", "signed", "u"), ("mtsm", "signed", "v"), ("mtsm", "absolute", "u")]


def normalized(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1.0)


def check(x: Tensor, method: Any, rank: tuple[int, ...] | None, precisions=None, **options) -> None:
    """Only maps of one vector at full rank have a path of their own for `precision="auto"`."""
    if precisions is None:
        precisions = ("auto", "float64") if rank is None and method in ("eigencam", "tsm") else ("float64",)
    exact, _ = reference.saliency(x, method, rank, precision="float64", **options)
    for precision in precisions:
        maps, finite = kernels.saliency(x, method, rank, precision=precision, **options)
        assert maps.dtype == (torch.float64 if precision == "float64" else torch.float32)
        assert finite.all()
        error = (normalized(maps.double()) - normalized(exact)).abs().max()
        assert error <= (DOUBLE_ERROR if precision == "float64" else MAP_ERROR[method])
        # 1e-5 of a raw map, in which the largest singular value counts as much as in the normalised one
        assert (maps.double() - exact).abs().max() <= 1e-5 * exact.abs().max() + 1e-12


@pytest.mark.parametrize(("method", "center", "combine", "sign"), FULL_RANK)
@pytest.mark.parametrize("name", FEATURES)
def test_maps_at_full_rank(name, method, center, combine, sign):
    check(FEATURES[name], method, None, center=center, combine=combine, sign=sign)


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize(("method", "sign"), [("eigencam", "sum"), ("tsm", "absmax"), ("multivec_eigencam", "u")])
def test_signed_maps(name, method, sign):
    check(FEATURES[name], method, None, center=True, combine="signed", sign=sign, relu=False)


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (1, 5, 1, 1)], ids=["one channel", "one position"])
def test_maps_of_one_channel_or_position(shape):
    for method, sign in (("eigencam", "absmax"), ("tsm", "u"), ("multivec_eigencam", "v"), ("mtsm", "u")):
        check(feature_maps(*shape, relu=False), method, None, center=False, combine="signed", sign=sign)


@pytest.mark.parametrize(("method", "combine", "sign"), TRUNCATED)
def test_maps_at_a_rank(method, combine, sign):
    for relu in (True, False):
        options = {"combine": combine, "sign": sign, "relu": relu}
        check(feature_maps(1, 30, 3, 4), method, (3, 2, 2), center=False, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_maps_of_other_dtypes(dtype):
    x = FEATURES["signed"].to(dtype)
    for method in ("eigencam", "tsm", "mtsm"):
        check(x, method, None, center=method == "eigencam", combine="signed", sign="u")


def test_maps_of_real_features():
    for method, center in (("tsm", False), ("multivec_eigencam", True)):
        check(pines(1, 7, 7, signed=True), method, None, ("auto",), center=center, combine="signed", sign="u")


def test_maps_above_64_positions():
    for method, shape in (("eigencam", (1, 70, 11, 6)), ("multivec_eigencam", (1, 65, 9, 8))):
        check(feature_maps(*shape), method, None, ("auto",), center=True, combine="signed", sign="u")


@pytest.mark.parametrize("shape", [(5, 1), (33, 9), (70, 20)], ids=str)
def test_signs_of_ties_are_those_of_the_first_entry(shape):
    """Small integers: products are exact, and most columns have several entries of largest magnitude."""
    draw = generator()
    x = torch.randint(-1, 2, (2, *shape), generator=draw).double()
    vectors = torch.randint(-1, 2, (2, shape[1], 18), generator=draw).double()
    for shift in (None, torch.randint(-1, 2, (2, 1, 18), generator=draw).double()):
        exact = x @ vectors - (0 if shift is None else shift)
        assert (exact.amax(1) == -exact.amin(1)).any()
        index = exact.abs().argmax(1, keepdim=True)
        assert extremes(x, vectors, shift).equal(exact.gather(1, index)[:, 0])


@pytest.mark.parametrize("sign", ["absmax", "u", "v"])
def test_signs_of_single_maps_with_ties(sign):
    """Two positions, centred: a map and its opposite; every channel is there with either sign."""
    half = torch.randint(-9, 10, (2, 10, 1, 2), generator=generator()).double()
    half[..., 1] = -half[..., 0]
    x = torch.cat([half, -half], 1)
    for features in (x, x.flip(1), x.flip(3)):
        check(features, "eigencam", None, ("float64",), center=True, combine="signed", sign=sign)


def test_float32_passes_are_repeated_where_they_do_not_do(monkeypatch):
    """Items of a small gap or far from 1 take a second pass in float64, and only they."""
    module = sys.modules["tsm_fast.kernels.saliency"]  # the name belongs to the function
    rounds, gram = [], module.gram

    def counted(matrix: Tensor, *, wide: bool, only: Tensor | None = None, **rest) -> Tensor:
        rounds.append((wide, None if only is None else only.tolist()))
        return gram(matrix, wide=wide, only=only, **rest)

    monkeypatch.setattr(module, "gram", counted)
    left, right = torch.linalg.qr(randn(20, 2))[0], torch.linalg.qr(randn(9, 2, seed=1))[0]
    near_tie = (left * torch.tensor([1, 0.98], dtype=torch.float64) @ right.mT).view(20, 3, 3)
    clear = (left * torch.tensor([1, 0.2], dtype=torch.float64) @ right.mT).view(20, 3, 3)
    x = torch.stack([clear, near_tie, 1e-25 * clear, 1e25 * clear]).float()
    for precision, again in (("auto", [False, True, True, True]), ("float32", [False, False, True, True])):
        rounds.clear()
        check(x[:2], "tsm", None, (precision,), center=False, combine="signed", sign="u")
        rounds.clear()
        maps, finite = kernels.saliency(x, "tsm", None, center=False, combine="signed", sign="u", precision=precision)
        assert rounds == [(False, None), (True, again)]
        assert finite.all()
        for i, scale in ((2, 1e-25), (3, 1e25)):
            assert (maps[i] / scale - maps[0]).abs().max() <= 1e-6 * maps[0].max()


def test_arithmetic_by_dtype(monkeypatch):
    x = torch.empty(1)
    assert launch.arithmetic(x, wide=True) == Arithmetic(True, "ieee")
    assert launch.arithmetic(x.double(), wide=False) == Arithmetic(True, "ieee")
    assert launch.arithmetic(x, wide=False) == Arithmetic(False, "tf32x3")
    assert launch.arithmetic(x.half(), wide=False, exact=True) == Arithmetic(False, "tf32")
    assert launch.arithmetic(x.half(), wide=False) == Arithmetic(False, "tf32x3")
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert launch.arithmetic(x, wide=False) == Arithmetic(False, "ieee")


def test_three_tf32_products_keep_the_contract():
    """The interpreter multiplies float32 as it is: here TF32x3 is done by hand, in blocks as the kernel takes them."""
    x = pines(4, 7, 7, signed=True)
    f = x.flatten(2)
    gram = torch.zeros(4, 49, 49, dtype=torch.float64)
    for start in range(0, f.shape[1], 32):
        part = f[:, start : start + 32]
        high = tf32(part)
        low = tf32(part - high)
        gram += (high.mT @ high + (high.mT @ low + low.mT @ high)).double()
    exact = f.double().mT @ f.double()
    assert (gram - exact).abs().max() <= 1e-6 * exact.abs().max()
    ours, theirs = (torch.linalg.eigh(g)[1][..., -1].abs() for g in (gram, exact))
    assert (normalized(ours[:, None]) - normalized(theirs[:, None])).abs().max() <= MAP_ERROR["tsm"]


def tf32(x: Tensor) -> Tensor:
    """Rounded to the 10 bits after the point that TF32 has."""
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def test_bad_items_leave_the_others_alone():
    x = feature_maps(5, 30, 2, 4, relu=False)
    calls = [("eigencam", None), ("tsm", None), ("mtsm", None), ("mtsm", (3, 2, 2))]
    for method, rank in calls:
        options = {"backend": "triton", "normalize": False, **({"rank": rank} if rank else {})}
        call = getattr(tsm_fast, method)
        good = call(x, **options)
        bad = x.clone()
        bad[1, 3, 1, 2], bad[4, 0, 0, 0] = torch.nan, -torch.inf
        bad[2] = 0
        maps = call(bad, nan="propagate", **options)
        assert torch.equal(maps[[0, 3]], good[[0, 3]])
        assert maps[[1, 4]].isnan().all()
        assert not maps[2].any()
        with pytest.raises(ValueError, match="items 1, 4"):
            call(bad, **options)


def test_batches_strides_and_devices():
    x = feature_maps(3, 20, 2, 3, relu=False)
    for method in ("tsm", "multivec_eigencam"):
        call = getattr(tsm_fast, method)
        exact = call(x, backend="triton")
        assert torch.equal(call(x.flip(0), backend="triton"), exact.flip(0))
        assert torch.equal(call(x[1:2], backend="triton"), exact[1:2])
        for view in (x.to(memory_format=torch.channels_last), *views(x).values()):
            assert torch.equal(call(view, backend="triton"), exact)
    with pytest.raises(RuntimeError, match="backend 'triton' runs on cpu tensors, got one on meta"):
        tsm_fast.tsm(x.to("meta"), backend="triton")
    with pytest.raises(RuntimeError, match="has no gradients"):
        tsm_fast.tsm(x.requires_grad_(), backend="triton")
    with pytest.raises(ValueError, match="matrix must be on cpu, the device of x, got meta"):
        tsm_fast.mode_dot(x.detach(), torch.empty(3, 2, 2, device="meta"), 1, backend="triton")


CAPTURED = {
    "tsm": partial(tsm_fast.tsm, size=(5, 5)),
    "eigencam": tsm_fast.eigencam,
    "mtsm": tsm_fast.mtsm,
    "mtsm, rank": partial(tsm_fast.mtsm, rank=(4, 2, 3)),
    "mean": tsm_fast.mean_activation,
}


@pytest.mark.parametrize("name", CAPTURED)
def test_a_captured_call_waits_for_nothing(name):
    call = partial(CAPTURED[name], backend="triton")
    x = feature_maps(3, 20, 3, 3)
    expected = call(x)
    x[1, 3, 2, 2] = torch.nan
    with Waits() as waits, as_captured():
        maps = call(x)
    assert waits.count == 0
    assert torch.equal(maps[::2], expected[::2])
    assert maps[1].isnan().all()


REFUSED = {
    "n = 65": partial(tsm_fast.tsm, torch.ones(1, 70, 5, 13)),
    "n = 66": partial(tsm_fast.eigh, torch.ones(1, 66, 66)),
    "HOOI": partial(tsm_fast.tucker, torch.ones(1, 3, 3, 9, 9), rank=2),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_waits_is_refused_where_a_graph_is_captured(what):
    with as_captured(), pytest.raises(RuntimeError, match=f"{what}.* while a CUDA graph is captured: call it without"):
        REFUSED[what](backend="triton")


def test_the_range_of_every_dtype():
    x = feature_maps(1, 20, 3, 3)
    for dtype, scales in ((torch.float32, (1e-30, 1e30)), (torch.float64, (1e-300, 1e300)), (torch.float16, (1e-3,))):
        for method in ("tsm", "mtsm"):
            maps = getattr(tsm_fast, method)(x.to(dtype), backend="triton")
            for scale in scales:
                other = getattr(tsm_fast, method)((x.to(dtype) * scale).to(dtype), backend="triton")
                assert (maps - other).abs().max() <= (5e-3 if dtype == torch.float16 else 1e-5)


def test_it_explains_itself():
    info = tsm_fast.backends()["triton"]
    assert info.available
    assert "in its interpreter, on CPU tensors: for tests" in info.reason
    assert info.auto == ""
