"""What people use today, each written as well as it can be, on the same input and to the same normalised result.

`torch_*` is plain PyTorch: one batched Gram matrix by `torch.bmm` (both cores), one batched `torch.linalg.eigh`, and
the identity `F^T u_i = sigma_i v_i`, which saves the projection. `torch.linalg.eigh` on a CPU works through the batch
on one core where the matrices are small; `eigh_split` gives each core a part of the batch, so that the peer has both.
`gradcam_eigencam` states the published steps of pytorch-grad-cam 1.5 (MIT): one full SVD per image, in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.shapes import SHAPES, features

Eigh = Callable[[Tensor], tuple[Tensor, Tensor]]
POWER_STEPS = 32  # of power iteration: the second eigenvalue of feature maps is near half of the first


def normalized(maps: Tensor) -> Tensor:  # [B, H, W] -> [B, H, W]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), 0.0)


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))


def eigh_split(gram: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.linalg.eigh` of [B, n, n], the batch divided over Python threads with one torch thread each."""
    threads = torch.get_num_threads()
    parts = list(_pool(threads).map(torch.linalg.eigh, gram.chunk(threads)))
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def leading_by_power(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The leading eigenpair alone, values [B, 1] and vectors [B, n, 1], by power iteration: no eigensolver."""
    vectors = gram.sum(2, keepdim=True)
    for _ in range(POWER_STEPS):
        vectors = torch.nn.functional.normalize(gram @ vectors, dim=1)
    return (vectors.mT @ gram @ vectors)[:, 0], vectors


def tsm_maps(x: Tensor, eigh: Eigh = torch.linalg.eigh) -> Tensor:
    """TSM at full rank: `abs(sigma_1 v_1)`."""
    f = x.flatten(2)  # [B, C, S]
    if f.shape[1] >= f.shape[2]:
        values, vectors = eigh(f.mT @ f)
        maps = (vectors[:, :, -1] * values[:, -1:].clamp(min=0).sqrt()).abs()
    else:
        _, vectors = eigh(f @ f.mT)
        maps = (vectors[:, None, :, -1] @ f)[:, 0].abs()
    return maps.unflatten(1, x.shape[2:])


def eigencam_maps(x: Tensor, eigh: Eigh = torch.linalg.eigh) -> Tensor:
    """EigenCAM: centred, the sign that makes the entry of largest magnitude positive, negative part cut off."""
    f = x.flatten(2)
    f = f - f.mean(2, keepdim=True)
    if f.shape[1] >= f.shape[2]:
        values, vectors = eigh(f.mT @ f)
        maps = vectors[:, :, -1] * values[:, -1:].clamp(min=0).sqrt()
    else:
        _, vectors = eigh(f @ f.mT)
        maps = (vectors[:, None, :, -1] @ f)[:, 0]
    return _most_positive(maps).clamp(min=0).unflatten(1, x.shape[2:])


def mtsm_maps(x: Tensor, eigh: Eigh = torch.linalg.eigh, *, center: bool = False) -> Tensor:
    """MTSM (or Multivec-EigenCAM with `center`) at full rank, signed by the largest entry of each left vector."""
    f = x.flatten(2)
    if center:
        f = f - f.mean(2, keepdim=True)
    if f.shape[1] >= f.shape[2]:
        values, vectors = eigh(f.mT @ f)
        left = vectors.mT @ f.mT  # [B, S, C]: rows u_i sigma_i, faster to reduce than columns
        signs = torch.where(-left.amin(2) > left.amax(2), -1.0, 1.0)
        maps = (vectors @ (values.clamp(min=0) * signs)[:, :, None])[:, :, 0].abs()
    else:
        values, vectors = eigh(f @ f.mT)
        low, high = torch.aminmax(vectors, dim=1)
        weights = values.clamp(min=0).sqrt() * torch.where(-low > high, -1.0, 1.0)
        maps = ((vectors @ weights[:, :, None]).mT @ f)[:, 0].abs()
    return maps.unflatten(1, x.shape[2:])


def svd_tsm_maps(x: Tensor) -> Tensor:
    """TSM at full rank by one batched SVD of the features, without a Gram matrix."""
    _, s, vh = torch.linalg.svd(x.flatten(2), full_matrices=False)
    return (s[:, :1] * vh[:, 0]).abs().unflatten(1, x.shape[2:])


def gradcam_eigencam_maps(x: Tensor) -> Tensor:
    """EigenCAM by the steps of pytorch-grad-cam on the tensor's own device: one full SVD an image; a sign for its free
    one."""
    maps = []
    for f in x.flatten(2).mT:  # [S, C]
        f = f - f.mean(0)
        _, _, vh = torch.linalg.svd(f, full_matrices=True)
        maps.append(f @ vh[0])
    return _most_positive(torch.stack(maps)).clamp(min=0).unflatten(1, x.shape[2:])


def _most_positive(maps: Tensor) -> Tensor:
    """Of either sign that with the larger maximum: maps [B, S]."""
    low, high = torch.aminmax(maps, dim=1, keepdim=True)
    return torch.where(-low > high, -maps, maps)


def torch_tsm(x: Tensor, eigh: Eigh = torch.linalg.eigh) -> Tensor:
    return normalized(tsm_maps(x, eigh))


def torch_eigencam(x: Tensor, eigh: Eigh = torch.linalg.eigh) -> Tensor:
    return normalized(eigencam_maps(x, eigh))


def torch_mtsm(x: Tensor, eigh: Eigh = torch.linalg.eigh) -> Tensor:
    return normalized(mtsm_maps(x, eigh))


def torch_multivec_eigencam(x: Tensor, eigh: Eigh = torch.linalg.eigh) -> Tensor:
    return normalized(mtsm_maps(x, eigh, center=True))


def gradcam_eigencam(x: np.ndarray) -> np.ndarray:  # [B, C, H, W] -> [B, H, W]
    """EigenCAM by the steps of pytorch-grad-cam, up to its free sign."""
    x = np.where(np.isnan(x), 0, x)
    maps = []
    for item in x:
        f = item.reshape(item.shape[0], -1).T  # [S, C]
        f = f - f.mean(axis=0)
        _, _, vh = np.linalg.svd(f, full_matrices=True)
        projection = (f @ vh[0]).reshape(item.shape[1:])
        projection = np.maximum(projection, 0)
        projection = projection - projection.min()
        maps.append(projection / (1e-7 + projection.max()))
    return np.stack(maps).astype(np.float32)


def tensorly_tucker(x: np.ndarray, rank: tuple[int, ...]) -> list:
    """TensorLy's `tucker`, image by image, on the NumPy backend (its default)."""
    from tensorly.decomposition import tucker

    return [tucker(item, rank=rank) for item in x]


def tensorly_tucker_on_device(x: Tensor, rank: tuple[int, ...]) -> Tensor:
    """TensorLy's `tucker`, image by image, on its PyTorch backend: the mode-1 singular values [B, R]."""
    tensorly: Any = import_module("tensorly")
    tucker = import_module("tensorly.decomposition").tucker

    with tensorly.backend_context("pytorch", local_threadsafe=True):
        cores = [tucker(item, rank=rank)[0] for item in x]
    return torch.stack([torch.linalg.vector_norm(core.flatten(1), dim=1) for core in cores])


def tensorly_tsm(x: np.ndarray, rank: tuple[int, ...]) -> np.ndarray:
    """TSM by its definition: TensorLy's `tucker` of every image, then `abs(X x_1 a_1^T)`."""
    maps = [
        np.abs(np.tensordot(factors[0][:, 0], item, axes=(0, 0)))
        for item, (_, factors) in zip(x, tensorly_tucker(x, rank), strict=True)
    ]
    return normalized(torch.from_numpy(np.stack(maps))).numpy()


# The truth: float64, singular value decompositions of the unfoldings, no Gram matrix.


@lru_cache
def exact_svd(shape: str, count: int, center: bool) -> tuple[Tensor, Tensor, Tensor]:
    """U [count, C, n], S [count, n] and Vh [count, n, S] of the unfolded items of a shape, (centred,) in float64."""
    f = features(shape, count).flatten(2).double()
    if center:
        f = f - f.mean(2, keepdim=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these matrices are too small for LAPACK's threads
    u, s, vh = torch.linalg.svd(f, full_matrices=False)
    torch.set_num_threads(threads)
    return u, s, vh


def exact_maps(shape: str, count: int, method: str) -> tuple[Tensor, Tensor]:
    """Normalised float64 maps [B, H, W] at full rank, and the items [B] without a tie in the sign of a vector."""
    u, s, vh = exact_svd(shape, count, method.endswith("eigencam"))
    clear = torch.ones(len(u), dtype=torch.bool)
    if method == "tsm":
        maps = (s[:, :1] * vh[:, 0]).abs()
    elif method == "eigencam":
        maps = s[:, :1] * vh[:, 0]
        low, high = torch.aminmax(maps, dim=1, keepdim=True)
        maps = torch.where(-low > high, -maps, maps).clamp(min=0)
    else:
        low, high = torch.aminmax(u, dim=1)
        clear = ((high + low).abs() > 1e-5).all(1)
        signs = torch.where(-low > high, -1.0, 1.0)
        maps = ((s**2 * signs)[:, None] @ vh)[:, 0].abs()
    return normalized(maps.unflatten(1, SHAPES[shape][1:3])), clear


def statistics(shape: str, count: int) -> dict[str, float]:
    """What makes the numbers easy or hard: zeros, range and spectrum (medians over the items)."""
    x = features(shape)
    s, centered = exact_svd(shape, count, False)[1], exact_svd(shape, count, True)[1]
    return {
        "zeros": float((x == 0).double().mean()),
        "minimum": float(x.min()),
        "maximum": float(x.max()),
        "sigma_2 / sigma_1": float((s[:, 1] / s[:, 0]).median()),
        "sigma_2 / sigma_1 centred": float((centered[:, 1] / centered[:, 0]).median()),
        "sigma_last / sigma_1": float((s[:, -1] / s[:, 0]).median()),
    }
