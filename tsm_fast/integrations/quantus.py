"""Quantus: the maps as the `explain_func` of its metrics.

metric(..., explain_func=quantus.explain, explain_func_kwargs={"method": "IntegratedGradients"})
metric(..., explain_func=tsm_fast.integrations.quantus.explain, explain_func_kwargs={"method": "tsm"})
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from ..extractor import SaliencyExtractor
from ..steps.backend import map_noise


def explain(
    model: nn.Module,
    inputs: Any,  # [N, C, H, W] NumPy
    targets: Any = None,
    *,
    layers: str | nn.Module | None = None,
    method: str = "tsm",
    device: str | torch.device | None = None,
    **options: Any,
) -> np.ndarray:  # [N, 1, H, W]
    """Maps of the inputs in their own size, for `explain_func=` of any metric of Quantus; `targets` play no role.

    Args:
        model, layers, method: as in `tsm_fast.SaliencyExtractor`; one layer by name or module, None chooses it.
        inputs: a batch of images `[N, C, H, W]`, which is brought to the model's dtype and device.
        targets: there because Quantus passes them.
        device: where the model runs; None for where it is.
        **options: the others of the extractor: `rank`, `center`, `reshape_transform`, ...; maps are raw unless
            `normalize=True` is among them, since Quantus normalizes by itself.

    Returns:
        NumPy maps `[N, 1, H, W]`, float32.

    Raises:
        ValueError: several layers are named, or all maps are constant, which no metric of Quantus takes.
        TypeError, RuntimeError: as in `SaliencyExtractor`.

    >>> import numpy as np, torch
    >>> from tsm_fast.integrations import quantus
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    >>> quantus.explain(model, np.random.rand(2, 3, 16, 16), np.zeros(2, int), method="mtsm").shape
    (2, 1, 16, 16)
    """
    own = next(chain(model.parameters(), model.buffers()), torch.empty(0))
    if device is not None:
        model.to(device)
    where = own.device if device is None else torch.device(device)
    images = torch.as_tensor(np.ascontiguousarray(inputs)).to(where, own.dtype)
    with SaliencyExtractor(model, layers, method, size="input", **{"normalize": False, **options}) as extract:
        maps = extract(images)
        names = extract.layers
    if isinstance(maps, dict):
        raise ValueError(f"layers must name one layer, got {', '.join(names)}")
    spread, peak = maps.amax((1, 2)) - maps.amin((1, 2)), maps.abs().amax((1, 2))
    if len(maps) and bool((spread <= map_noise(maps) * peak).all()):
        raise ValueError(f"all maps of layer {names[0]!r} are constant: no metric can rank their pixels")
    return maps[:, None].cpu().numpy()
