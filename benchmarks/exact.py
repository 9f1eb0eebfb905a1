"""The truth: float64, singular value decompositions of the unfoldings, no Gram matrix."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.shapes import SHAPES, features
from tsm_fast.bench import peers


@lru_cache
def svd(shape: str, count: int, center: bool) -> tuple[Tensor, Tensor, Tensor]:
    """U [count, C, n], S [count, n] and Vh [count, n, S] of the unfolded items of a shape, (centred,) in float64."""
    f = features(shape, count).flatten(2).double()
    if center:
        f = f - f.mean(2, keepdim=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these matrices are too small for LAPACK's threads
    u, s, vh = torch.linalg.svd(f, full_matrices=False)
    torch.set_num_threads(threads)
    return u, s, vh


def maps(shape: str, count: int, method: str) -> tuple[Tensor, Tensor]:
    """Normalised float64 maps [B, H, W] at full rank, and the items [B] without a tie in the sign of a vector."""
    u, s, vh = svd(shape, count, method.endswith("eigencam"))
    clear = torch.ones(len(u), dtype=torch.bool)
    if method == "tsm":
        maps = (s[:, :1] * vh[:, 0]).abs()
    elif method == "eigencam":
        maps = peers.most_positive(s[:, :1] * vh[:, 0]).clamp(min=0)
    else:
        low, high = torch.aminmax(u, dim=1)
        clear = ((high + low).abs() > 1e-5).all(1)
        signs = torch.where(-low > high, -1.0, 1.0)
        maps = ((s**2 * signs)[:, None] @ vh)[:, 0].abs()
    return peers.normalized(maps.unflatten(1, SHAPES[shape][1:3])), clear


def statistics(shape: str, count: int) -> dict[str, float]:
    """What makes the numbers easy or hard: zeros, range and spectrum (medians over the items)."""
    x = features(shape)
    s, centered = svd(shape, count, False)[1], svd(shape, count, True)[1]
    return {
        "zeros": float((x == 0).double().mean()),
        "minimum": float(x.min()),
        "maximum": float(x.max()),
        "sigma_2 / sigma_1": float((s[:, 1] / s[:, 0]).median()),
        "sigma_2 / sigma_1 centred": float((centered[:, 1] / centered[:, 0]).median()),
        "sigma_last / sigma_1": float((s[:, -1] / s[:, 0]).median()),
    }
