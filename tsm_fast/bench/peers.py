"""What people use today, each written as well as it can be, on the same input [B, C, H, W] and to the same result.

`PYTORCH` is plain PyTorch at full rank: one batched Gram matrix by `torch.bmm`, one batched `torch.linalg.eigh` (or
what takes its place), and the identity `F^T u_i = sigma_i v_i`, which saves the projection. `torch.linalg.eigh` on a
CPU works through the batch on one core where the matrices are small; `eigh_split` gives each core a part of the batch.
`gradcam_eigencam` states the published steps of pytorch-grad-cam 1.5 (MIT): one full SVD per image, in NumPy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

Eigh = Callable[[Tensor], tuple[Tensor, Tensor]]
POWER_STEPS = 32  # of power iteration: the second eigenvalue of feature maps is near half of the first


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


def tsm(x: Tensor, eigh: Eigh = torch.linalg.eigh) -> Tensor:
    """`abs(sigma_1 v_1)`."""
    return _leading(x.flatten(2), eigh).abs().unflatten(1, x.shape[2:])


def eigencam(x: Tensor, eigh: Eigh = torch.linalg.eigh) -> Tensor:
    """Centred, the sign that makes the entry of largest magnitude positive, negative part cut off."""
    maps = _leading(_centered(x).flatten(2), eigh)
    return most_positive(maps).clamp(min=0).unflatten(1, x.shape[2:])


def multivec_eigencam(x: Tensor, eigh: Eigh = torch.linalg.eigh) -> Tensor:
    return mtsm(_centered(x), eigh)


def mtsm(x: Tensor, eigh: Eigh = torch.linalg.eigh) -> Tensor:
    """`abs(sum_i sigma_i^2 v_i)`, signed by the largest entry of each left vector."""
    f = x.flatten(2)
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


PYTORCH: dict[str, Callable[..., Tensor]] = {
    "eigencam": eigencam,
    "tsm": tsm,
    "multivec_eigencam": multivec_eigencam,
    "mtsm": mtsm,
}


def torch_maps(method: str, x: Tensor, eigh: Eigh = torch.linalg.eigh) -> Tensor:
    """A map of `PYTORCH` as the public function of that name gives it: in 0..1."""
    return normalized(PYTORCH[method](x, eigh))


def normalized(maps: Tensor) -> Tensor:  # [B, H, W] -> [B, H, W]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), 0.0)


def _centered(x: Tensor) -> Tensor:
    return x - x.mean((2, 3), keepdim=True)


def _leading(f: Tensor, eigh: Eigh) -> Tensor:  # [B, C, S] -> [B, S]
    """`sigma_1 v_1` of each item, of either sign, by the smaller of its Gram matrices."""
    if f.shape[1] >= f.shape[2]:
        values, vectors = eigh(f.mT @ f)
        return vectors[:, :, -1] * values[:, -1:].clamp(min=0).sqrt()
    _, vectors = eigh(f @ f.mT)
    return (vectors[:, None, :, -1] @ f)[:, 0]


def most_positive(maps: Tensor) -> Tensor:
    """Of either sign that with the larger maximum: maps [B, S]."""
    low, high = torch.aminmax(maps, dim=1, keepdim=True)
    return torch.where(-low > high, -maps, maps)


def svd_tsm(x: Tensor) -> Tensor:
    """TSM at full rank by one batched SVD of the features, without a Gram matrix."""
    _, s, vh = torch.linalg.svd(x.flatten(2), full_matrices=False)
    return (s[:, :1] * vh[:, 0]).abs().unflatten(1, x.shape[2:])


def gradcam_eigencam_on_device(x: Tensor) -> Tensor:
    """EigenCAM by the steps of pytorch-grad-cam where the tensor is: one full SVD an image; a sign for its free one."""
    maps = []
    for f in x.flatten(2).mT:  # [S, C]
        f = f - f.mean(0)
        _, _, vh = torch.linalg.svd(f, full_matrices=True)
        maps.append(f @ vh[0])
    return most_positive(torch.stack(maps)).clamp(min=0).unflatten(1, x.shape[2:])


def gradcam_eigencam(x: np.ndarray) -> np.ndarray:  # -> [B, H, W] in 0..1
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


def tensorly_tucker(x: Any, rank: tuple[int, ...]) -> list[tuple[Any, list[Any]]]:
    """TensorLy's `tucker`, image by image: core and factors, on its NumPy backend, for a tensor on that of PyTorch."""
    tensorly: Any = import_module("tensorly")
    tucker = import_module("tensorly.decomposition").tucker

    backend = "pytorch" if isinstance(x, Tensor) else "numpy"
    with tensorly.backend_context(backend, local_threadsafe=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # more singular vectors asked for than there are, at full rank
        return [tuple(tucker(item, rank=rank)) for item in x]


def tensorly_maps(item: np.ndarray, core: np.ndarray, factors: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The maps [H, W] that follow by their definitions from the decomposition of an image [C, H, W]."""
    values = np.linalg.norm(core.reshape(len(core), -1), axis=1)  # [R]
    weights = {"tsm": factors[0][:, 0], "mtsm": factors[0] @ values}  # [C]
    return {name: np.abs(np.tensordot(own, item, (0, 0))) for name, own in weights.items()}
