"""`mode_gram`, `truncated_svd` and `core_contraction` of the Triton backend against the reference."""

from __future__ import annotations

import sys

import pytest
import torch
import triton.language as tl
from torch import Tensor

import tsm_fast
from tsm_fast import kernels
from tsm_fast.kernels.orthonormalize import orthonormalize
from tsm_fast.kernels.truncated_svd import leading_pair
from tsm_fast.steps import reference
from tsm_fast.steps.cusolver import library_eigenpairs

from ..helpers import beyond_the_protocol, largest_is_positive, orthonormality, projector, randn, spectrum, views

pytestmark = pytest.mark.slow

# float32: sums of up to 64 products before float64 takes them over, 1e-7 each at random; float64 likewise.
ERROR = {torch.float32: 6e-7, torch.float64: 1e-14}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [(2, 33, 5, 7), (2, 5, 70), (1, 3, 2, 4, 5), (2, 1, 1)]


def close(mine: Tensor, exact: Tensor) -> bool:
    assert mine.dtype == exact.dtype
    assert mine.shape == exact.shape
    return bool((mine - exact).abs().max() <= ERROR[exact.dtype] * exact.abs().max())


def test_the_functions_of_the_protocol():
    assert beyond_the_protocol(kernels) == {}
    assert kernels.name == "triton"


@pytest.mark.parametrize("size", [None, (1, 1), (3, 20), (40, 50)])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_finish(dtype, size, normalize):
    maps = torch.rand(5, 9, 6, dtype=dtype)[:, 1:-1]
    maps[1], maps[2], maps[4, 2, 3] = 3.7, 0, torch.nan
    maps[3] *= 1e-30
    found = kernels.finish(maps, size, normalize=normalize)
    expected = reference.finish(maps, size, normalize=normalize)
    error = 1e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(found, expected, rtol=error, atol=error, equal_nan=True)
    assert kernels.finish(maps[:0], size, normalize=normalize).shape == expected[:0].shape


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mode_gram(shape, dtype):
    x = (randn(*shape) + 3).to(dtype)
    for mode in range(len(shape) - 1):
        for center in (False, True):
            for precision in ("auto", "float32", "float64"):
                options = {"center": center, "precision": precision}
                assert close(kernels.mode_gram(x, mode, **options), reference.mode_gram(x, mode, **options))


def test_mode_gram_in_any_strides():
    x = randn(2, 6, 5, 4, dtype=torch.float32)
    exact = kernels.mode_gram(x, 0), kernels.mode_gram(x, 2, center=True)
    for view in views(x).values():
        assert torch.equal(kernels.mode_gram(view, 0), exact[0])
        assert torch.equal(kernels.mode_gram(view, 2, center=True), exact[1])


def test_constant_rows_are_centred_to_zero():
    x = torch.full((2, 3, 7), 0.1)
    for dtype in (torch.float32, torch.float64):
        for mode in (0, 1):
            assert not kernels.mode_gram(x.to(dtype), mode, center=True).any()


def test_mode_gram_of_more_elements_than_int32_counts():
    far = 2**31 + 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
        memory = torch.empty(far + 2**11, dtype=torch.float16)  # its pages are not touched but where they are written
    x = memory.as_strided((2, 3, 4, 5), (far, 2**9, 5, 1))
    x.copy_(randn(2, 3, 4, 5))
    assert close(kernels.mode_gram(x, 0), reference.mode_gram(x, 0))
    assert close(kernels.mode_gram(x.movedim(0, 1), 1), reference.mode_gram(x.movedim(0, 1), 1))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 15, 17])
def test_all_eigenpairs(n):
    for dtype in (torch.float32, torch.float64):
        matrix = randn(2, n, n + 3, seed=n).to(dtype)
        check(matrix @ matrix.mT, n)


@pytest.mark.parametrize(
    "values",
    [
        [1.0] * 9,
        [1, 1 - 1e-6, 1 - 2e-6, 0.5, 0.5, 1e-3, 1e-9, 1e-12, 0],
        [10.0**-k for k in range(9)],
        [1.0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1e30] * 2 + [1e20] * 7,
        [1e-30, 1e-31],
    ],
    ids=str,
)
def test_eigenvalues_of_every_kind(values):
    matrix = spectrum(values, 9, 20)
    check((matrix @ matrix.mT)[None], 9)
    check((matrix @ matrix.mT)[None], 2)


