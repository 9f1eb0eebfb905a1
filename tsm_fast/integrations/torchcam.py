"""torch-cam: `EigenCAM`, `MultivecEigenCAM`, `TSM` and `MTSM` as extractors of its kind.

from torchcam.methods import LayerCAM            ->  from tsm_fast.integrations.torchcam import TSM
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ._maps import own_options, raw_maps
from ._peer import peer

peer("torchcam", "torchcam", "0.5", "torchcam")

from torchcam.methods.core import _CAM  # noqa: E402


class _LabelFreeCAM(_CAM):
    """A torch-cam extractor that needs no class: `extract()` after a forward pass.

    Args:
        model, target_layer, input_shape, enable_hooks, reshape_transform: as in torch-cam.
        rank, center, combine, sign, nan, precision, backend: the options of the method, as in `tsm_fast.tsm` and its
            like.
    """

    method: str

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        enable_hooks: bool = True,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        **options: Any,
    ) -> None:
        self._options = own_options(self.method, options)
        super().__init__(model, target_layer, input_shape, enable_hooks, reshape_transform)
        self._targets_supported = True

    def __call__(
        self, class_idx: Any = None, scores: Any = None, normalized: bool = True, *, targets: Any = None, **kwargs: Any
    ) -> list[Tensor]:
        """A map `[N, h, w]` for each layer, on its device, in its resolution; labels and scores play no role."""
        return super().__call__(class_idx, scores, normalized, targets=targets, **kwargs)

    def _precheck(self, class_idx: Any = None, scores: Any = None, targets: Any = None) -> None:
        for activation in self.hook_a:
            if not isinstance(activation, Tensor):  # torch-cam's own error
                raise AssertionError("Inputs need to be forwarded in the model for the conv features to be hooked")

    @torch.no_grad()
    def compute_cams(
        self, class_idx: Any = None, scores: Any = None, normalized: bool = True, *, targets: Any = None, **kwargs: Any
    ) -> list[Tensor]:
        activations = [activation for activation in self.hook_a if activation is not None]  # `_precheck` has looked
        maps = [raw_maps(self.method, activation, relu=True, **self._options) for activation in activations]
        return [self._normalize(cam) if normalized else cam for cam in maps]


class EigenCAM(_LabelFreeCAM):
    """`tsm_fast.eigencam` as a torch-cam extractor; options `center`, `sign`, `nan`, `precision`, `backend`."""

    method = "eigencam"


class MultivecEigenCAM(_LabelFreeCAM):
    """`tsm_fast.multivec_eigencam`; options `center`, `combine`, `sign`, `nan`, `precision`, `backend`."""

    method = "multivec_eigencam"


class TSM(_LabelFreeCAM):
    """`tsm_fast.tsm` as a torch-cam extractor; options `rank`, `nan`, `precision`, `backend`.

    >>> import torch
    >>> from tsm_fast.integrations.torchcam import TSM
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    >>> with TSM(model, "1") as extract:
    ...     _ = model(torch.rand(2, 3, 16, 16))
    ...     (maps,) = extract()
    >>> maps.shape
    torch.Size([2, 14, 14])
    """

    method = "tsm"


class MTSM(_LabelFreeCAM):
    """`tsm_fast.mtsm` as a torch-cam extractor; options `rank`, `combine`, `sign`, `nan`, `precision`, `backend`."""

    method = "mtsm"
