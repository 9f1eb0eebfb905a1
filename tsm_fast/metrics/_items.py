"""What every metric asks of its maps, item by item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor


def maps_of(name: str, maps: Tensor) -> Tensor:
    """Maps [B, P] of [B, *positions], at least float32."""
    if not isinstance(maps, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(maps).__name__}")
    if not maps.is_floating_point():
        raise TypeError(f"{name} must be floating-point, got {maps.dtype}")
    if not 2 <= maps.ndim <= 4 or 0 in maps.shape[1:]:
        raise ValueError(f"{name} must be [B, *positions] with one to three position modes, got {tuple(maps.shape)}")
    flat = maps.detach().flatten(1)
    return flat if flat.dtype == torch.float64 else flat.float()


def masks_of(name: str, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a pixel is of the object [B, P], and which items have a mask [B]: NaN stands for none."""
    if not isinstance(masks, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(masks).__name__}")
    if masks.is_complex() or not 2 <= masks.ndim <= 4 or 0 in masks.shape[1:]:
        raise ValueError(f"{name} must be [B, *positions], non-zero on the object, got {tuple(masks.shape)}")
    flat = masks.detach().flatten(1)
    return flat.bool(), ~flat.isnan().any(1) if masks.is_floating_point() else _all(flat)


def _all(flat: Tensor) -> Tensor:
    return torch.ones(len(flat), dtype=torch.bool, device=flat.device)


def inputs_of(inputs: Tensor) -> None:
    """TypeError unless they are a batch of inputs."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.ndim < 3:
        kind = f"{inputs.dtype} {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(f"inputs must be a float tensor [B, C, *positions], got {kind}")


def named_items(numbers: Sequence[int]) -> str:
    """The first of them in words.

    >>> named_items([3, 5])
    'items 3, 5'
    """
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"item{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers[:10]))}{more}"


@dataclass(frozen=True)
class Pair:
    """Maps with the masks of their objects, flat; items without what a metric needs have no value of it."""

    maps: Tensor  # [B, P]
    masks: Tensor  # [B, P] bool
    finite: Tensor  # [B] bool: the map is, and there is an object

    @cached_property
    def ranks(self) -> Ranked:
        return ranked(self.maps)

    def of_objects(self, values: Tensor) -> Tensor:  # [B] -> [B], in the dtype of the maps
        return torch.where(self.finite, values, torch.nan).to(self.maps.dtype)

    def of_both(self, values: Tensor) -> Tensor:  # [B] -> [B], in the dtype of the maps
        """Where there is a background beside the object."""
        return self.of_objects(torch.where(self.masks.all(1), torch.nan, values))


def pair(maps: Tensor, masks: Tensor) -> Pair:
    flat, (objects, present) = maps_of("maps", maps), masks_of("masks", masks)
    if masks.shape != maps.shape:
        raise ValueError(f"masks must be as large as the maps, {tuple(maps.shape)}, got {tuple(masks.shape)}")
    objects = objects.to(flat.device)
    return Pair(flat, objects, flat.isfinite().all(1) & present.to(flat.device) & objects.any(1))


def two_maps(maps: Tensor, others: Tensor, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Two batches of maps of one shape, flat."""
    one, two = maps_of(names[0], maps), maps_of(names[1], others)
    if maps.shape != others.shape:
        raise ValueError(f"{names[1]} must be as large as {names[0]}, {tuple(maps.shape)}, got {tuple(others.shape)}")
    return one, two.to(one.device)


def nonnegative(name: str, flat: Tensor) -> None:
    if bool((flat < 0).any()):
        raise ValueError(
            f"{name} must not be negative, got {float(flat[~flat.isnan()].min()):.3g}: take normalize=True"
        )


class Ranked(NamedTuple):
    """The pixels of each item by rising value."""

    order: Tensor  # [B, P] of pixels
    below: Tensor  # [B, P] how many pixels are less, in that order
    upto: Tensor  # [B, P] how many are less or equal, in that order

    def by_pixel(self, values: Tensor) -> Tensor:  # [B, P], [B, P]
        """What is in order of value, in order of pixels."""
        return torch.empty_like(values).scatter_(1, self.order, values)


def ranked(flat: Tensor) -> Ranked:  # [B, P]
    values, order = flat.sort(dim=1, stable=True)
    pixels = flat.shape[1]
    steps = torch.arange(pixels, device=flat.device)
    new = functional.pad(values[:, 1:] != values[:, :-1], (1, 1), value=True)
    below = torch.where(new[:, :-1], steps, 0).cummax(1).values
    upto = torch.where(new[:, 1:], steps + 1, pixels).flip(1).cummin(1).values.flip(1)
    return Ranked(order, below, upto)


class Levels(NamedTuple):
    """How many pixels are above each, and how many have its value."""

    above: Tensor  # [B, P] float
    equal: Tensor  # [B, P] float

    def largest(self, counts: Tensor | int) -> Tensor:  # [B, 1] or a number -> [B, P]
        """Which pixels are among so many largest, 0 or 1; of those that tie at the edge each has the share taken."""
        return ((counts - self.above) / self.equal).clamp_(0, 1)


def levels(flat: Tensor, found: Ranked | None = None) -> Levels:  # [B, P]
    found = found or ranked(flat)
    above, equal = flat.shape[1] - found.upto, found.upto - found.below
    return Levels(*(found.by_pixel(counts.to(flat.dtype)) for counts in (above, equal)))


def average_ranks(flat: Tensor) -> Tensor:  # [B, P] -> [B, P] float64, from 1
    """Ranks, of equal values their mean."""
    found = ranked(flat)
    return found.by_pixel((found.below + found.upto + 1).double() / 2)


def correlation(one: Tensor, two: Tensor) -> Tensor:  # [B, P], [B, P] -> [B] float64
    """Pearson's; NaN where either is constant or not finite."""
    one, two = (_unit(x.double()) for x in (one, two))
    return (one * two).sum(1).clamp(-1, 1)


def _unit(x: Tensor) -> Tensor:
    """Less its mean, of length 1; NaN for what is constant."""
    constant = x.amax(1, keepdim=True) == x.amin(1, keepdim=True)
    x = x - x.mean(1, keepdim=True)
    return torch.where(constant, torch.nan, x / torch.linalg.vector_norm(x, dim=1, keepdim=True))
