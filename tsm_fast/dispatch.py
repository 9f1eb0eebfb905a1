"""The `Backend` protocol, and the choice of a backend for a tensor.

A backend is a module with the five functions of `Backend`. Their inputs are torch tensors that `plan.py` has
checked; the result dtype is float64 for `precision="float64"` or for float64 input with `precision="auto"`, and
float32 otherwise.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, NamedTuple, Protocol, cast

import torch
from torch import Tensor

Precision = Literal["auto", "float32", "float64"]
Method = Literal["eigencam", "tsm", "multivec_eigencam", "mtsm"]

N_ITER_MAX = 100  # TensorLy's defaults, also those of HOOI inside `saliency`
TOL = 1e-4


class HooiResult(NamedTuple):
    """What `Backend.hooi` returns; an item with NaN or Inf has NaN results, `n_sweeps` 0 and `finite` False."""

    core: Tensor  # [B, R_1, ..., R_N]
    factors: list[Tensor]  # N times [B, I_n, R_n]
    singular_values: list[Tensor]  # N times [B, R_n], in the order of the factor columns
    errors: Tensor  # [B, K] float64, K the most sweeps of any item; NaN after an item's last sweep
    n_sweeps: Tensor  # [B] int64
    converged: Tensor  # [B] bool
    finite: Tensor  # [B] bool


class Backend(Protocol):
    """The five steps. `x` is [B, I_1, ..., I_N] in any strides; modes count item modes from 0."""

    name: str

    def mode_gram(self, x: Tensor, mode: int, *, center: bool = False, precision: Precision = "auto") -> Tensor:
        """[B, I_n, I_n], `X_(n) X_(n)^T`; `center` first subtracts the mean over the last mode."""
        ...

    def truncated_svd(self, gram: Tensor, rank: int, *, precision: Precision = "auto") -> tuple[Tensor, Tensor]:
        """Singular values [B, R] and vectors [B, n, R] from a Gram matrix [B, n, n]."""
        ...

    def core_contraction(
        self, x: Tensor, factors: Sequence[Tensor], modes: Sequence[int], *, precision: Precision = "auto"
    ) -> Tensor:
        """`X x_n A_n^T` over the given modes, `factors[i]` being [B, I_n, R_n] for `n = modes[i]`."""
        ...

    def hooi(
        self, x: Tensor, rank: Sequence[int], *, n_iter_max: int, tol: float, sign: str, precision: Precision = "auto"
    ) -> HooiResult:
        """The Tucker decomposition of every item at a feasible rank."""
        ...

    def saliency(
        self,
        x: Tensor,
        method: Method,
        rank: Sequence[int] | None,
        *,
        center: bool,
        combine: str,
        sign: str,
        precision: Precision = "auto",
    ) -> tuple[Tensor, Tensor]:
        """Raw maps [B, H, W] and the finite items [B] of features [B, C, H, W]."""
        ...


def result_dtype(dtype: torch.dtype, precision: Precision) -> torch.dtype:
    """The dtype of a result, from the dtype of the input."""
    wide = precision == "float64" or (precision == "auto" and dtype == torch.float64)
    return torch.float64 if wide else torch.float32


class _Entry(NamedTuple):
    module: str  # what is loaded
    built: str  # what exists only where the backend is part of the install
    device: str | None  # the device type it runs on; None for any
    autograd: bool
    auto: str  # what the automatic choice takes it for


_ENTRIES = {
    "reference": _Entry(
        "tsm_fast.reference",
        "tsm_fast.reference",
        None,
        True,
        "tensors that need gradients, and devices without a backend of their own",
    ),
    "cpu": _Entry("tsm_fast.native", "tsm_fast._cpu", "cpu", False, "CPU tensors"),
    "cuda": _Entry("tsm_fast.native", "tsm_fast._cuda", "cuda", False, "CUDA tensors"),
    "triton": _Entry(
        "tsm_fast.kernels", "tsm_fast.kernels", "cuda", False, "CUDA tensors without the compiled backend"
    ),
}


@dataclass(frozen=True)
class BackendInfo:
    """One row of `backends()`."""

    name: str
    available: bool
    reason: str  # why it can or cannot run
    auto: str  # what the automatic choice would take it for here, and why; "" for nothing

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" + (f"; {self.auto}" if self.auto else "")


def backends() -> dict[str, BackendInfo]:
    """What this install can run, and what the automatic choice would take.

    Returns:
        One `BackendInfo` per backend name, with `available` (bool), `reason` (why it can or cannot run) and `auto`
        (what `backend=None` would use it for, and why).

    >>> import tsm_fast
    >>> tsm_fast.backends()["reference"].available
    True
    """
    wanted = os.environ.get("TSM_FAST_BACKEND")
    table = {}
    for name in _ENTRIES:
        reason = _unavailable(name)
        auto = ""
        if wanted == name:
            auto = "chosen for everything: TSM_FAST_BACKEND names it"
        elif not wanted and reason is None:
            auto = f"chosen for {_ENTRIES[name].auto}"
            if name == "reference" and _unavailable("cpu") is not None:
                auto += "; for CPU tensors too, the cpu backend being unavailable"
        table[name] = BackendInfo(name, reason is None, reason or _describe(name), auto)
    return table


def resolve(backend: str | None, x: Tensor) -> Backend:
    """The backend for `x`: the one named by the argument or by TSM_FAST_BACKEND, which runs or raises, else the best.

    Raises:
        ValueError: the name is unknown.
        RuntimeError: the named backend cannot run, and why.
    """
    name = backend or os.environ.get("TSM_FAST_BACKEND")
    if name is None or name == "":
        return load(_automatic(x))
    if name not in _ENTRIES:
        source = "backend" if backend else "TSM_FAST_BACKEND"
        raise ValueError(f"{source} must be one of {', '.join(map(repr, _ENTRIES))}, got {name!r}")
    entry = _ENTRIES[name]
    module = load(name)
    if entry.device not in (None, x.device.type):
        raise RuntimeError(f"backend {name!r} runs on {entry.device} tensors, got one on {x.device}")
    if _needs_grad(x) and not entry.autograd:
        raise RuntimeError(
            f"backend {name!r} has no gradients, and the input requires them: "
            "use backend='reference', or pass x.detach(), or call it under torch.no_grad()"
        )
    return module


def load(name: str) -> Backend:
    """The module of a known backend; RuntimeError where it is not built or does not load."""
    reason = _unavailable(name)
    if reason is not None:
        raise RuntimeError(f"backend {name!r} cannot run: {reason}")
    return cast(Backend, _import(_ENTRIES[name].module))


def _needs_grad(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()


def _automatic(x: Tensor) -> str:
    if _needs_grad(x):
        return "reference"
    for name in ("cpu", "cuda", "triton"):
        # A backend that is there but does not load is not passed over: `load` says what is wrong with it.
        if _ENTRIES[name].device == x.device.type and _is_built(name):
            return name
    return "reference"


def _is_built(name: str) -> bool:
    return importlib.util.find_spec(_ENTRIES[name].built) is not None


def _import(module: str) -> ModuleType:
    return importlib.import_module(module)


def _unavailable(name: str) -> str | None:
    """Why a backend cannot run here, or None."""
    if not _is_built(name):
        return f"not built: this install has no {_ENTRIES[name].built}"
    try:
        _import(_ENTRIES[name].module)
    except ImportError as error:
        return f"built, but it does not load: {error}"
    return None


def _describe(name: str) -> str:
    if name == "reference":
        return f"plain torch {torch.__version__}, any device, with gradients"
    level = getattr(_import(_ENTRIES[name].module), "simd_level", None)
    return f"compiled, SIMD level {level()}" if name == "cpu" and level is not None else "built"
