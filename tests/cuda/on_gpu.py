"""A backend for CUDA tensors behind the same functions on CPU tensors, for tests."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tsm_fast
from tsm_fast.dispatch import HooiResult


def use_in_place() -> None:
    """Makes `tsm_fast.kernels` importable where the package is not installed: its folder lies beside tsm_fast."""
    if importlib.util.find_spec("tsm_fast.kernels") is None:
        tsm_fast.__path__.append(str(Path(tsm_fast.__file__).parents[1]))


def require_gpu() -> None:
    """Skips without a GPU; fails where FAIL_WITHOUT_CUDA=1 says that there should be one."""
    if torch.cuda.is_available():
        return
    if os.environ.get("FAIL_WITHOUT_CUDA") == "1":
        pytest.fail("FAIL_WITHOUT_CUDA is set, and torch finds no GPU")
    pytest.skip("needs an NVIDIA GPU, and torch finds none")


class OnGpu:
    """Takes what it is given to the GPU, strides and all, and brings the results back."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.name = backend.name
        self.__spec__ = None

    def mode_gram(self, x: Tensor, mode: int, **options: Any) -> Tensor:
        return self._backend.mode_gram(to_gpu(x), mode, **options).cpu()

    def truncated_svd(self, gram: Tensor, rank: int, **options: Any) -> tuple[Tensor, ...]:
        return tuple(result.cpu() for result in self._backend.truncated_svd(to_gpu(gram), rank, **options))

    def core_contraction(self, x: Tensor, factors: Any, modes: Any, **options: Any) -> Tensor:
        return self._backend.core_contraction(to_gpu(x), [to_gpu(f) for f in factors], modes, **options).cpu()

    def hooi(self, x: Tensor, rank: Any, **options: Any) -> HooiResult:
        result = self._backend.hooi(to_gpu(x), rank, **options)
        return HooiResult(*([t.cpu() for t in part] if isinstance(part, list) else part.cpu() for part in result))

    def saliency(self, x: Tensor, method: Any, rank: Any, **options: Any) -> tuple[Tensor, ...]:
        return tuple(result.cpu() for result in self._backend.saliency(to_gpu(x), method, rank, **options))


def to_gpu(x: Tensor) -> Tensor:
    """x on the GPU with the very strides that it has here."""
    whole = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())
    return whole.cuda().as_strided(x.shape, x.stride(), x.storage_offset())
