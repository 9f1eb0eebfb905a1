"""A backend of another device behind the same functions on CPU tensors, for tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.cuda_build import use_in_place
from tsm_fast.steps import choice

from ..helpers import STEPS
from .emulation.load import emulated

ON_GPU = os.environ.get("TSM_FAST_TEST_DEVICE") == "cuda"
if ON_GPU:
    use_in_place()

Step = Callable[..., Any]


def require_gpu() -> None:
    """Skips without a GPU; fails where FAIL_WITHOUT_CUDA=1 says that there should be one."""
    if torch.cuda.is_available():
        return
    if os.environ.get("FAIL_WITHOUT_CUDA") == "1":
        pytest.fail("FAIL_WITHOUT_CUDA is set, and torch finds no GPU")
    pytest.skip("needs an NVIDIA GPU, and torch finds none")


def elsewhere(name: str, monkeypatch: pytest.MonkeyPatch) -> OnGpu:
    """A GPU backend on whatever there is to run it; also what its name means to the public functions."""
    if ON_GPU:
        require_gpu()
    module = OnGpu(choice.load(name)) if ON_GPU else OnGpu(emulated(), "cpu")
    stand_in(name, module, monkeypatch)
    return module


def stand_in(name: str, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The public functions take the module for the backend of this name, on CPU tensors."""
    monkeypatch.setitem(sys.modules, f"tests.{name}_backend", module)
    entry = choice._ENTRIES[name]._replace(module=f"tests.{name}_backend", needs={}, device="cpu")
    monkeypatch.setitem(choice._ENTRIES, name, entry)


class OnGpu:
    """The steps of a backend: tensors that they are given go to its device, strides and all, and results come back."""

    mode_gram: Step
    truncated_svd: Step
    core_contraction: Step
    hooi: Step
    saliency: Step
    finish: Step

    def __init__(self, backend: Any, device: str = "cuda") -> None:
        self.name = backend.name
        self.__spec__ = None
        for step in STEPS:
            setattr(self, step, _elsewhere(getattr(backend, step), device))


def _elsewhere(step: Step, device: str) -> Step:
    @wraps(step)
    def run(*arguments: Any, **options: Any) -> Any:
        there = partial(in_place, device=device)
        return _mapped(Tensor.cpu, step(*_mapped(there, arguments), **_mapped(there, options)))

    return run


def _mapped(move: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same, with every tensor moved."""
    if isinstance(value, Tensor):
        return move(value)
    if isinstance(value, dict):
        return {name: _mapped(move, part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [_mapped(move, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def in_place(x: Tensor, device: str) -> Tensor:
    """x on a device with the very strides that it has here."""
    whole = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())
    return whole.to(device).as_strided(x.shape, x.stride(), x.storage_offset())
