"""The public decompositions: `tucker`, `hosvd`, `TuckerResult` and the mode products."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorly
import torch
from tensorly import tucker_to_tensor
from tensorly.tenalg.core_tenalg import multi_mode_dot

import tsm_fast
from tsm_fast import decomposition

from ..helpers import (
    BACKENDS,
    DOUBLE_ERROR,
    GAP,
    VALUE_ERROR,
    feature_maps,
    largest_is_positive,
    low_rank,
    orthonormality,
    projector,
    randn,
    tensors,
    unfold,
)

pytestmark = pytest.mark.long("triton")

SHAPES = [(2, 7, 5), (3, 20, 6, 5), (2, 6, 5, 4, 3), (2, 3, 4, 3, 2, 5)]


# --- tucker --------------------------------------------------------------------------------------------------------


def test_tucker_is_the_step(backend):
    x, rank = tensors()["pines"]
    result = tsm_fast.tucker(x, rank, backend=backend.name)
    step = backend.hooi(x, rank, n_iter_max=100, tol=1e-4, sign="u")
    assert torch.equal(result.core, step.core)
    assert torch.equal(result.errors, step.errors[:, : int(step.n_sweeps.max())])
    assert step.errors[:, result.errors.shape[1] :].isnan().all()
    assert all(map(torch.equal, result.factors, step.factors))
    assert all(map(torch.equal, result.singular_values, step.singular_values))
    assert torch.equal(result.n_sweeps, step.n_sweeps)
    assert torch.equal(result.converged, step.converged)
    assert result.rank == rank


@pytest.mark.parametrize("options", [{}, {"n_iter_max": 12, "tol": 0}, {"n_iter_max": 10**12}], ids=str)
def test_room_for_the_errors_is_made_as_it_is_needed(backend, monkeypatch, options):
    x, rank = tensors()["pines"]
    at_once = tsm_fast.tucker(x, rank, backend=backend.name, **options)
    assert at_once.errors.shape == (len(x), int(at_once.n_sweeps.max()))
    monkeypatch.setattr(decomposition, "_ROOM", 1)
    piecemeal = tsm_fast.tucker(x, rank, backend=backend.name, **options)
    assert torch.equal(piecemeal.errors.nan_to_num(), at_once.errors.nan_to_num())
    assert torch.equal(piecemeal.n_sweeps, at_once.n_sweeps)
    assert all(map(torch.equal, piecemeal.factors, at_once.factors))


RANKS = [
    (None, (20, 6, 5), (20, 6, 5)),
    (None, (40, 6, 5), (30, 6, 5)),
    (3, (20, 6, 5), (3, 3, 3)),
    (np.int64(3), (20, 6, 5), (3, 3, 3)),
    ([4, 2, 2], (20, 6, 5), (4, 2, 2)),
    (np.array([4, 2, 2]), (20, 6, 5), (4, 2, 2)),
    (torch.tensor([4, 2, 2]), (20, 6, 5), (4, 2, 2)),
    ((20, 2, 2), (20, 6, 5), (4, 2, 2)),
    ((1, 6, 1), (20, 6, 5), (1, 1, 1)),
    ((2, 6, 5), (20, 6, 5), (2, 6, 5)),
    ((20, 1, 3), (20, 6, 5), (3, 1, 3)),
    ((2, 5), (7, 5), (2, 2)),
    (None, (7, 5), (5, 5)),
    (None, (30, 2, 2, 3), (12, 2, 2, 3)),
]


@pytest.mark.parametrize(("rank", "shape", "effective"), RANKS, ids=str)
def test_effective_rank(backend, rank, shape, effective):
    x = randn(2, *shape)
    for decompose in (tsm_fast.tucker, tsm_fast.hosvd):
        result = decompose(x, rank, backend=backend.name)
        assert result.rank == effective
        assert result.core.shape == (2, *effective)
        assert [a.shape for a in result.factors] == [(2, i, r) for i, r in zip(shape, effective, strict=True)]


def test_an_item_is_what_tensorly_takes(backend):
    x = randn(3, 20, 6, 5).numpy()
    result = tsm_fast.tucker(x, (4, 3, 3), backend=backend.name)
    assert len(result) == 3
    restored = result.reconstruct()
    for i in range(len(result)):
        assert np.abs(tucker_to_tensor(result[i]) - restored[i]).max() < 1e-12
        error = np.linalg.norm(restored[i] - x[i]) / np.linalg.norm(x[i])
        assert abs(error - result.error[i]) < 1e-9
        assert result.error[i] == result.errors[i, result.n_sweeps[i] - 1]
    assert np.array_equal(result[-1][0], result.core[2])
    assert np.array_equal(result[np.int64(-3)][0], result.core[0])
    for index in (3, -4):
        with pytest.raises(IndexError, match=rf"^index must lie in -3\.\.2 for a batch of 3, got {index}$"):
            result[index]
    for index in (slice(2), 1.0, True, [0], None, x):
        with pytest.raises(TypeError, match=r"^index must be an integer, got "):
            result[index]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("decompose", [tsm_fast.tucker, tsm_fast.hosvd])
def test_a_batch_is_not_unpacked_as_an_item(decompose):
    """A batch of two would unpack into its two items, as if they were core and factors."""
    result = decompose(randn(2, 6, 5, 4), 2)
    message = r"^a TuckerResult is a batch: take core, factors = result\[i\], or result.core and result.factors$"
    with pytest.raises(TypeError, match=message):
        _core, _factors = result
    for use in (list, iter, tucker_to_tensor, dict):
        with pytest.raises(TypeError, match=message):
            use(result)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_bad_items_are_named(backend, bad):
    x = randn(4, 6, 5, 4)
    x[2, 0, 0, 0] = bad
    for decompose in (tsm_fast.tucker, tsm_fast.hosvd):
        with pytest.raises(ValueError, match=r"x must be finite, got NaN or Inf in item 2$"):
            decompose(x, (2, 2, 2), backend=backend.name)
    with pytest.raises(ValueError, match=r"m must be finite, got NaN or Inf in item 2$"):
        tsm_fast.truncated_svd(x[:, :, 0], backend=backend.name)


# --- hosvd ---------------------------------------------------------------------------------------------------------

HOSVD = {name: case for name, case in tensors().items() if name != "nearly degenerate"}
HOSVD["tall"] = (randn(2, 40, 3, 2, seed=7), (4, 3, 2))
HOSVD["tall in the middle"] = (randn(2, 3, 40, 2, seed=8), (2, 4, 2))
HOSVD["rank deficient"] = (torch.einsum("bi,bj,bk->bijk", randn(2, 40), randn(2, 5), randn(2, 4)), (3, 3, 3))
HOSVD["zero"] = (torch.zeros(2, 30, 4, 3, dtype=torch.float64), (5, 3, 2))


@pytest.mark.parametrize("case", HOSVD)
@pytest.mark.parametrize("sign", ["u", "v"])
def test_hosvd_by_its_definition(backend, dtype, case, sign):
    x, rank = HOSVD[case]
    x = x.to(dtype)
    result = tsm_fast.hosvd(x, rank, sign=sign, backend=backend.name)
    assert result.core.dtype == dtype
    assert result.n_sweeps.tolist() == [0] * len(x)
    assert result.converged.all()
    tolerance = VALUE_ERROR if dtype == torch.float32 else DOUBLE_ERROR
    norm = x.double().flatten(1).norm(dim=1)
    for n, (factor, r) in enumerate(zip(result.factors, rank, strict=True)):
        assert orthonormality(factor) <= tolerance
        exact, values, _ = torch.linalg.svd(unfold(x.double(), n), full_matrices=False)
        after = values[:, r] if r < values.shape[1] else torch.zeros(len(x))
        clear = (values[:, r - 1] - after) / (values[:, 0] + 1e-300) > GAP
        difference = (projector(factor) - projector(exact[:, :, :r])).abs().amax((1, 2))
        assert (difference[clear] <= tolerance).all()
        side = factor.double() if sign == "u" else unfold(x.double(), n).mT @ factor.double()
        certain = side.norm(dim=1) > 1e-3 * side.norm(dim=1).amax(1, keepdim=True)  # other right vectors are noise
        assert largest_is_positive(side.mT[certain].mT[None])
    core = x.double()
    for n, factor in enumerate(result.factors):
        core = torch.einsum("bm...,bmr->b...r", core.movedim(n + 1, 1), factor.double()).movedim(-1, n + 1)
    assert ((result.core - core).abs() <= tolerance * norm.view(-1, *[1] * len(rank))).all()
    error = (norm**2 - core.flatten(1).norm(dim=1) ** 2).abs().sqrt() / norm.clamp(min=1e-300)
    assert result.errors.shape == (len(x), 1)
    assert result.errors.dtype == torch.float64
    squares = (result.errors[:, 0] ** 2 - error**2).abs()
    assert (squares <= (1e-6 if dtype == torch.float32 else 1e-12)).all()
    for n, values in enumerate(result.singular_values):
        assert ((values - unfold(core, n).norm(dim=2)).abs() <= tolerance * norm[:, None]).all()


def test_hosvd_of_zeros_has_the_identity(backend):
    result = tsm_fast.hosvd(torch.zeros(2, 30, 4, 3), (5, 3, 2), backend=backend.name)
    for factor in result.factors:
        assert torch.equal(factor, torch.eye(*factor.shape[1:]).expand_as(factor))
    assert result.errors.tolist() == [[0.0], [0.0]]
    assert result.error.tolist() == [0.0, 0.0]
    assert tsm_fast.hosvd(torch.zeros(0, 30, 4, 3), (5, 3, 2), backend=backend.name).core.shape == (0, 5, 3, 2)


def test_what_a_result_says_of_itself(backend):
    x = randn(3, 20, 6, 5).requires_grad_(backend.name == "reference")
    result = tsm_fast.tucker(x, (4, 3, 3), n_iter_max=2, tol=0, backend=backend.name)
    said = re.fullmatch(
        r"TuckerResult\(3 items of rank \(4, 3, 3\), error ([\d.]+)(?: to ([\d.]+))?, 0 of 3 converged .* 2 sweeps\)",
        repr(result),
    )
    assert said
    for text, error in ((said[1], result.error.min()), (said[2] or said[1], result.error.max())):
        assert float(text) == pytest.approx(float(error.detach()), rel=0.05)
    assert result._repr_html_().startswith(f"<div>{result!r}</div><table>")
    assert "<td>0</td><td>20</td><td>4</td>" in result._repr_html_()
    one = tsm_fast.hosvd(x[:1], (4, 3, 3), backend=backend.name)
    assert re.fullmatch(r"TuckerResult\(1 item of rank .*, error [\d.]+, without sweeps\)", repr(one))
    none = tsm_fast.tucker(x[:0], (4, 3, 3), backend=backend.name)
    assert (repr(none), none.error.shape) == ("TuckerResult(0 items of rank (4, 3, 3))", (0,))


# What docs/decompositions.md says of the errors of exact fits: rounding of a sum of n squares, of which it is the root.
FLOOR = 3e-7
EXACT_FITS = {
    "full rank": (randn(2, 30, 5, 4), None),
    "full rank after a ReLU": (feature_maps(2, 256, 14, 14), None),
    "low rank": (low_rank((200, 14, 14), (5, 3, 3), 0.0)[None], (5, 3, 3)),
    "more rank than there is": (low_rank((40, 6, 7), (3, 2, 2), 0.0)[None], (5, 3, 3)),
    "rank one": (torch.arange(1.0, 31)[:, None, None].expand(1, 30, 9, 8), (1, 1, 1)),
    "constant": (torch.full((1, 30, 7, 7), 0.1), (4, 2, 2)),
    "constant in float64": (torch.full((1, 64, 56, 56), 0.7, dtype=torch.float64), (1, 1, 1)),
    "constant and large": (torch.full((1, 64, 56, 56), 0.7), (1, 1, 1)),
}


@pytest.mark.parametrize("backend_name", BACKENDS)
@pytest.mark.parametrize("name", EXACT_FITS)
def test_errors_of_exact_fits_are_below_their_floor(backend_name, name):
    x, rank = EXACT_FITS[name]
    numbers = x[0].numel()
    compiled = max(FLOOR, 1e-8 * numbers**0.5)  # one square after the other
    result = tsm_fast.tucker(x, rank, n_iter_max=3, backend=backend_name)
    assert result.errors.nan_to_num().max() <= (FLOOR if backend_name == "reference" else compiled)
    assert tsm_fast.hosvd(x, rank, backend=backend_name).errors.max() <= FLOOR
    single = tsm_fast.tucker(x, rank, n_iter_max=3, precision="float32", backend=backend_name)
    assert single.errors.nan_to_num().max() <= 3e-3


@pytest.mark.parametrize("exponent", [-1000, -600, 600, 1000])
def test_hosvd_of_any_scale(backend, exponent):
    x = randn(2, 20, 6, 5)
    x[1] *= 2.0**exponent
    result, one = (tsm_fast.hosvd(y, (4, 3, 3), backend=backend.name) for y in (x, randn(2, 20, 6, 5)))
    torch.testing.assert_close(result.core[1] * 2.0**-exponent, one.core[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.errors, one.errors, rtol=1e-12, atol=0)


@pytest.mark.parametrize("exponent", [-1000, -600, -520, 500, 520, 600, 1000])
def test_singular_values_of_any_scale(backend, exponent):
    """float64 items whose squares are no float64: the norms of their slices still are."""
    x = randn(2, 20, 6, 5)
    x[1, 2] = 0
    large = x * 2.0**exponent
    for decompose in (tsm_fast.hosvd, tsm_fast.tucker):
        values = decompose(x, (4, 3, 3), backend=backend.name).singular_values
        scaled = decompose(large, (4, 3, 3), backend=backend.name).singular_values
        for one, other in zip(values, scaled, strict=True):
            torch.testing.assert_close(other * 2.0**-exponent, one, rtol=1e-12, atol=0)
    u, s, vh = tsm_fast.truncated_svd(x[:, 0], backend=backend.name)
    for one, other in zip(
        (u, s * 2.0**exponent, vh), tsm_fast.truncated_svd(large[:, 0], backend=backend.name), strict=True
    ):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9 * float(one.abs().max()))


@pytest.mark.parametrize(
    "dtype_exponents", [(torch.float32, (60, 100, -90)), (torch.float64, (600, 900, -1000))], ids=str
)
def test_mode_products_whose_steps_leave_the_range(backend, dtype_exponents):
    """What a sum on the way cannot hold the result may: up, further up and down again, and sums that cancel."""
    dtype, exponents = dtype_exponents
    x, a, b = randn(2, 7, 5, 3), randn(4, 7, seed=1), randn(2, 5, seed=2)
    a[0, 0] = 0
    exact = tsm_fast.multi_mode_dot(x, [a, b])
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        powers = [exponents[i] for i in order]
        parts = [(part * 2.0**power).to(dtype) for part, power in zip((x, a, b), powers, strict=True)]
        found = tsm_fast.multi_mode_dot(parts[0], parts[1:], backend=backend.name)
        expected = exact * 2.0 ** sum(powers)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    largest = torch.full((1, 4, 2), torch.finfo(dtype).max, dtype=dtype)
    signs = torch.tensor([[2.0, 2.0, -2.0, -2.0], [2.0, 2.0, 2.0, 2.0]], dtype=dtype)
    product = tsm_fast.mode_dot(largest, signs, 0, backend=backend.name)
    assert torch.equal(product, torch.tensor([[[0.0, 0.0], [torch.inf, torch.inf]]], dtype=dtype))
    largest[0, 0, 0] = torch.nan
    assert tsm_fast.mode_dot(largest, signs, 0, backend=backend.name)[..., 0].isnan().all()


def test_half_input_gives_float32(backend):
    for half in (torch.float16, torch.bfloat16):
        x = feature_maps(2, 20, 6, 5).to(half)
        exact = tsm_fast.hosvd(x.double(), (4, 3, 3))
        result = tsm_fast.hosvd(x, (4, 3, 3), backend=backend.name)
        assert result.core.dtype == torch.float32
        assert (result.errors - exact.errors).abs().max() <= VALUE_ERROR
        u, s, vh = tsm_fast.truncated_svd(x[:, :, 0], backend=backend.name)
        assert u.dtype == s.dtype == vh.dtype == torch.float32
        assert (u * s[:, None] @ vh - x[:, :, 0]).abs().max() <= 1e-5 * x.abs().max()


# --- unfold, fold, mode products -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unfold_and_fold_are_those_of_tensorly(shape):
    x = randn(*shape)
    for mode in range(x.ndim - 1):
        unfolded = tsm_fast.unfold(x, mode)
        for i, item in enumerate(x.numpy()):
            assert np.array_equal(unfolded[i], tensorly.unfold(item, mode))
        assert torch.equal(tsm_fast.fold(unfolded, mode, x.shape), x)
        assert torch.equal(tsm_fast.unfold(x, mode - x.ndim + 1), unfolded)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("transpose", [False, True])
def test_mode_products_are_those_of_tensorly(backend, dtype, shape, transpose):
    x = randn(*shape, dtype=dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    shared = [randn(*((i, 3) if transpose else (3, i)), seed=i, dtype=dtype) for i in shape[1:]]
    own = [torch.stack([m * (1 + i) for i in range(len(x))]) for m in shared]

    def tensorly_product(item, matrices, modes):
        matrices = [m.double().numpy().T if transpose else m.double().numpy() for m in matrices]
        return torch.from_numpy(multi_mode_dot(item.double().numpy(), matrices, modes))

    for mode, matrix in enumerate(shared):
        product = tsm_fast.mode_dot(x, matrix, mode, transpose, backend=backend.name)
        exact = torch.stack([tensorly_product(item, [matrix], [mode]) for item in x])
        assert product.dtype == dtype
        assert (product - exact).abs().max() <= tolerance * exact.abs().max()
    for modes in (None, list(range(len(shared)))[::-1]):
        matrices = own if modes is None else [own[n] for n in modes]
        product = tsm_fast.multi_mode_dot(x, matrices, modes, transpose, backend=backend.name)
        every = range(len(own)) if modes is None else modes
        exact = torch.stack([tensorly_product(item, [m[i] for m in matrices], every) for i, item in enumerate(x)])
        assert (product - exact).abs().max() <= tolerance * exact.abs().max()


def test_mode_product_with_no_matrix_and_dtypes(backend):
    x = randn(2, 6, 5, 4, dtype=torch.float16)
    assert torch.equal(tsm_fast.multi_mode_dot(x, [], backend=backend.name), x.float())
    factor = randn(3, 6, dtype=torch.float32)
    assert tsm_fast.mode_dot(x, factor, 0, backend=backend.name).dtype == torch.float32
    assert tsm_fast.mode_dot(x, factor, 0, precision="float64", backend=backend.name).dtype == torch.float64
    with pytest.raises(TypeError, match="matrix must have dtype float16, bfloat16, float32 for a float32 result, got"):
        tsm_fast.mode_dot(x, factor.double(), 0, backend=backend.name)


@pytest.mark.parametrize("backend_name", BACKENDS)
def test_results_of_a_batch_of_none(backend_name):
    x = torch.empty(0, 6, 5, 4)
    result = tsm_fast.tucker(x, (2, 2, 2), backend=backend_name)
    assert len(result) == 0
    assert result.reconstruct().shape == x.shape
    assert tsm_fast.mode_dot(x, torch.ones(3, 6), 0, backend=backend_name).shape == (0, 3, 5, 4)
    u, s, vh = tsm_fast.truncated_svd(x[:, :, 0], backend=backend_name)
    assert (u.shape, s.shape, vh.shape) == ((0, 6, 4), (0, 4), (0, 4, 4))
