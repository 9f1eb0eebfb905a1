"""How the feature maps of a run are computed: in which memory format and dtype, compiled or not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..extractor import SaliencyExtractor, plain
from ..layers import find_layers

_SAME = 1e-4  # of the largest feature: other orders of sums stay below, other results do not


class Forward:
    """The feature maps `[B, C, H, W]` of every layer of an extractor, by its name.

    Args:
        extractor: of `module`, with its layers named.
        module: the network, in eval mode; for `channels_last` its weights change their memory format.
        channels_last: inputs and weights in this memory format, which most convolutions of the CPU are faster in.
        autocast: "bfloat16" or "float16": operations that `torch.autocast` lists run in it.
        compile: by `torch.compile`, which takes up to a minute at the first call.
    """

    def __init__(
        self,
        extractor: SaliencyExtractor,
        module: nn.Module,
        *,
        channels_last: bool = False,
        autocast: str | None = None,
        compile: bool = False,
    ) -> None:
        self._extractor, self._autocast = extractor, autocast
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        if channels_last:
            cast(Any, module).to(memory_format=torch.channels_last)
        self.module: nn.Module = module
        self._compile = compile
        self._compiled: Callable[[Tensor], dict[str, Tensor]] | None = None

    def __call__(self, inputs: Tensor, size: int = 0) -> Mapping[str, Tensor]:
        """Of inputs [B, C, H, W]; a graph is compiled for each B, and once for all up to `size`."""
        if inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=self._format)
        with self._types(inputs.device.type):
            if not self._compile:
                return self._extractor.features(inputs)
            full = inputs
            if len(inputs) < size:
                blank = inputs.new_zeros(size - len(inputs), *inputs.shape[1:])
                full = torch.cat([inputs, blank]).contiguous(memory_format=self._format)
            if self._compiled is None:
                self._extractor.features(full[:1])  # which tells how the outputs become [B, C, H, W]
                self._compiled = _compiled(self.module, self._extractor.layers)
            with torch.no_grad():
                found = self._compiled(full)
            return {name: self._extractor.reshaped(name, value)[: len(inputs)] for name, value in found.items()}

    def whole(self, inputs: Tensor) -> tuple[Mapping[str, Tensor], Any]:
        """The feature maps, and what the network gives in the end, of one eager pass."""
        with self._types(inputs.device.type):
            return self._extractor.features_and_output(inputs.contiguous(memory_format=self._format))

    def warm(self, shape: Sequence[int], size: int, device: torch.device) -> None:
        """Compile for batches of `size` inputs [C, H, W], where it is to be compiled."""
        if self._compile:
            self(torch.zeros(size, *shape, device=device), size)

    def _types(self, device: str) -> AbstractContextManager[Any]:
        return nullcontext() if self._autocast is None else torch.autocast(device, getattr(torch, self._autocast))


def takes_channels_last(
    module: nn.Module,
    layers: Sequence[str],
    features: Mapping[str, Tensor],
    inputs: Tensor,
    reshape_transform: Any = None,
) -> bool:
    """Whether a network gives the same features with weights and inputs in that memory format.

    Some reshape what it is not for, or read the memory as it lies. A copy is tried.
    """
    try:
        copied = copy.deepcopy(module)
        extractor = SaliencyExtractor(copied, list(layers), reshape_transform=reshape_transform)
        there = Forward(extractor, copied, channels_last=True)(inputs)
    except Exception:  # networks of others raise anything
        return False
    return all(_close(there[name], maps) for name, maps in features.items())


def _close(there: Tensor, here: Tensor) -> bool:
    largest = here[here.isfinite()].abs().amax() if here.isfinite().any() else 0.0
    return there.shape == here.shape and torch.allclose(there, here, 0, _SAME * float(largest), equal_nan=True)


def check_compiler() -> None:
    """ValueError where `torch.compile` has no compiler for the CPU."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler
    except ImportError:  # of another version of torch, which says it later
        return
    try:
        get_cpp_compiler()
    except Exception as error:
        text = " ".join(str(error).split())
        raise ValueError(f"compile needs a C++ compiler: install g++, or name one in CXX ({text})") from None


def _compiled(module: nn.Module, layers: Sequence[str]) -> Callable[[Tensor], dict[str, Tensor]]:
    """A compiled function to the outputs of layers; what else the network computes is no part of its graph."""
    found: dict[str, Tensor] = {}

    def keeper(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            if name not in found:
                found[name] = plain(output).clone()  # later layers may write into it

        return keep

    for name, layer in find_layers(module, list(layers)).items():
        layer.register_forward_hook(keeper(name))

    def features(inputs: Tensor) -> dict[str, Tensor]:
        found.clear()
        module(inputs)
        taken = dict(found)
        found.clear()
        return taken

    return torch.compile(features, dynamic=False)
