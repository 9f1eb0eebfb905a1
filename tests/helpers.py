"""The backends, the inputs and the tolerances that several test files share."""

from __future__ import annotations

import inspect
import os
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorly import datasets
from torch import Tensor

from tsm_fast.steps.backend import Backend

# `make test` sets TSM_FAST_REQUIRE_NATIVE: then a missing compiled module is a failure and not a shorter list.
NATIVE = find_spec("tsm_fast._cpu") is not None or os.environ.get("TSM_FAST_REQUIRE_NATIVE") == "1"
BACKENDS = ["reference", "cpu"] if NATIVE else ["reference"]
STEPS = [name for name, step in vars(Backend).items() if inspect.isfunction(step) and not name.startswith("_")]

# The accuracy table of the method: results against float64, for precision "auto" or "float32".
MAP_ERROR = {"eigencam": 2e-5, "tsm": 2e-5, "multivec_eigencam": 1e-4, "mtsm": 1e-4, "mean_activation": 2e-5}
VALUE_ERROR = 1e-5  # singular_values / sigma_1, sweep errors
PROJECTOR_ERROR = 1e-4  # where the gap at the cut is over GAP
GAP = 1e-3
DOUBLE_ERROR = 1e-9  # all of these for precision "float64"
SIGN_TIE = 1e-5  # two largest magnitudes closer than this: the sign is not defined at this precision


def beyond_the_protocol(backend: Any) -> dict[str, list[str]]:
    """Parameters of a backend's steps that the protocol does not have; AssertionError where any of it is missing."""
    beyond = {}
    for step in STEPS:
        asked = list(inspect.signature(getattr(Backend, step)).parameters.values())[1:]
        offered = list(inspect.signature(getattr(backend, step)).parameters.values())
        same, more = offered[: len(asked)], offered[len(asked) :]
        assert [(p.name, p.kind, p.default) for p in same] == [(p.name, p.kind, p.default) for p in asked], step
        beyond |= {step: [p.name for p in more]} if more else {}
    return beyond


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def feature_maps(batch: int, c: int, h: int, w: int, *, relu: bool = True, seed: int = 0) -> Tensor:
    """Made-up float32 feature maps in the likeness of a network's: a few objects, each with its channels, and noise."""
    g = generator(seed)
    rows, columns = torch.linspace(-1, 1, h)[:, None], torch.linspace(-1, 1, w)
    centers = 1.6 * torch.rand(batch, 5, 2, generator=g) - 0.8
    distance = (rows - centers[..., :1, None]) ** 2 + (columns - centers[..., 1:, None]) ** 2  # [B, 5, h, w]
    objects = torch.exp(-distance / 0.2) * torch.tensor([3.0, 1.5, 1.0, 0.5, 0.25])[:, None, None]
    x = torch.einsum("bkc,bkhw->bchw", torch.randn(batch, 5, c, generator=g), objects)
    x += 0.1 * torch.randn(batch, c, h, w, generator=g)
    return x.relu() if relu else x


@cache
def pines(batch: int, h: int, w: int, *, signed: bool = False) -> Tensor:
    """Real feature maps: windows of the Indian Pines image, float32 [B, 200, h, w]; signed is each band standardised,
    as a batch normalisation leaves it.
    """
    image = torch.from_numpy(np.asarray(datasets.load_indian_pines().tensor, dtype=np.float64)).permute(2, 0, 1)
    if signed:
        image = (image - image.mean((1, 2), keepdim=True)) / image.std((1, 2), keepdim=True)
    corners = [(7 * i % (146 - h), 11 * i % (146 - w)) for i in range(batch)]
    return torch.stack([image[:, i : i + h, j : j + w] for i, j in corners]).float()


def spectrum(values: list[float], rows: int, columns: int, seed: int = 0) -> Tensor:
    """A float64 matrix [rows, columns] with these singular values."""
    u = torch.linalg.qr(randn(rows, len(values), seed=seed))[0]
    v = torch.linalg.qr(randn(columns, len(values), seed=seed + 1))[0]
    return u * torch.tensor(values, dtype=torch.float64) @ v.mT


def low_rank(shape: tuple[int, ...], rank: tuple[int, ...], noise: float, seed: int = 0) -> Tensor:
    """A float64 item of this multilinear rank, plus noise."""
    x = randn(*rank, seed=seed)
    for mode, (size, r) in enumerate(zip(shape, rank, strict=True)):
        factor = torch.linalg.qr(randn(size, r, seed=seed + 1 + mode))[0]
        x = (x.movedim(mode, -1) @ factor.mT).movedim(-1, mode)
    return x + noise * randn(*shape, seed=seed + 9)


