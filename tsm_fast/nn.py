"""Maps as a module of plain matrix products, for ONNX and other compilers that know no decomposition."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .steps import checks
from .steps.reference import finished
from .steps.scaling import column_signs


class SaliencyHead(nn.Module):
    """EigenCAM or TSM of feature maps, by matrix products alone, so that a network can be deployed with its map.

    `tsm_fast.eigencam` and `tsm_fast.tsm` call compiled kernels, which `torch.onnx.export` cannot write. This module
    finds the same leading singular vector by repeated squaring of the smaller Gram matrix: `iterations` squarings are
    `2**iterations` steps of the power method, which leave at most `(sigma_2 / sigma_1) ** 2**(iterations + 1)` of the
    second vector. Ten are enough up to a gap `sigma_2 / sigma_1` of 0.995; closer pairs give a mixture of both.

    Args:
        method: "eigencam" or "tsm", at full rank.
        center: of "eigencam": subtract from each channel its mean over positions.
        relu: "eigencam" cuts off the negative part, "tsm" takes the absolute value; False for the signed projection,
            its entry of largest magnitude positive.
        normalize: `(m - min) / (max - min)` per item; a constant map becomes zeros. After resizing.
        size: `(h, w)` to resize the maps to, bilinear (`align_corners=False`).
        iterations: squarings, 1 or more.

    Called with features `[B, C, H, W]` of any float dtype it returns maps `[B, H, W]` or `[B, h, w]`, float32 (float64
    for float64 features), on the features' device. An item that holds NaN or Inf gives a map of NaN. Gradients are
    those of the products, finite where the features are.

    Raises:
        TypeError, ValueError: an option has the wrong type or value; features are not `[B, C, H, W]`.

    >>> import torch, tsm_fast
    >>> from tsm_fast.nn import SaliencyHead
    >>> features = torch.rand(8, 64, 7, 7, generator=torch.Generator().manual_seed(0))
    >>> maps = SaliencyHead("tsm", size=(28, 28))(features)
    >>> bool((maps - tsm_fast.tsm(features, size=(28, 28))).abs().max() < 1e-5)
    True
    """

    def __init__(
        self,
        method: str = "tsm",
        *,
        center: bool = True,
        relu: bool = True,
        normalize: bool = True,
        size: tuple[int, int] | None = None,
        iterations: int = 10,
    ) -> None:
        super().__init__()
        checks.choice("method", method, ("eigencam", "tsm"))
        for name, value in {"center": center, "relu": relu, "normalize": normalize}.items():
            checks.flag(name, value)
        if checks.integer("iterations", iterations) < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        self.method: str = method
        self.center: bool = center
        self.relu: bool = relu
        self.normalize: bool = normalize
        self.size: tuple[int, int] | None = checks.size(size)
        self.iterations: int = int(iterations)

    def extra_repr(self) -> str:
        return f"{self.method!r}, size={self.size}, iterations={self.iterations}"

    def forward(self, features: Tensor) -> Tensor:  # [B, C, H, W] -> [B, H, W]
        if not features.is_floating_point() or features.ndim != 4 or 0 in features.shape[1:]:
            found = f"{str(features.dtype).removeprefix('torch.')} {tuple(features.shape)}"
            raise ValueError(f"features must be floating-point [B, C, H, W], got {found}")
        device = features.device.type
        if torch.is_autocast_enabled(device):  # its products would be rounded
            with torch.autocast(device, enabled=False):
                return self._maps(features)
        return self._maps(features)

    def _maps(self, features: Tensor) -> Tensor:
        wide = features.flatten(2).to(torch.promote_types(features.dtype, torch.float32))  # [B, C, S]
        peak = wide.abs().amax((1, 2), keepdim=True)
        unit = wide / torch.where(peak == 0, 1, peak)
        if self.center and self.method == "eigencam":
            unit = unit - unit.mean(2, keepdim=True)
        maps = self._projected(unit)
        maps = maps if self.normalize else maps * peak  # which may be beyond the dtype
        maps = maps.squeeze(1).unflatten(1, features.shape[2:])  # [B, H, W]
        return finished(maps, self.size, self.normalize)[0]

    def _projected(self, unit: Tensor) -> Tensor:  # [B, C, S] -> [B, 1, S]
        """`F^T u_1`, rectified."""
        wide = unit.shape[1] > unit.shape[2]
        vector = _leading(unit.mT @ unit if wide else unit @ unit.mT, self.iterations)
        left = unit @ vector if wide else vector  # [B, C, 1]
        left = left / _positive(left.norm(dim=1, keepdim=True))
        maps = unit.mT @ left  # [B, S, 1]
        if self.method == "tsm" and self.relu:
            maps = maps.abs()
        else:
            maps = maps * column_signs(maps)
            maps = maps.relu() if self.relu else maps
        return maps.mT


def _leading(gram: Tensor, iterations: int) -> Tensor:  # [B, n, n] -> [B, n, 1]
    power = gram / _positive(_trace(gram))
    for _ in range(iterations):
        power = power @ power
        power = power / _positive(_trace(power))
    # Close to `v v^T`: its column with the largest entry of v. Steps with the matrix itself then take back what the
    # squarings have rounded.
    largest = power.diagonal(dim1=1, dim2=2).argmax(1)[:, None, None]
    vector = power.gather(2, largest.expand(-1, power.shape[1], 1))
    for _ in range(2):
        vector = gram @ vector
        vector = vector / _positive(vector.norm(dim=1, keepdim=True))
    return vector


def _trace(matrix: Tensor) -> Tensor:  # [B, 1, 1]
    return matrix.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]


def _positive(value: Tensor) -> Tensor:
    return torch.where(value == 0, 1, value)
