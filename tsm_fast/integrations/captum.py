"""captum: the maps as attributions of a layer, `LayerEigenCam`, `LayerMultivecEigenCam`, `LayerTSM`, `LayerMTSM`.

from captum.attr import LayerGradCam             ->  from tsm_fast.integrations.captum import LayerTSM
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ._maps import own_options, raw_maps
from ._peer import peer

peer("captum", "captum", "0.7", "captum")

from captum.attr import LayerActivation, LayerAttribution  # noqa: E402
from captum.log import log_usage  # noqa: E402  # pyright: ignore[reportAttributeAccessIssue]


class _LayerMap(LayerAttribution):
    """A map of a layer's activations, which needs no target and no gradients.

    Args:
        forward_func, layer, device_ids: as in captum's `LayerActivation`, which reads the layer, or those of a list.
        rank, center, combine, sign, nan, precision, backend: the options of the method, as in `tsm_fast.tsm` and its
            like.
    """

    method: str

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Any,  # a module or a list of them
        device_ids: list[int] | None = None,
        **options: Any,
    ) -> None:
        for module in layer if isinstance(layer, list) else [layer]:
            if not isinstance(module, nn.Module):
                raise TypeError(f"layer must be a module, or a list of modules, got {module!r}")
        super().__init__(forward_func, layer, device_ids)
        self._activation = LayerActivation(forward_func, layer, device_ids)
        self._options = own_options(self.method, options)

    @log_usage()
    def attribute(
        self,
        inputs: Any,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        *,
        target: Any = None,
    ) -> Any:  # [N, 1, h, w]; a list of these for a list of layers
        """Attributions `[N, 1, *positions]` of activations `[N, C, *positions]`, in the layer's own resolution.

        `LayerEigenCam` gives the signed projection, the others the map, which is never negative. `interpolate` resizes
        them. `target`, for scripts that pass one, plays no role.
        """
        found = self._activation.attribute(inputs, additional_forward_args, attribute_to_layer_input)
        if isinstance(self.layer, nn.Module):
            return self._map("layer", found)
        return [self._map(f"layer[{i}]", activations) for i, activations in enumerate(found)]

    @property
    def multiplies_by_inputs(self) -> bool:
        return True

    def _map(self, name: str, activations: Any) -> Tensor:
        if not isinstance(activations, Tensor) or not 3 <= activations.ndim <= 5:
            got = tuple(activations.shape) if isinstance(activations, Tensor) else type(activations).__name__
            raise ValueError(f"{name} must give activations [N, C, *positions], got {got}")
        return raw_maps(self.method, activations, relu=self.method != "eigencam", **self._options)[:, None]


class LayerEigenCam(_LayerMap):
    """`tsm_fast.eigencam(relu=False)` of a layer; options `center`, `sign`, `nan`, `precision`, `backend`."""

    method = "eigencam"


class LayerMultivecEigenCam(_LayerMap):
    """`tsm_fast.multivec_eigencam`; options `center`, `combine`, `sign`, `nan`, `precision`, `backend`."""

    method = "multivec_eigencam"


class LayerTSM(_LayerMap):
    """`tsm_fast.tsm` of a layer; options `rank`, `nan`, `precision`, `backend`.

    >>> import torch
    >>> from tsm_fast.integrations.captum import LayerTSM
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    >>> attributions = LayerTSM(model, model[1]).attribute(torch.rand(2, 3, 16, 16))
    >>> attributions.shape, LayerTSM.interpolate(attributions, (16, 16), "bilinear").shape
    (torch.Size([2, 1, 14, 14]), torch.Size([2, 1, 16, 16]))
    """

    method = "tsm"


class LayerMTSM(_LayerMap):
    """`tsm_fast.mtsm` of a layer; options `rank`, `combine`, `sign`, `nan`, `precision`, `backend`."""

    method = "mtsm"
