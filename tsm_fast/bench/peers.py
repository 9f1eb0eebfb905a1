"""What people use today, each written as well as it can be, on the same input [B, C, H, W] and to the same result.

`PYTORCH` is plain PyTorch at full rank: one batched Gram matrix by `torch.bmm`, one batched `torch.linalg.eigh` (or
what takes its place), and the identity `F^T u_i = sigma_i v_i`, which saves the projection. `torch.linalg.eigh` on a
CPU works through the batch on one core where the matrices are small; `eigh_split` gives each core a part of the batch.
`gradcam_projection` states the published steps of pytorch-grad-cam 1.5 (MIT): one full SVD per image, in NumPy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
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


def normalized(maps: Tensor) -> Tensor:  # [B, *positions], to 0..1
    low, high = (end.reshape(-1, *(1,) * (maps.ndim - 1)) for end in torch.aminmax(maps.flatten(1), dim=1))
    return torch.where(high > low, (maps - low) / (high - low), 0.0)


def _centered(x: Tensor) -> Tensor:
    return x - x.flatten(2).mean(2).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))


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


def svd_maps(method: str, x: Tensor) -> Tensor:
    """A map of `PYTORCH` by one batched SVD of the features, without a Gram matrix."""
    f = (_centered(x) if method.endswith("eigencam") else x).flatten(2)
    u, s, vh = torch.linalg.svd(f, full_matrices=False)
    if method == "tsm":
        maps = (s[:, :1] * vh[:, 0]).abs()
    elif method == "eigencam":
        maps = most_positive(s[:, :1] * vh[:, 0]).clamp(min=0)
    else:
        low, high = torch.aminmax(u, dim=1)
        maps = ((s**2 * torch.where(-low > high, -1.0, 1.0))[:, None] @ vh)[:, 0].abs()
    return maps.unflatten(1, x.shape[2:])


def gradcam_eigencam_on_device(x: Tensor) -> Tensor:
    """EigenCAM by the steps of pytorch-grad-cam where the tensor is: one full SVD an image; a sign for its free one."""
    maps = []
    for f in x.flatten(2).mT:  # [S, C]
        f = f - f.mean(0)
        _, _, vh = torch.linalg.svd(f, full_matrices=True)
        maps.append(f @ vh[0])
    return most_positive(torch.stack(maps)).clamp(min=0).unflatten(1, x.shape[2:])


def gradcam_projection(x: np.ndarray) -> np.ndarray:  # [B, C, H, W] -> [B, H, W]
    """The projection that EigenCAM of pytorch-grad-cam shows, by its published steps, up to its free sign."""
    x = np.where(np.isnan(x), 0, x)
    maps = []
    for item in x:
        f = item.reshape(item.shape[0], -1).T  # [S, C]
        f = f - f.mean(axis=0)
        _, _, vh = np.linalg.svd(f, full_matrices=True)
        maps.append((f @ vh[0]).reshape(item.shape[1:]))
    return np.stack(maps).astype(np.float32)


def numpy_leading(f: np.ndarray) -> np.ndarray:  # [B, C, S] -> [B, S]
    """`sigma_1 v_1` by Gram matrices and LAPACK's `syevd`."""
    if f.shape[1] >= f.shape[2]:
        values, vectors = np.linalg.eigh(f.mT @ f)
        return vectors[:, :, -1] * np.sqrt(np.maximum(values[:, -1:], 0))
    vectors = np.linalg.eigh(f @ f.mT)[1]
    return (vectors[:, None, :, -1] @ f)[:, 0]


def scipy_leading(f: np.ndarray) -> np.ndarray:  # [B, C, S] -> [B, S]
    """The same by `syevr`, asked for the last pair alone, item by item."""
    eigh = import_module("scipy.linalg").eigh
    rows = []
    for item in f:
        wide = item.shape[0] < item.shape[1]
        gram = item @ item.T if wide else item.T @ item
        last = len(gram) - 1
        values, vectors = eigh(gram, subset_by_index=[last, last], driver="evr", check_finite=False)
        rows.append(vectors[:, 0] @ item if wide else vectors[:, 0] * np.sqrt(max(values[0], 0)))
    return np.stack(rows)


