"""Saliency maps, and how a map is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import saliency
from ...steps import cusolver
from .. import peers
from ..cases import ALL_VECTORS, MAPS, Case
from .contender import (
    OURS,
    Arrays,
    Contender,
    Errors,
    Work,
    at_least_float32,
    is_there,
    jax_arrays,
    numpy_arrays,
    worst,
)


def _our_map(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    given = {"rank": case.rank} if case.rank else {}
    return Contender(OURS, partial(getattr(saliency, case.work), backend=backend, **given, **options))


def _map_peers(case: Case) -> list[Contender]:
    name = case.work
    if name == "mean_activation":
        return [
            Contender("torch", lambda x: peers.normalized(at_least_float32(x).mean(1))),
            Contender("numpy", lambda x: _scaled(x.mean(1)), numpy_arrays, spins=True),
        ]
    feasible = _feasible(case.sides)
    rank = case.rank or feasible
    if case.rank:
        return [*_tensorly_maps(name, rank)] if name in ("tsm", "mtsm") else []

    def of(eigh: peers.Eigh, dtype: torch.dtype | None = None) -> Callable[[Tensor], Tensor]:
        return lambda x: peers.torch_maps(name, x.to(dtype) if dtype else at_least_float32(x), eigh)

    found = [
        Contender("torch", of(torch.linalg.eigh)),
        Contender("torch-split", of(peers.eigh_split)),
        Contender("torch-float64", of(torch.linalg.eigh, torch.float64), instead_of="torch"),
        Contender("torch-svd", lambda x: peers.normalized(peers.svd_maps(name, at_least_float32(x)))),
        Contender("cusolver", of(cusolver.eigh)),
    ]
    if is_there("jax"):
        found.append(Contender("jax", peers.jax_maps(name), jax_arrays, spins=True))
    if name not in ALL_VECTORS:
        found.append(Contender("torch-power", of(peers.leading_by_power)))
    if name == "tsm":
        found.append(Contender("numpy", partial(_by_leading, peers.numpy_leading), numpy_arrays, spins=True))
        found.append(Contender("scipy", partial(_by_leading, peers.scipy_leading), numpy_arrays, each=True, spins=True))
        if is_there("cupy"):
            found.append(Contender("cupy", _cupy_tsm))
    if name in ("tsm", "mtsm"):
        found += _tensorly_maps(name, rank)
    if name == "eigencam" and len(case.sides) == 3:
        options: dict[str, Any] = {"prepare": numpy_arrays, "shown": _both_signs, "each": True, "spins": True}
        found.append(Contender("grad-cam-steps", peers.gradcam_projection, **options))
        found.append(Contender("grad-cam", _gradcam_projection, **options))
    return found


def _feasible(sides: Sequence[int]) -> tuple[int, ...]:
    """The full rank, without singular vectors that do not exist."""
    size = prod(sides)
    return tuple(min(side, size // side) for side in sides)


def _tensorly_maps(name: str, rank: tuple[int, ...]) -> list[Contender]:
    def run(x: np.ndarray, rank: tuple[int, ...] = rank) -> np.ndarray:
        found = zip(x, peers.tensorly_tucker(x, rank), strict=True)
        return _scaled(np.stack([peers.tensorly_maps(item, core, factors)[name] for item, (core, factors) in found]))

    return [Contender("tensorly", run, numpy_arrays, each=True, spins=True)]


def tensorly_full(case: Case) -> Contender:
    """What published code of TSM calls, which takes seconds an image."""
    (slow,) = _tensorly_maps(case.work, case.sides)
    return slow._replace(name="tensorly-full", rounds=1)


def _by_leading(leading: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    return _scaled(np.abs(leading(x.reshape(*x.shape[:2], -1))).reshape(len(x), *x.shape[2:]))


def _cupy_tsm(x: Tensor) -> Tensor:
    cupy = import_module("cupy")

    def eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = cupy.linalg.eigh(cupy.from_dlpack(gram))
        return torch.from_dlpack(values), torch.from_dlpack(vectors)

    return peers.torch_maps("tsm", x, eigh)


def _scaled(maps: np.ndarray) -> np.ndarray:
    return peers.normalized(torch.from_numpy(maps)).numpy()


def _both_signs(projection: np.ndarray) -> tuple[Tensor, Tensor]:
    """The map of a projection of either sign."""
    raw = torch.from_numpy(projection)
    return peers.normalized(raw.clamp(min=0)), peers.normalized((-raw).clamp(min=0))


def _gradcam_projection(x: np.ndarray) -> np.ndarray:
    return gradcam().utils.svd_on_activations.get_2d_projection(x)


def gradcam() -> Any:
    """pytorch-grad-cam, also beside a torchvision whose operators do not load."""
    try:
        return import_module("pytorch_grad_cam")
    except RuntimeError as error:
        if "torchvision" not in str(error):
            raise
    from ..operators import declare_operators

    globals().setdefault("_OPERATORS", declare_operators())
    return import_module("pytorch_grad_cam")


def _map_truth(case: Case, inputs: Arrays) -> tuple[Tensor, Tensor]:
    """Normalised maps, and the items without a tie in the sign of a vector."""
    x = inputs[0].double()
    clear = torch.ones(len(x), dtype=torch.bool, device=x.device)
    if case.rank:
        return getattr(saliency, case.work)(x, rank=case.rank, precision="float64", backend="reference"), clear
    if case.work == "mean_activation":
        return peers.normalized(x.mean(1)), clear
    if case.work in ALL_VECTORS:
        f = x - x.flatten(2).mean(2).reshape(*x.shape[:2], *(1,) * (x.ndim - 2)) if "eigencam" in case.work else x
        low, high = torch.aminmax(torch.linalg.svd(f.flatten(2), full_matrices=False)[0], dim=1)
        clear = ((high + low).abs() > 1e-5).all(1)
    return peers.normalized(peers.svd_maps(_map_of(case), x)), clear


def _map_of(case: Case) -> str:
    return case.work if case.work in MAPS else "tsm"


def _map_errors(case: Case, shown: Any, truth: Any, inputs: Arrays, ours: bool) -> Errors:
    maps, clear = truth
    if isinstance(shown, tuple):  # of either sign, item by item
        return {"map": max(min(worst(one[[i]], maps[[i]]) for one in shown) for i in range(len(maps)))}
    return {"map": worst(shown, maps, clear)}


def _map_allowed(case: Case) -> Errors:
    return {"map": 1e-4 if case.work in ALL_VECTORS else 2e-5}


MAP: dict[str, Any] = {"truth": _map_truth, "errors": _map_errors, "allowed": _map_allowed}
WORKS = {name: Work(f"the map {name}", _our_map, _map_peers, **MAP, precise=name in MAPS[:4]) for name in MAPS}
