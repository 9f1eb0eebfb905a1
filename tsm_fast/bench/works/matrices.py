"""Eigenpairs and singular triplets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import decomposition
from ...steps import choice, cusolver
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
    is_there,
    jax_arrays,
    numpy_arrays,
)


def _our_eigh(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    return Contender(OURS, partial(decomposition.eigh, backend=backend, **options))


def _eigh_peers(case: Case) -> list[Contender]:
    rank = (case.rank or case.sides)[0]
    found = [
        Contender("torch", lambda a: torch.linalg.eigh(at_least_float32(a))),
        Contender("torch-split", lambda a: peers.eigh_split(at_least_float32(a))),
        Contender("torch-float64", lambda a: torch.linalg.eigh(a.double()), instead_of="torch"),
        Contender("numpy", np.linalg.eigh, numpy_arrays, spins=True),
        Contender("scipy", partial(peers.scipy_eigenpairs, rank=rank), numpy_arrays, each=True, spins=True),
        Contender(
            "jax", _jax_eigh, jax_arrays, lambda pairs: [torch.from_numpy(np.array(p)) for p in pairs], spins=True
        ),
        Contender("cusolver", cusolver.eigh),
    ]
    if is_there("cupy"):
        cupy = import_module("cupy")
        found.append(Contender("cupy", lambda a: cupy.linalg.eigh(cupy.from_dlpack(a)), shown=_from_dlpack))
    return found


def _from_dlpack(arrays: Sequence[Any]) -> list[Tensor]:
    return [torch.from_dlpack(array) for array in arrays]


def _jax_eigh(a: Any) -> Any:
    values, vectors = _jax_compiled()(a)
    return values, vectors.block_until_ready()


_JITTED: list[Any] = []


def _jax_compiled() -> Any:
    if not _JITTED:
        _JITTED.append(import_module("jax").jit(import_module("jax.numpy").linalg.eigh))
    return _JITTED[0]


def _our_eigenpairs(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    rank = (case.rank or case.sides)[0]

    def run(gram: Tensor) -> tuple[Tensor, Tensor]:
        return choice.resolve(backend, gram).truncated_svd(gram, rank, **options)

    return Contender(OURS, run, shown=lambda pairs: (pairs[0].double() ** 2, pairs[1]))


def _pairs_truth(case: Case, inputs: Arrays) -> Tensor:
    return torch.linalg.eigvalsh(inputs[0].double())


def _pairs_errors(case: Case, shown: Any, truth: Tensor, inputs: Arrays, ours: bool) -> Errors:
    values, vectors = (torch.as_tensor(part).to(truth.device).double() for part in shown)
    a, rank = inputs[0].double(), (case.rank or case.sides)[0]
    if values.shape[1] > 1 and bool((values[:, 0] > values[:, -1]).all()):
        values, vectors = values.flip(1), vectors.flip(2)  # ascending, as LAPACK has them
    values, vectors, exact = values[:, -rank:], vectors[:, :, -rank:], truth[:, -rank:]
    largest = exact.abs().amax(1).clamp(min=torch.finfo(torch.float64).tiny)
    identity = torch.eye(rank, dtype=torch.float64, device=a.device)
    residual = a @ vectors - vectors * values[:, None]
    return finite(
        eigenvalues=((values - exact).abs().amax(1) / largest).amax(),
        residual=(residual.abs().amax((1, 2)) / largest).amax(),
        orthogonality=(vectors.mT @ vectors - identity).abs().amax(),
    )


def _pairs_allowed(case: Case) -> Errors:
    allowed = 1e-9 if case.dtype == "float64" else 1e-5
    return dict.fromkeys(("eigenvalues", "residual", "orthogonality"), allowed)


def _our_svd(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    return Contender(OURS, partial(decomposition.truncated_svd, rank=_svd_rank(case), backend=backend, **options))


def _svd_rank(case: Case) -> int:
    return case.rank[0] if case.rank else min(case.sides)


def _svd_peers(case: Case) -> list[Contender]:
    rank = _svd_rank(case)
    full = rank == min(case.sides)

    def by_torch(m: Tensor) -> list[Tensor]:
        u, s, vh = torch.linalg.svd(at_least_float32(m), full_matrices=False)
        return [u[:, :, :rank], s[:, :rank], vh[:, :rank]]

    def by_numpy(m: np.ndarray) -> list[np.ndarray]:
        u, s, vh = np.linalg.svd(m, full_matrices=False)
        return [u[:, :, :rank], s[:, :rank], vh[:, :rank]]

    def by_lowrank(m: Tensor) -> list[Tensor]:
        u, s, v = torch.svd_lowrank(m, q=min(rank + 6, *m.shape[1:]), niter=2)
        return [u[:, :, :rank], s[:, :rank], v[:, :, :rank].mT]

    def by_sklearn(m: np.ndarray) -> list[np.ndarray]:
        svd = import_module("sklearn.utils.extmath").randomized_svd
        found = [svd(item, n_components=rank, random_state=0) for item in m]
        return [np.stack(parts) for parts in zip(*found, strict=True)]

    def by_jax(m: Any) -> Any:
        jnp = import_module("jax.numpy")
        return [part.block_until_ready() for part in jnp.linalg.svd(m, full_matrices=False)]

    found = [
        Contender("torch-svd", by_torch),
        Contender("torch", lambda m: peers.gram_svd(at_least_float32(m), rank)),
        Contender("torch-float64", lambda m: peers.gram_svd(m.double(), rank), instead_of="torch"),
        Contender("numpy", by_numpy, numpy_arrays, each=True, spins=True),
    ]
    if full:
        found.append(
            Contender(
                "jax", by_jax, jax_arrays, lambda parts: [torch.from_numpy(np.array(p)) for p in parts], spins=True
            )
        )
    else:
        found.append(Contender("torch-lowrank", by_lowrank))
        found.append(Contender("scikit-learn", by_sklearn, numpy_arrays, each=True, spins=True))
    return found


def _svd_truth(case: Case, inputs: Arrays) -> Tensor:
    return torch.linalg.svdvals(inputs[0].double())


def _svd_errors(case: Case, shown: Any, truth: Tensor, inputs: Arrays, ours: bool) -> Errors:
    u, s, vh = (torch.as_tensor(part).to(truth.device).double() for part in shown)
    m, rank = inputs[0].double(), s.shape[1]
    size = truth.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    left = torch.linalg.matrix_norm(m - (u * s[:, None]) @ vh) / size
    identity = torch.eye(rank, dtype=torch.float64, device=m.device)
    return finite(
        singular_values=((s - truth[:, :rank]).abs().amax(1) / truth[:, 0]).amax(),
        reconstruction=(left - truth[:, rank:].norm(dim=1) / size).clamp(min=0).amax(),
        orthogonality=torch.maximum(
            (u.mT @ u - identity).abs().amax(),
            (vh @ vh.mT - identity).abs().amax(),
        ),
    )


def _svd_allowed(case: Case) -> Errors:
    allowed = 1e-9 if case.dtype == "float64" else 1e-5
    return dict.fromkeys(("singular_values", "reconstruction", "orthogonality"), allowed)


_PAIRS: dict[str, Any] = {"truth": _pairs_truth, "errors": _pairs_errors, "allowed": _pairs_allowed}
WORKS = {
    "truncated_svd": Work(
        "singular triplets of matrices",
        _our_svd,
        _svd_peers,
        _svd_truth,
        _svd_errors,
        _svd_allowed,
    ),
    "eigh": Work("all eigenpairs of symmetric matrices", _our_eigh, _eigh_peers, **_PAIRS),
    "eigenpairs": Work("the first eigenpairs, a step", _our_eigenpairs, _eigh_peers, **_PAIRS),
}
