"""Orthonormal vectors and factors whatever the spectrum: null spaces, ties, clusters, graded values."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from torch import Tensor

import tsm_fast
from tsm_fast.steps import checks
from tsm_fast.steps.backend import Backend, HooiResult
from tsm_fast.steps.choice import load

from ..helpers import BACKENDS, orthonormality, randn, unfold
from .definitions import contract

pytestmark = pytest.mark.long("triton")

# The table of the method: |A^T A - I| always, in float32 results and in float64 ones.
ORTHONORMALITY = {torch.float32: 1e-5, torch.float64: 1e-12}
# Of |G|, a backward stable solver in float32 or float64 with a small multiple of n eps; float32 results of a float64
# solver are better.
RESIDUAL = {torch.float32: 4e-7, torch.float64: 2e-15}

# On both sides of the solver's thresholds (16, 48, 64 and 256) and of whole vectors.
SIZES = [1, 2, 3, 5, 8, 15, 16, 17, 47, 48, 49, 63, 64, 65, 66, 95, 200, 257]


def rotated(values: Tensor, seed: int) -> Tensor:
    q = torch.linalg.qr(randn(len(values), len(values), seed=seed))[0]
    return q * values @ q.mT


def tridiagonal(diagonal: Tensor, beside: Tensor) -> Tensor:
    return torch.diag(diagonal) + torch.diag(beside, 1) + torch.diag(beside, -1)


def of_rows(rows: Tensor) -> Tensor:
    return rows @ rows.mT


def flat(n: int) -> Iterator[Tensor]:
    """Gram matrices of constant, repeated, missing and few rows."""
    one = torch.ones(n, 2 * n + 3, dtype=torch.float64)
    yield from (
        of_rows(one),
        of_rows(0.3 * one),
        of_rows(torch.pi * one),
        torch.eye(n, dtype=torch.float64),
        0 * one[:, :n],
    )
    for k in sorted({1, 2, 3, max(1, n // 3), max(1, n - 1)}):
        few, at = randn(k, 2 * n, seed=k), torch.arange(n)
        yield from (of_rows(few[at % k]), of_rows(few[at * k // n]), of_rows(few.relu()[at % k]))
        yield of_rows(randn(n, k, seed=k + 1))
        yield torch.diag((at < k).double())
        yield torch.diag((at % k).double())
    rows = randn(n, 2 * n)
    rows[n // 3 : n // 2] = 0
    yield of_rows(rows)
    rows[n // 3 : n // 2] = 0.1
    yield of_rows(rows.abs())


def graded(n: int) -> Iterator[Tensor]:
    for last in (1e-1, 1e-4, 1e-16, 1e-100, 1e-300):
        values = last ** torch.linspace(0, 1, n, dtype=torch.float64)
        yield rotated(values, seed=n)
        yield torch.diag(values.flip(0))
        for diagonal in (values, values.flip(0)):
            yield tridiagonal(diagonal, 0.3 * diagonal[1:])
            yield of_rows(randn(n, 2 * n) * diagonal.sqrt()[:, None])


def clustered(n: int) -> Iterator[Tensor]:
    for gap in (0.0, 1e-15, 1e-12, 1e-8, 1e-6, 1.1e-5, 2e-5, 1e-4):
        for size, center in ((2, 0.5), (8, 1.0), (25, 0.0), (n, 1.0)):
            values = torch.linspace(1, 0.01, n, dtype=torch.float64)
            values[max(0, n - size) :] = center + gap * torch.arange(min(size, n))
            yield rotated(values, seed=size)


def joined(n: int) -> Iterator[Tensor]:
    """Blocks that are loosely joined or not at all, and the classics."""
    at = torch.arange(n, dtype=torch.float64)
    for join in (1e-4, 1e-8, 1e-12, 1e-16, 0.0):
        beside = torch.ones(n - 1, dtype=torch.float64)
        beside[20::21] = join
        yield tridiagonal((at % 21 - 10).abs() + 3, beside)
    yield torch.block_diag(*[of_rows(randn(3, 7))] * (n // 3), torch.eye(n % 3, dtype=torch.float64))
    yield 0.999 ** (at[:, None] - at).abs()
    yield torch.exp(-((5 * (at[:, None] - at) / n) ** 2))
    yield 1 / (at[:, None] + at + 1)


@cache
def problems(family: Callable[[int], Iterator[Tensor]], n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Gram matrices [K, n, n] and their eigenvalues [K, n], the largest first: rounded ones have some below zero."""
    gram = torch.stack(list(family(n)))
    gram = ((gram + gram.mT) / 2).to(dtype)
    return gram, torch.linalg.eigvalsh(gram.double()).flip(-1)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("family", [flat, graded, clustered, joined])
