"""Raw maps for tools that cut off, scale and resize in their own way."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..saliency import METHODS


def own_options(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a method, without those that the tool decides: TypeError for these."""
    for name in ("normalize", "relu", "size"):
        if name in options:
            raise TypeError(f"{METHODS[method].title} has no option {name!r} here: the tool scales and resizes")
    return options


def raw_maps(method: str, features: Tensor, *, relu: bool, **options: Any) -> Tensor:
    """Maps [B, *positions] of features [B, C, *positions], not normalised; `rank` is for two position modes only."""
    positions = features.shape[2:]
    if len(positions) != 2:
        if options.get("rank") is not None:
            raise ValueError(f"rank needs activations [B, C, H, W], got shape {tuple(features.shape)}")
        features = features.flatten(2)[..., None]
    maps = METHODS[method].function(features, relu=relu, normalize=False, **options)
    return maps.view(len(features), *positions)
