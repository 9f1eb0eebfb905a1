"""The `Backend` protocol: the six steps, and what their results are.

A backend is a module with the six functions of `Backend`. Their inputs are torch tensors that `checks.py` has
checked; the result dtype is float64 for `precision="float64"` or for float64 input with `precision="auto"`, and
float32 otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

Precision = Literal["auto", "float32", "float64"]
Method = Literal["eigencam", "tsm", "multivec_eigencam", "mtsm"]

N_ITER_MAX = 100  # TensorLy's defaults, also those of HOOI inside `saliency`
TOL = 1e-4


class HooiOptions(NamedTuple):
    """How HOOI departs from its plain form: with a factor for every mode, from the HOSVD, at a feasible rank.

    `start` and `padding` are float64, contiguous for an item, and there where the rank of a mode is not feasible: its
    factor then holds as many singular vectors as there are, and beside them what is left of the columns of `padding`,
    orthonormal and each signed by its entry of largest magnitude.
    """

    modes: Sequence[int]  # rising; the others are left as they are, at the rank of their size
    start: Sequence[Tensor] | None = None  # for each of `modes` [B, I_n, R_n], any numbers but NaN and Inf
    padding: Tensor | None = None  # [B, I_n, R_n less the product of the other ranks]


class HooiResult(NamedTuple):
    """What `Backend.hooi` returns; an item with NaN or Inf has NaN results, `n_sweeps` 0 and `finite` False."""

    core: Tensor  # [B, R_1, ..., R_N]
    factors: list[Tensor]  # for each mode, or those of the options, [B, I_n, R_n]
    singular_values: list[Tensor]  # for the same modes [B, R_n], in the order of the factor columns
    errors: Tensor  # [B, n_iter_max] float64; NaN after an item's last sweep
    n_sweeps: Tensor  # [B] int64
    converged: Tensor  # [B] bool
    finite: Tensor  # [B] bool


class Backend(Protocol):
    """The six steps. `x` is [B, I_1, ..., I_N] in any strides; modes count item modes from 0."""

    name: str

    def mode_gram(self, x: Tensor, mode: int, *, center: bool = False, precision: Precision = "auto") -> Tensor:
        """[B, I_n, I_n], `X_(n) X_(n)^T`; `center` first subtracts the mean over the last mode."""
        ...

    def truncated_svd(self, gram: Tensor, rank: int, *, precision: Precision = "auto") -> tuple[Tensor, Tensor]:
        """Singular values [B, R] and vectors [B, n, R] from a Gram matrix [B, n, n]."""
        ...

    def core_contraction(
        self, x: Tensor, factors: Sequence[Tensor], modes: Sequence[int], *, precision: Precision = "auto"
    ) -> Tensor:
        """`X x_n A_n^T` over the given modes, `factors[i]` being [B, I_n, R_n] for `n = modes[i]`."""
        ...

    def hooi(
        self,
        x: Tensor,
        rank: Sequence[int],
        *,
        n_iter_max: int,
        tol: float,
        sign: str,
        precision: Precision = "auto",
        options: HooiOptions | None = None,
    ) -> HooiResult:
        """The Tucker decomposition of every item; makes room for all `n_iter_max` errors at once.

        `rank` holds one number for every mode, feasible but for the mode that is padded.
        """
        ...

    def saliency(
        self,
        x: Tensor,
        method: Method,
        rank: Sequence[int] | None,
        *,
        center: bool,
        combine: str,
        sign: str,
        relu: bool = True,
        precision: Precision = "auto",
    ) -> tuple[Tensor, Tensor]:
        """Raw maps [B, H, W] and the finite items [B] of features [B, C, H, W]; signed ones without `relu`."""
        ...

    def finish(self, maps: Tensor, size: tuple[int, int] | None, *, normalize: bool) -> Tensor:
        """Maps [B, H, W] resized to [B, *size] and normalised into [0, 1], in their dtype."""
        ...


def result_dtype(dtype: torch.dtype, precision: Precision) -> torch.dtype:
    """The dtype of a result, from the dtype of the input."""
    wide = precision == "float64" or (precision == "auto" and dtype == torch.float64)
    return torch.float64 if wide else torch.float32


def map_noise(maps: Tensor) -> float:
    """The spread, as a part of the largest entry, up to which raw maps [B, H, W], or what they are resized to, count as
    constant: that of some roundings of their entries, and of a float64 eigenvalue problem of size `H * W` at most.
    """
    wide, own = torch.finfo(torch.float64).eps, torch.finfo(maps.dtype).eps
    return 8 * (own + maps.shape[1] * maps.shape[2] * wide)


def peak_range(dtype: torch.dtype) -> tuple[float, float]:
    """Between which the largest magnitude of a raw map has to lie: at least a factor 1 / eps for the map, and another
    one for the gradient of a map that is constant to its last digits; at most what a spread may be twice of.
    """
    limits = torch.finfo(dtype)
    return limits.tiny / limits.eps**2, limits.max / 2
