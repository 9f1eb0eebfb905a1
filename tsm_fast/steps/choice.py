"""The choice of a backend for a tensor, and what there is to choose from."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from .backend import Backend
from .memory import has_tangent, is_transformed


class _Entry(NamedTuple):
    module: str  # what is loaded
    needs: dict[str, str]  # modules that exist only where the backend is part of the install, and how to get them
    device: str | None  # the device type it runs on; None for any
    autograd: bool
    auto: str = ""  # what the automatic choice takes it for; _GPU_CHOICE says it of the GPU backends


_GET_TRITON = ": pip install 'tsm_fast[gpu]'"
_ENTRIES = {
    "reference": _Entry(
        "tsm_fast.steps.reference",
        {},
        None,
        True,
        "tensors that need gradients, and devices without a backend of their own",
    ),
    "cpu": _Entry("tsm_fast.steps.cpu", {"tsm_fast._cpu": ""}, "cpu", False, "CPU tensors"),
    "cuda": _Entry("tsm_fast.steps.cuda", {"tsm_fast._cuda": ""}, "cuda", False),
    "triton": _Entry("tsm_fast.kernels", {"tsm_fast.kernels": "", "triton": _GET_TRITON}, "cuda", False),
}

_OLDEST = {"cuda": (8, 0), "triton": (7, 5)}  # the first compute capability that each is for
_OLDEST_TRITON = (3, 6)
_FULL_RATE_DOUBLE = ((8, 0), (9, 0), (10, 0))  # A100, H100 and H200, B200


def oldest_triton(capability: tuple[int, int]) -> tuple[int, int]:
    """The first Triton that compiles every kernel for an NVIDIA GPU: `make static` tries them."""
    multiplies_in_tensor_memory = (10, 0) <= capability < (12, 0)
    return (3, 8) if multiplies_in_tensor_memory else _OLDEST_TRITON


class _GpuCase(NamedTuple):
    """What the choice between the GPU backends looks at."""

    amd: bool
    capability: tuple[int, int]
    dtype: torch.dtype
    side: int  # the shorter side of the widest unfolding, that of the eigenvalue problems


class _GpuRow(NamedTuple):
    tensors: str  # what the row is for
    holds: Callable[[_GpuCase], bool]
    order: tuple[str, ...]  # the first that is there is taken
    why: str


# The first row that holds decides. The order is a prediction: nothing of it is measured on a GPU yet.
_GPU_CHOICE = (
    _GpuRow("AMD GPUs", lambda case: case.amd, ("triton",), "the compiled backend is for NVIDIA"),
    _GpuRow(
        "GPUs of compute capability below 8.0",
        lambda case: case.capability < (8, 0),
        ("triton",),
        "the compiled backend multiplies on float64 matrix units",
    ),
    _GpuRow(
        "eigenvalue problems above 256",
        lambda case: case.side > 256,
        ("cuda", "triton"),
        "the compiled backend finds leading pairs by passes over the features; all pairs come from cuSOLVER's "
        "XsyevBatched where present, else from torch.linalg.eigh, in both",
    ),
    _GpuRow(
        "float16, bfloat16 and float32 where float64 is slow",
        lambda case: case.capability not in _FULL_RATE_DOUBLE and case.dtype != torch.float64,
        ("triton", "cuda"),
        "Triton's Gram matrices take three TF32 products for one in float64",
    ),
    _GpuRow("all others", lambda case: True, ("cuda", "triton"), "one read of the features, matrices on chip"),
)


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
        reason = _unavailable(name) or _unsuited_here(name)
        auto = ""
        if wanted == name:
            auto = "chosen for everything: TSM_FAST_BACKEND names it"
        elif not wanted and reason is None:
            auto = _auto(name)
        table[name] = BackendInfo(name, reason is None, reason or _describe(name), auto)
    return table


def _auto(name: str) -> str:
    """What the automatic choice takes an available backend for."""
    if name in _OLDEST:
        if _device(name) != "cuda":
            return ""
        there = [other for other in _OLDEST if _is_built(other) and not _unsuited_here(other)]
        rows = [row for row in _GPU_CHOICE if next(filter(there.__contains__, row.order), None) == name]
        return "; ".join(f"chosen for {row.tensors}: {row.why}" for row in rows)
    auto = f"chosen for {_ENTRIES[name].auto}"
    if name == "reference" and _unavailable("cpu") is not None:
        auto += "; for CPU tensors too, the cpu backend being unavailable"
    return auto


def resolve(backend: str | None, x: Tensor, *others: Tensor) -> Backend:
    """The backend for `x` and what it meets: the one named by the argument or by TSM_FAST_BACKEND, which runs or
    raises, else the best.

    Raises:
        TypeError: it is no text.
        ValueError: the name is unknown.
        RuntimeError: the named backend cannot run, and why.
    """
    if backend is not None and not isinstance(backend, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"backend must be None or a name, got {backend!r}")
    name = backend or os.environ.get("TSM_FAST_BACKEND")
    if name is None or name == "":
        return load(_automatic(x, *others))
    if name not in _ENTRIES:
        source = "backend" if backend else "TSM_FAST_BACKEND"
        raise ValueError(f"{source} must be one of {', '.join(map(repr, _ENTRIES))}, got {name!r}")
    entry = _ENTRIES[name]
    module = load(name)
    if _device(name) not in (None, x.device.type):
        raise RuntimeError(f"backend {name!r} runs on {_device(name)} tensors, got one on {x.device}")
    if name in _OLDEST and x.device.type == "cuda":
        reason = _unsuited(name, torch.cuda.get_device_capability(x.device))
        if reason is not None:
            raise RuntimeError(f"backend {name!r} {reason} on {x.device}")
    if not entry.autograd and any(map(needs_grad, (x, *others))):
        raise RuntimeError(
            f"backend {name!r} has no gradients, and the input requires them: "
            "use backend='reference', or pass x.detach(), or call it under torch.no_grad()"
        )
    return module


def loaded(name: str) -> Backend | None:
    """The module of a known backend, where it was loaded before."""
    return cast(Backend | None, sys.modules.get(_ENTRIES[name].module))


def load(name: str) -> Backend:
    """The module of a known backend; RuntimeError where it is not built or does not load."""
    there = loaded(name)
    if there is not None and name not in _OLDEST and _is_built(name):
        return there
    reason = _unavailable(name)
    if reason is not None:
        raise RuntimeError(f"backend {name!r} cannot run: {reason}")
    return cast(Backend, importlib.import_module(_ENTRIES[name].module))


def needs_grad(x: Tensor) -> bool:
    """Whether autograd records what is done with x, or carries tangents through it."""
    return (x.requires_grad and torch.is_grad_enabled()) or has_tangent(x)


def _device(name: str) -> str | None:
    """The device type a backend runs on. With TRITON_INTERPRET=1 Triton's kernels run in its interpreter."""
    return "cpu" if name == "triton" and _interpreted() else _ENTRIES[name].device


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _automatic(x: Tensor, *others: Tensor) -> str:
    # A backend that is there but does not load is not passed over: `load` says what is wrong with it.
    for tensor in (x, *others):
        if needs_grad(tensor) or is_transformed(tensor):
            return "reference"
    if x.is_cpu and _is_built("cpu"):
        return "cpu"
    if x.device.type == "cuda" and not _interpreted():
        case = _gpu_case(x)
        row = next(row for row in _GPU_CHOICE if row.holds(case))
        for name in row.order:
            if _is_built(name) and not _unsuited(name, case.capability):
                return name
    return "reference"


