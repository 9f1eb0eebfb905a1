"""How much of the features the first vectors hold: the singular values behind the maps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..decomposition import truncated_svd, tucker
from ..steps import checks
from ..steps.scaling import unfold


class Spectrum(NamedTuple):
    """Singular values of each item, non-increasing, and what they say; NaN for an item of zeros."""

    values: Tensor  # [B, K]
    share: Tensor  # [B, K] value / sum of values
    energy: Tensor  # [B, K] value^2 / |X|^2
    gap: Tensor  # [B] first / second: 1 is a tie; infinite where there is no second


def spectrum(
    features: Tensor,  # [B, C, *positions]
    decomposition: str = "svd",
    *,
    mode: int = 0,
    rank: checks.Rank = None,
    center: bool = False,
) -> Spectrum:
    """The singular values of a mode of the features, by the SVD of their unfolding or by their Tucker decomposition.

    Figures 2 and 3 of the paper of TSM (arXiv 2410.23072) show `share[:, 0]` and `share[:, :5]` of both. A share
    divides by a sum, and a truncated decomposition has fewer values to sum: `energy` divides by `|X|^2`, and is
    comparable. At full rank (`rank=None`) both decompositions have the same values. Where `gap` is near 1 a map of the
    first vector is arbitrary.

    Args:
        features: `[B, C, *positions]`, float, with one to three position modes.
        decomposition: "svd", or "tucker" (`tsm_fast.tucker` at `rank`).
        mode: of which unfolding; 0 is the channels, whose vectors make the maps.
        rank: for "tucker": None (full) or as in `tsm_fast.tucker`.
        center: subtract from each channel its mean over positions, as `eigencam` does.

    Returns:
        A `Spectrum`, float32, or float64 for float64 features.

    Raises:
        TypeError, ValueError: features are no float tensor `[B, C, *positions]`, hold NaN or Inf, or a wrong option.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> features = torch.rand(2, 64, 7, 7)
    >>> svd, small = metrics.spectrum(features), metrics.spectrum(features, "tucker", rank=(8, 4, 4))
    >>> svd.values.shape, small.values.shape, bool((small.share[:, 0] > svd.share[:, 0]).all())
    (torch.Size([2, 49]), torch.Size([2, 8]), True)
    """
    checks.choice("decomposition", decomposition, ("svd", "tucker"))
    checks.flag("center", center)
    if not isinstance(features, Tensor) or not features.is_floating_point():
        raise TypeError("features must be a float tensor [B, C, *positions]")
    checks.features(features)
    if decomposition == "svd" and rank is not None:
        raise ValueError(f"rank is for decomposition='tucker', got {rank} for 'svd'")
    x = features.detach()
    number = checks.mode(mode, x.ndim - 1)
    if center:
        wide = x.double()
        x = (wide - wide.flatten(2).mean(2).view(*x.shape[:2], *(1,) * (x.ndim - 2))).to(x.dtype)
    values = truncated_svd(unfold(x, number))[1] if decomposition == "svd" else tucker(x, rank).singular_values[number]
    wide = values.double()
    total = x.double().flatten(1).square().sum(1, keepdim=True)
    second = wide[:, 1] if wide.shape[1] > 1 else torch.zeros_like(wide[:, 0])
    found = wide / wide.sum(1, keepdim=True), wide**2 / total, wide[:, 0] / second
    return Spectrum(values, *(one.to(values.dtype) for one in found))
