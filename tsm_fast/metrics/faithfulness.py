"""Whether maps show what a score rests on: metrics of a score, inputs and maps.

A score is a function from inputs `[B, C, H, W]` to `[B]` (see `scores`). An item whose map holds NaN or Inf gets NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..steps import checks
from ._imputation import imputed
from ._items import average_ranks, correlation, inputs_of, levels, maps_of, two_maps
from .scores import Score, against

Baseline = Literal["blur", "mean"] | Tensor
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def kept_score(
    score: Score,
    inputs: Tensor,  # [B, C, *positions]
    maps: Tensor,  # [B, *positions]
) -> Tensor:  # [B]
    """The score of the inputs times their maps, `f(x * m)`: what drop and increase are made of.

    Args:
        score: a function from inputs to `[B]`, `class_score` or `embedding_score`.
        inputs: as the network takes them, `[B, C, H, W]`; the value 0 is what a map of 0 leaves.
        maps: `[B, H, W]` in 0..1, of the size of the inputs.

    Returns:
        `[B]`; NaN for maps that are not finite.

    Raises:
        TypeError, ValueError: maps do not belong to the inputs, or leave 0..1.
        ScoreError: the score does not give finite numbers `[B]`.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.kept_score(lambda inputs: inputs.mean((1, 2, 3)), torch.ones(2, 3, 4, 4), torch.full((2, 4, 4), 0.25))
    tensor([0.2500, 0.2500])
    """
    flat, finite = _maps_of_inputs(inputs, maps)
    if bool((flat < 0).any()) or bool((flat > 1).any()):
        raise ValueError(f"maps must lie in 0..1, got {float(flat.min()):.3g} to {float(flat.max()):.3g}")
    kept = against(score, inputs)(inputs * flat.view(len(maps), 1, *maps.shape[1:]).to(inputs.dtype))
    return torch.where(finite, kept, torch.nan)


def drop(
    untouched: Tensor,  # [B]
    kept: Tensor,  # [B]
) -> Tensor:  # [B]
    """`max(0, y - o) / y` of scores that are there already; NaN where `y` is not above 0. See `average_drop`.

    Args:
        untouched: `y`, the score of the inputs.
        kept: `o`, that of the inputs times their maps.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.drop(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.75, 0.0]))
    tensor([0.5000, 0.0000,    nan])
    """
    return torch.where(untouched > 0, (untouched - kept).clamp(min=0) / untouched, torch.nan)


def increase(
    untouched: Tensor,  # [B]
    kept: Tensor,  # [B]
) -> Tensor:  # [B]
    """`o > y` of scores that are there already: 1, 0, or NaN where one of them is. See `average_increase`.

    Args:
        untouched: `y`, the score of the inputs.
        kept: `o`, that of the inputs times their maps.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.increase(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
    tensor([0., 1.])
    """
    missing = untouched.isnan() | kept.isnan()
    return torch.where(missing, torch.nan, (kept > untouched).to(kept.dtype))


def average_drop(
    score: Score,
    inputs: Tensor,  # [B, C, *positions]
    maps: Tensor,  # [B, *positions]
) -> Tensor:  # [B]
    """How much of the score is lost where the input is multiplied by its map (Chattopadhyay et al., Grad-CAM++, 2018).

    `max(0, y - o) / y` with `y = f(x)` and `o = f(x * m)`; its mean over images is the published number. Area fools it:
    a map of ones has drop 0. Beside it belong maps of one histogram (`one_histogram`).

    Args:
        score: a function from inputs to `[B]`, `class_score` or `embedding_score`.
        inputs: as the network takes them, `[B, C, H, W]`.
        maps: `[B, H, W]` in 0..1, of the size of the inputs.

    Returns:
        `[B]`, 0 for nothing lost; NaN for maps that are not finite and for scores `y` that are not above 0.

    Raises:
        TypeError, ValueError, ScoreError: as in `kept_score`.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.average_drop(lambda inputs: inputs.mean((1, 2, 3)), torch.ones(2, 3, 4, 4), torch.full((2, 4, 4), 0.25))
    tensor([0.7500, 0.7500])
    """
    fixed = against(score, inputs)
    return drop(fixed.untouched, kept_score(fixed, inputs, maps))


def average_increase(
    score: Score,
    inputs: Tensor,  # [B, C, *positions]
    maps: Tensor,  # [B, *positions]
) -> Tensor:  # [B]
    """Whether the score rises where the input is multiplied by its map (Chattopadhyay et al., Grad-CAM++, 2018).

    Args:
        score: a function from inputs to `[B]`, `class_score` or `embedding_score`.
        inputs: as the network takes them, `[B, C, H, W]`.
        maps: `[B, H, W]` in 0..1, of the size of the inputs.

    Returns:
        `[B]`: 1 or 0; NaN for maps that are not finite. The mean over images is the published number. For a score whose
        untouched value is its largest (`embedding_score`) it is always 0.

    Raises:
        TypeError, ValueError, ScoreError: as in `kept_score`.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.average_increase(lambda inputs: -inputs.sum((1, 2, 3)), torch.ones(2, 3, 4, 4), torch.zeros(2, 4, 4))
    tensor([1., 1.])
    """
    fixed = against(score, inputs)
    return increase(fixed.untouched, kept_score(fixed, inputs, maps))


class InsertionDeletion(NamedTuple):
    """Areas under curves of scores, and the curves at 0, 1/steps, ..., 1 of the pixels."""

    insertion: Tensor  # [B]
    deletion: Tensor  # [B]
    insertion_curve: Tensor  # [B, steps + 1]
    deletion_curve: Tensor  # [B, steps + 1]


def insertion_deletion(
    score: Score,
    inputs: Tensor,  # [B, C, *positions]
    maps: Tensor,  # [B, *positions]
    steps: int = 20,
    baseline: Baseline = "blur",
) -> InsertionDeletion:
    """How the score rises as the highest pixels come first onto a baseline, and falls as they go first (Petsiuk et al.,
    RISE, 2018).

    It reads the order of the map only. Pixels that tie come and go together, each by the share that is due. The paper
    inserts onto a blurred input and deletes to 0: here both have the baseline that is named.

    Args:
        score: a function from inputs to `[B]`, `class_score` or `embedding_score`; it is called twice a step.
        inputs: as the network takes them, `[B, C, H, W]`.
        maps: `[B, H, W]`, of the size of the inputs, in any range.
        steps: in how many equal steps the pixels come.
        baseline: "blur" (`blurred(inputs)`), "mean" (of each channel of each input), or a tensor that broadcasts to the
            inputs: `torch.zeros(1)` for the paper's deletion.

    Returns:
        An `InsertionDeletion`: areas by the trapezoidal rule over 0..1, and both curves; NaN for maps that are not
        finite. High insertion and low deletion are good.

    Raises:
        TypeError, ValueError: maps do not belong to the inputs, or steps or baseline are out of range.
        ScoreError: the score does not give finite numbers `[B]`.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> score = lambda inputs: inputs[:, 0, 0, 0]  # looks at one pixel
    >>> maps = torch.eye(4).expand(2, 4, 4)
    >>> found = metrics.insertion_deletion(score, torch.ones(2, 3, 4, 4), maps, steps=4, baseline=torch.zeros(1))
    >>> found.insertion_curve[0]
    tensor([0., 1., 1., 1., 1.])
    """
    steps = checks.integer("steps", steps)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    flat, finite = _maps_of_inputs(inputs, maps)
    ground = _baseline(inputs, baseline)
    fixed, places, pixels = against(score, inputs), levels(flat), flat.shape[1]
    curves: tuple[list[Tensor], list[Tensor]] = [], []
    for step in range(steps + 1):
        part = places.largest(round(pixels * step / steps)).to(inputs.dtype).view(len(maps), 1, *maps.shape[1:])
        for curve, share in zip(curves, (part, 1 - part), strict=True):
            curve.append(fixed(torch.where(share == 1, inputs, torch.lerp(ground, inputs, share))))
    inserted, deleted = (torch.where(finite[:, None], torch.stack(curve, 1), torch.nan) for curve in curves)
    return InsertionDeletion(_area(inserted), _area(deleted), inserted, deleted)


def blurred(
    inputs: Tensor,  # [B, C, H, W]
    sigma: float | None = None,
) -> Tensor:  # [B, C, H, W]
    """Inputs after a Gaussian blur, cut at three sigma, edges repeated.

    Args:
        inputs: `[B, C, H, W]`.
        sigma: in pixels; None is a twentieth of the shorter side: 11 at 224.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.blurred(torch.rand(2, 3, 64, 64)).std() < 0.1
    tensor(True)
    """
    if inputs.ndim != 4:
        raise ValueError(f"inputs must be [B, C, H, W] to be blurred, got {tuple(inputs.shape)}: name another baseline")
    width = min(inputs.shape[2:]) / 20 if sigma is None else float(sigma)
    if not width > 0:
        raise ValueError(f"sigma must be above 0, got {sigma}")
    reach = ceil(3 * width)
    steps = torch.arange(-reach, reach + 1, device=inputs.device)
    rows, columns = (
        _window(_places(size, steps).clamp(0, size - 1), steps / width, inputs) for size in inputs.shape[2:]
    )
    return rows @ inputs @ columns.mT


def road(
    score: Score,
    inputs: Tensor,  # [B, C, H, W]
    maps: Tensor,  # [B, H, W]
    *,
    shares: Sequence[float] = SHARES,
    noise: float = 0.01,
    seed: int = 0,
) -> Tensor:  # [B]
    """Remove and debias: the score without the least relevant pixels less that without the most relevant ones, halved
    (Rong et al., 2022; pytorch-grad-cam's ROADCombined).

    Removed pixels are interpolated from those around them (`imputed`) plus noise, so that what was removed cannot be
    told from the shape of the hole. It reads the order only; pixels that tie go in a fixed random order.

    Args:
        score: a function from inputs to `[B]`, `class_score` or `embedding_score`; it is called twice a share.
        inputs: as the network takes them, `[B, C, H, W]`.
        maps: `[B, H, W]`, of the size of the inputs, in any range.
        shares: of the pixels that are removed, each above 0 and below 1; the result is the mean over them.
        noise: standard deviation of what is added to interpolated pixels; the same for every item.
        seed: of the noise and of the order of ties.

    Returns:
        `[B]`, above 0 where the map tells more from less relevant; NaN for maps that are not finite.

    Raises:
        TypeError, ValueError: maps do not belong to the inputs, or a share is out of range.
        ScoreError: the score does not give finite numbers `[B]`.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> inputs = torch.zeros(1, 1, 8, 8)
    >>> inputs[..., 2:5, 2:5] = 1
    >>> float(metrics.road(lambda inputs: inputs[:, 0, 3, 3], inputs, inputs[:, 0], shares=[0.2], noise=0))
    0.5
    """
    if inputs.ndim != 4:
        raise ValueError(f"inputs must be [B, C, H, W], got {tuple(inputs.shape)}")
    if not shares or not all(0 < share < 1 for share in shares):
        raise ValueError(f"shares must lie between 0 and 1, got {tuple(shares)}")
    flat, finite = _maps_of_inputs(inputs, maps)
    fixed, pixels = against(score, inputs), flat.shape[1]
    generator = torch.Generator().manual_seed(seed)
    shuffle = torch.randperm(pixels, generator=generator, device="cpu").to(flat.device)
    added = (noise * torch.randn(inputs.shape[1:], generator=generator, device="cpu")).to(inputs)
    rising = shuffle[flat[:, shuffle].sort(dim=1, stable=True).indices]
    place = torch.empty_like(rising).scatter_(1, rising, torch.arange(pixels, device=flat.device).expand_as(rising))
    total = torch.zeros_like(fixed.untouched)
    for share in shares:
        count = min(max(round(share * pixels), 1), pixels - 1)
        for sign, missing in ((1, place < count), (-1, place >= pixels - count)):
            holes = missing.view(maps.shape)
            filled = imputed(inputs, holes)
            total += sign * fixed(torch.where(holes[:, None], filled + added, inputs)) / 2
    return torch.where(finite, total / len(shares), torch.nan)


def coherency(
    maps: Tensor,  # [B, *positions]
    maps_of_kept: Tensor,  # [B, *positions]
) -> Tensor:  # [B]
    """How alike the map stays when the input is multiplied by it: `(1 + corr(m(x * m(x)), m(x))) / 2` (Poppi et al.,
    ADCC, 2021).

    A map that does not look at the image has 1.

    Args:
        maps: `m(x)`.
        maps_of_kept: `m(x * m(x))`, of the same size.

    Returns:
        `[B]` in 0..1; NaN where either map is constant or not finite.

    Raises:
        TypeError, ValueError: they are no tensors of one shape.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.coherency(torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[0.1, 0.2, 0.3]]))
    tensor([1.])
    """
    one, two = two_maps(maps, maps_of_kept, ("maps", "maps_of_kept"))
    return ((1 + correlation(one, two)) / 2).to(one.dtype)


def complexity(maps: Tensor) -> Tensor:  # [B, *positions] -> [B]
    """How much of the image the map takes: its mean (Poppi et al., ADCC, 2021).

    Args:
        maps: `[B, *positions]` in 0..1.

    Returns:
        `[B]`; NaN for maps that are not finite.

    Raises:
        TypeError, ValueError: maps are no such tensor, or leave 0..1.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.complexity(torch.tensor([[0.0, 0.5, 1.0]]))
    tensor([0.5000])
    """
    flat = maps_of("maps", maps)
    finite = flat.isfinite().all(1)
    if bool(((flat[finite] < 0) | (flat[finite] > 1)).any()):
        raise ValueError(
            f"maps must lie in 0..1, got {float(flat[finite].min()):.3g} to {float(flat[finite].max()):.3g}"
        )
    return torch.where(finite, flat.double().mean(1), torch.nan).to(flat.dtype)


def adcc(
    coherency: Tensor,  # [B]
    complexity: Tensor,  # [B]
    drop: Tensor,  # [B]
) -> Tensor:  # [B]
    """The harmonic mean of coherency, 1 - complexity and 1 - drop (Poppi et al., ADCC, 2021).

    Args:
        coherency, complexity, drop: each `[B]` in 0..1, from the functions of these names and `average_drop`.

    Returns:
        `[B]` in 0..1, 0 where one of the three is 0; NaN where one of them is.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.adcc(torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([0.5]))
    tensor([0.6000])
    """
    parts = torch.stack([coherency, 1 - complexity, 1 - drop])
    return 3 / (1 / parts).sum(0)


class Stability(NamedTuple):
    """How alike two maps of an item are; NaN where one is constant or not finite."""

    correlation: Tensor  # [B] Pearson's
    spearman: Tensor  # [B] of ranks


def stability(
    maps: Tensor,  # [B, *positions]
    changed_maps: Tensor,  # [B, *positions]
) -> Stability:
    """How alike the maps of inputs and of slightly changed inputs are.

    A map that turns over (the object becomes the hole) has -1. Beside it belongs the gap of the first two singular
    values (`spectrum(features).gap`): where that is near 1 the vector behind a map of one vector is arbitrary.

    Args:
        maps: of the inputs.
        changed_maps: of the changed inputs, moved back where the inputs were moved.

    Returns:
        A `Stability`: `correlation` and `spearman`, `[B]` each, in -1..1.

    Raises:
        TypeError, ValueError: they are no tensors of one shape.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.stability(torch.tensor([[0.0, 0.1, 1.0]]), torch.tensor([[0.0, 0.2, 0.3]])).spearman
    tensor([1.])
    """
    one, two = two_maps(maps, changed_maps, ("maps", "changed_maps"))
    return Stability(correlation(one, two).to(one.dtype), _spearman(one, two).to(one.dtype))


class SanitySimilarity(NamedTuple):
    """How alike two maps of an item are; NaN where one is constant or not finite."""

    spearman: Tensor  # [B] of ranks
    ssim: Tensor  # [B] structural similarity
    equal: Tensor  # [B] bool, in every bit


def sanity_similarity(
    maps: Tensor,  # [B, H, W]
    randomised_maps: Tensor,  # [B, H, W]
) -> SanitySimilarity:
    """How alike the maps of a network and of the same with randomised layers are (Adebayo et al., 2018).

    Low is good for layers that a map rests on; a map made of a layer below those that were randomised must be `equal`.

    Args:
        maps: of the network, `[B, H, W]` in 0..1.
        randomised_maps: of the network with some layers randomised.

    Returns:
        A `SanitySimilarity`: Spearman's correlation, SSIM of maps in 0..1 (Gaussian window of sigma 1.5, mirrored at
        the edges), and whether all bits are equal.

    Raises:
        TypeError, ValueError: they are no tensors [B, H, W] of one shape.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> maps = torch.rand(2, 7, 7)
    >>> metrics.sanity_similarity(maps, maps).equal
    tensor([True, True])
    """
    one, two = two_maps(maps, randomised_maps, ("maps", "randomised_maps"))
    if maps.ndim != 3:
        raise ValueError(f"maps must be [B, H, W], got {tuple(maps.shape)}")
    spearman = _spearman(one, two)
    ssim = _ssim(one.view(maps.shape).double(), two.view(maps.shape).double())
    ssim = torch.where(spearman.isnan(), torch.nan, ssim)
    return SanitySimilarity(spearman.to(one.dtype), ssim.to(one.dtype), (one == two).all(1))


def _spearman(one: Tensor, two: Tensor) -> Tensor:
    found = correlation(average_ranks(one), average_ranks(two))
    return torch.where(one.isfinite().all(1) & two.isfinite().all(1), found, torch.nan)


def _ssim(one: Tensor, two: Tensor) -> Tensor:  # [B, H, W], [B, H, W] -> [B]
    steps = torch.arange(-5, 6, device=one.device)
    rows, columns = (_window(_mirrored(size, steps), steps / 1.5, one) for size in one.shape[1:])

    def local(x: Tensor) -> Tensor:
        return rows @ x @ columns.mT

    a, b = local(one), local(two)
    varied = local(one**2) - a**2, local(two**2) - b**2, local(one * two) - a * b
    low, high = 0.01**2, 0.03**2
    found = (2 * a * b + low) * (2 * varied[2] + high) / ((a**2 + b**2 + low) * (varied[0] + varied[1] + high))
    return found.mean((1, 2))


def _mirrored(size: int, steps: Tensor) -> Tensor:  # [size, K]
    place = _places(size, steps) % (2 * size)
    return torch.minimum(place, 2 * size - 1 - place)


def _places(size: int, steps: Tensor) -> Tensor:  # [size, K]
    """The neighbours of each pixel along a mode, also beyond its ends."""
    return torch.arange(size, device=steps.device)[:, None] + steps


def _window(places: Tensor, distances: Tensor, like: Tensor) -> Tensor:  # [size, K], [K] -> [size, size]
    """The weights of a Gaussian blur along a mode."""
    weights = torch.exp(-(distances.double() ** 2) / 2)
    blank = like.new_zeros(len(places), len(places), dtype=torch.float64)
    return blank.scatter_add_(1, places, (weights / weights.sum()).expand_as(places)).to(like)


def _maps_of_inputs(inputs: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [B, P] with 0 in those that are not finite, and which are finite [B]."""
    inputs_of(inputs)
    flat = maps_of("maps", maps)
    if maps.shape != (len(inputs), *inputs.shape[2:]):
        need = (len(inputs), *inputs.shape[2:])
        raise ValueError(f"maps must be {need} as the inputs, got {tuple(maps.shape)}: take size=")
    flat = flat.to(inputs.device)
    finite = flat.isfinite().all(1)
    return torch.where(finite[:, None], flat, 0), finite


def _baseline(inputs: Tensor, baseline: Baseline) -> Tensor:
    if isinstance(baseline, Tensor):
        try:
            return baseline.to(inputs).expand_as(inputs)
        except RuntimeError:
            shape = tuple(baseline.shape)
            raise ValueError(f"baseline must broadcast to the inputs, {tuple(inputs.shape)}, got {shape}") from None
    checks.choice("baseline", baseline, ("blur", "mean"))
    if baseline == "blur":
        return blurred(inputs)
    return inputs.mean(tuple(range(2, inputs.ndim)), keepdim=True).expand_as(inputs)


def _area(curve: Tensor) -> Tensor:  # [B, steps + 1] -> [B]
    return torch.trapezoid(curve, dim=1) / (curve.shape[1] - 1)
