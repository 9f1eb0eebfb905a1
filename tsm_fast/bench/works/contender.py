"""What a row calls, and what it knows of each call."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..cases import Case
from ..found import PEERS
from ..shapes import filled

OURS = "tsm_fast"
WRONG = 1e-2  # an error above which a result is another one, in units of the largest value
SPIN = 0.1  # seconds that threads of OpenBLAS spin after a call

Arrays = tuple[Any, ...]
Errors = dict[str, float]


def _same(*arrays: Any) -> Arrays:
    return arrays


def numpy_arrays(*tensors: Tensor) -> Arrays:
    return tuple((t.float() if t.dtype in (torch.float16, torch.bfloat16) else t).numpy() for t in tensors)


class Contender(NamedTuple):
    """Somebody's way; `run` takes what `prepare` makes of a batch, and `shown` makes what is judged of its result."""

    name: str
    run: Callable[..., Any]
    prepare: Callable[..., Arrays] = _same
    shown: Callable[[Any], Any] = lambda result: result
    each: bool = False  # works item by item: a few are enough
    spins: bool = False  # leaves threads behind that wait
    judged: bool = True
    instead_of: str | None = None  # worth a row only where this one misses our accuracy
    rounds: int = 10**6

    @property
    def ours(self) -> bool:
        return self.name.startswith(OURS)


def inputs_of_features(case: Case) -> tuple[Arrays, str]:
    x, origin = filled(case)
    return (x,), origin


class Work(NamedTuple):
    """Something that can be measured; the first argument of each function is the case."""

    what: str
    ours: Callable[[Case, str | None, dict[str, Any]], Contender]
    others: Callable[[Case], list[Contender]]
    truth: Callable[[Case, Arrays], Any]  # of a batch, in float64
    errors: Callable[[Case, Any, Any, Arrays, bool], Errors]  # of what is shown; the last says whether it is ours
    allowed: Callable[[Case], Errors]
    inputs: Callable[[Case], tuple[Arrays, str]] = inputs_of_features
    needs: tuple[str, ...] = ()
    precise: bool = False  # has an option `precision`, and a promise for "float64"


def at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def worst(result: Any, exact: Tensor, clear: Tensor | None = None) -> float:
    """The largest difference over the largest value of its item; `clear` says which items count."""
    got = result if isinstance(result, Tensor) else torch.from_numpy(np.array(result))
    got = got.to(exact.device).double()
    if got.shape != exact.shape:
        raise ValueError(f"gave a result of shape {tuple(got.shape)}, not {tuple(exact.shape)}")
    difference = (got - exact).abs().flatten(1).amax(1)
    difference = difference / exact.abs().flatten(1).amax(1).clamp(min=torch.finfo(torch.float64).tiny)
    difference = torch.where(difference.isnan(), torch.inf, difference)
    return float(difference[slice(None) if clear is None else clear].amax()) if len(difference) else 0.0


def finite(**errors: Tensor) -> Errors:
    return {name: float("inf") if bool(error.isnan()) else float(error) for name, error in errors.items()}


def jax_arrays(*tensors: Tensor) -> Arrays:
    jnp = import_module("jax.numpy")
    return tuple(jnp.asarray(array) for array in numpy_arrays(*tensors))


def is_there(peer: str) -> bool:
    return find_spec(PEERS[peer].module) is not None
