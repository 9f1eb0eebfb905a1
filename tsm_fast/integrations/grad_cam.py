"""pytorch-grad-cam: its `EigenCAM`, our other methods as classes of its kind, and `patch()` for untouched scripts.

from pytorch_grad_cam import EigenCAM            ->  from tsm_fast.integrations.grad_cam import EigenCAM
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..extractor import SaliencyExtractor
from ..steps.arrays import as_tensor
from ._maps import own_options, raw_maps
from ._peer import peer
from ._rebind import rebind

peer("grad-cam", "pytorch_grad_cam", "1.5.5", "grad-cam")

from pytorch_grad_cam.base_cam import BaseCAM  # noqa: E402  # pyright: ignore[reportMissingImports]
from pytorch_grad_cam.utils import svd_on_activations as stock  # noqa: E402  # pyright: ignore[reportMissingImports]


class _LabelFreeCAM(BaseCAM):
    """A `BaseCAM` whose forward pass stops at the last target layer and takes no gradients.

    Args:
        model, target_layers, reshape_transform: as in pytorch-grad-cam. A layer that runs several times is read at its
            first run, and before a later layer writes into what it gave.
        rank, center, combine, sign, nan, precision, backend: the options of the method, as in `tsm_fast.tsm` and its
            like. Without `nan=` NaN counts as 0 and Inf raises, as in pytorch-grad-cam.

    `cam(input_tensor, targets, aug_smooth, eigen_smooth)` returns float32 NumPy maps `[B, H, W]`, or `[B, *size]` for
    inputs `[B, C, *size]` in 3-D, in the steps of pytorch-grad-cam: cut off, scaled, resized, averaged over the layers,
    scaled. `targets` and `eigen_smooth` play no role: no label and no output of the model is looked at.
    """

    method: str

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module] | None = None,
        reshape_transform: Callable[[Any], Tensor] | None = None,
        *,
        target_layer: nn.Module | None = None,
        use_cuda: bool | None = None,
        **options: Any,
    ) -> None:
        if target_layer is not None:
            _outdated("target_layer=layer", "target_layers=[layer]")
            target_layers = [target_layer] if target_layers is None else target_layers
        if use_cuda is not None:
            _outdated("use_cuda=", "model.to(device)")
        if target_layers is None:
            raise TypeError("target_layers must be a list of modules, got None")
        self._options = own_options(self.method, options)
        self._reader = _Reader(model, list(target_layers), self.method, reshape_transform, **options)
        super().__init__(model, target_layers, reshape_transform, uses_gradients=False, detach=False)
        self.activations_and_grads.release()  # hooks for every forward pass, which would keep what it gave
        self._input: Tensor | None = None

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Any = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
        *,
        target_category: Any = None,
    ) -> np.ndarray:
        if target_category is not None:
            _outdated("target_category=", "nothing: maps have no target")
        return super().__call__(input_tensor, targets, aug_smooth, eigen_smooth)

    def forward(self, input_tensor: Tensor, targets: Any = None, eigen_smooth: bool = False) -> np.ndarray:
        input_tensor = input_tensor.to(self.device)
        self._input = input_tensor
        self.activations_and_grads.activations = self._reader.read(input_tensor)
        cams = self.compute_cam_per_layer(input_tensor, targets, eigen_smooth)
        return self.aggregate_multi_layers(cams)

    def get_cam_image(
        self,
        input_tensor: Tensor,
        target_layer: nn.Module,
        targets: Any,
        activations: Tensor,  # [B, C, h, w] or [B, C, d, h, w]
        grads: Any,
        eigen_smooth: bool = False,
    ) -> np.ndarray:
        """Maps `[B, *positions]` before they are cut off, scaled and resized."""
        features, _ = as_tensor("activations", activations)
        maps = _maps(self.method, features, self.method != "eigencam", self._options)
        return maps.float().cpu().numpy()

    @property
    def outputs(self) -> Any:
        """What the model gives for the last input, from a forward pass of its own: maps do not need one."""
        if self._input is None:
            raise AttributeError("outputs are those of the last call, and there was none yet")
        with torch.no_grad():
            return self.model(self._input)

    def __del__(self) -> None:
        if hasattr(self, "activations_and_grads"):  # else the constructor refused its arguments
            super().__del__()


class EigenCAM(_LabelFreeCAM):
    """pytorch-grad-cam's `EigenCAM`, also with `center`, `sign`, `nan`, `precision`, `backend`."""

    method = "eigencam"


class MultivecEigenCAM(_LabelFreeCAM):
    """`tsm_fast.multivec_eigencam` as a `BaseCAM`; `center`, `combine`, `sign`, `nan`, `precision`, `backend`."""

    method = "multivec_eigencam"


class TSM(_LabelFreeCAM):
    """`tsm_fast.tsm` as a `BaseCAM`; `rank`, `nan`, `precision`, `backend`."""

    method = "tsm"


class MTSM(_LabelFreeCAM):
    """`tsm_fast.mtsm` as a `BaseCAM`; `rank`, `combine`, `sign`, `nan`, `precision`, `backend`."""

    method = "mtsm"


class NotFinite(np.linalg.LinAlgError, ValueError):
    """Activations with Inf, at which NumPy's SVD does not converge: the error that scripts catch, with the items."""


