"""Times of the decompositions against plain PyTorch and TensorLy, each checked against the other before it is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..methods import METHODS
from . import clock, peers

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
    full = _tensorly(features[:1], (channels, height, width))
    say(f"timing TensorLy at rank {TENSORLY_RANK} on one image")
    low = _tensorly(features[:1], TENSORLY_RANK)
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
        peer = partial(peers.PYTORCH[method], features)
        runs += [peer] if _agree(maps, peer(), say) else []
    own, *pytorch = (ms / batch for ms in clock.medians_ms(*runs))
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


class _TensorLy(NamedTuple):
    ms: float
    maps: dict[str, Tensor]  # method -> [H, W]


def _tensorly(features: Tensor, rank: tuple[int, int, int]) -> _TensorLy:  # [1, C, H, W]
    """TensorLy's `tucker` on one image (NumPy backend): its time, and the maps that follow from its result."""
    array = features.numpy()
    ((core, factors),) = peers.tensorly_tucker(array, rank)
    (ms,) = clock.medians_ms(partial(peers.tensorly_tucker, array, rank))
    maps = peers.tensorly_maps(array[0], core, factors)
    return _TensorLy(ms, {name: torch.from_numpy(values) for name, values in maps.items()})
