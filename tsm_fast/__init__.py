"""Batched Tucker decompositions (HOOI) and label-free saliency maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .decomposition import TuckerResult, fold, hosvd, mode_dot, multi_mode_dot, truncated_svd, tucker, unfold
from .dispatch import BackendInfo, backends
from .saliency import eigencam, mtsm, multivec_eigencam, tsm

if TYPE_CHECKING:
    from .extractor import SaliencyExtractor

__version__ = "0.1.0"

__all__ = [
    "BackendInfo",
    "SaliencyExtractor",
    "TuckerResult",
    "backends",
    "eigencam",
    "fold",
    "hosvd",
    "mode_dot",
    "mtsm",
    "multi_mode_dot",
    "multivec_eigencam",
    "truncated_svd",
    "tsm",
    "tucker",
    "unfold",
]


def __getattr__(name: str) -> Any:
    if name == "SaliencyExtractor":
        from .extractor import SaliencyExtractor

        return SaliencyExtractor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
