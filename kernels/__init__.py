"""The Triton backend: the six steps of `steps.backend.Backend` as batched GPU kernels, one file per step.

The files live in the folder `kernels/` of the repository and are the package `tsm_fast.kernels`. With
TRITON_INTERPRET=1 in the environment before this import, the kernels run in Triton's interpreter on CPU
tensors: slow, and for tests.
"""

from __future__ import annotations

if __name__ != "tsm_fast.kernels":
    raise ImportError(f"this folder is the package tsm_fast.kernels: import it under that name, not as {__name__!r}")

from .core_contraction import core_contraction
from .finish import finish
from .hooi import hooi
from .mode_gram import mode_gram
from .saliency import saliency
from .truncated_svd import truncated_svd

name = "triton"

__all__ = ["core_contraction", "finish", "hooi", "mode_gram", "name", "saliency", "truncated_svd"]
