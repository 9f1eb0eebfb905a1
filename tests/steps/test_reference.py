"""Gradients through the reference backend, and what only it can do."""

from __future__ import annotations

import functools

import pytest
import torch

import tsm_fast
from tsm_fast.steps import scaling

from ..helpers import randn

pytestmark = pytest.mark.long("triton")

X = randn(2, 6, 3, 2).requires_grad_()

MAPS = {
    "eigencam": lambda x, **options: tsm_fast.eigencam(x, **options),
    "eigencam, u, uncentred": lambda x, **options: tsm_fast.eigencam(x, center=False, sign="u", **options),
    "tsm": lambda x, **options: tsm_fast.tsm(x, **options),
    "tsm at a rank": lambda x, **options: tsm_fast.tsm(x, (3, 2, 2), **options),
    "multivec_eigencam": lambda x, **options: tsm_fast.multivec_eigencam(x, combine="absolute", **options),
    "mtsm": lambda x, **options: tsm_fast.mtsm(x, **options),
    "mtsm at a rank": lambda x, **options: tsm_fast.mtsm(x, (3, 2, 2), **options),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("options", [{"normalize": False}, {"size": (5, 3)}], ids=["raw", "finished"])
def test_gradients_of_maps(name, options):
    assert torch.autograd.gradcheck(lambda x: MAPS[name](x, precision="float64", **options), (X,))


def test_gradients_of_decompositions():
    # Invariant to the rotations and signs that a factor is free to have.
    def reconstruction(x):
        return tsm_fast.tucker(x, (3, 2, 1), n_iter_max=4).reconstruct()

    def hosvd(x):
        return tsm_fast.hosvd(x, (3, 2, 1)).reconstruct()

    def singular_values(x):
        return tsm_fast.truncated_svd(x.flatten(2), 3)[1]

    def last_error(x):
        return tsm_fast.tucker(x, (2, 1, 1), n_iter_max=3, tol=0).errors[:, -1]

    def product(x):
        return tsm_fast.multi_mode_dot(x, [x[0, :, 0, :].mT], [0])

    for function in (reconstruction, hosvd, singular_values, last_error, product):
        assert torch.autograd.gradcheck(function, (X,))


def test_parts_of_a_batch_are_the_batch(backend, monkeypatch):
    x = randn(7, 12, 5, 4)

    def compute():
        result = tsm_fast.hosvd(x, (3, 2, 2), backend=backend.name)
        triplets = tsm_fast.truncated_svd(x[:, :, 0], 2, backend=backend.name)
        return result.core, *result.factors, *result.singular_values, *triplets, tsm_fast.tsm(x, size=(9, 8))

    whole = compute()
    monkeypatch.setattr(scaling, "_PART", 3 * 2 * x[0].numel())
    for one, other in zip(compute(), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(scaling, "_PART", 1)
    function = functools.partial(tsm_fast.tsm, size=(5, 3), precision="float64")
    assert torch.autograd.gradcheck(function, (X,))
    assert torch.autograd.gradcheck(lambda y: tsm_fast.hosvd(y, (3, 2, 1)).reconstruct(), (X,))


def test_a_bad_item_has_no_gradient_and_spoils_none():
    x = randn(3, 6, 3, 2)
    x[1, 2, 0, 0] = torch.nan
    x.requires_grad_()
    tsm_fast.tsm(x, nan="propagate")[::2].sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad[1] == 0).all()
    assert x.grad[::2].abs().sum() > 0


def test_gradients_reach_the_input_in_its_dtype():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x = randn(2, 6, 3, 2).to(dtype).requires_grad_()
        tsm_fast.mtsm(x).sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == dtype
        assert x.grad.isfinite().all()
