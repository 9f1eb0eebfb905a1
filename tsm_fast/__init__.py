"""Batched Tucker decompositions (HOOI) and label-free saliency maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__
from .decomposition import TuckerResult, fold, hosvd, mode_dot, multi_mode_dot, truncated_svd, tucker, unfold
from .dispatch import BackendInfo, backends
from .extractor import SaliencyExtractor
from .saliency import eigencam, mtsm, multivec_eigencam, tsm

if TYPE_CHECKING:
    from .pipeline.reader import SaliencyDataset

__all__ = [
    "BackendInfo",
    "SaliencyDataset",
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
    """`SaliencyDataset` is imported when it is first asked for: it brings pyarrow."""
    if name == "SaliencyDataset":
        from .pipeline.reader import SaliencyDataset

        return SaliencyDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
