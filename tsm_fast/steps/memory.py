"""What can be read: tensors that hold memory, in calls that nobody traces otherwise than as operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeGuard, TypeVar

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch._subclasses import FakeTensor

P = ParamSpec("P")
T = TypeVar("T")

# What to pass instead of a tensor that stands for others. Most such types live in modules that few programs load.
_REMEDIES = {
    "DTensor": "pass {name}.to_local() or {name}.full_tensor()",
    "MaskedTensor": "pass {name}.to_tensor(0), or whatever the masked values count as",
}
_PROXY = torch._C._TorchDispatchModeKey.PROXY
_TRACING = (
    torch._C._TorchDispatchModeKey.FAKE,
    _PROXY,
    torch._C._TorchDispatchModeKey.FUNCTIONAL,
)
_PLAIN = torch._C._disabled_torch_dispatch_impl


def untraced(function: Callable[P, T]) -> Callable[P, T]:
    """The function for real calls and for those that go through an operator; other tracers get a RuntimeError, for they
    would keep as a constant what this call computes, or memory that it has not written yet. Between its graphs, and not
    within one, torch.compile runs it on arrays that are no tensors.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_dynamo_compiling():
            first = args[0] if args else next(iter(kwargs.values()), None)
            return (
                function(*args, **kwargs) if isinstance(first, Tensor) else _between_graphs(function, *args, **kwargs)
            )
        if torch._C._is_tracing():
            raise RuntimeError(f"{function.__name__} cannot be traced by torch.jit.trace: trace what comes before it")
        if _is_traced() and not (
            torch.compiler.is_compiling() or is_recorded() or kwargs.get("backend") == "reference"
        ):
            raise RuntimeError(f"{function.__name__} cannot run under FakeTensorMode: no values come of it")
        return function(*args, **kwargs)

    return call


def _between_graphs(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return torch.compiler.disable(function)(*args, **kwargs)  # pyright: ignore[reportCallIssue]


# With fullgraph=True torch.compile gives this as the reason; without the marks it would speak of `disable` alone.
vars(_between_graphs).update(
    _torchdynamo_disable=True,
    _torchdynamo_disable_msg="tsm_fast runs on arrays that are no tensors between graphs: leave out fullgraph=True",
)


def stored(name: str, x: Tensor) -> Tensor:
    """x itself, or a copy where its numbers are not aligned; RuntimeError where its storage was freed."""
    if torch.compiler.is_compiling():
        return x
    address = _address(x)
    if address is None:
        return x  # it stands for others: `readable` decides who may read it
    held = x.untyped_storage().nbytes()
    if held < x.nbytes or not x.is_contiguous() or x.storage_offset():
        needed = _extent(x)
        if held < needed:
            raise RuntimeError(f"{name} must be in memory, got {needed} bytes of a storage that was resized to {held}")
    if not address and x._is_zerotensor():
        return torch.zeros_like(x)
    return x.clone() if address % x.element_size() else x


def readable(name: str, x: Tensor, backend: str, *, looks: bool = True) -> None:
    """TypeError unless the backend can read x: a compiled one its memory, the reference its values, where it `looks` at
    them to decide what to do.
    """
    if backend == "reference":
        obstacle = _no_values(x) if looks else ""
    else:
        obstacle = "" if _address(x) else _no_memory(name, x, backend)
    if obstacle:
        raise TypeError(f"{name} must be {obstacle}")


def is_plain(x: object) -> TypeGuard[Tensor]:
    """Whether x is a contiguous tensor in the CPU's memory, in a call that nobody traces, transforms or differentiates:
    what needs no look at anything else.
    """
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and x.is_cpu
        and x.layout is torch.strided
        and x.is_contiguous()
        and not (x.requires_grad and torch.is_grad_enabled())
        and forward_ad._current_level < 0
        and _functorch.peek_interpreter_stack() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and not (x.is_nested or x.is_neg())
        and x.untyped_storage().nbytes() >= x.nbytes + x.storage_offset() * x.element_size() > 0
        and 0 == x.data_ptr() % x.element_size() < x.data_ptr()
    )


def is_transformed(x: Tensor) -> bool:
    """Whether a transform of torch.func (grad, vmap, ...) stands between x and its memory."""
    return not _address(x) and _functorch.is_functorch_wrapped_tensor(x)


def is_transforming() -> bool:
    """Whether this call is within a transform of torch.func."""
    return _functorch.peek_interpreter_stack() is not None


def is_mapped(x: Tensor) -> bool:
    """Whether `torch.func.vmap` maps x."""
    while _functorch.is_functorch_wrapped_tensor(x):
        if _functorch.is_batchedtensor(x):
            return True
        x = _functorch.get_unwrapped(x)
    return False


def is_recorded() -> bool:
    """Whether make_fx records what is called."""
    return torch._C._len_torch_dispatch_stack() > 0 and bool(torch._C._get_dispatch_mode(_PROXY))


def has_tangent(x: Tensor) -> bool:
    """Whether forward-mode differentiation goes through x."""
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None


def _is_traced() -> bool:
    """Whether a mode records what is called, or gives tensors without values; others only look on."""
    return torch._C._len_torch_dispatch_stack() > 0 and any(map(torch._C._get_dispatch_mode, _TRACING))


def _address(x: Tensor) -> int | None:
    """Where x lies in memory; None for a tensor that stands for others."""
    if type(x).__torch_dispatch__ is not _PLAIN:  # pyright: ignore[reportAttributeAccessIssue]
        return None if isinstance(x, FakeTensor) else x.data_ptr() or None
    try:
        return x.data_ptr()
    except RuntimeError:  # a transform of torch.func
        return None


def _extent(x: Tensor) -> int:
    """Bytes from the start of the storage to the end of the last number of x."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return int(x.storage_offset() + last + 1) * x.element_size() if x.numel() else 0


def _no_memory(name: str, x: Tensor, backend: str) -> str:
    """What x should be, what it is, and what to pass instead; "" where it has memory after all, or needs none."""
    if is_transformed(x):
        return f"plain for backend {backend!r}, got a tensor that torch.func transforms"
    if x.is_meta or isinstance(x, FakeTensor):
        return _no_values(x)
    if x.data_ptr() or not x.numel():
        return ""
    kind = type(x).__name__
    remedy = _REMEDIES.get(kind, "pass the plain tensor that it stands for").format(name=name)
    return f"in memory, got a {kind}: {remedy}"


def _no_values(x: Tensor) -> str:
    """What x should be, what it is, and what to pass instead; "" where its values can be looked at."""
    if _is_traced():
        return "a tensor of values, got one that is traced: trace what comes before it"
    while is_transformed(x):
        if _functorch.is_batchedtensor(x):
            return "a tensor of values, got one that torch.func.vmap maps: make that dimension a part of the batch"
        if _functorch.is_functionaltensor(x):
            return "a tensor of values, got one of torch.func.functionalize: call it outside"
        x = _functorch.get_unwrapped(x)
    if x.is_meta or isinstance(x, FakeTensor):
        return f"a tensor of values, got a {'meta' if x.is_meta else 'fake'} one: pass one on a real device"
    return ""
