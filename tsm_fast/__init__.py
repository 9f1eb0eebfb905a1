"""Label-free saliency maps of any model, and batched Tucker decompositions (HOOI).

    extract = tsm_fast.SaliencyExtractor(model, "layer4", method="tsm")  # any torch.nn.Module
    maps = extract("cat.jpg")  # [1, 7, 7]; also PIL images, lists of pictures, tensors
    tsm_fast.overlay("cat.jpg", maps[0], region=extract.region).save("overlay.png")

Maps of a model: SaliencyExtractor; of a whole dataset: extract, read by SaliencyDataset.
Pictures: overlay, sheet.
Maps of feature maps [B, C, *positions]: eigencam, tsm, multivec_eigencam, mtsm, mean_activation.
Decompositions of batches [B, I_1, ..., I_N]: tucker, hosvd (a TuckerResult), truncated_svd, eigh.
Unfoldings and mode products: unfold, fold, mode_dot, multi_mode_dot.
What runs, and why: backends (a BackendInfo each).
How good maps are: tsm_fast.metrics.
"""

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
    from . import metrics as metrics
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
            "metrics": ".metrics",
            **dict.fromkeys(("overlay", "sheet"), ".pictures.show"),
        },
        extras={"SaliencyDataset": "datasets", "extract": "datasets", "overlay": "pictures", "sheet": "pictures"},
    )
