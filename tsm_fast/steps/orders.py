"""Maps of one or three position modes, over the steps of any backend, which are made for two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .backend import N_ITER_MAX, TOL, Backend, Method, Precision
from .scaling import column_signs, scaled, unit_range


def saliency(
    module: Backend,
    x: Tensor,  # [B, C, *positions]
    method: Method,  # tsm or mtsm
    rank: Sequence[int],
    *,
    combine: str,
    sign: str,
    relu: bool,
    precision: Precision,
    center: bool = False,
) -> tuple[Tensor, Tensor]:
    """Raw maps [B, S, 1] at a rank, and the finite items [B]: `Backend.saliency` from HOOI and a product in float64."""
    if module.name == "reference":
        how = {"center": center, "combine": combine, "sign": sign, "relu": relu, "precision": precision}
        maps, finite = module.saliency(x, method, rank, **how)
        return maps.flatten(1)[..., None], finite
    unit, exponent = unit_range(x)
    result = module.hooi(unit, rank, n_iter_max=N_ITER_MAX, tol=TOL, sign="u", precision="float64")
    responses = module.core_contraction(unit, result.factors[:1], [0], precision="float64").flatten(2).mT  # [B, S, R]
    if method == "tsm":
        responses = responses[:, :, :1]
    if combine == "absolute":
        responses = responses.abs()
    elif sign != "u":
        responses = responses * column_signs(responses)
    maps = responses if method == "tsm" else responses @ result.singular_values[0][:, :, None]
    maps = scaled(maps.abs() if relu else maps, exponent, 1 if method == "tsm" else 2)
    return maps.to(torch.float64 if precision == "float64" else torch.float32), result.finite


def finish(
    module: Backend,
    maps: Tensor,  # [B, H, W], or [B, S, 1] of other than two position modes
    positions: Sequence[int],
    size: Sequence[int] | None,
    *,
    normalize: bool,
) -> Tensor:  # [B, *positions] or [B, *size]
    """`Backend.finish`, linear in one mode or trilinear in three by the same weights: resized mode by mode."""
    if len(positions) == 2:
        return module.finish(maps, None if size is None else (size[0], size[1]), normalize=normalize)
    if len(positions) == 3 and size is not None:
        depth, *frame = positions
        frames = module.finish(maps.reshape(-1, *frame), (size[1], size[2]), normalize=False)
        maps, to = frames.view(len(maps), depth, -1), (size[0], size[1] * size[2])
    else:
        to = None if size is None else (size[0], 1)
    return module.finish(maps, to, normalize=normalize).view(len(maps), *(size or positions))
