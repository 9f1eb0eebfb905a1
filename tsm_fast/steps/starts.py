"""What HOOI starts from beside the HOSVD, and the columns that pad a rank which is not feasible; random ones are those
that TensorLy draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import hosvd
from .backend import Backend, HooiOptions
from .capture import refuse
from .scaling import column_signs, peaks, unfold, unit_range

if TYPE_CHECKING:
    from numpy.random import RandomState


def options(
    module: Backend,
    x: Tensor,  # [B, I_1, ..., I_N]
    rank: Sequence[int],  # for each of `modes`
    modes: Sequence[int],  # rising
    given: Sequence[Tensor] | None,  # for each of `modes` [B, I_n, R_n]
    random: bool,
    state: int | RandomState | None,
) -> HooiOptions | None:
    """What a backend is told of a start and of modes that stay; None for the plain form."""
    shape, padded = x.shape[1:], None
    kept = prod(size for mode, size in enumerate(shape) if mode not in modes)
    for index, r in enumerate(rank):
        if r * r > prod(rank) * kept:
            padded = index
    if random or padded is not None:
        refuse(x, "a start or a padding of random numbers")
    start = None if given is None else [_in_range(factor) for factor in given]
    if random:
        start = _drawn_factors(x, rank, modes, state)
    elif start is None and padded is not None:
        start = _padded_hosvd(module, x, rank, modes, state)
    padding = None
    if padded is not None:
        columns = rank[padded] - prod(rank) * kept // rank[padded]
        padding = _drawn(x, state, shape[modes[padded]], columns).expand(len(x), -1, -1)
    plain = start is None and padding is None and len(modes) == len(shape)
    return None if plain else HooiOptions(modes, start, padding)


def generator(state: Any) -> RandomState:
    """TensorLy's reading of `random_state`: None for the state of NumPy itself."""
    import numpy as np

    if state is None:
        return np.random.mtrand._rand  # pyright: ignore[reportAttributeAccessIssue]
    return np.random.RandomState(state) if isinstance(state, int) else state


def _drawn(like: Tensor, state: Any, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1) of the dtype of a tensor, in float64."""
    drawn = torch.from_numpy(generator(state).random_sample(shape))
    return drawn.to(like.dtype).to(like.device, torch.float64)


def _drawn_factors(x: Tensor, rank: Sequence[int], modes: Sequence[int], state: Any) -> list[Tensor]:
    sizes = [(x.shape[mode + 1], r) for mode, r in zip(modes, rank, strict=True)]
    numbers = [prod(rank), *map(prod, sizes)]  # the core comes first, which HOOI does not read
    parts = _drawn(x, state, sum(numbers)).split(numbers)[1:]
    return [part.view(size).expand(len(x), -1, -1) for part, size in zip(parts, sizes, strict=True)]


def _in_range(factor: Tensor) -> Tensor:
    """A factor in float64, contiguous for an item, no entry above 1: only its directions count."""
    wide = factor.detach().double()
    peak = peaks(wide)[:, None, None]
    wide = wide / torch.where(peak > 0, peak, 1.0)
    return wide if wide.stride()[1:] == (wide.shape[2], 1) else wide.contiguous()


def _padded_hosvd(module: Backend, x: Tensor, rank: Sequence[int], modes: Sequence[int], state: Any) -> list[Tensor]:
    """The factors of the HOSVD, random columns behind those that there are. The first one moves before it is read."""
    unit, _ = unit_range(x)
    start = [unit.new_zeros(len(x), x.shape[modes[0] + 1], rank[0], dtype=torch.float64)]
    for mode, r in list(zip(modes, rank, strict=True))[1:]:
        matrix = unfold(unit, mode)
        feasible = min(r, *matrix.shape[1:])
        if matrix.shape[1] <= matrix.shape[2]:
            gram = module.mode_gram(unit, mode, precision="float64")
            u = module.truncated_svd(gram, feasible, precision="float64")[1]
        else:
            u = hosvd.truncated_svd(module, feasible, "u", torch.float64, matrix)[0]
        if feasible < r:
            more = _drawn(x, state, matrix.shape[1], r - feasible)
            left = torch.linalg.qr(more - u @ (u.mT @ more))[0]
            u = torch.cat([u, left * column_signs(left)], 2)
        start.append(u.contiguous())
    return start
