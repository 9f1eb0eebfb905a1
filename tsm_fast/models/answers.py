"""What a model and its preprocessing give for one fixed input, as a few numbers that tell code from changed code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from .load import Model
from .preprocessing import fixed_picture

PREPROCESSING = "preprocessing"
WAVES = 8
# The last digits are those of the machine: other processors and numbers of threads add up in other orders.
TOLERANCE = 1e-3

Answer = tuple[float | None, ...]


def fixed_inputs(shape: Sequence[int]) -> Tensor:
    """Two inputs [C, H, W] of noise."""
    return torch.from_numpy(np.random.default_rng(1).standard_normal((2, *shape), np.float32))


def of(model: Model, features: Mapping[str, Tensor], *, picture: bool = True) -> dict[str, Answer]:
    """The answers of a model, by layer (its features of `fixed_inputs`), and of its preprocessing where it is used."""
    found = {PREPROCESSING: answer(model.preprocess(fixed_picture()))} if picture else {}
    return found | {f"layer {name}": answer(values) for name, values in features.items()}


def difference(name: str, there: Mapping[str, Answer], here: Mapping[str, Answer]) -> str | None:
    """Where the code of a model, or of its preprocessing, is not what it was, in words."""
    for what in {**there, **here}:
        if not _equal(there.get(what, ()), here.get(what, ())):
            gives = (
                f"the preprocessing of {name} gives another input for the same picture"
                if what == PREPROCESSING
                else f"the model {name} gives other features at {what.removeprefix('layer ')!r} for the same input"
            )
            return f"{gives} than when the run was planned. If its code was changed undo that, or name another folder"
    return None


def answer(values: Tensor) -> Answer:
    """Values along waves of several lengths, after their root mean square; None for what is not finite.

    >>> answer(torch.zeros(3, 4, 4))[:2]
    (0.0, 0.0)
    """
    flat = values.detach().cpu().double().flatten().numpy()
    steps = np.arange(flat.size)
    with np.errstate(all="ignore"):
        size = np.sqrt(max(flat.size, 1))
        found = [np.sqrt(np.square(flat).mean()), *(flat @ np.cos(steps * wave) / size for wave in range(WAVES))]
    return tuple(float(f"{value:.6g}") if isfinite(value) else None for value in found)


def _equal(there: Answer, here: Answer) -> bool:
    if len(there) != len(here) or [value is None for value in there] != [value is None for value in here]:
        return False
    scale = abs(there[0] or 0.0) if there else 0.0
    pairs = ((old, new) for old, new in zip(there, here, strict=True) if old is not None and new is not None)
    return all(abs(old - new) <= TOLERANCE * (scale + abs(old)) for old, new in pairs)
