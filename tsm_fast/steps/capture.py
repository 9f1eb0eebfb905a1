"""Whether work goes into a CUDA graph that is being captured: the host can then look at nothing that is computed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class _Thread(threading.local):
    unseen = False


_thread = _Thread()


def is_captured(x: Tensor) -> bool:
    """Whether what is done with x goes into a graph: nobody may wait for a value of it."""
    if _thread.unseen:
        return True
    if not x.is_cuda:
        return False
    with torch.cuda.device(x.device):
        return torch.cuda.is_current_stream_capturing()


@contextmanager
def as_captured() -> Iterator[None]:
    """The calls of this thread do what they do while a graph is captured."""
    before = _thread.unseen
    _thread.unseen = True
    try:
        yield
    finally:
        _thread.unseen = before


def refuse(x: Tensor, what: str, instead: str = "call it without a graph") -> None:
    """RuntimeError for what asks the host, where a graph is being captured."""
    if is_captured(x):
        raise RuntimeError(f"{what} waits for the GPU, which cannot be while a CUDA graph is captured: {instead}")


def refuse_above(most: int, n: int, x: Tensor) -> None:
    """RuntimeError for an eigenvalue problem of n above what a backend solves without asking the host."""
    if n > most:
        refuse(x, f"an eigenvalue problem of n = {n} (in this backend: above {most})")
