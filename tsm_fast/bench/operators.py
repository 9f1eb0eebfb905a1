"""What torchvision needs beside a CPU build of torch."""

from __future__ import annotations

import torch


def declare_operators() -> torch.library.Library:
    """Its compiled operators, for which it looks at import; they are there as long as what is returned."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
