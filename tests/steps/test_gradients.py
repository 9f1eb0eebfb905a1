"""Gradients: those of torch where singular values are distinct and not zero, and finite everywhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import tsm_fast
from tsm_fast.steps import gradients, reference

from ..helpers import feature_maps, low_rank, randn, spectrum

search = settings(derandomize=True, deadline=None, max_examples=400, database=None)

# Differences at 1e-6, along random directions, to 1e-3 of derivatives of order 1 to 100.
check = partial(gradcheck, fast_mode=True)

# Everything that is differentiable of each function's result, for features [B, C, H, W].
Outputs = Callable[..., tuple[Tensor, ...]]


def maps(method: str, *rank: int) -> Outputs:
    def outputs(x: Tensor, **options) -> tuple[Tensor, ...]:
        return (getattr(tsm_fast, method)(x, *((rank,) if rank else ()), **options),)

    return outputs


def tucker(*rank: int) -> Outputs:
    def outputs(x: Tensor, **options) -> tuple[Tensor, ...]:
        return _differentiable(tsm_fast.tucker(x, rank or None, **{"n_iter_max": 4, "tol": 0, **options}), rank)

    return outputs


def hosvd(*rank: int) -> Outputs:
    def outputs(x: Tensor, **options) -> tuple[Tensor, ...]:
        return _differentiable(tsm_fast.hosvd(x, rank or None, **options), rank)

    return outputs


def _differentiable(result: tsm_fast.TuckerResult, rank: tuple[int, ...]) -> tuple[Tensor, ...]:
    errors = (result.errors,) if rank else ()  # those of an exact fit are rounding
    return result.core, *result.factors, *result.singular_values, *errors


def triplets(rank: int | None = None) -> Outputs:
    def outputs(x: Tensor, **options) -> tuple[Tensor, ...]:
        return tsm_fast.truncated_svd(x.flatten(2), rank, **options)

    return outputs


ROUTES: dict[str, Outputs] = {
    "eigencam": maps("eigencam"),
    "tsm": maps("tsm"),
    "tsm at a rank": maps("tsm", 3, 2, 2),
    "multivec_eigencam": maps("multivec_eigencam"),
    "mtsm": maps("mtsm"),
    "mtsm, signed": partial(maps("mtsm"), relu=False),
    "mtsm at a rank": maps("mtsm", 3, 2, 2),
    "tucker": tucker(),
    "tucker at a rank": tucker(3, 2, 2),
    "hosvd": hosvd(),
    "hosvd at a rank": hosvd(3, 2, 2),
    "truncated_svd": triplets(),
    "truncated_svd at a rank": triplets(3),
}
SHAPES = {"tall": (12, 2, 3), "wide": (4, 3, 3), "square": (6, 2, 3)}

every_route = pytest.mark.parametrize("route", ROUTES)
every_shape = pytest.mark.parametrize("shape", SHAPES)


def gradient(outputs: Outputs, x: Tensor, seed: int = 0, **options) -> Tensor:
    """Of the outputs, each weighed with random numbers, an item's own wherever it stands in its batch."""
    x = x.clone().requires_grad_()
    results = [result for result in outputs(x, **options) if result.requires_grad]
    weights = [randn(*result.shape[1:], seed=seed + i).expand_as(result) for i, result in enumerate(results)]
    return torch.autograd.grad(results, x, [w.to(result) for w, result in zip(weights, results, strict=True)])[0]


# --- finite everywhere ---------------------------------------------------------------------------------------------

