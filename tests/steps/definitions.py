"""What the results must be: the maps by their definitions and HOOI by TensorLy, item by item in float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorly
import torch
from tensorly.decomposition import tucker as tensorly_tucker
from torch import Tensor

from tsm_fast.steps.backend import HooiResult

from ..helpers import (
    DOUBLE_ERROR,
    GAP,
    PROJECTOR_ERROR,
    SIGN_TIE,
    VALUE_ERROR,
    orthonormality,
    projector,
    unfold,
)


def channel_vectors(item: np.ndarray, method: str, rank: tuple[int, ...] | None, center: bool):
    """Vectors `u_i` [C, R], values [R] and the projections `F^T u_i` [S, R] of one float64 item [C, H, W]."""
    unfolded = item.reshape(len(item), -1)
    if center and method in ("eigencam", "multivec_eigencam"):
        unfolded = unfolded - unfolded.mean(axis=1, keepdims=True)
    if rank is None:
        vectors, values, _ = np.linalg.svd(unfolded, full_matrices=False)
    else:
        core, factors = tensorly_tucker(item, rank, n_iter_max=100, tol=1e-4)
        vectors, values = factors[0], np.linalg.norm(tensorly.unfold(core, 0), axis=1)
    return vectors, values, unfolded.T @ vectors


def signs_of(columns: np.ndarray) -> np.ndarray:
    return np.where(columns[np.abs(columns).argmax(axis=0), range(columns.shape[1])] < 0, -1.0, 1.0)


def margins(columns: np.ndarray) -> np.ndarray:
    """How far each column is from a tie between its largest and its smallest entry."""
    return np.abs(columns.max(axis=0) + columns.min(axis=0)) / (np.abs(columns).max(axis=0) + 1e-300)


def definition(
    item: np.ndarray, method: str, rank, center: bool, combine: str, sign: str, relu: bool = True
) -> tuple[np.ndarray, bool]:
    """The raw map [H, W] of one item as the method says, in float64, and whether a sign of it is a tie."""
    vectors, values, projections = channel_vectors(item, method, rank, center)
    shape = item.shape[1:]
    if method == "tsm" and relu:
        return np.abs(projections[:, 0]).reshape(shape), False
    if method in ("eigencam", "tsm"):
        first = projections[:, 0]
        total = (item.reshape(len(item), -1).T @ vectors[:, 0]).sum()
        decided_by = {"sum": np.array([[total]]), "u": vectors[:, :1]}.get(sign, first[:, None])
        tie = margins(decided_by)[0] < SIGN_TIE if sign != "sum" else abs(total) < SIGN_TIE * np.abs(item).sum()
        signed = first * signs_of(decided_by)[0]
        return (np.maximum(signed, 0) if relu else signed).reshape(shape), bool(tie)
    if combine == "absolute":
        return (np.abs(projections) @ values).reshape(shape), False
    decided_by = vectors if sign == "u" else projections
    counts = values**2 > 1e-6 * values[0] ** 2
    ties = margins(decided_by[:, counts]) < SIGN_TIE
    total = (projections * signs_of(decided_by)) @ values
    return (np.abs(total) if relu else total).reshape(shape), bool(ties.any())


def normalized(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1.0)


class TensorLy(NamedTuple):
    """One item decomposed by TensorLy in float64."""

    core: Tensor
    factors: list[Tensor]
    errors: Tensor  # [sweeps]
    gaps: list[float]  # per mode, the gap after the last singular value kept, relative to the first
    values: list[Tensor]  # norms of the slices of the core


def contract(x: Tensor, factors: list[Tensor], skip: int | None = None) -> Tensor:
    """`X x_n A_n^T` for one item, over all modes but one."""
    for n, factor in enumerate(factors):
        if n != skip:
            x = (x.movedim(n, -1) @ factor).movedim(-1, n)
    return x


def decompose(item: Tensor, rank: tuple[int, ...]) -> TensorLy:
    (core, factors), errors = tensorly_tucker(item.double().numpy(), rank, n_iter_max=100, tol=1e-4, return_errors=True)
    core, factors = torch.from_numpy(core), [torch.from_numpy(factor) for factor in factors]
    gaps = []
    for n, r in enumerate(rank):
        values = torch.linalg.svdvals(unfold(contract(item.double(), factors, skip=n)[None], n)[0])
        after = values[r] if r < len(values) else 0.0
        gaps.append(float((values[r - 1] - after) / values[0]))
    values = [unfold(core[None], n)[0].norm(dim=1) for n in range(item.ndim)]
    return TensorLy(core, factors, torch.from_numpy(np.asarray(errors, dtype=np.float64)), gaps, values)


def check(result: HooiResult, reference: list[TensorLy], double: bool) -> None:
    """Errors, sweeps, singular values, subspaces and cores of every item, within the accuracy table."""
    value_error = DOUBLE_ERROR if double else VALUE_ERROR
    projector_error = DOUBLE_ERROR if double else PROJECTOR_ERROR
    assert result.finite.all()
    assert result.errors.shape == (len(reference), 100)
    assert result.errors.dtype == torch.float64
    for i, exact in enumerate(reference):
        sweeps = int(result.n_sweeps[i])
        assert result.errors[i, sweeps:].isnan().all()
        common = min(sweeps, len(exact.errors))
        mine, theirs = result.errors[i, :common], exact.errors[:common]
        # Near 0 the error is the root of a difference of squares that float64 itself only knows to 1e-15.
        assert ((mine - theirs).abs().le(value_error) | (mine**2 - theirs**2).abs().le(1e-14)).all()
        if sweeps != len(exact.errors):
            # Another number of sweeps is right only where the stopping test was a matter of rounding.
            moves = exact.errors.diff().abs()[common - 2]
            assert not double
            assert abs(float(moves) - 1e-4) < 2 * VALUE_ERROR
            continue
        assert bool(result.converged[i]) == (sweeps < 100)
        for n, gap in enumerate(exact.gaps):
            if gap > GAP:
                error = (projector(result.factors[n][i]) - projector(exact.factors[n])).abs().max()
                assert error <= projector_error
        if min(exact.gaps) > GAP:
            for mine, theirs in zip(result.singular_values, exact.values, strict=True):
                assert (mine[i].double() - theirs).abs().max() <= value_error * theirs.max()
            core = contract(result.core[i].double(), [f[i].double().mT for f in result.factors])
            theirs = contract(exact.core, [f.mT for f in exact.factors])
            assert (core - theirs).norm() <= 10 * projector_error * exact.core.norm()
    assert_consistent(result, value_error)


def assert_consistent(result: HooiResult, tolerance: float) -> None:
    for n, factor in enumerate(result.factors):
        assert orthonormality(factor) <= max(tolerance, 1e-12)
        values = unfold(result.core.double(), n).norm(dim=2)
        largest = values.amax(1, keepdim=True)
        assert ((result.singular_values[n].double() - values).abs() <= tolerance * largest).all()