def scipy_eigenpairs(gram: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:  # [B, n, n]
    """The last `rank` eigenpairs of each matrix by `syevr`, ascending."""
    eigh = import_module("scipy.linalg").eigh
    n = gram.shape[-1]
    found = [eigh(g, subset_by_index=[n - rank, n - 1], driver="evr", check_finite=False) for g in gram]
    return np.stack([values for values, _ in found]), np.stack([vectors for _, vectors in found])


def jax_maps(method: str) -> Callable[[Any], Any]:
    """A map of `PYTORCH`, normalised, of a JAX array [B, C, *positions], compiled by `jax.jit`."""
    jax, jnp = import_module("jax"), import_module("jax.numpy")

    def maps(x: Any) -> Any:
        f = x.reshape(*x.shape[:2], -1)
        f = f - f.mean(2, keepdims=True) if method.endswith("eigencam") else f
        wide = f.shape[1] < f.shape[2]
        values, vectors = jnp.linalg.eigh(f @ f.mT if wide else f.mT @ f)
        sigma = jnp.sqrt(jnp.maximum(values, 0))
        if method in ("tsm", "eigencam"):
            raw = (vectors[:, None, :, -1] @ f)[:, 0] if wide else vectors[:, :, -1] * sigma[:, -1:]
            flipped = jnp.where(-raw.min(1, keepdims=True) > raw.max(1, keepdims=True), -raw, raw)
            raw = jnp.abs(raw) if method == "tsm" else jnp.maximum(flipped, 0)
        else:
            left = vectors if wide else f @ vectors  # columns u_i, or u_i sigma_i
            signs = jnp.where(-left.min(1) > left.max(1), -1.0, 1.0)
            raw = vectors @ ((sigma * signs if wide else values * signs)[:, :, None])
            raw = jnp.abs((raw.mT @ f)[:, 0] if wide else raw[:, :, 0])
        low, high = raw.min(1, keepdims=True), raw.max(1, keepdims=True)
        return ((raw - low) / (high - low)).reshape(len(x), *x.shape[2:])

    compiled = jax.jit(maps)
    return lambda x: compiled(x).block_until_ready()


def left_vectors(m: Tensor, rank: int) -> Tensor:  # [B, M, N] -> [B, M, R]
    """By the smaller Gram matrix."""
    if m.shape[1] <= m.shape[2]:
        return torch.linalg.eigh(m @ m.mT)[1][:, :, -rank:].flip(-1)
    right = torch.linalg.eigh(m.mT @ m)[1][:, :, -rank:].flip(-1)
    return torch.nn.functional.normalize(m @ right, dim=1)


def mode_product(x: Tensor, a: Tensor, mode: int) -> Tensor:  # [B, ..., I, ...], [B, I, R] -> [B, ..., R, ...]
    y = x.movedim(mode + 1, 1)
    return (a.mT @ y.flatten(2)).unflatten(2, y.shape[2:]).movedim(1, mode + 1)


def contracted(x: Tensor, factors: Sequence[Tensor], skip: int | None = None) -> Tensor:
    """`x` times every factor, the channels first."""
    for mode, a in enumerate(factors):
        x = x if mode == skip else mode_product(x, a, mode)
    return x


def torch_hosvd(x: Tensor, rank: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """The HOSVD of a batch in plain PyTorch: core and factors."""
    factors = [left_vectors(x.movedim(mode + 1, 1).flatten(2), r) for mode, r in enumerate(rank)]
    return contracted(x, factors), factors


def torch_tucker(x: Tensor, rank: Sequence[int], limit: int = 100, tol: float = 1e-4) -> tuple[Tensor, list[Tensor]]:
    """HOOI of a batch in plain PyTorch: every item sweeps until the last has converged."""
    core, factors = torch_hosvd(x, rank)
    size, before = x.flatten(1).norm(dim=1), None
    for _ in range(limit):
        for mode, r in enumerate(rank):
            partly = contracted(x, factors, skip=mode)
            factors[mode] = left_vectors(partly.movedim(mode + 1, 1).flatten(2), r)
            core = mode_product(partly, factors[mode], mode)
        error = (size**2 - core.flatten(1).norm(dim=1) ** 2).clamp(min=0).sqrt() / size
        if before is not None and bool(((error - before).abs() < tol).all()):
            break
        before = error
    return core, factors


def gram_svd(m: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:  # [B, M, N]
    """The leading singular triplets by the smaller Gram matrix: quick, and wrong in the small ones."""
    if m.shape[1] < m.shape[2]:
        u, s, vh = gram_svd(m.mT, rank)
        return vh.mT, s, u.mT
    values, vectors = torch.linalg.eigh(m.mT @ m)
    s, v = values[:, -rank:].flip(1).clamp(min=0).sqrt(), vectors[:, :, -rank:].flip(2)
    return m @ v / s[:, None].clamp(min=torch.finfo(m.dtype).tiny), s, v.mT


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
