"""`mode_gram` of every backend against a product in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ..helpers import feature_maps, pines, randn, unfold, views

# Relative to |x_i| |x_j|. float32 rounds at 6e-8, and sums of up to 3000 products in several accumulators add a few of
# those; float64 rounds at 1.1e-16.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 2e-14}

SHAPES = [
    (2, 63, 7, 7),
    (3, 16, 49),
    (1, 1, 1),
    (2, 1, 1000),
    (2, 130, 1),
    (5, 33, 5, 3),
    (2, 6, 5, 4, 3),
    (2, 3, 4, 3, 2, 5),
    (2, 17, 14, 15),
]


def expected(x: Tensor, mode: int, center: bool = False) -> tuple[Tensor, Tensor]:
    """The Gram matrix in float64, and |x_i| |x_j|, or the largest of these where centring may shorten a row to nothing
    against the numbers it was rounded from.
    """
    wide = x.double()
    wide = wide - wide.mean(-1, keepdim=True) if center else wide
    unfolded = unfold(wide, mode)
    length = unfolded.norm(dim=2)
    length = length.amax(1, keepdim=True).expand_as(length) if center and len(x) else length
    return unfolded @ unfolded.mT, length[:, :, None] * length[:, None]


def check(gram: Tensor, x: Tensor, mode: int, tolerance: float, center: bool = False) -> None:
    reference, scale = expected(x, mode, center)
    assert gram.shape == reference.shape
    assert ((gram.double() - reference).abs() <= tolerance * scale + torch.finfo(gram.dtype).tiny).all()


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_mode(backend, dtype, shape, center):
    x = randn(*shape, dtype=dtype)
    for mode in range(len(shape) - 1):
        gram = backend.mode_gram(x, mode, center=center)
        assert gram.dtype == dtype
        # A centred row can be much shorter than the row whose roundings it carries: 10 times covers these shapes.
        check(gram, x, mode, TOLERANCE[dtype] * (10 if center else 1), center)


@pytest.mark.parametrize("signed", [False, True])
def test_position_gram_of_real_features(backend, signed):
    x = pines(4, 7, 7, signed=signed).flatten(2)
    check(backend.mode_gram(x, 1), x, 1, TOLERANCE[torch.float32])
    check(backend.mode_gram(x, 1, precision="float64"), x, 1, TOLERANCE[torch.float64])


def test_precision_sets_the_result(backend, dtype):
    x = randn(2, 20, 5, 5, dtype=dtype)
    for precision, result in (("float32", torch.float32), ("float64", torch.float64)):
        gram = backend.mode_gram(x, 1, precision=precision)
        assert gram.dtype == result
        check(gram, x, 1, TOLERANCE[result])


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_is_read_as_it_is_and_accumulated_wide(backend, half):
    x = feature_maps(2, 60, 7, 5).to(half)
    gram = backend.mode_gram(x, 0)
    assert gram.dtype == torch.float32
    check(gram, x, 0, TOLERANCE[torch.float32])
    check(backend.mode_gram(x, 0, precision="float64"), x, 0, TOLERANCE[torch.float64])


def test_strides(backend, dtype):
    x = randn(3, 19, 6, 5, dtype=dtype)
    for view in views(x).values():
        assert torch.equal(view, x)
        for mode in range(3):
            check(backend.mode_gram(view, mode), x, mode, TOLERANCE[dtype])
            check(backend.mode_gram(view, mode, center=True), x, mode, TOLERANCE[dtype], center=True)
    expanded = randn(1, 19, 1, 5, dtype=dtype).expand(3, 19, 6, 5)
    check(backend.mode_gram(expanded, 1), expanded, 1, TOLERANCE[dtype])


def test_centering_survives_a_large_mean(backend):
    x = randn(2, 30, 7, 7, dtype=torch.float32) + 1e4
    # The mean of 49 float32 numbers near 1e4 is off by up to 5e-4, which enters the centred Gram squared.
    check(backend.mode_gram(x, 0, center=True), x, 0, 1e-5, center=True)


def test_centering_a_constant_leaves_a_rounding_of_the_mean_at_most(backend, dtype):
    x = randn(2, 9, 1, 1, dtype=dtype).expand(2, 9, 7, 7)
    rounding = torch.finfo(dtype).eps * x.abs().amax()
    assert backend.mode_gram(x, 0, center=True).abs().max() <= 49 * (4 * rounding) ** 2


def test_empty_batch(backend, dtype):
    gram = backend.mode_gram(torch.empty(0, 5, 4, 3, dtype=dtype), 1)
    assert gram.shape == (0, 4, 4)
    assert gram.dtype == dtype


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_bad_item_stays_alone(backend, bad):
    x = randn(3, 12, 5, 4, dtype=torch.float32)
    x[1, 3, 2, 1] = bad
    gram = backend.mode_gram(x, 0)
    assert not gram[1].isfinite().all()
    check(gram[::2], x[::2], 0, TOLERANCE[torch.float32])


def test_range_of_float64_accumulation(backend):
    x = randn(2, 12, 5, 4, dtype=torch.float32)
    for scale in (1e-30, 1e30):
        small = x * scale
        check(backend.mode_gram(small, 0, precision="float64"), small, 0, TOLERANCE[torch.float64])