def check(gram: Tensor, rank: int) -> None:
    tolerance = 1e-12 if gram.dtype == torch.float64 else 2e-6
    values, vectors = kernels.truncated_svd(gram, rank)
    assert values.dtype == vectors.dtype == gram.dtype
    wide = gram.double()
    largest = torch.linalg.eigvalsh(wide).amax(1)[:, None]
    exact = torch.linalg.eigvalsh(wide).flip(1)[:, :rank].clamp(min=0)
    assert ((values.double() ** 2 - exact).abs() <= tolerance * largest).all()
    residual = wide @ vectors.double() - vectors.double() * values.double()[:, None] ** 2
    assert (residual.abs() <= tolerance * largest[:, None]).all()
    assert orthonormality(vectors) <= tolerance
    assert (values.diff() <= 0).all()
    assert largest_is_positive(vectors)


def test_truncated_svd_of_a_whole_feature_map():
    matrix = randn(1, 49, 60).relu()
    check(matrix @ matrix.mT, 49)


def test_all_eigenpairs_above_64():
    matrix = randn(1, 66, 70)
    check(matrix @ matrix.mT, 66)


def test_eigenpairs_above_256_by_the_library(monkeypatch):
    module, ranks = sys.modules["tsm_fast.kernels.truncated_svd"], []

    def library(gram: Tensor, rank: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        ranks.append(rank)
        assert dtype == torch.float64
        return library_eigenpairs(gram, rank, dtype)

    monkeypatch.setattr(module, "library_eigenpairs", library)
    matrix = randn(1, 257, 300)
    check(matrix @ matrix.mT, 257)
    pair = leading_pair(matrix @ matrix.mT)
    exact = torch.linalg.eigvalsh(matrix @ matrix.mT)
    assert (pair.value - exact[:, -1]).abs() <= 1e-12 * exact[:, -1]
    assert (pair.second - exact[:, -2]).abs() <= 1e-12 * exact[:, -1]
    assert ranks == [257, 2]


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.6])
def test_the_leading_pair_above_64_by_lanczos_steps(ratio, monkeypatch):
    """A clear pair is proved without the full solver."""
    monkeypatch.setattr(sys.modules["tsm_fast.kernels.truncated_svd"], "eigh", None)
    matrix = spectrum([1.0, ratio**0.5, *[(0.01 * ratio) ** 0.5] * 40], 66, 70)
    grams = torch.stack([matrix @ matrix.mT, 1e-60 * matrix @ matrix.mT, torch.zeros(66, 66)])
    grams = torch.cat([grams, torch.full((1, 66, 66), torch.nan)])
    pair = leading_pair(grams)
    for i, unit in enumerate((1.0, 1e-60)):
        assert abs(pair.value[i] / unit - 1) <= 1e-13
        assert ratio <= pair.second[i] / unit <= 1.1 * ratio + 1e-6
        v = pair.vector[i]
        assert (matrix @ (matrix.mT @ v) - v).abs().max() <= 1e-11
        assert largest_is_positive(v[None, :, None])
    assert pair.value[2] == 0
    assert pair.vector[2].norm() == 1
    assert pair.value[3].isnan()
    assert pair.vector[3].isnan().all()


def test_pairs_that_fail_their_test_are_solved_again():
    """Three equal eigenvalues, whose vectors inverse iteration does not make orthogonal, beside an item of NaN."""
    equal = spectrum([1.0] * 3 + [0.5**k for k in range(1, 64)], 66, 70)
    grams = torch.stack([equal @ equal.mT, torch.full((66, 66), torch.nan, dtype=torch.float64)])
    values, vectors = kernels.truncated_svd(grams, 4)
    assert (values[0] - torch.tensor([1, 1, 1, 0.5])).abs().max() <= 1e-12
    assert orthonormality(vectors[:1]) <= 1e-12
    assert (grams[0] @ vectors[0] - vectors[0] * values[0] ** 2).abs().max() <= 1e-12
    assert values[1].isnan().all()
    assert vectors[1].isnan().all()


