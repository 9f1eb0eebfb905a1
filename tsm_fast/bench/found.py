"""Which peers this machine has, and why it has not the others."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

import torch

from ..steps import cusolver


class Peer(NamedTuple):
    """Something to compare with."""

    what: str
    module: str = "torch"  # that has to be importable
    install: str = "torch"  # what to give to pip
    devices: tuple[str, ...] = ("cpu", "cuda")


_CPU = ("cpu",)
PEERS = {
    "torch": Peer("plain PyTorch as one would write it: Gram matrix by bmm, one batched torch.linalg.eigh"),
    "torch-split": Peer("the same with the batch of eigh divided over the cores by Python threads", devices=_CPU),
    "torch-float64": Peer("the same in float64, where float32 misses our accuracy"),
    "torch-svd": Peer("torch.linalg.svd, batched, without a Gram matrix"),
    "torch-power": Peer("Gram matrix and 32 steps of power iteration"),
    "torch-lowrank": Peer("torch.svd_lowrank, a randomised SVD"),
    "numpy": Peer("NumPy: Gram matrix and LAPACK's syevd, or its svd", "numpy", "numpy", _CPU),
    "scipy": Peer("SciPy: Gram matrix and LAPACK's syevr, item by item", "scipy", "scipy", _CPU),
    "scikit-learn": Peer("sklearn.utils.extmath.randomized_svd, item by item", "sklearn", "scikit-learn", _CPU),
    "tensorly": Peer("TensorLy on NumPy, item by item", "tensorly", "tensorly", _CPU),
    "tensorly-torch": Peer("TensorLy on PyTorch, item by item", "tensorly", "tensorly"),
    "tensorly-full": Peer("TensorLy at the ranks of the shape, what published TSM calls", "tensorly", "tensorly", _CPU),
    "grad-cam": Peer("pytorch-grad-cam itself", "pytorch_grad_cam", "grad-cam", _CPU),
    "grad-cam-steps": Peer("its published steps: one full SVD an image in NumPy", "numpy", "numpy", _CPU),
    "jax": Peer("JAX: Gram matrix and jnp.linalg.eigh, under jit", "jax", "jax", _CPU),
    "cusolver": Peer("Gram matrix and cuSOLVER's XsyevBatched", devices=("cuda",)),
    "cupy": Peer("CuPy: Gram matrix and cupy.linalg.eigh", "cupy", "cupy-cuda12x", devices=("cuda",)),
}


def absent(device: str = "cpu") -> dict[str, str]:
    """The peers that cannot run, and why."""
    reasons = {}
    for name, peer in PEERS.items():
        if device.partition(":")[0] not in peer.devices:
            reasons[name] = f"is for {peer.devices[0]}"
        elif find_spec(peer.module) is None:
            reasons[name] = f"{peer.module} is not installed: pip install {peer.install}"
        elif name == "cusolver" and cusolver.library(torch.device(device)) is None:
            reasons[name] = "XsyevBatched came with CUDA 12.6.2"
    return reasons


def chosen(names: Sequence[str]) -> set[str]:
    """Those that are meant; all for none.

    Raises:
        ValueError: one is not known.
    """
    for name in names:
        if name not in PEERS and name != "none":
            raise ValueError(f"peer must be none, or one of {', '.join(PEERS)}, got {name!r}")
    return set(names) if names else set(PEERS)
