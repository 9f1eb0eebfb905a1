"""Tucker decompositions: of a batch, and of one tensor through TensorLy's signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ... import decomposition
from .. import peers
from ..cases import Case
from .contender import (
    OURS,
    Arrays,
    Contender,
    Errors,
    Work,
    at_least_float32,
    finite,
    numpy_arrays,
)


def _our_tucker(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    function = getattr(decomposition, case.work)
    return Contender(OURS, partial(function, rank=case.rank, backend=backend, **options), shown=_decomposed)


class Decomposed(NamedTuple):
    """Of a batch."""

    core: Tensor
    factors: list[Tensor]
    values: list[Tensor]
    error: Tensor


def _decomposed(result: Any) -> Decomposed:
    return Decomposed(result.core, result.factors, result.singular_values, result.error)


def _tucker_peers(case: Case) -> list[Contender]:
    rank = case.rank or case.sides
    plain = peers.torch_tucker if case.work == "tucker" else peers.torch_hosvd
    found = [
        Contender("torch", lambda x: plain(at_least_float32(x), rank)),
        Contender("torch-float64", lambda x: plain(x.double(), rank), instead_of="torch"),
    ]
    if case.work == "tucker":
        run = partial(peers.tensorly_tucker, rank=rank)
        found.append(Contender("tensorly", run, numpy_arrays, _stacked, each=True, spins=True))
        found.append(Contender("tensorly-torch", lambda x: run(at_least_float32(x)), shown=_stacked, each=True))
    return found


def _stacked(found: Sequence[Any]) -> tuple[Tensor, list[Tensor]]:
    cores = torch.stack([torch.as_tensor(core) for core, _ in found])
    modes = range(len(found[0][1]))
    return cores, [torch.stack([torch.as_tensor(factors[mode]) for _, factors in found]) for mode in modes]


class _Exact(NamedTuple):
    """The decomposition in float64, and its relative errors [B]."""

    errors: Tensor
    factors: list[Tensor]
    values: list[Tensor]


def _tucker_truth(case: Case, inputs: Arrays) -> _Exact:
    """By plain PyTorch, which tests hold to TensorLy."""
    function = decomposition.hosvd if case.work == "hosvd" else decomposition.tucker
    result = function(inputs[0].double(), case.rank, backend="reference")
    return _Exact(_left_over(inputs[0], result.core, result.factors), result.factors, result.singular_values)


def _left_over(x: Tensor, core: Tensor, factors: Sequence[Tensor], modes: Sequence[int] | None = None) -> Tensor:
    """The relative error [B] of a decomposition, from the tensor that it stands for."""
    x, made = x.double(), core.double()
    for mode, a in zip(range(len(factors)) if modes is None else modes, factors, strict=True):
        made = peers.mode_product(made, a.double().mT, mode)
    return (x - made).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)


def _tucker_errors(case: Case, shown: Any, truth: _Exact, inputs: Arrays, ours: bool) -> Errors:
    core, factors = shown[:2]
    x = inputs[0]
    errors = {"fit": (_left_over(x, core.to(x.device), factors) - truth.errors).clamp(min=0).amax()}
    if ours:
        pairs = zip(shown.values, truth.values, strict=True)
        errors["singular_values"] = torch.stack([((s - t).abs() / t[:, :1]).amax() for s, t in pairs]).amax()
        errors["reported"] = (shown.error - truth.errors).abs().amax()
        errors["projectors"] = _projectors(x.double(), shown.factors, truth.factors)
    return finite(**errors)


def _projectors(x: Tensor, factors: Sequence[Tensor], exact: Sequence[Tensor]) -> Tensor:
    """The largest difference of `A A^T`, where the gap at the cut is over 1e-3."""
    differences = [x.new_zeros(())]
    for mode, (a, t) in enumerate(zip(factors, exact, strict=True)):
        if t.shape[1] <= t.shape[2]:
            continue
        partly = peers.contracted(x, exact, skip=mode).movedim(mode + 1, 1).flatten(2)
        s = torch.linalg.svdvals(partly)
        s = torch.nn.functional.pad(s, (0, 1))
        apart = (s[:, t.shape[2] - 1] - s[:, t.shape[2]]) / s[:, 0] > 1e-3
        difference = (a.double() @ a.double().mT - t @ t.mT).abs().amax((1, 2))
        differences.append(torch.where(apart, difference, 0.0).amax())
    return torch.stack(differences).amax()


def _tucker_allowed(case: Case) -> Errors:
    if case.dtype == "float64":
        return dict.fromkeys(("fit", "singular_values", "reported", "projectors"), 1e-9)
    return {"fit": 1e-5, "singular_values": 1e-5, "reported": 1e-5, "projectors": 1e-4}


def _one_modes(case: Case) -> list[int]:
    order = len(case.sides)
    return list(range(order - len(case.rank or case.sides), order))


def _one(function: Callable[..., Any], case: Case) -> Callable[[np.ndarray], list[Any]]:
    if case.work == "tensorly tucker":
        return lambda x: [tuple(function(item, rank=case.rank)) for item in x]
    return lambda x: [function(item, rank=case.rank, modes=_one_modes(case))[0] for item in x]


def _our_one(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    from ...integrations import tensorly

    function = getattr(tensorly, case.work.split()[1])
    return Contender(OURS, _one(function, case), numpy_arrays, _stacked)


def _one_peers(case: Case) -> list[Contender]:
    function = getattr(import_module("tensorly.decomposition"), case.work.split()[1])
    return [
        Contender("tensorly", _one(function, case), numpy_arrays, _stacked, spins=True),
        Contender("tensorly-torch", partial(_on_torch, _one(function, case)), shown=_stacked),
    ]


def _on_torch(run: Callable[[Any], Any], x: Tensor) -> Any:
    with import_module("tensorly").backend_context("pytorch", local_threadsafe=True):
        return run(x)


def _one_truth(case: Case, inputs: Arrays) -> Tensor:
    function = getattr(import_module("tensorly.decomposition"), case.work.split()[1])
    core, factors = _stacked(_one(function, case)(inputs[0].double().numpy()))
    return _left_over(inputs[0], core, factors, _one_modes(case))


def _one_errors(case: Case, shown: Any, truth: Tensor, inputs: Arrays, ours: bool) -> Errors:
    core, factors = shown
    left = _left_over(inputs[0], core, factors, _one_modes(case))
    return finite(fit=(left - truth).clamp(min=0).amax())


_TUCKER: dict[str, Any] = {"truth": _tucker_truth, "errors": _tucker_errors, "allowed": _tucker_allowed}
_ONE: dict[str, Any] = {
    "truth": _one_truth,
    "errors": _one_errors,
    "allowed": lambda case: {"fit": 1e-7 if case.dtype == "float64" else 1e-5},
}
WORKS = {
    "tucker": Work("HOOI", _our_tucker, _tucker_peers, **_TUCKER, precise=True),
    "hosvd": Work("the HOSVD", _our_tucker, _tucker_peers, **_TUCKER),
    "tensorly tucker": Work(
        "one tensor through TensorLy's signature", _our_one, _one_peers, **_ONE, needs=("tensorly",)
    ),
    "tensorly partial_tucker": Work("the same of some modes", _our_one, _one_peers, **_ONE, needs=("tensorly",)),
}
