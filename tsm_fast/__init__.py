"""Batched Tucker decompositions (HOOI) and label-free saliency maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazy
from ._version import __version__ as __version__
from .decomposition import TuckerResult, eigh, hosvd, truncated_svd, tucker
from .modes import fold, mode_dot, multi_mode_dot, unfold
from .saliency import eigencam, mean_activation, mtsm, multivec_eigencam, tsm
from .steps.choice import BackendInfo, backends

if TYPE_CHECKING:
    from .extractor import SaliencyExtractor
    from .pipeline.extract import extract
    from .pipeline.results.reader import SaliencyDataset

__all__ = [
    "BackendInfo",
    "SaliencyDataset",
    "SaliencyExtractor",
    "TuckerResult",
    "backends",
    "eigencam",
    "eigh",
    "extract",
    "fold",
    "hosvd",
    "mean_activation",
    "mode_dot",
    "mtsm",
    "multi_mode_dot",
    "multivec_eigencam",
    "truncated_svd",
    "tsm",
    "tucker",
    "unfold",
]

# The one brings the hooks, the others pyarrow.
__getattr__, __dir__ = lazy(
    __name__,
    {
        "SaliencyDataset": ".pipeline.results.reader",
        "SaliencyExtractor": ".extractor",
        "extract": ".pipeline.extract",
    },
)
