"""Every message at the door: what is needed and what came, before any work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tsm_fast
from tsm_fast.steps import checks

X = torch.rand(2, 9, 4, 3, generator=torch.Generator().manual_seed(0))
ORDER = "must be [B, I_1, ..., I_N] with N in 2..5, got shape"

VALUE_ERRORS = {
    "rank must lie in 1..3 for mode 2, got 9": lambda: tsm_fast.tucker(X, (2, 2, 9)),
    "rank must lie in 1..9 for mode 0, got 0": lambda: tsm_fast.hosvd(X, (0, 2, 2)),
    "rank must lie in 1..4 for mode 1, got -1": lambda: tsm_fast.tsm(X, (1, -1, 1)),
    "rank must lie in 1..4 for mode 1, got 5": lambda: tsm_fast.mtsm(X, 5),
    "rank must have one number for each of the 3 modes of an item, got 2": lambda: tsm_fast.tucker(X, (2, 2)),
    "rank must have one number for each of the 3 modes of an item, got 0": lambda: tsm_fast.tsm(X, ()),
    "rank must have one number for each of the 3 modes of an item, got 4": lambda: tsm_fast.mtsm(X, (1, 1, 1, 1)),
    "rank must have one number for each of the 2 modes of an item, got 3; the first dimension of x is the batch: a "
    "single tensor goes in as x[None]": lambda: tsm_fast.tucker(X[0], (2, 2, 2)),
    "rank must have one number for each of the 3 modes of an item, got 4; the first dimension of x is the batch: a "
    "single tensor goes in as x[None]": lambda: tsm_fast.hosvd(X, (2, 2, 2, 2)),
    "rank must lie in 1..4 for a 9 x 4 matrix, got 5": lambda: tsm_fast.truncated_svd(X[..., 0], 5),
    f"x {ORDER} (2, 9); a single matrix goes in as x[None]": lambda: tsm_fast.tucker(X[..., 0, 0]),
    f"x {ORDER} (9,)": lambda: tsm_fast.hosvd(X[0, :, 0, 0]),
    f"x {ORDER} (2, 1, 1, 1, 1, 1, 1)": lambda: tsm_fast.hosvd(torch.rand(2, 1, 1, 1, 1, 1, 1)),
    f"x {ORDER} ()": lambda: tsm_fast.unfold(torch.tensor(1.0), 0),
    "x must have no empty mode (only the batch may be empty), got shape (2, 0, 4, 3)": lambda: tsm_fast.tucker(
        X[:, :0]
    ),
    "m must be [B, M, N], got shape (2, 9, 4, 3)": lambda: tsm_fast.truncated_svd(X),
    "m must be [B, M, N], got shape (9, 4); a single matrix goes in as m[None]": lambda: tsm_fast.truncated_svd(
        X[0, :, :, 0]
    ),
    "m must have no empty mode (only the batch may be empty), got shape (2, 9, 0)": lambda: tsm_fast.truncated_svd(
        X[:, :, 0, :0]
    ),
    "features must be [B, C, *positions] with 1 to 3 position modes, got shape (9, 12); a single map goes in as "
    "features[None]": lambda: tsm_fast.tsm(X[0].flatten(1)),
    "features must be [B, C, *positions] with 1 to 3 position modes, got shape (2, 9, 4, 3, 1, 1)": lambda: (
        tsm_fast.eigencam(X[..., None, None])
    ),
    "features must have no empty mode (only the batch may be empty), got shape (2, 9, 4, 0)": lambda: tsm_fast.mtsm(
        X[..., :0]
    ),
    "sign must be one of 'absmax', 'sum', 'u', 'v', got 'w'": lambda: tsm_fast.eigencam(X, sign="w"),
    "sign must be one of 'u', 'v', got 'absmax'": lambda: tsm_fast.mtsm(X, sign="absmax"),
    "sign must be one of 'u', 'v', got None": lambda: tsm_fast.tucker(X, sign=None),  # type: ignore[arg-type]
    "sign must be one of 'u', 'v', got array(['u', 'v'], dtype='<U1')": lambda: tsm_fast.mtsm(
        X,
        sign=np.array(["u", "v"]),  # type: ignore[arg-type]
    ),
    "combine must be one of 'signed', 'absolute', got ['signed']": lambda: tsm_fast.mtsm(X, combine=["signed"]),  # type: ignore[arg-type]
    "combine must be one of 'signed', 'absolute', got 'sum'": lambda: tsm_fast.multivec_eigencam(X, combine="sum"),
    "nan must be one of 'raise', 'zero', 'propagate', got 'drop'": lambda: tsm_fast.tsm(X, nan="drop"),
    "precision must be one of 'auto', 'float32', 'float64', got 'double'": lambda: tsm_fast.tsm(
        X,
        precision="double",  # type: ignore[arg-type]
    ),
    "backend must be one of 'reference', 'cpu', 'cuda', 'triton', got 'gpu'": lambda: tsm_fast.tsm(X, backend="gpu"),
    "size must be (h, w), got 3 numbers": lambda: tsm_fast.tsm(X, size=(1, 2, 3)),  # type: ignore[arg-type]
    "size must be at least (1, 1), got (0, 5)": lambda: tsm_fast.tsm(X, size=(0, 5)),
    "n_iter_max must be at least 1, got 0": lambda: tsm_fast.tucker(X, n_iter_max=0),
    "tol must be finite and not negative, got -0.1": lambda: tsm_fast.tucker(X, tol=-0.1),
    "tol must be finite and not negative, got nan": lambda: tsm_fast.tucker(X, tol=float("nan")),
    "mode must lie in 0..2 for items of order 3, got 3": lambda: tsm_fast.unfold(X, 3),
    "mode must lie in 0..2 for items of order 3, got -4": lambda: tsm_fast.mode_dot(X, torch.rand(2, 9), -4),
    "modes must name one mode per matrix, got 1 modes for 2 matrices": lambda: tsm_fast.multi_mode_dot(X, [X, X], [0]),
    "modes must be distinct, got [0, 0]": lambda: tsm_fast.multi_mode_dot(X, [X, X], [0, -3]),
    "matrices must be at most 3 for items of order 3, got 4": lambda: tsm_fast.multi_mode_dot(X, [X] * 4),
    "matrix must be [J, 9] or [2, J, 9] for mode 0, got shape (3, 8)": lambda: tsm_fast.mode_dot(
        X, torch.rand(3, 8), 0
    ),
    "matrix must be [9, J] or [2, 9, J] for mode 0, got shape (3, 9)": lambda: tsm_fast.mode_dot(
        X, torch.rand(3, 9), 0, transpose=True
    ),
    "matrix must be [J, 4] or [2, J, 4] for mode 1, got shape (3, 2, 4)": lambda: tsm_fast.mode_dot(
        X, torch.rand(3, 2, 4), 1
    ),
    "matrix must be [J, 4] or [2, J, 4] for mode 1, got shape (4,)": lambda: tsm_fast.mode_dot(X, torch.rand(4), 1),
    "matrix must be [J, 4] or [2, J, 4] for mode 1, got shape (0, 4)": lambda: tsm_fast.mode_dot(
        X, torch.rand(0, 4), 1
    ),
    "matrix must be on cpu, the device of x, got meta": lambda: tsm_fast.mode_dot(
        X, torch.rand(3, 9, device="meta"), 0
    ),
    "unfolded must be (2, 4, 27) for shape (2, 9, 4, 3), got (2, 9, 12)": lambda: tsm_fast.fold(
        tsm_fast.unfold(X, 0), 1, X.shape
    ),
    "shape must be (B, I_1, ..., I_N) with N in 2..5, got (2,)": lambda: tsm_fast.fold(X, 0, (2,)),
}

TYPE_ERRORS = {
    "rank must be an integer, got 2.5": lambda: tsm_fast.tucker(X, (2, 2.5, 1)),  # type: ignore[arg-type]
    "rank must be an integer, got True": lambda: tsm_fast.tucker(X, True),
    "rank must be an integer, got 'full'": lambda: tsm_fast.tsm(X, "full"),  # type: ignore[arg-type]
    "n_iter_max must be an integer, got 1.5": lambda: tsm_fast.tucker(X, n_iter_max=1.5),  # type: ignore[arg-type]
    "tol must be a number, got None": lambda: tsm_fast.tucker(X, tol=None),  # type: ignore[arg-type]
    "tol must be a number, got 'small'": lambda: tsm_fast.tucker(X, tol="small"),  # type: ignore[arg-type]
    "size must be None or (h, w), got 7": lambda: tsm_fast.tsm(X, size=7),  # type: ignore[arg-type]
    "size must be an integer, got 7.0": lambda: tsm_fast.tsm(X, size=(7.0, 7)),  # type: ignore[arg-type]
    "relu must be True or False, got None": lambda: tsm_fast.tsm(X, relu=None),  # type: ignore[arg-type]
    "center must be True or False, got 1": lambda: tsm_fast.eigencam(X, center=1),  # type: ignore[arg-type]
    "normalize must be True or False, got None": lambda: tsm_fast.tsm(X, normalize=None),  # type: ignore[arg-type]
    "transpose must be True or False, got 'T'": lambda: tsm_fast.mode_dot(X, X, 0, "T"),  # type: ignore[arg-type]
    "modes must be several integers, got 1": lambda: tsm_fast.multi_mode_dot(X, [X], 1),  # type: ignore[arg-type]
    "modes must be several integers, got b'x'": lambda: tsm_fast.multi_mode_dot(X, [X], b"x"),
    "shape must be several integers, got 3": lambda: tsm_fast.fold(X, 0, 3),  # type: ignore[arg-type]
    "backend must be None or a name, got 0": lambda: tsm_fast.tsm(X, backend=0),  # type: ignore[arg-type]
    "backend must be None or a name, got []": lambda: tsm_fast.tsm(X, backend=[]),  # type: ignore[arg-type]
    "mode must be an integer, got 0.0": lambda: tsm_fast.unfold(X, 0.0),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("message", VALUE_ERRORS)
def test_value_errors(message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        VALUE_ERRORS[message]()
    assert str(caught.value) == message


@pytest.mark.parametrize("message", TYPE_ERRORS)
def test_type_errors(message):
    with pytest.raises(TypeError) as caught:
        TYPE_ERRORS[message]()
    assert str(caught.value) == message


def test_the_effective_rank_is_the_largest_feasible_one():
    """Against every feasible rank below the requested one, for all requests of small tensors."""
    sizes = (4, 3, 2)
    every = list(np.ndindex(*sizes))
    feasible = [
        np.array(r) + 1 for r in every if all((r[n] + 1) ** 2 <= np.prod(np.array(r) + 1) for n in range(len(sizes)))
    ]
    for request in every:
        below = [r for r in feasible if (r <= np.array(request) + 1).all()]
        effective = checks.rank([r + 1 for r in request], sizes)
        assert all((r <= effective).all() for r in below)
        assert any((r == effective).all() for r in below)


def test_a_call_like_one_before_is_checked_too():
    """What is the same for every call of a kind is looked at once."""
    x = torch.rand(2, 9, 3, 4)
    expected = tsm_fast.tsm(x)
    every: list[dict[str, Any]] = [{"relu": 1}, {"normalize": 1.0}, {"nan": ["raise"]}]
    for wrong in every:
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            tsm_fast.tsm(x, **wrong)
    bad = x.clone()
    bad[1, 2, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="got NaN or Inf in item 1"):
        tsm_fast.tsm(bad)
    assert tsm_fast.tsm(bad, nan="propagate")[1].isnan().all()
    assert tsm_fast.tsm(x.clone().requires_grad_()).requires_grad
    assert torch.equal(tsm_fast.tsm(x[:, :, :, :]), expected)
    freed = x.clone()
    freed.untyped_storage().resize_(8)
    with pytest.raises(RuntimeError, match="resized to 8"):
        tsm_fast.tsm(freed)
    assert torch.equal(tsm_fast.tsm(x), expected)
