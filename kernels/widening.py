"""Features to float64 inside of a kernel, in a way that every Triton compiles."""

from __future__ import annotations

import triton
import triton.language as tl

# Before 3.9 Triton cannot multiply float64 where it finds that an operand was loaded with 16 bits.
HIDDEN: tl.constexpr = tl.constexpr(tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9))


@triton.jit
def widened(loaded, some):
    """What was loaded, in float64; `some` is a number above 0 that the compiler does not know."""
    if HIDDEN and loaded.dtype.primitive_bitwidth == 16:
        # Always taken: the search for what was loaded ends at a branch.
        wide = tl.zeros(loaded.shape, tl.float64)
        if some > 0:
            wide = loaded.to(tl.float64)
        return wide
    else:
        return loaded.to(tl.float64)