def test_items_of_zeros_and_nan_leave_the_others_alone():
    matrix = randn(4, 9, 9)
    gram = matrix @ matrix.mT
    exact = kernels.truncated_svd(gram, 3)
    gram[0], gram[2, 1, 2], gram[2, 2, 1] = 0, torch.nan, torch.nan
    values, vectors = kernels.truncated_svd(gram, 3)
    assert torch.equal(vectors[[1, 3]], exact[1][[1, 3]])
    assert torch.equal(values[[1, 3]], exact[0][[1, 3]])
    assert values[2].isnan().all()
    assert vectors[2].isnan().all()
    assert not values[0].any()
    assert orthonormality(vectors[:1]) <= 1e-12


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.9, 0.999, 1 - 1e-9, 1.0])
@pytest.mark.parametrize("n", [2, 13, 49])
def test_the_leading_pair_and_its_proof(n, ratio):
    values = [1.0, ratio**0.5, *[(0.1 * ratio) ** 0.5] * (n - 2)]
    matrix = spectrum(values, n, n + 5)
    pair = leading_pair(torch.stack([matrix @ matrix.mT, 1e-60 * matrix @ matrix.mT]))
    for i, unit in enumerate((1.0, 1e-60)):
        assert abs(pair.value[i] / unit - 1) <= 1e-13
        assert ratio * (1 - 1e-12) <= pair.second[i] / unit <= 2.3 * ratio + 1e-12
        v = pair.vector[i]
        assert (matrix @ (matrix.mT @ v) - v).abs().max() <= 1e-12
        assert largest_is_positive(v[None, :, None])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("modes", [[0], [2], [1, 3], [0, 1, 2, 3], []], ids=str)
def test_core_contraction(dtype, modes):
    x = randn(2, 9, 5, 6, 7).to(dtype)
    factors = [randn(2, x.shape[n + 1], r, seed=n) for n, r in zip(range(4), (4, 2, 6, 1), strict=True)]
    for precision in ("auto", "float64"):
        arguments = [factors[n] for n in modes], modes
        mine = kernels.core_contraction(x, *arguments, precision=precision)
        exact = reference.core_contraction(x, *arguments, precision=precision)
        assert mine.dtype == exact.dtype
        assert (mine - exact).abs().max() <= 3 * ERROR[exact.dtype] * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_are_hidden_from_an_older_compiler(monkeypatch, dtype):
    """What a kernel does before Triton 3.9 changes no bit."""
    x, factor = (randn(2, 9, 5, 6) + 3).to(dtype), randn(2, 5, 3)
    calls = [
        lambda: kernels.mode_gram(x, 1, precision="float64"),
        lambda: kernels.mode_gram(x, 2, center=True, precision="float64"),
        lambda: kernels.core_contraction(x, [factor], [1], precision="float64"),
        lambda: kernels.saliency(x, "mtsm", None, center=False, combine="signed", sign="u")[0],
        lambda: kernels.saliency(x, "mtsm", None, center=True, combine="absolute", sign="u")[0],
    ]
    expected = [call() for call in calls]
    monkeypatch.setattr(sys.modules["tsm_fast.kernels.widening"], "HIDDEN", tl.constexpr(True))
    assert all(call().equal(result) for call, result in zip(calls, expected, strict=True))


def test_core_contraction_in_any_strides():
    x, factor = randn(2, 6, 5, 4, dtype=torch.float32), randn(2, 5, 3)
    exact = kernels.core_contraction(x, [factor], [1])
    for view in views(x).values():
        assert torch.equal(kernels.core_contraction(view, [factor], [1]), exact)


def test_empty_batches():
    x = torch.empty(0, 9, 5, 4)
    assert kernels.mode_gram(x, 0).shape == (0, 9, 9)
    assert kernels.core_contraction(x, [torch.empty(0, 5, 2)], [1]).shape == (0, 9, 2, 4)
    assert [result.shape for result in kernels.truncated_svd(torch.empty(0, 9, 9), 2)] == [(0, 2), (0, 9, 2)]
    for rank in (None, (2, 2, 2)):
        assert tsm_fast.mtsm(x, rank, backend="triton").shape == (0, 5, 4)
    result = tsm_fast.tucker(x, rank=(2, 2, 2), backend="triton")
    assert result.core.shape == (0, 2, 2, 2)
    assert result.errors.shape == (0, 0)


def test_orthonormal_columns():
    columns = randn(2, 9, 6)
    columns[0, :, 1] = columns[0, :, 0]  # spanned by an earlier one
    columns[1, :, 3] = 0
    columns[1, :, 4] = 1e-12 * columns[1, :, 4] + columns[1, :, 2]
    result = orthonormalize(columns)
    assert orthonormality(result) <= 1e-14
    for i, spanned in ((0, [0, 2, 3, 4, 5]), (1, [0, 1, 2, 5])):
        inside = projector(result[i]) @ columns[i, :, spanned]
        assert (inside - columns[i, :, spanned]).abs().max() <= 1e-12
    assert (result * columns).sum(1)[0, 0] > 0


def test_orthonormal_columns_of_many_rows():
    columns = randn(1, 8197, 3)
    columns[0, :, 2] = 0
    result = orthonormalize(columns)
    assert orthonormality(result) <= 1e-14
    assert (result[0, :, 0] - columns[0, :, 0] / columns[0, :, 0].norm()).abs().max() <= 1e-14
