"""`truncated_svd` of every backend, from a Gram matrix, and the public function on matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import tsm_fast

from ..helpers import (
    BACKENDS,
    DOUBLE_ERROR,
    GAP,
    PROJECTOR_ERROR,
    VALUE_ERROR,
    largest_is_positive,
    orthonormality,
    pines,
    projector,
    randn,
    spectrum,
)

# Results are solved in float64 and cast: float32 results carry the rounding of n entries, float64 ones that of a
# backward stable solver, n * 1.1e-16 with a constant near 10.
ORTHONORMALITY = {torch.float32: 1e-6, torch.float64: 1e-12}
RESIDUAL = {torch.float32: 2e-6, torch.float64: 1e-12}

SIZES = [1, 2, 3, 7, 8, 15, 16, 17, 31, 49, 63, 64, 65, 100, 196]


def check(gram: Tensor, pairs: tuple[Tensor, Tensor], rank: int) -> None:
    """Eigenpairs of every Gram matrix: residual, orthonormality, order, sign, and that they are the largest."""
    batch, n, _ = gram.shape
    values, vectors = pairs
    assert values.shape == (batch, rank)
    assert vectors.shape == (batch, n, rank)
    assert values.dtype == vectors.dtype
    dtype = values.dtype
    exact = torch.linalg.eigvalsh(gram.double()).flip(-1).clamp(min=0)
    largest = exact[:, :1] + torch.finfo(torch.float64).tiny
    squares = values.double() ** 2
    assert ((squares - exact[:, :rank]).abs() <= RESIDUAL[dtype] * largest).all()
    residual = gram.double() @ vectors.double() - vectors.double() * squares[:, None]
    assert (residual.abs() <= RESIDUAL[dtype] * largest[:, None]).all()
    assert orthonormality(vectors) <= ORTHONORMALITY[dtype]
    assert (values.diff() <= 0).all()
    assert (values >= 0).all()
    assert largest_is_positive(vectors)


def gram_of(matrix: Tensor) -> Tensor:
    return matrix @ matrix.mT


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("columns", ["fewer", "more"])
def test_sizes_and_ranks(backend, dtype, n, columns):
    width = max(1, n // 3) if columns == "fewer" else 2 * n + 3
    gram = gram_of(randn(5 if n < 100 else 2, n, width, dtype=dtype))
    for rank in sorted({1, min(3, n), n}):
        check(gram, backend.truncated_svd(gram, rank), rank)


@pytest.mark.parametrize("batch", [0, 1, 2, 7, 8, 9, 16, 33])
def test_batch_sizes(backend, batch):
    gram = gram_of(randn(batch, 12, 20))
    check(gram, backend.truncated_svd(gram, 12), 12)


SPECTRA = {
    "identity": [1.0] * 20,
    "zeros": [0.0] * 20,
    "rank one": [3.0] + [0.0] * 19,
    "two clusters": [2.0] * 10 + [1.0] * 10,
    "nearly equal": [1 - 1e-13 * i for i in range(20)],
    "graded": [10.0**-i for i in range(20)],
    "one large": [1e8] + [1.0] * 19,
    "a gap at every pair": [float(20 - i // 2) for i in range(20)],
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("rank", [1, 3, 20])
def test_hard_spectra(backend, dtype, name, rank):
    gram = torch.stack([gram_of(spectrum(SPECTRA[name], 20, 20, seed)) for seed in range(3)]).to(dtype)
    check(gram, backend.truncated_svd(gram, rank), rank)
    exact = torch.diag_embed(torch.tensor(SPECTRA[name], dtype=dtype).flip(0)[None] ** 2)
    check(exact, backend.truncated_svd(exact, rank), rank)


def test_wilkinson_and_glued_matrices(backend):
    wilkinson = torch.diag((torch.arange(21.0, dtype=torch.float64) - 10).abs()) + 3 * torch.eye(21)
    wilkinson += torch.diag(torch.ones(20), 1) + torch.diag(torch.ones(20), -1)
    glued = torch.block_diag(wilkinson, wilkinson, wilkinson)
    glued[20, 21] = glued[21, 20] = glued[41, 42] = glued[42, 41] = 1e-10
    for gram in (wilkinson[None], glued[None]):
        n = gram.shape[1]
        for rank in (1, 5, n):
            check(gram, backend.truncated_svd(gram, rank), rank)


@pytest.mark.parametrize("scale", [1e-300, 1e-60, 1e60, 1e300])
def test_range(backend, scale):
    gram = gram_of(randn(3, 17, 40)) / 100
    values, vectors = backend.truncated_svd(gram, 17)
    small_values, small_vectors = backend.truncated_svd(gram * scale, 17)
    torch.testing.assert_close(small_values, values * scale**0.5, rtol=1e-9, atol=0)
    assert (projector(small_vectors[:, :, :1]) - projector(vectors[:, :, :1])).abs().max() < 1e-9


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_range_of_float32(backend, scale):
    gram = gram_of(randn(3, 17, 40)).float() / 100
    values, _ = backend.truncated_svd(gram, 17)
    torch.testing.assert_close(backend.truncated_svd(gram * scale, 17)[0], values * scale**0.5, rtol=1e-5, atol=0)


def test_strides(backend, dtype):
    gram = gram_of(randn(4, 11, 20, dtype=dtype))
    values, vectors = backend.truncated_svd(gram, 4)
    for view in (gram.mT, gram.movedim(0, -1).contiguous().movedim(-1, 0)):
        other_values, other_vectors = backend.truncated_svd(view, 4)
        torch.testing.assert_close(other_values, values)
        torch.testing.assert_close(other_vectors, vectors)


def test_precision_sets_the_result(backend, dtype):
    gram = gram_of(randn(2, 9, 20, dtype=dtype))
    for precision, result in (("float32", torch.float32), ("float64", torch.float64)):
        values, vectors = backend.truncated_svd(gram, 9, precision=precision)
        assert values.dtype == vectors.dtype == result


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_item_stays_alone(backend, bad):
    gram = gram_of(randn(20, 9, 20))
    gram[4, 2, 3] = gram[4, 3, 2] = bad
    values, vectors = backend.truncated_svd(gram, 3)
    assert values[4].isnan().all()
    assert vectors[4].isnan().all()
    rest = [i for i in range(20) if i != 4]
    check(gram[rest], (values[rest], vectors[rest]), 3)


# --- the public function -------------------------------------------------------------------------------------------

MATRICES = {
    "tall": randn(3, 50, 7),
    "wide": randn(3, 7, 50),
    "square": randn(3, 12, 12),
    "one column": randn(2, 9, 1),
    "one entry": randn(2, 1, 1),
    "real": pines(3, 7, 7).flatten(2).double(),
    "graded": spectrum([10.0**-i for i in range(12)], 40, 12)[None],
    "rank deficient": spectrum([3.0, 2.0, 1.0], 30, 10)[None],
    "zero": torch.zeros(2, 8, 5, dtype=torch.float64),
    "1e-200": 1e-200 * randn(2, 9, 5),
    "1e200": 1e200 * randn(2, 5, 9),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("backend_name", BACKENDS)
@pytest.mark.parametrize("sign", ["u", "v"])
def test_triplets_against_numpy(backend_name, dtype, name, sign):
    if dtype == torch.float32 and name.startswith("1e"):
        m = MATRICES[name] / float(name) * (1e-30 if "-" in name else 1e30)
    else:
        m = MATRICES[name]
    m = m.to(dtype)
    exact = torch.from_numpy(np.linalg.svd(m.double().numpy(), compute_uv=False))
    first = exact[:, :1] + torch.finfo(torch.float64).tiny
    for rank in (None, 1, min(3, *m.shape[1:])):
        u, s, vh = tsm_fast.truncated_svd(m, rank, sign=sign, backend=backend_name)
        r = rank or min(m.shape[1:])
        assert u.dtype == s.dtype == vh.dtype == dtype
        assert (u.shape, s.shape, vh.shape) == ((len(m), m.shape[1], r), (len(m), r), (len(m), r, m.shape[2]))
        tolerance = VALUE_ERROR if dtype == torch.float32 else DOUBLE_ERROR
        assert ((s.double() - exact[:, :r]).abs() <= tolerance * first).all()
        assert orthonormality(u) <= tolerance
        assert orthonormality(vh.mT) <= tolerance
        assert largest_is_positive(u if sign == "u" else vh.mT)
        product = u.double() / first[:, :, None] @ torch.diag_embed(s.double()) @ vh.double()
        best = ((exact[:, r:] / first) ** 2).sum(1).sqrt()
        error = (m.double() / first[:, :, None] - product).flatten(1).norm(dim=1)
        assert (error <= best + 10 * tolerance).all()


def test_truncated_subspaces_where_there_is_a_gap(dtype):
    m = torch.stack([spectrum([5.0, 4.0, 3.0, 3.0 - 3 * GAP, 1e-6], 60, 9, seed) for seed in range(4)]).to(dtype)
    u, _, vh = tsm_fast.truncated_svd(m, 3)
    exact_u, _, exact_vh = torch.linalg.svd(m.double(), full_matrices=False)
    tolerance = PROJECTOR_ERROR if dtype == torch.float32 else DOUBLE_ERROR
    assert (projector(u) - projector(exact_u[:, :, :3])).abs().max() <= tolerance
    assert (projector(vh.mT) - projector(exact_vh[:, :3].mT)).abs().max() <= tolerance


@pytest.mark.parametrize("shape", [(90, 64), (64, 90), (70, 65), (100, 100)], ids=str)
@pytest.mark.parametrize("backend_name", BACKENDS)
def test_small_triplets_of_float32(backend_name, shape):
    # Of the float32 matrix itself: a Gram matrix in float64 tells them apart where LAPACK in float32 does not.
    rows, columns = shape
    values = [10.0 ** (-i / 5) for i in range(40)]
    m = torch.stack([spectrum(values, rows, columns, seed) for seed in range(3)]).float()
    u, s, vh = (part.double() for part in tsm_fast.truncated_svd(m, backend=backend_name))
    exact_u, exact, exact_vh = torch.linalg.svd(m.double(), full_matrices=False)
    assert ((s - exact).abs() <= 1e-6 * exact[:, :1]).all()
    found = 31  # to 1e-6 of the first
    for mine, its in ((u, exact_u), (vh.mT, exact_vh.mT)):
        cosines = (mine[:, :, :found] * its[:, :, :found]).sum(1).abs()
        assert (1 - cosines <= 1e-4).all()
        assert orthonormality(mine) <= 4e-6
