"""`saliency`: maps from the eigenpairs of the smaller Gram matrix of the features F [C, S].

By position (S <= C) `F^T u_i = sigma_i v_i` gives the maps without a second pass, and only the signs of the u_i take
one, which keeps extremes and writes no product. By channel the combination of the u_i is projected in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..steps.backend import Method, Precision
from ..steps.capture import refuse_above
from ..steps.scaling import column_signs, scaled, unit_range
from .core_contraction import mode_product
from .hooi import responses
from .launch import ON_CHIP, on_device
from .mode_gram import gram
from .products import absolute_sum, extremes
from .truncated_svd import Leading, eigh, leading_pair


@on_device
def saliency(
    x: Tensor,  # [B, C, H, W]
    method: Method,
    rank: Sequence[int] | None,
    *,
    center: bool,
    combine: str,
    sign: str,
    relu: bool = True,
    precision: Precision = "auto",
) -> tuple[Tensor, Tensor]:
    """Raw maps [B, H, W] and the finite items [B] (see `reference.saliency`)."""
    dtype = torch.float64 if precision == "float64" else torch.float32
    if not len(x):
        return x.new_empty(0, *x.shape[2:], dtype=dtype), x.new_ones(0, dtype=torch.bool)
    if rank is None:
        refuse_above(ON_CHIP, min(x.shape[1], x.shape[2] * x.shape[3]), x)
    unit, exponent = unit_range(x)
    power = 1 if method in ("eigencam", "tsm") else 2
    if rank is None:
        features = unit.flatten(2)  # [B, C, S], a view where the strides allow it, else one copy
        centers = center and method in ("eigencam", "multivec_eigencam")
        if power == 1:
            maps = _single(features, method, centers, sign, relu, precision)
        else:
            maps = _combined(features, centers, combine, sign, relu)
    else:
        maps = _truncated(unit, method, rank, combine, sign, relu)
    maps = scaled(maps, exponent, power)
    finite = ~maps.isnan().any(1)
    return maps.view(len(x), *x.shape[2:]).to(dtype), finite


def _single(features: Tensor, method: Method, center: bool, sign: str, relu: bool, precision: Precision) -> Tensor:
    """The maps [B, S] of `eigencam` and `tsm` at full rank, float64."""
    by_position = features.shape[2] <= features.shape[1]
    matrix = features.mT if by_position else features
    pair = _leading(matrix, ("rows" if by_position else "depth") if center else None, precision)
    if by_position:
        maps = pair.value.clamp(min=0).sqrt()[:, None] * pair.vector
    else:
        maps = mode_product(features, pair.vector[:, :, None], 0, torch.float64)[:, 0]
    if method == "tsm" and relu:
        return maps.abs()
    total = maps.sum(1)  # of the uncentred responses, by channel
    if center and not by_position:
        maps = maps - maps.mean(1, keepdim=True)
    if sign in ("absmax", "v"):
        decided = column_signs(maps[..., None])[:, 0, 0]
    elif sign == "u":
        # By channel the solver has signed u_1.
        decided = torch.ones_like(total)
        if by_position:
            decided = extremes(features, _less_mean(pair.vector[..., None], center))[:, 0]
    elif by_position:
        ones = torch.ones_like(pair.vector)
        sides = torch.stack([ones, _less_mean(pair.vector[..., None], center)[..., 0]], 2)
        sums = mode_product(features, sides, 1, torch.float64)  # [B, C, 2]
        decided = (sums[..., 0] * sums[..., 1]).sum(1)
    else:
        decided = total
    maps = torch.where(decided < 0, -1.0, 1.0)[:, None].mul(maps)
    return maps.clamp(min=0) if relu else maps


def _leading(matrix: Tensor, center: str | None, precision: Precision) -> Leading:
    """The leading pair of `M M^T`, by float32 products where its gap and its range allow it, else by float64 ones.

    Both passes are always launched; the second leaves the items alone that the first has done.
    """
    if matrix.dtype == torch.float64 or precision == "float64" or matrix.shape[1] > ON_CHIP:
        return leading_pair(gram(matrix, wide=True, center=center))
    g = gram(matrix, wide=False, center=center)
    pair = leading_pair(g)
    again = ~((pair.value > 1e-20) & (pair.value < 1e30))
    if precision == "auto":
        # Rounding of 1e-7 turns the vector by 1e-7 / gap; a map is normalised to its range, and so is its error.
        gap = 1 - pair.second / pair.value
        spread = pair.vector.amax(1) - pair.vector.amin(1)
        again |= ~((gap > 0.1) & (1e-5 * spread * gap > 1e-7))
    return leading_pair(gram(matrix, wide=True, center=center, only=again, out=g), only=again, out=pair)


def _combined(features: Tensor, center: bool, combine: str, sign: str, relu: bool) -> Tensor:
    """The maps [B, S] of `multivec_eigencam` and `mtsm` at full rank, float64."""
    channels, positions = features.shape[1:]
    by_position = positions <= channels
    matrix = features.mT if by_position else features
    g = gram(matrix, wide=True, center=("rows" if by_position else "depth") if center else None)
    weights, vectors = eigh(g, min(channels, positions))
    weights = weights.clamp(min=0)  # [B, n], sigma^2: one sigma is in F^T u_i = sigma_i v_i
    if by_position:
        if combine == "absolute":
            return (vectors.abs() @ weights[..., None])[..., 0]
        if sign == "u":
            decided = extremes(features, _less_mean(vectors, center))
            weights = torch.where(decided < 0, -weights, weights)
        maps = (vectors @ weights[..., None])[..., 0]
        return maps.abs() if relu else maps
    weights = weights.sqrt()
    # F_c^T u = F^T u less its mean over the positions, which is this
    means = features.mean(2, keepdim=True, dtype=torch.float64).mT @ vectors if center else None  # [B, 1, n]
    if combine == "absolute":
        return absolute_sum(features.mT, vectors, weights, means)
    if sign == "v":
        weights = torch.where(extremes(features.mT, vectors, means) < 0, -weights, weights)
    maps = mode_product(features, vectors @ weights[..., None], 0, torch.float64)[:, 0]
    maps = maps - maps.mean(1, keepdim=True) if center else maps
    return maps.abs() if relu else maps


def _truncated(x: Tensor, method: Method, rank: Sequence[int], combine: str, sign: str, relu: bool) -> Tensor:
    """The maps [B, S] of `tsm` and `mtsm` at a rank, float64."""
    projections, values = responses(x, rank)  # [B, R, S] float64, signed by `u`, and [B, R]
    if method == "tsm":
        first = projections[:, 0]
        if relu:
            return first.abs()
        return first * column_signs(first[..., None])[:, 0] if sign in ("v", "absmax") else first
    if combine == "absolute":
        return (values[:, None] @ projections.abs())[:, 0]
    if sign == "v":
        values = values * column_signs(projections.mT)[:, 0]
    maps = (values[:, None] @ projections)[:, 0]
    return maps.abs() if relu else maps


def _less_mean(vectors: Tensor, center: bool) -> Tensor:
    """`F_c v = F (v - mean(v))`: vectors [B, S, R] less their mean where the features are to be centred."""
    return vectors - vectors.mean(1, keepdim=True) if center else vectors
