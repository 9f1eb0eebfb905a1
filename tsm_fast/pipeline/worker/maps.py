"""From a micro-batch of inputs to its maps."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...models.forward import Forward
from ...steps.backend import Precision
from ..files.run import STAGES
from .inputs import Problem, one_line

CPU_BATCH = 16  # images at once through a network on the CPU: larger batches take more memory and are no faster

POISON = "model"  # the kind of a problem that the network has with an image


class Made(NamedTuple):
    """The maps of a micro-batch."""

    maps: dict[str, np.ndarray]  # column -> [B, h, w] float32
    problems: dict[int, Problem]  # of the images that have none


@dataclass
class Mapper:
    """Makes maps with a model, on its device."""

    forward: Forward
    columns: Sequence[tuple[str, str]]  # method, as the record has it, and layer
    functions: Mapping[str, Callable[..., Tensor]]  # of each of these methods, with its options
    precision: Precision
    device: torch.device
    backend: str | None
    # The images that go through the network at once: for the caches, or for the memory of the device once that was too
    # small.
    largest: int | None

    def maps(self, inputs: Tensor, seconds: dict[str, float]) -> Made:
        """Maps [B, h, w] of inputs [B, C, H, W], which go through the network at most `largest` at once.

        A batch that does not fit into the memory of the device is halved, and so are all after it. An image for which
        the network raises has no map: it is found, and leaves its place in the batch blank. The time of the stages is
        added to `seconds`.
        """
        before = self.largest
        made = self._halved(inputs, seconds)
        poison = {item: why for item, why in made.problems.items() if why.kind == POISON}
        if self.largest == before or not poison:
            return made
        self.largest = before  # what did not fit was an image, perhaps, and not the batch
        made = self.maps(_blanked(inputs, poison), seconds)
        return made._replace(problems={**made.problems, **poison})

    def poison(self, inputs: Tensor) -> dict[int, Problem]:
        """The images for which the network raises, each beside a blank one; none where it does so for blank ones."""
        blank = torch.zeros_like(inputs[:2])
        if self._error(blank) is not None:
            return {}
        found = {}
        for number, image in enumerate(inputs):
            beside = blank.clone()
            beside[0] = image
            if (error := self._error(beside)) is not None:
                found[number] = Problem(POISON, error)
        return found

    def _error(self, inputs: Tensor) -> str | None:
        try:
            self._maps(inputs, dict.fromkeys(STAGES, 0.0))
        except (MemoryError, torch.OutOfMemoryError) as error:  # whose texts tell what was free
            return f"{type(error).__name__}: the network needs more memory for this image than there is"
        except Exception as error:  # networks of others raise anything
            return one_line(f"{type(error).__name__}: {error}")
        return None

    def _halved(self, inputs: Tensor, seconds: dict[str, float]) -> Made:
        size = min(len(inputs), self.largest or len(inputs))
        try:
            parts = [self._part(part, seconds) for part in inputs.split(max(size, 1))]
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            self.largest = size // 2
        else:
            maps = {name: np.concatenate([part.maps[name] for part in parts]) for name in parts[0].maps}
            problems = {n * size + item: why for n, part in enumerate(parts) for item, why in part.problems.items()}
            return Made(maps, problems)
        torch.cuda.empty_cache()  # after the `except`, which still holds the tensors of the failed pass
        return self._halved(inputs, seconds)

    def _part(self, inputs: Tensor, seconds: dict[str, float]) -> Made:
        """Maps of what goes through the network at once, without the images for which it raises."""
        try:
            return self._maps(inputs, seconds)
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError) and len(inputs) > 1:
                raise
            poison = self.poison(inputs)
            if not poison:
                raise
        made = self._maps(_blanked(inputs, poison), seconds)
        return made._replace(problems={**made.problems, **poison})

    def _maps(self, inputs: Tensor, seconds: dict[str, float]) -> Made:
        started = time.perf_counter()
        features = self.forward(inputs.to(self.device), self.largest or 0)
        self._wait()
        between = time.perf_counter()
        made = Made({}, {})
        for method, layer in self.columns:
            column, values = f"{method}/{layer}", features[layer]
            maps = self.functions[method](
                values,
                nan="propagate",
                normalize=False,
                precision=self.precision,
                backend=self.backend,
            )
            made.maps[column] = maps.to("cpu", torch.float32).numpy()
            for item in np.flatnonzero(~np.isfinite(made.maps[column]).all(axis=(1, 2))).tolist():
                made.problems.setdefault(item, _why(bool(values[item].isfinite().all()), layer, column))
        finished = time.perf_counter()
        seconds["forward"] += between - started
        seconds["decomposition"] += finished - between
        return made

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _blanked(inputs: Tensor, items: Collection[int]) -> Tensor:
    """Inputs with some images blank: the last bits of the others depend on the size of the batch."""
    left = inputs.clone()
    left[list(items)] = 0
    return left


def _why(finite: bool, layer: str, column: str) -> Problem:
    if finite:
        return Problem("overflow", f"the features are finite, but the map {column!r} is too large for float32")
    return Problem("non-finite", f"the model gives NaN or Inf at layer {layer!r}")