class _Reader(SaliencyExtractor):
    """The outputs of the target layers, one for each, without resizing or maps."""

    def __init__(self, model: nn.Module, layers: list[nn.Module], method: str, reshape: Any, **options: Any) -> None:
        super().__init__(model, layers, method, reshape_transform=reshape, **options)
        self._wanted = layers

    def read(self, input_tensor: Tensor) -> list[Tensor]:
        features = self.features(input_tensor)
        names = {module: name for name, module in self._modules.items()}
        return [features[names[layer]] for layer in self._wanted]

    def _read(self, name: str, output: Any, convolutions: Any) -> Any:
        # A transform of pytorch-grad-cam's gets what the layer gives, also tuples and dicts.
        return self._reshape(output) if callable(self._reshape) else super()._read(name, output, convolutions)


def _maps(method: str, features: Tensor, relu: bool, options: dict[str, Any]) -> Tensor:
    """Raw maps [B, *positions] of features [B, C, *positions]; unless told with `nan`, NaN counts as 0, Inf raises."""
    if "nan" in options:
        return raw_maps(method, features, relu=relu, **options)
    maps = raw_maps(method, features, relu=relu, nan="propagate", **options)
    bad = maps.flatten(1).isnan().any(1).nonzero().flatten()
    if not len(bad):
        return maps
    items = features[bad]
    again = raw_maps(method, torch.where(items.isnan(), 0, items), relu=relu, nan="propagate", **options)
    infinite = again.flatten(1).isnan().any(1)
    if infinite.any():
        raise NotFinite(f"activations must not be infinite, got Inf in items {bad[infinite].tolist()}")
    return maps.index_copy(0, bad, again)


def _outdated(argument: str, instead: str) -> None:
    warnings.warn(f"{argument} is of old versions of pytorch-grad-cam: now {instead}", UserWarning, stacklevel=3)


# ---- scripts left untouched ----


class Patched:
    """What `patch()` has done: `calls` and `maps` of them computed here, and how many of those `compared` are `turned`,
    which is to have the other sign than NumPy's SVD happens to give.
    """

    def __init__(self, compare: int) -> None:
        self.calls = self.maps = 0
        self.compared: int = 0
        self.turned: int = 0
        self._left = compare

    def look(self, activations: np.ndarray, maps: np.ndarray) -> None:
        """Compare the signs of the next maps; say how many differ after the last that is to be compared."""
        for features, mine in zip(activations[: self._left], maps, strict=False):
            columns = np.where(np.isnan(features), 0, features).reshape(len(features), -1).T
            columns = columns - columns.mean(axis=0)
            # The reduction of full_matrices=True, without the C x C matrix of which one row is used.
            _, _, right = np.linalg.svd(columns, full_matrices=False)
            self.turned += int(np.vdot(columns @ right[0], mine) < 0)
            self.compared += 1
            self._left -= 1
            if not self._left:
                self.tell()

    def tell(self) -> None:
        if self.turned and self._left >= 0:
            warnings.warn(
                f"{self.turned} of the first {self.compared} maps have another sign than NumPy's SVD happens to give: "
                "here the entry of largest magnitude is positive",
                UserWarning,
                stacklevel=2,
            )
        self._left = -1


_turn = threading.Lock()
_open: list[Patched] = []  # one entry for each context that is open, all the same object
_made: dict[Callable[..., Any], Callable[..., Any]] = {}  # their functions, and what stands for them


@contextmanager
def patch(*, compare: int = 8, backend: str | None = None) -> Iterator[Patched]:
    """Speed up a script that uses pytorch-grad-cam, without touching it: its projections are computed here.

    `get_2d_projection` and its variant with a corrected sign are replaced wherever they are bound, in pytorch-grad-cam
    (ten modules of 1.5.7) and in the caller's own; and put back at the end, also after an exception. So `EigenCAM`,
    `EigenGradCAM`, `SegEigenCAM` and every `eigen_smooth=True` are faster; they still run the whole network. Contexts
    within one another are one, the outermost.

    The sign of a singular vector is arbitrary. NumPy's depends on the machine; here the entry of largest magnitude is
    positive, so that some EigenCAM maps show the complement of what they showed. The first maps are compared, and a
    warning says once how many differ. Products with gradients (`EigenGradCAM`, `eigen_smooth`) are signed by nature,
    and this rule is no better founded for them than NumPy's.

    Args:
        compare: how many maps to compare, each by an SVD of its own that takes milliseconds; 0 for none.
        backend: as in `tsm_fast.eigencam`.

    Raises:
        NotFinite: at a call with Inf; a `np.linalg.LinAlgError`, as NumPy's.
    """
    with _turn:
        done = _open[0] if _open else Patched(compare)
        if not _open:
            _made.update(_replacements(done, {"backend": backend}))
            rebind(_made)
        _open.append(done)
    try:
        yield done
    finally:
        with _turn:
            _open.pop()
            if not _open:
                rebind({new: old for old, new in _made.items()})
                _made.clear()
                done.tell()


def _replacements(done: Patched, options: dict[str, Any]) -> dict[Callable[..., Any], Callable[..., Any]]:
    def corrected(activation_batch: np.ndarray) -> np.ndarray:
        features, _ = as_tensor("activation_batch", activation_batch)
        maps = _maps("eigencam", features, False, options).cpu().numpy()
        done.calls += 1
        done.maps += len(maps)
        return maps

    def projected(activation_batch: np.ndarray) -> np.ndarray:
        maps = corrected(activation_batch)
        done.look(activation_batch, maps)
        return maps

    ours = {"get_2d_projection": projected, "get_2d_projection_with_sign_correction": corrected}
    return {getattr(stock, name): new for name, new in ours.items() if hasattr(stock, name)}
