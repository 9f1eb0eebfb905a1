"""Eigenpairs of batches of symmetric matrices: those of `torch.linalg.eigh`, by every backend."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import tsm_fast

from ..helpers import orthonormality, projector, randn

SIZES = [1, 2, 8, 33, 49, 65, 130]


def symmetric(batch: int, n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    m = randn(batch, n, n, seed=seed)
    return (m + m.mT).to(dtype)


def scale(values: Tensor) -> Tensor:
    return values.abs().amax(1)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_eigenpairs(backend, n, kind):
    a = symmetric(5, n, kind)
    values, vectors = tsm_fast.eigh(a, backend=backend.name)
    wide = kind == torch.float64
    assert values.dtype == vectors.dtype == (kind if wide else torch.float32)
    exact = torch.linalg.eigvalsh(a.double())
    error = 1e-12 if wide else 1e-6
    assert ((values - exact).abs().amax(1) <= error * scale(exact)).all()
    residual = a.double() @ vectors.double() - vectors.double() * values.double()[:, None]
    assert (residual.abs().amax((1, 2)) <= error * scale(exact)).all()
    assert orthonormality(vectors) <= error
    assert (vectors.amax(1) >= -vectors.amin(1)).all()
    assert (values.diff(dim=1) >= 0).all()


def test_only_the_lower_triangle_is_read(backend):
    a = symmetric(3, 6)
    spoiled = a + torch.ones(6, 6, dtype=a.dtype).triu(1)
    for one, other in zip(
        tsm_fast.eigh(spoiled, backend=backend.name), tsm_fast.eigh(a, backend=backend.name), strict=True
    ):
        assert torch.equal(one, other)


def test_ties_and_extremes(backend):
    n = 6
    a = torch.stack(
        [torch.zeros(n, n), torch.eye(n), -torch.eye(n), torch.ones(n, n), torch.diag(torch.arange(n) - 3.0)]
    )
    values, vectors = tsm_fast.eigh(a.double(), backend=backend.name)
    expected = [[0] * 6, [1] * 6, [-1] * 6, [0] * 5 + [6], [-3, -2, -1, 0, 1, 2]]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)
    assert orthonormality(vectors) <= 1e-12
    for exponent in (-1000, 1000):
        scaled = tsm_fast.eigh(symmetric(2, n) * 2.0**exponent, backend=backend.name)[0]
        torch.testing.assert_close(scaled * 2.0**-exponent, tsm_fast.eigh(symmetric(2, n))[0], rtol=0, atol=1e-13)
    assert [part.shape for part in tsm_fast.eigh(a[:0], backend=backend.name)] == [(0, 6), (0, 6, 6)]


@pytest.mark.parametrize("n", [3, 16, 64, 65])
def test_float32_results_of_what_float32_does_not_hold(backend, n):
    a = symmetric(3, n)
    expected = tsm_fast.eigh(a, backend="reference")[1]
    for exponent in (-1000, -200, 200, 1000):
        vectors = tsm_fast.eigh(a * 2.0**exponent, precision="float32", backend=backend.name)[1]
        assert (vectors - expected).abs().max() <= 1e-3, exponent
    tiny = tsm_fast.eigh(torch.eye(n, dtype=torch.float64)[None] * 1e-310, backend=backend.name)[0]
    assert ((tiny - 1e-310).abs() <= 1e-320).all()


def test_gradients_are_those_of_torch_and_finite_at_ties():
    a = symmetric(2, 5).requires_grad_()

    def functions(a: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = tsm_fast.eigh(a)
        return values, projector(vectors[:, :, -2:])

    assert gradcheck(lambda m: functions((m + m.mT) / 2), (a,), fast_mode=True)
    mine = torch.autograd.grad([part.sin().sum() for part in functions(a)], a)[0]
    values, vectors = torch.linalg.eigh(a)
    theirs = torch.autograd.grad(values.sin().sum() + projector(vectors[:, :, -2:]).sin().sum(), a)[0]
    torch.testing.assert_close(mine, theirs)
    tied = torch.stack([torch.zeros(4, 4), torch.eye(4), torch.ones(4, 4)]).double().requires_grad_()
    values, vectors = tsm_fast.eigh(tied)
    weights = randn(3, 4, 4)
    (gradient,) = torch.autograd.grad((vectors * weights).sum() + values.sum(), tied)
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient[:2], torch.eye(4, dtype=torch.float64).expand(2, 4, 4))


def test_what_is_refused():
    for message, a in (
        (r"^a must be \[B, n, n\], got shape \(2, 3, 4\)$", torch.rand(2, 3, 4)),
        (r"^a must be \[B, n, n\], got shape \(3, 3\); a single matrix goes in as a\[None\]$", torch.rand(3, 3)),
        (
            "^a must be finite, got NaN or Inf in item 1$",
            torch.eye(3).repeat(2, 1, 1).index_fill(0, torch.tensor(1), torch.nan),
        ),
    ):
        with pytest.raises(ValueError, match=message):
            tsm_fast.eigh(a)
