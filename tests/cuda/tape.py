"""A stand-in for CUDA graphs: what is done to CPU tensors while one is captured, kept and done again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tsm_fast import _graphs
from tsm_fast.steps.capture import as_captured

from .waits import WAITS


class Tape(TorchDispatchMode):
    """In the place of torch.cuda.CUDAGraph: operations of PyTorch and launches, in their order, on the same memory."""

    running: Tape | None = None

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Callable[..., Any], Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in WAITS, "a GPU would refuse to wait while a graph is captured"
        return self.keep(func, args, kwargs or {})

    def keep(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        self.done.append((function, args, kwargs, result))
        return result

    def replay(self) -> None:
        for function, args, kwargs, result in self.done:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Recorded:
    """A compiled module whose functions are kept by the tape that runs."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._compiled, name)
        if not callable(found):
            return found
        return lambda *args, **kwargs: (
            Tape.running.keep(found, args, kwargs) if Tape.running else found(*args, **kwargs)
        )


@contextmanager
def _capturing(tape: Tape, **_: Any) -> Iterator[None]:
    Tape.running = tape
    try:
        with tape, as_captured():
            yield
    finally:
        Tape.running = None


def in_place_of_graphs(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tsm_fast._graphs` captures the calls of a backend on CPU tensors."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    stands = {
        "CUDAGraph": Tape,
        "graph": _capturing,
        "graph_pool_handle": lambda: (0, 1),
        "Stream": lambda device: stream,
        "current_stream": lambda device: stream,
        "stream": lambda stream: nullcontext(),
    }
    for name, stand in stands.items():
        monkeypatch.setattr(torch.cuda, name, stand)
    monkeypatch.setattr(cuda, "_cuda", Recorded(cuda._cuda))
    monkeypatch.setattr(_graphs, "DEVICE", "cpu")
