"""Maps that no method made, which every table should carry: what a metric gives them is what it can be fooled by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor

from ..saliency import mean_activation
from ..steps import checks
from ._items import maps_of, ranked

# One for the whole batch, or a number for each item, by which it is the same in any batch.
Generator = torch.Generator | Sequence[int] | int

__all__ = [
    "another_image",
    "center_gaussian",
    "edges",
    "energy",
    "mean_activation",
    "one_histogram",
    "same_histogram",
    "smooth_noise",
    "uniform",
]


def uniform(
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:  # [B, *positions]
    """Maps of ones: they keep the whole input, and order no pixel before another.

    Args:
        shape: `(B, *positions)`.
        dtype, device: of the maps.

    >>> from tsm_fast import metrics
    >>> metrics.uniform((2, 7, 7)).shape
    torch.Size([2, 7, 7])
    """
    return torch.ones(_shape(shape), dtype=dtype, device=device)


def smooth_noise(
    shape: Sequence[int],
    generator: Generator = 0,
    *,
    smoothness: float = 1 / 8,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:  # [B, H, W]
    """Noise as smooth as maps are, in 0..1: white noise after a Gaussian blur.

    Args:
        shape: `(B, H, W)`.
        generator: a `torch.Generator` of the CPU, a seed, or a seed for each item: then an item's noise does not depend
            on its batch. On every device it is the same noise.
        smoothness: sigma of the blur as a share of the shorter side.
        dtype, device: of the maps.

    Raises:
        TypeError, ValueError: shape is not `(B, H, W)`, the seeds are not one an item, or smoothness is not above 0.

    >>> from tsm_fast import metrics
    >>> maps = metrics.smooth_noise((3, 16, 16), [5, 6, 5])
    >>> float(maps.min()), float(maps.max()), bool((maps[0] == maps[2]).all())
    (0.0, 1.0, True)
    """
    sizes = _shape(shape)
    if len(sizes) != 3:
        raise ValueError(f"shape must be (B, H, W), got {tuple(sizes)}")
    if not smoothness > 0:
        raise ValueError(f"smoothness must be above 0, got {smoothness}")
    white = _drawn(sizes, generator).to(device)
    rows, columns = (_blur(size, smoothness * min(sizes[1:]), white.device) for size in sizes[1:])
    return _unit(rows @ white @ columns.mT).to(dtype)


def center_gaussian(
    shape: Sequence[int],
    sigma: float = 1 / 4,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:  # [B, H, W]
    """A Gaussian in the middle of the image, where objects mostly are.

    Args:
        shape: `(B, H, W)`.
        sigma: as a share of each side.
        dtype, device: of the maps.

    Raises:
        TypeError, ValueError: shape is not `(B, H, W)`, or sigma is not above 0.

    >>> from tsm_fast import metrics
    >>> metrics.center_gaussian((1, 3, 3))[0].round(decimals=2)
    tensor([[0.1700, 0.4100, 0.1700],
            [0.4100, 1.0000, 0.4100],
            [0.1700, 0.4100, 0.1700]])
    """
    sizes = _shape(shape)
    if len(sizes) != 3 or not sigma > 0:
        raise ValueError(f"shape must be (B, H, W) and sigma above 0, got {tuple(sizes)} and {sigma}")
    curves = []
    for size in sizes[1:]:
        steps = torch.arange(size, dtype=torch.float64, device=device) - (size - 1) / 2
        curves.append(torch.exp(-((steps / (sigma * size)) ** 2) / 2))
    return torch.outer(*curves).to(dtype).expand(sizes).clone()


def edges(
    inputs: Tensor,  # [B, C, H, W]
    size: Sequence[int] | None = None,
) -> Tensor:  # [B, H, W]
    """The Sobel gradient of the inputs' brightness (the mean of their channels), in 0..1: no network looked at it.

    Args:
        inputs: `[B, C, H, W]`.
        size: `(h, w)` to resize to, as maps are; None for that of the inputs.

    Returns:
        `[B, H, W]`; zeros for a constant input.

    Raises:
        TypeError, ValueError: inputs are no float tensor `[B, C, H, W]`.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.edges(torch.rand(2, 3, 32, 32), size=(7, 7)).shape
    torch.Size([2, 7, 7])
    """
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise TypeError("inputs must be a float tensor [B, C, H, W]")
    if inputs.ndim != 4:
        raise ValueError(f"inputs must be [B, C, H, W], got {tuple(inputs.shape)}")
    bright = functional.pad(inputs.detach().mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    sobel = bright.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    slopes = functional.conv2d(bright, torch.stack([sobel, sobel.T])[:, None])
    return _finished(torch.linalg.vector_norm(slopes, dim=1), size)


def energy(
    features: Tensor,  # [B, C, H, W]
    size: Sequence[int] | None = None,
) -> Tensor:  # [B, H, W]
    """The energy of the features, `sum_c F_c^2`, in 0..1.

    Args:
        features: `[B, C, H, W]`.
        size: `(h, w)` to resize to; None for that of the features.

    Returns:
        `[B, H, W]`, as `mean_activation` (LaFAM, the other map without a decomposition) gives them.

    Raises:
        TypeError, ValueError: features are no float tensor `[B, C, H, W]`.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.energy(torch.rand(2, 64, 7, 7), size=(224, 224)).shape
    torch.Size([2, 224, 224])
    """
    if not isinstance(features, Tensor) or not features.is_floating_point():
        raise TypeError("features must be a float tensor [B, C, H, W]")
    if features.ndim != 4:
        raise ValueError(f"features must be [B, C, H, W], got {tuple(features.shape)}")
    return _finished(features.detach().double().square().sum(1), size).to(
        torch.promote_types(features.dtype, torch.float32)
    )


def another_image(
    maps: Tensor,  # [B, *positions]
    groups: Sequence[object] | Tensor | None = None,
) -> Tensor:  # [B, *positions]
    """Each item has the map of another one: what a map says without having seen the image.

    Args:
        maps: `[B, *positions]`.
        groups: a name or number for each item; the map comes from another group. None: from the next item.

    Returns:
        `[B, *positions]`: the map of the next item (around the end) of another group; NaN where there is none.

    Raises:
        TypeError, ValueError: maps are no such tensor, or groups are not one an item.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.another_image(torch.tensor([[0.0], [1.0], [2.0]]), groups=["a", "a", "b"])
    tensor([[2.],
            [2.],
            [0.]])
    """
    maps_of("maps", maps)
    batch = len(maps)
    names = list(range(batch)) if groups is None else groups.tolist() if isinstance(groups, Tensor) else list(groups)
    if len(names) != batch:
        raise ValueError(f"groups must be one for each of {batch} maps, got {len(names)}")
    result = torch.full_like(maps, torch.nan)
    for item, name in enumerate(names):
        other = next((i % batch for i in range(item + 1, item + batch) if names[i % batch] != name), None)
        if other is not None:
            result[item] = maps[other]
    return result


def same_histogram(
    maps: Tensor,  # [B, H, W]
    generator: Generator = 0,
    *,
    smoothness: float = 1 / 8,
) -> Tensor:  # [B, H, W]
    """Each map's own values at other places: those of `smooth_noise`, its lowest pixel getting the lowest value.

    What a metric gives this is what it gives the map's area and sharpness alone.

    Args:
        maps: `[B, H, W]`.
        generator, smoothness: as in `smooth_noise`.

    Returns:
        `[B, H, W]`: every value of the map once.

    Raises:
        TypeError, ValueError: maps are no such tensor, or as in `smooth_noise`.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> maps = torch.rand(2, 7, 7)
    >>> bool((metrics.same_histogram(maps).flatten(1).sort(1).values == maps.flatten(1).sort(1).values).all())
    True
    """
    flat = maps_of("maps", maps)
    noise = smooth_noise(maps.shape, generator, smoothness=smoothness, dtype=torch.float64).flatten(1).to(flat.device)
    return torch.empty_like(flat).scatter_(1, noise.argsort(dim=1, stable=True), flat.sort(1).values).view(maps.shape)


def one_histogram(maps: Tensor) -> Tensor:  # [B, *positions] -> [B, *positions]
    """Each map with the same values in its own order: squares of ranks in 0..1, whose mean is 1/3.

    It makes drop, increase and similarities comparable between maps: area and sharpness are equal then.

    Args:
        maps: `[B, *positions]`.

    Returns:
        `((k - 1/2) / P)^2` for the pixel with the k-th least of P values; pixels that tie have the mean of what they
        would have got, so that the mean is always the same, 1/3 - 1/(12 P^2). NaN for maps that are not finite.

    Raises:
        TypeError, ValueError: maps are no such tensor.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.one_histogram(torch.tensor([[0.3, 0.1, 0.9, 0.2], [0.0, 0.0, 0.0, 5.0]]))
    tensor([[0.3906, 0.0156, 0.7656, 0.1406],
            [0.1823, 0.1823, 0.1823, 0.7656]])
    """
    flat = maps_of("maps", maps)
    ranks, pixels = ranked(flat), flat.shape[1]
    # The sum of (i + 1/2)^2 over i < k is k^3 / 3 - k / 12.
    low, high = (ranks.by_pixel(counts.double()) for counts in (ranks.below, ranks.upto))
    mean = (high**2 + high * low + low**2) / 3 - 1 / 12
    mean = torch.where(flat.isfinite().all(1, keepdim=True), mean / pixels**2, torch.nan)
    return mean.to(flat.dtype).view(maps.shape)


def _shape(shape: Sequence[int]) -> list[int]:
    sizes = [checks.integer("shape", size) for size in shape]
    if not 2 <= len(sizes) <= 4 or min(sizes[1:]) < 1 or sizes[0] < 0:
        raise ValueError(f"shape must be (B, *positions) with one to three position modes, got {tuple(sizes)}")
    return sizes


def _drawn(sizes: Sequence[int], generator: Generator) -> Tensor:  # float64
    """White noise: an item that has a seed of its own has the same in any batch."""
    if isinstance(generator, torch.Generator):
        return torch.randn(sizes, generator=generator, dtype=torch.float64, device="cpu")
    if isinstance(generator, int):
        return _drawn(sizes, torch.Generator().manual_seed(generator))
    seeds = [checks.integer("generator", seed) for seed in generator]
    if len(seeds) != sizes[0]:
        raise ValueError(f"generator must have a seed for each of {sizes[0]} items, got {len(seeds)}")
    drawn = torch.empty(list(sizes), dtype=torch.float64, device="cpu")
    for item, seed in zip(drawn, seeds, strict=True):
        item.normal_(generator=torch.Generator().manual_seed(seed))
    return drawn


def _blur(size: int, sigma: float, device: torch.device) -> Tensor:  # [size, size] float64
    """A Gaussian blur along one mode, which leaves white noise its variance up to the edges."""
    steps = torch.arange(size, dtype=torch.float64, device=device)
    weights = torch.exp(-(((steps[:, None] - steps) / sigma) ** 2) / 2)
    return weights / torch.linalg.vector_norm(weights, dim=1, keepdim=True)


def _finished(maps: Tensor, size: Sequence[int] | None) -> Tensor:  # [B, H, W]
    wanted = checks.size(size)
    if wanted is not None:
        maps = functional.interpolate(maps[:, None], wanted, mode="bilinear", align_corners=False)[:, 0]
    return _unit(maps)


def _unit(maps: Tensor) -> Tensor:  # [B, H, W]
    """In 0..1; a constant map becomes zeros."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(high == low, torch.where(high.isnan(), torch.nan, 0), (maps - low) / (high - low))
