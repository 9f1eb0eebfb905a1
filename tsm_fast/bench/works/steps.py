"""Gram matrices, contractions, and finishing."""

from __future__ import annotations

from importlib import import_module
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import decomposition, modes, saliency
from ...steps import choice, reference
from .. import peers
from ..cases import FINISHED, Case
from ..shapes import filled
from .contender import (
    OURS,
    Arrays,
    Contender,
    Errors,
    Work,
    at_least_float32,
    numpy_arrays,
    worst,
)


def _our_gram(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    return Contender(OURS, lambda x: choice.resolve(backend, x).mode_gram(x.flatten(2), _gram_mode(case)))


def _gram_mode(case: Case) -> int:
    """The positions where these are fewer, else the channels."""
    return int(case.sides[0] >= prod(case.sides[1:]))


def _gram_peers(case: Case) -> list[Contender]:
    def gram(x: Any) -> Any:
        f = x.reshape(*x.shape[:2], -1)
        return f.mT @ f if _gram_mode(case) else f @ f.mT

    return [
        Contender("torch", lambda x: gram(at_least_float32(x))),
        Contender("numpy", gram, numpy_arrays, spins=True),
    ]


def _gram_truth(case: Case, inputs: Arrays) -> Tensor:
    return _gram_peers(case)[0].run(inputs[0].double())


def _step_errors(case: Case, shown: Any, truth: Tensor, inputs: Arrays, ours: bool) -> Errors:
    return {"largest": worst(shown, truth)}


def _core_inputs(case: Case) -> tuple[Arrays, str]:
    x, origin = filled(case)
    factors = decomposition.hosvd(x, case.rank).factors
    return (x, *factors), origin


def _our_core(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    if case.work == "multi_mode_dot":
        return Contender(OURS, lambda x, *a: modes.multi_mode_dot(x, a, transpose=True, backend=backend))
    every = tuple(range(len(case.sides)))
    return Contender(OURS, lambda x, *a: choice.resolve(backend, x).core_contraction(x, a, every))


def _core_peers(case: Case) -> list[Contender]:
    letters = "".join(chr(ord("c") + n) for n in range(len(case.sides)))
    made = letters.upper()
    terms = ",".join([f"b{letters}", *(f"b{low}{high}" for low, high in zip(letters, made, strict=True))])

    def by_tensorly(x: np.ndarray, *factors: np.ndarray) -> np.ndarray:
        dot = import_module("tensorly.tenalg.core_tenalg").multi_mode_dot
        return np.stack([dot(item, [a[i] for a in factors], transpose=True) for i, item in enumerate(x)])

    return [
        Contender("torch", lambda x, *a: _channels_first(at_least_float32(x), *map(at_least_float32, a))),
        Contender("torch-einsum", lambda x, *a: torch.einsum(f"{terms}->b{made}", x, *a)),
        Contender("tensorly", by_tensorly, numpy_arrays, each=True, spins=True),
    ]


def _channels_first(x: Tensor, *factors: Tensor) -> Tensor:
    """One batched product over the whole input, then small ones."""
    y = (factors[0].mT @ x.flatten(2)).unflatten(2, x.shape[2:])
    for mode, a in enumerate(factors[1:], 1):
        y = peers.mode_product(y, a, mode)
    return y


def _core_truth(case: Case, inputs: Arrays) -> Tensor:
    return peers.contracted(inputs[0].double(), [a.double() for a in inputs[1:]])


def _finish_inputs(case: Case) -> tuple[Arrays, str]:
    x, origin = filled(case)
    return (saliency.tsm(x, normalize=False),), origin


def _our_finish(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    return Contender(
        OURS, lambda maps: choice.resolve(backend, maps).finish(maps, (FINISHED, FINISHED), normalize=True)
    )


def _finish_peers(case: Case) -> list[Contender]:
    def plain(maps: Tensor) -> Tensor:
        large = torch.nn.functional.interpolate(
            maps[:, None], (FINISHED, FINISHED), mode="bilinear", align_corners=False
        )
        return peers.normalized(large[:, 0])

    return [Contender("torch", plain)]


def _finish_truth(case: Case, inputs: Arrays) -> Tensor:
    return reference.finish(inputs[0].double(), (FINISHED, FINISHED), normalize=True)


_STEP: dict[str, Any] = {"truth": _gram_truth, "errors": _step_errors, "allowed": lambda case: {"largest": 1e-5}}
_CORE = Work("", _our_core, _core_peers, _core_truth, _step_errors, lambda case: {"largest": 1e-5}, inputs=_core_inputs)
WORKS = {
    "mode_gram": Work("the Gram matrix, a step", _our_gram, _gram_peers, **_STEP),
    "core_contraction": _CORE._replace(what="the core of a decomposition, a step"),
    "multi_mode_dot": _CORE._replace(what="the same as a public call"),
    "finish": Work(
        f"a map resized to {FINISHED} x {FINISHED} and normalised, a step",
        _our_finish,
        _finish_peers,
        _finish_truth,
        _step_errors,
        lambda case: {"largest": 1e-6},
        inputs=_finish_inputs,
    ),
}
