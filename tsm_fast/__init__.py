"""Batched Tucker decompositions (HOOI) and label-free saliency maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import lazy
from ._version import __version__ as __version__

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
    "overlay",
    "sheet",
    "truncated_svd",
    "tsm",
    "tucker",
    "unfold",
]

if TYPE_CHECKING:
    from .decomposition import TuckerResult, eigh, hosvd, truncated_svd, tucker
    from .extractor import SaliencyExtractor
    from .modes import fold, mode_dot, multi_mode_dot, unfold
    from .pictures.show import overlay, sheet
    from .pipeline.extract import extract
    from .pipeline.results.reader import SaliencyDataset
    from .saliency import eigencam, mean_activation, mtsm, multivec_eigencam, tsm
    from .steps.choice import BackendInfo, backends
else:  # the command says its help, and a missing package what it needs, before PyTorch is there
    __getattr__, __dir__ = lazy(
        __name__,
        {
            **dict.fromkeys(("TuckerResult", "eigh", "hosvd", "truncated_svd", "tucker"), ".decomposition"),
            **dict.fromkeys(("fold", "mode_dot", "multi_mode_dot", "unfold"), ".modes"),
            **dict.fromkeys(("eigencam", "mean_activation", "mtsm", "multivec_eigencam", "tsm"), ".saliency"),
            **dict.fromkeys(("BackendInfo", "backends"), ".steps.choice"),
            "SaliencyDataset": ".pipeline.results.reader",
            "SaliencyExtractor": ".extractor",
            "extract": ".pipeline.extract",
            **dict.fromkeys(("overlay", "sheet"), ".pictures.show"),
        },
        extras={"SaliencyDataset": "datasets", "extract": "datasets", "overlay": "pictures", "sheet": "pictures"},
    )
