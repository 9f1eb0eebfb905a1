"""The public functions as operators of PyTorch, for calls that are compiled, exported or mapped by `torch.func.vmap`.

An operator takes a list of tensors that have the batch first, and options; it gives a list of such tensors. Outside of
these calls nothing goes through here: an operator costs some 30 us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .choice import needs_grad
from .memory import is_mapped, is_recorded, is_transforming

Compute = Callable[..., Sequence[Tensor]]

_LIBRARY = torch.library.Library("tsm_fast", "DEF")
# With mode="reduce-overhead" they run between CUDA graphs: within one nobody would see what is wrong with the features.
_TAGS = tuple(tag for tag in (getattr(torch.Tag, "cudagraph_unsafe", None),) if tag is not None)


def wanted(*tensors: Tensor) -> bool:
    """Whether a call with these tensors has to go through an operator."""
    if torch.compiler.is_compiling() or is_recorded():
        return True
    return is_transforming() and any(map(is_mapped, tensors))


def operator(name: str, options: str, like: Compute) -> Callable[[Compute], Callable[..., list[Tensor]]]:
    """Make an operator of `compute(*tensors, *options)`, which is called with tensors that have memory.

    `options` are those of its schema; `like` takes the same arguments and gives empty tensors like the results. Its
    gradients are those of `compute` itself under autograd, computed anew.
    """

    where = "where it is compiled or mapped by vmap: calls outside of torch.compile and torch.func.vmap have them"

    def made(compute: Compute) -> Callable[..., list[Tensor]]:
        def run(tensors: Sequence[Tensor], *options: Any) -> list[Tensor]:
            with torch.no_grad():
                return [out.contiguous() for out in compute(*tensors, *options)]

        def run_backward(tensors: Sequence[Tensor], grads: Sequence[Tensor], *options: Any) -> list[Tensor]:
            leaves = [tensor.detach().requires_grad_() for tensor in tensors]
            with _differentiating():
                outputs = [out for out in compute(*leaves, *options) if out.is_floating_point()]
            found = torch.autograd.grad(outputs, leaves, grads, materialize_grads=True)
            return [grad.contiguous() for grad in found]

        forward = _defined(name, f"Tensor[] tensors, {options}", run)
        backward = _defined(f"{name}_backward", f"Tensor[] tensors, Tensor[] grads, {options}", run_backward)

        @torch.library.register_fake(f"tsm_fast::{name}", lib=_LIBRARY)
        def _(tensors: Sequence[Tensor], *options: Any) -> list[Tensor]:
            return list(like(*tensors, *options))

        @torch.library.register_fake(f"tsm_fast::{name}_backward", lib=_LIBRARY)
        def _(tensors: Sequence[Tensor], grads: Sequence[Tensor], *options: Any) -> list[Tensor]:
            return [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors]

        torch.library.register_vmap(f"tsm_fast::{name}", _by_folding(forward, 1), lib=_LIBRARY)
        torch.library.register_vmap(f"tsm_fast::{name}_backward", _by_folding(backward, 2), lib=_LIBRARY)

        class Backward(Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(count: int, options: Sequence[Any], *given: Tensor) -> tuple[Tensor, ...]:
                with torch._C._AutoDispatchBelowAutograd():
                    return tuple(backward(given[:count], given[count:], *options))

            @staticmethod
            def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
                pass

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> Any:
                raise RuntimeError(f"{name} has no second derivatives {where}")

            @staticmethod
            def jvp(ctx: Any, *tangents: Any) -> Any:
                raise NotImplementedError(f"{name} has no second derivatives {where}")

        class Forward(Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(options: Sequence[Any], *tensors: Tensor) -> tuple[Tensor, ...]:
                with torch._C._AutoDispatchBelowAutograd():
                    return tuple(forward(tensors, *options))

            @staticmethod
            def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
                ctx.options, *tensors = inputs
                ctx.save_for_backward(*tensors)
                ctx.mark_non_differentiable(*(out for out in output if not out.is_floating_point()))
                ctx.differentiable = [out.is_floating_point() for out in output]

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> Any:
                wide = [grad for grad, has in zip(grads, ctx.differentiable, strict=True) if has]
                return None, *backward(ctx.saved_tensors, wide, *ctx.options)

            @staticmethod
            def jvp(ctx: Any, *tangents: Any) -> Any:
                raise NotImplementedError(f"{name} has no forward derivatives (jvp) {where}")

        def differentiable(tensors: Sequence[Tensor], *options: Any) -> list[Tensor]:
            if not is_transforming() and not any(map(needs_grad, tensors)):
                with torch._C._AutoDispatchBelowAutograd():
                    return forward(tensors, *options)
            with _transforms():
                return list(Forward.apply(options, *tensors))

        def once(tensors: Sequence[Tensor], grads: Sequence[Tensor], *options: Any) -> list[Tensor]:
            with _transforms():
                return list(Backward.apply(len(tensors), options, *tensors, *grads))

        # `register_autograd` makes functions that the transforms of torch.func refuse (pytorch/pytorch#170834).
        _LIBRARY.impl(name, differentiable, "Autograd")
        _LIBRARY.impl(f"{name}_backward", once, "Autograd")
        return forward

    return made


@contextmanager
def _differentiating() -> Iterator[None]:
    """Autograd within an operator, below the layer that does it for the caller."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView):
        excluded = excluded.remove(key)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded), torch.enable_grad():
        yield


@contextmanager
def _transforms() -> Iterator[None]:
    """The transforms of torch.func that an operator is called within, seen by what its kernel for autograd calls."""
    if not is_transforming():
        yield
        return
    key = torch._C.DispatchKey.FuncTorchDynamicLayerFrontMode
    included, excluded = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
    with torch._C._ForceDispatchKeyGuard(included.add(key), excluded.remove(key)):
        yield


def _defined(name: str, arguments: str, run: Callable[..., list[Tensor]]) -> Any:
    _LIBRARY.define(f"{name}({arguments}) -> Tensor[]", tags=_TAGS)
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    return getattr(torch.ops.tsm_fast, name).default


def _by_folding(op: Any, lists: int) -> Callable[..., tuple[list[Tensor], list[int]]]:
    """The rule of vmap for an operator whose first arguments are lists: the mapped dimension joins the batch."""

    def rule(info: Any, in_dims: Any, *arguments: Any) -> tuple[list[Tensor], list[int]]:
        def folded(tensor: Tensor, dim: int | None) -> Tensor:
            whole = tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            return whole.flatten(0, 1)

        several = [[folded(*one) for one in zip(arguments[i], in_dims[i], strict=True)] for i in range(lists)]
        results = op(*several, *arguments[lists:])
        return [out.unflatten(0, (info.batch_size, -1)) for out in results], [0] * len(results)

    return rule
