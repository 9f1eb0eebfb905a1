"""Times of the decompositions against plain PyTorch and TensorLy, each checked against the other before it is timed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .saliency import METHODS

SECONDS = 0.5  # of measuring, for each time
PATIENCE = 10  # seconds after which slow runs are measured no more often
STEPS = 7  # that `measure` tells of
TENSORLY_RANK = (16, 4, 4)
# Largest difference of two maps over the largest value: float32 peers reach 1e-4 on real features; a wrong map, 1.
AGREEMENT = 1e-3


class Timing(NamedTuple):
    """Milliseconds an image, medians. A peer is None where it has no such map or gave another one."""

    method: str
    rank: tuple[int, int, int] | None
    tsm_fast: float
    pytorch: float | None
    tensorly: float | None


def measure(features: Tensor, backend: str | None, say: Callable[[str], None]) -> list[Timing]:
    """Times for float32 CPU features [B, C, H, W]: TensorLy on the first image, the others on the whole batch."""
    channels, height, width = features.shape[1:]
    say("timing TensorLy at full rank on one image, which takes seconds")
    full = _tensorly(features[0], (channels, height, width))
    say(f"timing TensorLy at rank {TENSORLY_RANK} on one image")
    low = _tensorly(features[0], TENSORLY_RANK)
    return [
        _timing(features, "eigencam", None, None, backend, say),
        _timing(features, "tsm", None, full, backend, say),
        _timing(features, "tsm", TENSORLY_RANK, low, backend, say),
        _timing(features, "multivec_eigencam", None, None, backend, say),
        _timing(features, "mtsm", None, full, backend, say),
    ]


def _timing(
    features: Tensor,  # [B, C, H, W]
    method: str,
    rank: tuple[int, int, int] | None,
    tensorly: _TensorLy | None,
    backend: str | None,
    say: Callable[[str], None],
) -> Timing:
    say(f"timing {label(method, rank)}")
    options: dict[str, Any] = {"normalize": False, "backend": backend, **({"rank": rank} if rank else {})}
    runs = [partial(METHODS[method].function, features, **options)]
    maps, batch = runs[0](), len(features)  # these calls are the warm-up too
    if rank is None:
        peer = partial(_PYTORCH[method], features)
        runs += [peer] if _agree(maps, peer(), say) else []
    own, *pytorch = (ms / batch for ms in _medians_ms(*runs))
    same = tensorly is not None and _agree(maps[:1], tensorly.maps[method][None], say)
    return Timing(method, rank, own, pytorch[0] if pytorch else None, tensorly.ms if tensorly and same else None)


def label(method: str, rank: Sequence[int] | None) -> str:
    """What a row of the table is called."""
    return METHODS[method].title + (f" rank {tuple(rank)}" if rank else "")


def _agree(ours: Tensor, peer: Tensor, say: Callable[[str], None]) -> bool:
    """Whether two batches of raw maps are the same; no time is reported for a peer that gave another answer."""
    largest = ours.amax((1, 2)).clamp(min=torch.finfo(ours.dtype).tiny)
    difference = float(((ours - peer).abs().amax((1, 2)) / largest).max())
    if difference > AGREEMENT:
        say(f"no comparison: the maps differ by {difference:.1e} of their maximum")
    return difference <= AGREEMENT


def _medians_ms(*runs: Callable[[], Any]) -> list[float]:
    """The median times in milliseconds; runs take turns, so that a busy machine slows all of them alike.

    Three turns or more, unless three take longer than `PATIENCE` seconds.
    """
    times: list[list[float]] = [[] for _ in runs]
    begin = perf_counter()
    while (elapsed := perf_counter() - begin) < SECONDS * len(runs) or (len(times[0]) < 3 and elapsed < PATIENCE):
        for run, row in zip(runs, times, strict=True):
            start = perf_counter()
            run()
            row.append(perf_counter() - start)
    return [median(row) * 1e3 for row in times]


def _gram_eigen(unfolded: Tensor) -> tuple[Tensor, Tensor]:  # [B, C, S] -> [B, S], [B, S, S]
    values, vectors = torch.linalg.eigh(torch.bmm(unfolded.mT, unfolded))
    return values.clamp(min=0), vectors


def _centered(features: Tensor) -> Tensor:
    unfolded = features.flatten(2)
    return unfolded - unfolded.mean(2, keepdim=True)


def _sign(columns: Tensor) -> Tensor:
    """+-1 [B, 1, R], so that the entry of largest magnitude of each column of [B, n, R] is positive."""
    return columns.gather(1, columns.abs().argmax(1, keepdim=True)).sign()


def _eigencam(features: Tensor) -> Tensor:
    values, vectors = _gram_eigen(_centered(features))
    maps = values[:, -1:].sqrt() * vectors[:, :, -1]
    maps = (maps * _sign(maps[:, :, None])[:, 0]).clamp(min=0)
    return maps.view(len(maps), *features.shape[2:])


def _tsm(features: Tensor) -> Tensor:
    values, vectors = _gram_eigen(features.flatten(2))
    maps = values[:, -1:].sqrt() * vectors[:, :, -1].abs()
    return maps.view(len(maps), *features.shape[2:])


def _all_vectors(unfolded: Tensor, size: Sequence[int]) -> Tensor:
    values, vectors = _gram_eigen(unfolded)
    signs = _sign(torch.bmm(unfolded, vectors))[:, 0]
    return torch.bmm(vectors, (values * signs)[:, :, None]).abs().view(len(values), *size)


_PYTORCH: dict[str, Callable[[Tensor], Tensor]] = {
    "eigencam": _eigencam,
    "tsm": _tsm,
    "multivec_eigencam": lambda features: _all_vectors(_centered(features), features.shape[2:]),
    "mtsm": lambda features: _all_vectors(features.flatten(2), features.shape[2:]),
}


class _TensorLy(NamedTuple):
    ms: float
    maps: dict[str, Tensor]  # method -> [H, W]


def _tensorly(item: Tensor, rank: tuple[int, int, int]) -> _TensorLy:  # [C, H, W]
    """TensorLy's `tucker` on one image (NumPy backend): its time, and the maps that follow from its result."""
    tl: Any = import_module("tensorly")
    tucker = import_module("tensorly.decomposition").tucker

    with tl.backend_context("numpy", local_threadsafe=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # more singular vectors asked for than there are, at full rank
        array = item.numpy()
        core, factors = tucker(array, rank=rank)
        projected = tl.tenalg.mode_dot(array, factors[0].T, 0)  # [R, H, W]
        values = np.linalg.norm(core.reshape(len(core), -1), axis=1)  # [R]
        maps = {"tsm": np.abs(projected[0]), "mtsm": np.abs(np.tensordot(values, projected, 1))}
        (ms,) = _medians_ms(lambda: tucker(array, rank=rank))
    return _TensorLy(ms, {name: torch.from_numpy(values) for name, values in maps.items()})
