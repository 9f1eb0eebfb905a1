"""What every launcher shares: tile sizes, the arithmetic of a pass, and whether the interpreter runs the kernels."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import torch
import triton
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # triton.jit looks at it when a kernel is defined
MIN_TILE = 16  # the smallest side of a matrix product in Triton
MAX_TILE = 64  # the largest Gram tile that a program keeps in registers
ON_CHIP = 64  # eigenproblems up to this size are solved in registers
BY_KERNELS = 256  # eigenproblems above this size go to a library, see steps/cusolver.py


Step = TypeVar("Step", bound=Callable[..., Any])


def on_device(step: Step) -> Step:
    """The step, with launches on the device of its first argument, whatever the current one is."""

    @wraps(step)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.cuda.device_of(args[0] if args else next(iter(kwargs.values()))):
            return step(*args, **kwargs)

    return run  # type: ignore[return-value]


class Arithmetic(NamedTuple):
    """How a pass over the features multiplies; sums of float32 products are kept in float64 from block to block."""

    wide: bool  # float64 products and sums
    input_precision: str  # of float32 products: "tf32x3", "tf32" (exact for float16 and bfloat16), "ieee"


def arithmetic(x: Tensor, wide: bool, exact: bool = False) -> Arithmetic:
    """The fastest arithmetic within the contract. `exact` says that the products take the elements as they are stored.

    bf16x3 is no candidate: 16 bits of significand leave 8e-6 in every product, where the maps may be off by 2e-5.
    """
    if wide or x.dtype == torch.float64:
        return Arithmetic(True, "ieee")
    if torch.version.hip is not None:
        return Arithmetic(False, "ieee")
    narrow = exact and x.dtype in (torch.float16, torch.bfloat16)
    return Arithmetic(False, "tf32" if narrow else "tf32x3")


def tile(n: int, most: int = MAX_TILE, least: int = MIN_TILE) -> int:
    """The power of two that holds `n`, between `least` and `most`."""
    return max(least, min(most, triton.next_power_of_2(n)))


def warps(elements: int, per_thread: int, most: int = 8) -> int:
    """Warps for tiles of `elements` with about `per_thread` of them a thread, a power of two."""
    return max(1, min(most, triton.next_power_of_2(-(-elements // (32 * per_thread)))))
