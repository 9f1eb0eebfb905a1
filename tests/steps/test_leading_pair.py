"""Features made to mislead a solver for the leading pair: small gaps, and vectors that a start cannot see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tsm_fast

from ..helpers import DOUBLE_ERROR, GAP, MAP_ERROR, randn, spectrum
from .definitions import definition, normalized

pytestmark = pytest.mark.long("triton")


def gap(delta: float, channels: int, h: int, w: int) -> Tensor:
    """Singular values 1, 1 - delta and a tail."""
    tail = [0.5 * 0.9**i for i in range(min(channels, h * w) - 2)]
    return spectrum([1.0, 1.0 - delta, *tail], channels, h * w).view(1, channels, h, w).float()


def opposite(strength: float, channels: int, h: int, w: int) -> Tensor:
    """The leading vector is one position against another, orthogonal to the constant that `1 - strength` follows."""
    v = torch.zeros(h * w)
    v[1], v[h * w // 2] = 1, -1
    a, b = torch.linalg.qr(randn(channels, 2))[0].float().T
    x = a[:, None] * v / 2**0.5 + strength * b[:, None] / (h * w) ** 0.5
    return x.view(1, channels, h, w)


def blocks(channels: int, h: int, w: int) -> Tensor:
    """Each channel sees one position; the strongest is seen by few channels, the last ones."""
    x = torch.zeros(channels, h * w)
    for c in range(channels):
        x[c, c % (h * w - 1)] = 1 + 0.001 * (c % 7)
    x[-1, -1] = 9
    return x.view(1, channels, h, w)


def sparse(channels: int, h: int, w: int) -> Tensor:
    """Zeros, and one channel that carries nearly everything."""
    x = torch.zeros(1, channels, h, w)
    x[0, channels // 2] = torch.linspace(-1, 2, h * w).view(h, w)
    x[0, 0, 0, 0] = 0.25
    return x


def offset(channels: int, h: int, w: int) -> Tensor:
    """A large constant under a small pattern."""
    return 100 + randn(1, channels, h, w).float() + 3 * torch.linspace(-1, 1, w)


SHAPES = [(130, 7, 7), (20, 7, 7), (300, 14, 14), (64, 17, 18), (48, 40, 40), (50, 2, 3)]
CASES = {
    **{f"gap {d}": lambda *shape, d=d: gap(d, *shape) for d in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)},
    **{f"opposite {s}": lambda *shape, s=s: opposite(s, *shape) for s in (0.0, 0.5, 0.99, 0.9999)},
    "blocks": blocks,
    "sparse": sparse,
    "offset": offset,
}


# What is left of "opposite" without its mean is a tie between two signs, which only an absolute value forgives.
MAPS = [("tsm", case) for case in CASES] + [("eigencam", case) for case in CASES if not case.startswith("opposite")]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("method", "case"), MAPS)
def test_the_right_pair_is_found(backend, method, case, shape):
    x = CASES[case](*shape)
    center = method == "eigencam"
    exact, tie = definition(x[0].double().numpy(), method, None, center, "signed", "absmax")
    assert not tie
    exact = normalized(torch.from_numpy(exact)[None])
    for precision, tolerance in (("auto", MAP_ERROR[method]), ("float64", DOUBLE_ERROR)):
        maps = getattr(tsm_fast, method)(x, precision=precision, backend=backend.name)
        # A rounding of the features turns the vectors of two near values by the rounding over their gap.
        assert (maps - exact).abs().max() <= tolerance * max(1.0, 2 * GAP / relative_gap(x, center)), precision


@pytest.mark.parametrize("positions", [1, 2, 3])
def test_few_positions_with_equal_sigmas(backend, positions):
    """Whose vectors are the leading ones nobody can tell, and a bound on what lies beside them fails."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(20, 196, positions, generator=generator, dtype=torch.float64))[0]
    x = basis.float()[..., None]
    for maps in (tsm_fast.tsm(x, backend=backend.name), tsm_fast.eigencam(x, center=False, backend=backend.name)):
        assert ((maps >= 0) & (maps <= 1)).all()


@pytest.mark.parametrize("shape", [(64, 7, 7), (320, 7, 7), (64, 8, 8)], ids=str)
def test_the_sum_tells_the_sign_beside_a_large_mean(backend, shape):
    """eigencam(sign="sum"): the response of the uncentred features to u_1 is small beside their mean."""
    c, h, w = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, c, h, w, generator=generator) + 1e6 * torch.randn(12, c, 1, 1, generator=generator)
    maps = tsm_fast.eigencam(x, sign="sum", backend=backend.name)
    exact = tsm_fast.eigencam(x, sign="sum", precision="float64", backend="reference")
    for item, error in zip(x, (maps - exact).abs().amax((1, 2)), strict=True):
        unfolded = item.double().flatten(1)
        mean = unfolded.mean(1)
        u = torch.linalg.svd(unfolded - mean[:, None], full_matrices=False)[0][:, 0]
        near = relative_gap(item[None], True) < GAP or (mean @ u).abs() < 1e-5 * mean.norm()
        assert near or error <= MAP_ERROR["eigencam"]


def relative_gap(x: Tensor, center: bool) -> float:
    unfolded = x[0].double().flatten(1)
    first, second = torch.linalg.svdvals(unfolded - unfolded.mean(1, keepdim=True) * center)[:2]
    return float((first - second) / first)


@pytest.mark.long
@pytest.mark.parametrize("shape", [(150, 40, 12, 11), (150, 100, 7, 7), (40, 300, 10, 9)], ids=str)
@pytest.mark.parametrize("method", ["tsm", "eigencam"])
def test_many_items_of_sparse_noise(backend, method, shape):
    """Made-up features without any structure: small gaps, and sums of which most terms are 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.empty(shape).exponential_(generator=generator) * (torch.rand(shape, generator=generator) < 0.2)
    maps = getattr(tsm_fast, method)(x, backend=backend.name)
    exact = getattr(tsm_fast, method)(x, precision="float64", backend="reference")
    errors = (maps - exact).abs().amax((1, 2))
    for item, error in zip(x, errors, strict=True):
        assert error <= MAP_ERROR[method] * max(1.0, 2 * GAP / relative_gap(item[None], method == "eigencam"))
