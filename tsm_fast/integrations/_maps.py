"""Raw maps for tools that cut off, scale and resize in their own way."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor

from ..methods import METHODS

_DECIDED = ("normalize", "relu", "size")  # by the tool


def own_options(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a method, tried on an empty batch: TypeError for unknown ones and those that the tool decides."""
    has = [name for name in signature(METHODS[method].function).parameters if name not in _DECIDED]
    for name in options:
        if name not in has:
            raise TypeError(f"{METHODS[method].title} has no option {name!r} here; it has {', '.join(has[1:])}")
    tried = {**options, "rank": None} if "rank" in options else options
    raw_maps(method, torch.zeros(0, 1, 1, 1, device="cpu"), relu=True, **{**tried, "backend": "reference"})
    return options


def raw_maps(method: str, features: Tensor, *, relu: bool, **options: Any) -> Tensor:
    """Maps [B, *positions] of features [B, C, *positions], not normalised."""
    return METHODS[method].function(features, relu=relu, normalize=False, **options)