@pytest.mark.parametrize("precision", ["float32", "auto", "float64"])
def test_eigenvectors(backend: Backend, family, precision, n):
    gram, exact = problems(family, n, torch.float64 if precision == "float64" else torch.float32)
    norm = exact[:, :1] + torch.finfo(torch.float64).tiny
    for rank in sorted({n, max(1, n // 2)}):
        values, vectors = backend.truncated_svd(gram, rank, precision=precision)
        assert orthonormality(vectors) <= ORTHONORMALITY[vectors.dtype]
        wide, squares = vectors.double(), values.double() ** 2
        tolerance = (n + 5) * RESIDUAL[vectors.dtype] * norm
        assert ((squares - exact[:, :rank].clamp(min=0)).abs() <= tolerance).all()
        below = exact[:, -1:].clamp(max=0).abs()  # singular values are not
        assert ((gram.double() @ wide - wide * squares[:, None]).abs().amax(1) <= tolerance + below).all()


# --- the public functions ------------------------------------------------------------------------------------------

PRECISIONS = {"float32": torch.float32, "auto": torch.float32, "float64": torch.float64}


def check(columns: list[Tensor], precision: str) -> None:
    for factor in columns:
        assert factor.dtype == PRECISIONS[precision]
        assert orthonormality(factor) <= ORTHONORMALITY[factor.dtype]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend_name", BACKENDS)
@pytest.mark.parametrize("shape", [(40, 48), (95, 103), (103, 95), (49, 300), (2, 70)], ids=str)
def test_triplets_of_flat_matrices(backend_name, precision, shape):
    rows, columns = shape
    few = randn(3, columns, seed=1)[torch.arange(rows) % 3]
    m = torch.stack([torch.full(shape, 3.0, dtype=torch.float64), few, torch.full(shape, 0.1, dtype=torch.float64)])
    u, _, vh = tsm_fast.truncated_svd(m.float(), precision=precision, backend=backend_name)
    check([u, vh.mT], precision)


@pytest.mark.parametrize("seed", range(3))
def test_triplets_beyond_the_rank_keep_their_length(seed: int) -> None:
    m = randn(1, 255, 1, seed=seed).expand(1, 255, 302).bfloat16()  # LAPACK's float32 vectors are too long here
    u, _, vh = tsm_fast.truncated_svd(m, 220)
    assert orthonormality(u) < 5e-6
    assert orthonormality(vh.mT) < 5e-6


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend_name", BACKENDS)
@pytest.mark.parametrize("last", [0.3, 1e-1, 3e-2, 1e-2, 2e-3, 1e-3, 1e-4, 1e-8, 1e-12, 0.0])
def test_triplets_of_graded_matrices(backend_name, precision, last):
    values = torch.cat([torch.linspace(1, 0.5, 30), torch.full((5,), last)]).double()
    m = torch.linalg.qr(randn(60, 35))[0] * values @ torch.linalg.qr(randn(35, 35, seed=1))[0].mT
    u, s, vh = tsm_fast.truncated_svd(m[None].float(), precision=precision, backend=backend_name)
    check([u, vh.mT], precision)
    exact = torch.linalg.svdvals(m.float().double())
    assert (s[0].double() - exact).abs().max() <= (1e-9 if precision == "float64" else 1e-5)
    error = m.float().double() - (u.double() * s.double()[:, None] @ vh.double())[0]
    assert error.abs().max() <= (1e-9 if precision == "float64" else 1e-5)


def test_triplets_of_constant_channels():
    channels = randn(1, 300, 1).float().expand(1, 300, 280)
    for rank in (70, 280):
        u, _, vh = tsm_fast.truncated_svd(channels, rank, backend="cpu")
        assert orthonormality(u) <= ORTHONORMALITY[torch.float32]
        assert orthonormality(vh.mT) <= ORTHONORMALITY[torch.float32]


# --- HOOI ------------------------------------------------------------------------------------------------------------

HOOI = {"n_iter_max": 20, "tol": 1e-4}


def check_decomposition(x: Tensor, result: HooiResult, precision: str) -> None:
    """Orthonormal factors, and the core and the singular values that belong to them."""
    dtype = PRECISIONS[precision] if x.dtype == torch.float32 or precision != "auto" else torch.float64
    assert {part.dtype for part in (result.core, *result.factors, *result.singular_values)} == {dtype}
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    norm = x.double().flatten(1).norm(dim=1) + torch.finfo(torch.float64).tiny
    for i, item in enumerate(x.double()):
        core = contract(item, [factor[i].double() for factor in result.factors])
        assert (core - result.core[i]).abs().max() <= tolerance * norm[i]
        for n, values in enumerate(result.singular_values):
            assert (unfold(core[None], n)[0].norm(dim=1) - values[i]).abs().max() <= tolerance * norm[i]
    for factor in result.factors:
        assert orthonormality(factor) <= ORTHONORMALITY[factor.dtype]


def one_large_mode(ratio: float, axis: int, seed: int) -> Tensor:
    """An item of 90 x 7 x 7, the long mode at `axis`, with six singular values there that are large, four that are
    `ratio` times as large, and a rest of ratio**2.
    """
    large, small = torch.linspace(1, 0.5, 6), ratio * torch.tensor([1.0, 0.8, 0.6, 0.5])
    values = torch.cat([large, small, 1e-2 * ratio**2 * torch.linspace(1, 0.5, 39)]).double()
    u, v = (torch.linalg.qr(randn(size, 49, seed=seed + size))[0] for size in (90, 49))
    return (u * values @ v.mT).view(90, 7, 7).movedim(0, axis)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("ratio", [0.3, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10, 1e-12, 1e-16, 0.0])
@pytest.mark.parametrize("rank", [(10, 7, 7), (8, 7, 7), (10, 4, 4), (20, 5, 6)], ids=str)
@pytest.mark.parametrize("sign", ["u", "v"])
def test_factors_with_small_singular_values(backend, precision, ratio, rank, sign):
    axis = rank[1] % 3
    ranks = [*rank[1:]]
    ranks.insert(axis, rank[0])
    x = torch.stack([one_large_mode(ratio, axis, seed) for seed in range(3)])
    x = x if precision == "float64" else x.float()
    for items in (x, x[:1]):  # in the lanes of vectors, and alone
        result = backend.hooi(items, ranks, sign=sign, precision=precision, **HOOI)
        check_decomposition(items, result, precision)
        exact = load("reference").hooi(items, ranks, sign=sign, precision="float64", **HOOI)
        # The rest of the values is a tie where it is kept, and float64 squares lose what is below 1e-7.
        floor = {"float32": 1e-3, "auto": 1e-5, "float64": 1e-9 if ratio > 3e-7 else 3e-8}[precision]
        for mine, theirs in zip(result.singular_values, exact.singular_values, strict=True):
            assert rank[0] > 10 or ((mine - theirs).abs() <= floor * theirs[:, :1]).all()


SHAPES = [(30, 5, 4), (60, 7, 7), (12, 10, 9), (20, 18, 17), (66, 8, 8), (100, 10), (10, 100), (3, 40, 4), (4, 3, 60)]
SHAPES += [(50, 4, 3, 3), (6, 5, 4, 3), (65, 66, 3), (70, 9, 9)]
GRADES: dict[str, Callable[[int, float], Tensor]] = {
    "flat": lambda n, ratio: torch.ones(n, dtype=torch.float64),
    "geometric": lambda n, ratio: ratio ** torch.linspace(0, 1, n, dtype=torch.float64),
    "half": lambda n, ratio: torch.where(torch.arange(n) < (n + 1) // 2, 1.0, ratio).double(),
    "one": lambda n, ratio: torch.where(torch.arange(n) < 1, 1.0, ratio).double(),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("seed", range(60))
def test_factors_of_any_spectrum(backend, precision, seed):
    draw = random.Random(seed)
    shape, batch, ratio = draw.choice(SHAPES), draw.choice([1, 2, 9]), 10.0 ** -draw.choice([1, 2, 3, 5, 8, 16, 100])
    x = randn(batch, *shape, seed=seed)
    for mode, n in enumerate(shape):
        turned = torch.linalg.qr(randn(n, n, seed=seed + mode))[0] if draw.random() < 0.6 else torch.eye(n).double()
        x = (x.movedim(mode + 1, -1) * draw.choice(list(GRADES.values()))(n, ratio) @ turned).movedim(-1, mode + 1)
    x = x if precision == "float64" else x.float()
    rank = checks.rank([draw.choice([n, max(1, n // 2), draw.randint(1, n)]) for n in shape], torch.Size(shape))
    result = backend.hooi(x, rank, sign=draw.choice("uv"), precision=precision, **HOOI)
    check_decomposition(x, result, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("backend_name", BACKENDS)
@pytest.mark.parametrize("ratio", [1e-1, 1e-2, 3e-3, 1e-5, 1e-8, 0.0])
def test_hosvd(backend_name, precision, ratio):
    equal = randn(1, 1, 7, 7).expand(1, 90, 7, 7)
    for x in (equal, one_large_mode(ratio, 0, 0)[None], one_large_mode(ratio, 2, 1)[None]):
        items = x if precision == "float64" else x.float()
        result = tsm_fast.hosvd(
            items, (10, 7, 7) if x.shape[1] == 90 else (7, 7, 10), precision=precision, backend=backend_name
        )
        for factor in result.factors:
            assert orthonormality(factor) <= ORTHONORMALITY[factor.dtype]
        restored = tsm_fast.hosvd(items, precision=precision, backend=backend_name).reconstruct()
        assert (restored - items).norm() <= (1e-12 if precision == "float64" else 1e-6) * items.norm()
