"""Batched Tucker decompositions (HOOI) and label-free saliency maps."""

from __future__ import annotations

from .decomposition import TuckerResult, fold, hosvd, mode_dot, multi_mode_dot, truncated_svd, tucker, unfold
from .dispatch import BackendInfo, backends
from .extractor import SaliencyExtractor
from .saliency import eigencam, mtsm, multivec_eigencam, tsm

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