def _gpu_case(x: Tensor) -> _GpuCase:
    widest = max(x.shape[1:]) if x.ndim > 1 else 1
    rest = x[0].numel() // widest if len(x) and x.ndim > 1 else 1
    amd = torch.version.hip is not None
    return _GpuCase(amd, torch.cuda.get_device_capability(x.device), x.dtype, min(widest, rest))


def _unsuited(name: str, capability: tuple[int, int]) -> str | None:
    """Why a backend that is built cannot run on a GPU, or None."""
    amd, gpu = torch.version.hip is not None, "sm_{}{}".format(*capability)
    if not amd and capability < _OLDEST[name]:
        return "needs a GPU of sm_{}{} or newer, got ".format(*_OLDEST[name]) + gpu
    oldest = _OLDEST_TRITON if amd else oldest_triton(capability)
    if name == "triton" and _version_of_triton() < oldest:
        return _newer_triton(oldest, "" if oldest == _OLDEST_TRITON else f" for a GPU of {gpu}")
    return None


def _unsuited_here(name: str) -> str | None:
    """Why a backend can run on none of this machine's GPUs, or None: also where it needs none, and where none is."""
    if _device(name) != "cuda" or not torch.cuda.is_available():
        return None
    reasons = [_unsuited(name, torch.cuda.get_device_capability(i)) for i in range(torch.cuda.device_count())]
    return reasons[0] if reasons and all(reasons) else None


def _newer_triton(oldest: tuple[int, int], where: str = "") -> str:
    return f"needs Triton {oldest[0]}.{oldest[1]} or newer{where}, got {importlib.import_module('triton').__version__}"


def _version_of_triton() -> tuple[int, ...]:
    try:
        return tuple(map(int, importlib.import_module("triton").__version__.split(".")[:2]))
    except ImportError:
        return (sys.maxsize,)  # `load` says what is wrong with it


def _is_built(name: str) -> bool:
    return not _missing(name)


def _missing(name: str) -> list[str]:
    return [module for module in _ENTRIES[name].needs if importlib.util.find_spec(module) is None]


def _unavailable(name: str) -> str | None:
    """Why a backend cannot run here, or None."""
    missing = _missing(name)
    if missing:
        return f"not built: this install has no {missing[0]}{_ENTRIES[name].needs[missing[0]]}"
    if _device(name) == "cuda" and not torch.cuda.is_available():
        return "no GPU: torch.cuda.is_available() is False"
    try:
        if name == "triton" and _version_of_triton() < _OLDEST_TRITON:
            return _newer_triton(_OLDEST_TRITON)
        importlib.import_module(_ENTRIES[name].module)
    except ImportError as error:
        return f"built, but it does not load: {error}"
    return None


def _describe(name: str) -> str:
    if name == "reference":
        return f"plain torch {torch.__version__}, any device, with gradients"
    if name == "triton":
        place = "in its interpreter, on CPU tensors: for tests" if _interpreted() else "on GPU tensors"
        return f"Triton {importlib.import_module('triton').__version__}, {place}"
    level = getattr(importlib.import_module(_ENTRIES[name].module), "simd_level", None)
    return f"compiled, SIMD level {level()}" if level else "built"