Maker = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def with_spectrum(*values: float) -> Maker:
    """Mode-1 singular values: these, the last one for all others."""

    def make(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        rows, columns = shape[0], int(np.prod(shape[1:]))
        smaller = min(rows, columns)
        s = np.array([*values, *[values[-1]] * smaller][:smaller])
        u, v = (np.linalg.qr(rng.normal(size=(size, smaller)))[0] for size in (rows, columns))
        return (u * s @ v.T).reshape(shape)

    return make


def scaled(size: float) -> Maker:
    return lambda rng, shape: rng.normal(size=shape) * size


def one_hot(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    item = np.zeros(shape)
    item.flat[rng.integers(item.size)] = rng.choice([-2.0, 1.0])
    return item


def permutation(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Singular values 1 and 0, exactly."""
    rows, columns = shape[0], int(np.prod(shape[1:]))
    return np.eye(rows, columns)[rng.permutation(rows)][:, rng.permutation(columns)].reshape(shape)


def antisymmetric(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """The sign of the index as a permutation: every mode is tied, and the item orthogonal to its own HOSVD."""
    item = np.zeros(shape)
    for index in np.ndindex(*(min(size, len(shape)) for size in shape)):
        item[index] = np.prod([np.sign(b - a) for a, b in combinations(index, 2)])
    return item


MAKERS: dict[str, Maker] = {
    "zeros": lambda rng, shape: np.zeros(shape),
    "constant": lambda rng, shape: np.full(shape, rng.choice([-3.0, 0.1, 1.0])),
    "constant channels": lambda rng, shape: np.broadcast_to(
        rng.normal(size=(shape[0], *(1,) * (len(shape) - 1))), shape
    ),
    "equal channels": lambda rng, shape: np.broadcast_to(rng.normal(size=(1, *shape[1:])), shape),
    "one hot": one_hot,
    "whole numbers": lambda rng, shape: rng.integers(-1, 2, shape).astype(float),
    "permutation": permutation,
    "antisymmetric": antisymmetric,
    "orthogonal": with_spectrum(1.0),
    "rank one": with_spectrum(1.0, 0.0),
    "rank two, tied": with_spectrum(1.0, 1.0, 0.0),
    "tied below": with_spectrum(1.0, 0.3),
    "nearly tied": with_spectrum(1.0, 1.0 - 1e-10, 0.5, 0.5 - 1e-13, 1e-9, 1e-15),
    "graded": with_spectrum(*(10.0**-i for i in range(25))),
    "nearly constant": lambda rng, shape: 1 + 1e-7 * rng.normal(size=shape),
    "after a ReLU": lambda rng, shape: rng.normal(size=shape).clip(0),
    "random": scaled(1.0),
    "small": scaled(1e-6),
    "tiny": scaled(1e-30),
    "nearly constant and tiny": lambda rng, shape: 1e-31 * (1 + 1e-6 * rng.normal(size=shape)),
    "denormal": scaled(1e-42),
    "huge": scaled(1e30),
}
ONLY_DOUBLE: dict[str, Maker] = {
    "1e-310": scaled(1e-310),
    "1e-200": scaled(1e-200),
    "1e140": scaled(1e140),
    "1e300": scaled(1e300),
    "constant 1e300": lambda rng, shape: np.full(shape, 1e300),
}


def item(make: Maker, rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    values = torch.from_numpy(np.array(make(rng, shape))).to(dtype)
    return torch.where(values.isfinite(), values, 1)  # float16 ends at 65504


def options_of(route: str, draw: st.DrawFn) -> dict:
    options: dict = {"precision": draw(st.sampled_from(["auto", "float64"]))}
    method = route.split()[0]
    if method in ("tucker", "hosvd", "truncated_svd"):
        options["sign"] = draw(st.sampled_from(["u", "v"]))
        return options
    options["normalize"] = draw(st.booleans())
    options["size"] = draw(st.sampled_from([None, (1, 1), (5, 4)]))
    if method != "tsm":
        options["sign"] = draw(st.sampled_from(["absmax", "sum", "u", "v"] if method == "eigencam" else ["u", "v"]))
    if method in ("eigencam", "multivec_eigencam"):
        options["center"] = draw(st.booleans())
    if method in ("mtsm", "multivec_eigencam"):
        options["combine"] = draw(st.sampled_from(["signed", "absolute"]))
    return options


@st.composite
def cases(draw: st.DrawFn) -> tuple[Outputs, dict, Tensor]:
    """A route at some rank, with some options, and a batch of items of different kinds."""
    route = draw(st.sampled_from(list(ROUTES)))
    method = route.split()[0]
    order = draw(st.integers(2, 5)) if method in ("tucker", "hosvd") else 3
    shape = (draw(st.integers(1, 20)), *(draw(st.integers(1, 4 if order < 4 else 3)) for _ in range(order - 1)))
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
    makers = {**MAKERS, **(ONLY_DOUBLE if dtype == torch.float64 else {})}
    names = draw(st.lists(st.sampled_from(sorted(makers)), min_size=0, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = torch.empty(0, *shape, dtype=dtype)
    if names:
        x = torch.stack([item(makers[name], rng, shape, dtype) for name in names])

    outputs = ROUTES[route]
    if route.endswith("at a rank"):
        rank = tuple(draw(st.integers(1, size)) for size in shape)
        make = {"tucker": tucker, "hosvd": hosvd, "truncated_svd": lambda r, *_: triplets(min(r, prod(shape[1:])))}
        outputs = make.get(method, partial(maps, method))(*rank)
    return outputs, options_of(route, draw), x


@search
@given(case=cases())
def test_gradients_are_finite(case):
    outputs, options, x = case
    found = gradient(outputs, x, **options)
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert found.isfinite().all()


@every_route
def test_degenerate_items_leave_the_others_their_gradients(route):
    rng = np.random.default_rng(2)
    x = torch.stack([item(make, rng, (6, 3, 2), torch.float64) for make in MAKERS.values()])
    x = x.repeat_interleave(2, 0)
    x[::2] = randn(len(x) // 2, 6, 3, 2)
    alone = gradient(ROUTES[route], x[::2], precision="float64")
    torch.testing.assert_close(gradient(ROUTES[route], x, precision="float64")[::2], alone, rtol=1e-9, atol=1e-9)


@every_route
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_default_decomposition_of_structure_has_gradients(route, dtype):
    """Every kind in one batch, with the default number of sweeps."""
    rng = np.random.default_rng(0)
    x = torch.stack([item(make, rng, (9, 3, 4), dtype) for make in MAKERS.values()])
    options = {"n_iter_max": 100, "tol": 1e-4} if route.startswith("tucker") else {}
    assert gradient(ROUTES[route], x, **options).isfinite().all()


def test_hundred_sweeps_between_ties_stay_finite():
    """Each sweep may multiply a gradient by the inverse of a gap."""
    rng = np.random.default_rng(1)
    kinds = ("permutation", "antisymmetric", "nearly tied", "whole numbers", "orthogonal")
    x = torch.stack([item(MAKERS[name], rng, (4, 4, 4), torch.float64) for name in kinds for _ in range(4)])
    for rank in ((1, 1, 1), (2, 1, 2), (2, 2, 2), (3, 2, 2)):
        assert gradient(tucker(*rank), x, n_iter_max=100).isfinite().all()


@every_route
def test_an_empty_batch_has_an_empty_gradient(route):
    assert gradient(ROUTES[route], torch.empty(0, 6, 3, 2, dtype=torch.float64)).shape == (0, 6, 3, 2)


# --- those of torch, and of finite differences, where these are defined ---------------------------------------------


@every_route
@every_shape
def test_gradients_are_those_of_torch(route, shape, monkeypatch):
    x = randn(3, *SHAPES[shape])
    options: dict[str, Any] = {"precision": "float64"}
    mine = gradient(ROUTES[route], x, **options)
    plain = partial(torch.linalg.svd, full_matrices=False)
    monkeypatch.setattr("tsm_fast.steps.reference.svd", plain)
    monkeypatch.setattr("tsm_fast.steps.hosvd.svd", plain)
    torch.testing.assert_close(
        mine, gradient(ROUTES[route], x, **options), rtol=1e-9, atol=1e-9 * float(mine.abs().max())
    )


@every_route
@every_shape
def test_gradients_are_those_of_finite_differences(route, shape):
    x = randn(1, *SHAPES[shape], seed=3).requires_grad_()
    options = {"precision": "float64"}
    assert check(partial(ROUTES[route], **options), (x,), check_batched_grad=True)


@pytest.mark.parametrize("sign", ["u", "v"])
def test_gradients_of_either_sign(sign):
    x = randn(1, 5, 2, 3, seed=4).requires_grad_()
    for outputs in (tucker(2, 2, 2), hosvd(2, 2, 2), triplets(2)):
        assert check(partial(outputs, sign=sign), (x,))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_part_that_is_cut_off_has_its_share(rank):
    """The projector on the leading vectors turns with what lies outside them."""
    for rows, columns in ((7, 4), (4, 7), (5, 5)):
        x = randn(1, rows, columns, seed=rank).requires_grad_()

        def best(y: Tensor, rank: int = rank) -> Tensor:
            u, s, vh = tsm_fast.truncated_svd(y, rank)
            return u * s[:, None] @ vh

        assert check(best, (x,))


@pytest.mark.parametrize("gap", [10.0**-i for i in range(1, 12)])
def test_near_a_tie_gradients_have_the_digits_that_the_gap_leaves(gap):
    m = spectrum([1.0, 1 - gap, 0.3], 6, 4)[None].requires_grad_()
    u, s, vh = tsm_fast.truncated_svd(m)
    (found,) = torch.autograd.grad(u[0, :, 0] @ u[0, :, 1].detach(), m)
    # u_1 turns towards u_2 by 1 / (s_1 - s_2) along u_1 v_2^T + u_2 v_1^T.
    along = (u[0, :, :2] @ vh[0, :2].flip(0)).detach()
    slope = (found[0] * along).sum() * (s[0, 0] - s[0, 1]).detach()
    assert abs(slope - 1) <= 1e-14 / gap


def test_below_the_rounding_of_singular_values_a_gap_is_a_tie():
    m = spectrum([1.0, 1 - 1e-13, 0.3, 1e-13], 6, 4)[None].requires_grad_()
    u, s, _ = tsm_fast.truncated_svd(m)
    (turn,) = torch.autograd.grad(u[0, :, 0] @ u[0, :, 1].detach(), m, retain_graph=True)
    (zero,) = torch.autograd.grad(s[0, 3], m)
    assert turn.abs().max() <= 1  # not 1e13
    assert (zero == 0).all()


# --- at ties and zeros: what is defined is right, what is not is 0 ---------------------------------------------------

TIED = {
    "twice the first": [1.0, 1.0, 0.4, 0.2],
    "twice in the middle": [2.0, 1.0, 1.0, 0.2],
    "three times": [1.0, 1.0, 1.0, 0.2],
    "and zeros": [1.0, 1.0, 0.0, 0.0],
}


@pytest.mark.parametrize("name", TIED)
@pytest.mark.parametrize("rows_columns", [(6, 4), (4, 6), (4, 4)])
def test_what_does_not_depend_on_the_choice_of_tied_vectors_has_its_derivative(name, rows_columns):
    values = TIED[name]
    tied = [i for i, value in enumerate(values) if value == 1.0]
    m = spectrum(values, *rows_columns)[None].requires_grad_()

    def invariants(y: Tensor) -> tuple[Tensor, ...]:
        u, s, vh = (part[0] for part in tsm_fast.truncated_svd(y))
        left, right = u[:, tied], vh[tied]
        best = left @ left.mT @ y[0]
        return left @ left.mT, right.mT @ right, left @ right, best, s[tied].sum(), s[tied].square().sum()

    assert check(invariants, (m,))


def test_a_tie_within_the_rank_leaves_the_reconstruction_its_derivative():
    core = torch.zeros(2, 2, 2, dtype=torch.float64)
    core[0, 0, 0] = core[1, 1, 1] = 1.0  # every mode twice 1
    for mode, size in enumerate((5, 4, 3)):
        q = torch.linalg.qr(randn(size, size, seed=mode))[0][:, :2]
        core = (core.movedim(mode, -1) @ q.mT).movedim(-1, mode)
    x = core[None].requires_grad_()
    assert check(lambda y: tsm_fast.hosvd(y, (2, 2, 2)).reconstruct(), (x,))
    assert check(lambda y: tsm_fast.tucker(y, (2, 2, 2), n_iter_max=3, tol=0).reconstruct(), (x,))


def test_an_exact_fit_of_low_rank_has_the_derivative_of_a_projection():
    x = low_rank((7, 4, 3), (2, 2, 2), 0.0)[None].requires_grad_()
    assert check(lambda y: tsm_fast.hosvd(y, (2, 2, 2)).reconstruct(), (x,))
    assert check(lambda y: tsm_fast.tucker(y, (2, 2, 2), n_iter_max=3, tol=0).reconstruct(), (x,))
    assert check(lambda y: tsm_fast.tucker(y, None, n_iter_max=1).reconstruct(), (x,))


def test_the_leading_vector_of_low_rank_has_its_derivative():
    x = low_rank((7, 4, 3), (2, 2, 2), 0.0)[None].requires_grad_()
    for method in ("tsm", "eigencam"):
        assert check(lambda y, method=method: maps(method)(y, precision="float64", normalize=False), (x,))


@pytest.mark.parametrize("method", ["eigencam", "tsm", "multivec_eigencam", "mtsm"])
@pytest.mark.parametrize("normalize", [True, False])
def test_maps_of_zeros_have_no_gradient(method, normalize):
    x = torch.cat([feature_maps(1, 6, 3, 4), torch.zeros(1, 6, 3, 4), feature_maps(1, 6, 3, 4, seed=1)]).double()
    found = gradient(maps(method), x, normalize=normalize)
    assert (found[1] == 0).all()
    assert (found[::2].flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("outputs", [tucker(2, 2, 2), hosvd(2, 2, 2)], ids=["tucker", "hosvd"])
def test_the_factors_of_zeros_are_constants(outputs):
    x = torch.zeros(1, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    core, *others = outputs(x)
    weights = randn(2, 2, 2)
    (found,) = torch.autograd.grad(core[0], x, weights, retain_graph=True)
    assert torch.equal(found[0, :2, :2, :2], weights)
    assert found.count_nonzero() == weights.numel()
    for other in others:
        if other.requires_grad:
            assert (torch.autograd.grad(other.sum(), x, retain_graph=True)[0] == 0).all()


def test_a_constant_map_has_no_gradient():
    x = torch.ones(1, 5, 3, 4, dtype=torch.float64) * randn(1, 5, 1, 1)
    assert (gradient(maps("tsm"), x, precision="float64") == 0).all()


# --- items with NaN -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", [route for route in ROUTES if "svd" not in route and "tucker" not in route])
@pytest.mark.parametrize("nan", ["zero", "propagate"])
@pytest.mark.parametrize("normalize", [True, False])
def test_items_with_nan_leave_the_others_their_gradients(route, nan, normalize):
    x = randn(4, 6, 3, 2)
    clean = gradient(ROUTES[route], x, normalize=normalize)
    x[1, 2, 0, 0], x[2] = torch.nan, torch.inf
    found = gradient(ROUTES[route], x, nan=nan, normalize=normalize)
    torch.testing.assert_close(found[[0, 3]], clean[[0, 3]], rtol=1e-12, atol=1e-12)
    assert (found[2] == 0).all()
    assert found[1, 2, 0, 0] == 0
    assert bool((found[1] == 0).all()) == (nan == "propagate")


# --- dtypes -----------------------------------------------------------------------------------------------------------


@every_route
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_input_has_the_gradient_of_its_values(route, dtype):
    x = randn(2, 6, 3, 2).to(dtype)
    wide = gradient(ROUTES[route], x.double(), precision="float64")
    found = gradient(ROUTES[route], x, precision="float64")
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wide, rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).tiny)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_gradient_beyond_its_dtype_is_its_largest_number(dtype):
    """A normalised map of small features changes by more than the dtype can say."""
    x = (randn(1, 6, 3, 2).abs() * 20 * torch.finfo(dtype).smallest_normal / 1024).to(dtype)
    wide = gradient(maps("tsm"), x.double())
    found = gradient(maps("tsm"), x)
    limit = torch.finfo(dtype).max
    assert wide.abs().max() > limit
    torch.testing.assert_close(found.double(), wide.clamp(-limit, limit), rtol=1e-2, atol=0)


@pytest.mark.parametrize("exponent", [-300, -120, 0, 120, 300])
def test_gradients_at_any_scale(exponent):
    """Maps of tsm have degree 1: their gradient has degree 0; normalised ones -1."""
    x = randn(1, 6, 3, 2)
    for outputs, degree in ((maps("tsm"), 1), (partial(maps("tsm"), normalize=True), 0), (maps("mtsm"), 2)):
        if degree == 2 and exponent > 200:
            continue
        options: dict = {"precision": "float64"} | ({} if degree == 0 else {"normalize": False})
        one = gradient(outputs, x, **options)
        other = gradient(outputs, x * 2.0**exponent, **options)
        torch.testing.assert_close(other * 2.0 ** (-exponent * (degree - 1)), one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 2e-31), (torch.float64, 1e-291)])
def test_a_tiny_map_that_is_nearly_constant_has_a_gradient(dtype, size):
    """By a spread of some rounding errors of a number near the smallest, and summed over 1600 positions."""
    steps = torch.arange(2, 50, 0.5, dtype=torch.float64)[:, None, None, None]
    x = (size * (1 + steps * torch.finfo(dtype).eps * randn(1, 1, 40, 40).abs())).to(dtype).expand(-1, 2, -1, -1)
    x = x.clone().requires_grad_()
    tsm_fast.tsm(x, precision="float64" if dtype == torch.float64 else "auto").sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


# --- the decompositions by themselves -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TIED, "zeros"])
@pytest.mark.parametrize("rows_columns", [(6, 4), (4, 6), (4, 4)])
def test_forward_and_backward_leave_out_the_same_terms(name, rows_columns):
    m = spectrum(TIED.get(name, [0.0] * 4), *rows_columns)
    for function, at in ((gradients.svd, m), (gradients.eigh, m @ m.mT)):
        direction = randn(*at.shape, seed=5)
        direction = direction + direction.mT if function is gradients.eigh else direction
        forward = torch.func.jvp(function, (at,), (direction,))[1]
        weights = tuple(randn(*part.shape, seed=i) for i, part in enumerate(forward))
        (backward,) = torch.func.vjp(function, at)[1](weights)
        ahead = sum((part * w).sum() for part, w in zip(forward, weights, strict=True))
        torch.testing.assert_close(ahead, (backward * direction).sum())
        assert backward.isfinite().all()


def test_the_step_truncated_svd_has_gradients():
    m = randn(2, 5, 4)
    gram = (m.mT @ m).requires_grad_()
    assert check(lambda g: reference.truncated_svd(g, 3), (gram,))
    singular = torch.stack([spectrum(values, 6, 4) for values in (*TIED.values(), [0.0] * 4)])
    gram = (singular.mT @ singular).requires_grad_()
    values, vectors = reference.truncated_svd(gram, 4)
    (found,) = torch.autograd.grad([values, vectors], gram, [randn(*values.shape), randn(*vectors.shape)])
    assert found.isfinite().all()
    assert (found[-1] == 0).all()


# --- higher derivatives, transforms ---------------------------------------------------------------------------------


@every_route
def test_second_derivatives(route):
    x = randn(1, 5, 2, 2, seed=2).requires_grad_()
    options: dict = {"precision": "float64"}
    if route.startswith("tucker"):
        options["n_iter_max"] = 2
    assert gradgradcheck(partial(ROUTES[route], **options), (x,), fast_mode=True)


@pytest.mark.parametrize("route", ["eigencam", "tsm", "tsm at a rank", "mtsm", "tucker at a rank"])
def test_transforms_of_torch_func(route):
    x = randn(2, 5, 2, 2)
    options: dict = {"backend": "reference"}
    if "tucker" not in route:
        options |= {"precision": "float64", "nan": "propagate", "normalize": False}

    def loss(y: Tensor) -> Tensor:
        return sum((part.square().sum() for part in ROUTES[route](y, **options)), start=torch.zeros(()))

    y = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(y), y)
    torch.testing.assert_close(torch.func.grad(loss)(x), expected)
    torch.testing.assert_close(torch.func.jacrev(loss)(x), expected)
    torch.testing.assert_close(torch.func.jacfwd(loss)(x), expected)
    torch.testing.assert_close(torch.func.jvp(loss, (x,), (x,))[1], (expected * x).sum())
    torch.testing.assert_close(torch.func.hessian(loss)(x), torch.autograd.functional.hessian(loss, x))
    if route in ("eigencam", "tsm", "mtsm"):  # HOOI leaves out items that have stopped, whose number vmap cannot know
        torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(x[:, None])[:, 0], expected)


@pytest.mark.parametrize("method", ["tsm", "mtsm", "eigencam", "multivec_eigencam"])
@pytest.mark.parametrize(
    ("dtype", "exponent", "step"),
    [(torch.float16, -10, 7), (torch.bfloat16, -126, 6), (torch.float32, -126, 7), (torch.float64, -1022, 7)],
    ids=str,
)
def test_faint_maps_have_gradients_within_the_range_of_the_input(method, dtype, exponent, step):
    """Maps of little contrast are computed again in float64, and their gradients are as large as that is small."""
    x = torch.full((1, 1, 2, 2), 2.0**exponent, dtype=dtype)
    x[0, 0, 0, 0] *= 1 + 2.0**-step
    x.requires_grad_()
    options = {} if method in ("tsm", "mtsm") else {"center": False}
    getattr(tsm_fast, method)(x, **options)[0, 1, 1].backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("size", [1e300, 1e-300, 1.0])
def test_mode_products_beyond_the_range_have_the_gradients_of_einsum(size):
    x = (size * randn(1, 2, 3)).requires_grad_()
    matrix = (size * randn(4, 2, seed=1)).requires_grad_()
    mine = torch.autograd.grad(tsm_fast.mode_dot(x, matrix, 0).sum(), (x, matrix))
    theirs = torch.autograd.grad(torch.einsum("bij,ki->bkj", x, matrix).sum(), (x, matrix))
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=0)