@cache
def tensors() -> dict[str, tuple[Tensor, tuple[int, ...]]]:
    """Batches [B, I_1, ..., I_N], float64, and a feasible rank for each: the first four are real."""
    il2 = np.asarray(datasets.load_IL2data().tensor)
    il2 = il2[~np.isnan(il2).any(axis=(1, 2, 3))]
    return {
        "covid": (torch.from_numpy(np.asarray(datasets.load_covid19_serology().tensor))[None], (20, 4, 5)),
        "il2": (torch.from_numpy(il2)[None], (4, 3, 4, 4)),
        "kinetic": (torch.from_numpy(np.asarray(datasets.load_kinetic().tensor))[None, :, :, :, ::3], (8, 5, 4, 6)),
        "pines": (pines(3, 7, 7).double(), (16, 4, 4)),
        "pines one row": (pines(2, 1, 9).double(), (5, 1, 5)),
        "random": (randn(3, 21, 5, 6), (4, 3, 3)),
        "random, more positions than channels": (randn(3, 9, 8, 7, seed=1), (4, 5, 3)),
        "random, full in height and width": (randn(2, 63, 5, 4, seed=2), (11, 5, 4)),
        "random, rank one": (randn(3, 17, 6, 5, seed=3), (1, 1, 1)),
        "random matrices": (randn(3, 13, 8, seed=4), (3, 3)),
        "random, order 4": (randn(2, 6, 5, 4, 3, seed=5), (3, 2, 2, 2)),
        "random, order 5": (randn(2, 3, 4, 3, 2, 3, seed=6), (2, 2, 2, 2, 2)),
        "low rank": (torch.stack([low_rank((40, 6, 7), (5, 3, 3), 0.0, seed) for seed in (0, 20)]), (5, 3, 3)),
        "low rank and noise": (low_rank((40, 6, 7), (5, 3, 3), 1e-3)[None], (4, 3, 2)),
        "nearly degenerate": (nearly_degenerate(), (3, 2, 2)),
        "uneven convergence": (torch.stack([randn(20, 5, 5), low_rank((20, 5, 5), (2, 2, 2), 1e-6)]), (2, 2, 2)),
    }


def nearly_degenerate() -> Tensor:
    """Singular values 1, 1 - 1e-6, 1 - 2e-6 in every mode, then 1/2: vectors are arbitrary, subspaces are not."""
    x = torch.zeros(1, 30, 6, 6, dtype=torch.float64)
    for i in range(6):
        x[0, i, i, i] = 1 - 1e-6 * i if i < 2 else 0.5 / (i - 1)
    for mode, size in ((1, 30), (2, 6), (3, 6)):
        rotation = torch.linalg.qr(randn(size, size, seed=mode))[0]
        x = (x.movedim(mode, -1) @ rotation).movedim(-1, mode)
    return x


def unfold(x: Tensor, mode: int) -> Tensor:
    return x.movedim(mode + 1, 1).flatten(2)


def projector(columns: Tensor) -> Tensor:
    return columns.double() @ columns.double().mT


def largest_is_positive(columns: Tensor) -> bool:
    """Whether in every column of [B, n, R] the entry of largest magnitude is positive, up to ties in magnitude."""
    return bool((columns.amax(1) >= -columns.amin(1) * (1 - SIGN_TIE)).all())


def orthonormality(columns: Tensor) -> float:
    """The largest entry of |A^T A - I| over a batch [B, n, R]."""
    error = columns.double().mT @ columns.double() - torch.eye(columns.shape[-1], dtype=torch.float64)
    return float(error.abs().max()) if error.numel() else 0.0


def views(x: Tensor) -> dict[str, Tensor]:
    """The same values in other strides."""
    padded = torch.full((x.shape[0], *(2 * size + 1 for size in x.shape[1:])), torch.nan, dtype=x.dtype)
    inner = padded[(slice(None), *(slice(1, None, 2) for _ in x.shape[1:]))]
    inner.copy_(x)
    backwards = x.movedim(0, -1).contiguous().movedim(-1, 0)
    return {
        "every other entry": inner,
        "batch innermost": backwards,
        "modes reversed": x.permute(0, *range(x.ndim - 1, 0, -1)).contiguous().permute(0, *range(x.ndim - 1, 0, -1)),
        "first mode innermost": x.movedim(1, -1).contiguous().movedim(-1, 1),
        "offset": torch.cat([x.new_full((1,), torch.nan), x.flatten()])[1:].view(x.shape),
    }


def ended(process: int) -> bool:
    """Whether a process is gone, or only its exit status is left of it, within five seconds."""
    state = Path(f"/proc/{process}/stat")
    for _ in range(50):
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False
