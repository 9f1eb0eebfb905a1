"""From a micro-batch of inputs to its maps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...extractor import SaliencyExtractor
from ...saliency import METHODS
from ...steps.backend import Precision
from .inputs import Problem

CPU_BATCH = 16  # images at once through a network on the CPU: larger batches take more memory and are no faster


class Made(NamedTuple):
    """The maps of a micro-batch."""

    maps: dict[str, np.ndarray]  # column -> [B, h, w] float32
    problems: dict[int, Problem]  # of the images that have none


@dataclass
class Mapper:
    """Makes maps with a model, on its device."""

    extractor: SaliencyExtractor
    columns: Sequence[tuple[str, str]]  # method and layer
    options: Mapping[str, Mapping[str, Any]]  # of each method
    precision: Precision
    device: torch.device
    backend: str | None
    # The images that go through the network at once: for the caches, or for the memory of the device once that was too
    # small.
    largest: int | None

    def maps(self, inputs: Tensor, seconds: dict[str, float]) -> Made:
        """Maps [B, h, w] of inputs [B, C, H, W], which go through the network at most `largest` at once.

        A batch that does not fit into the memory of the device is halved, and so are all after it. The time of the
        stages is added to `seconds`.
        """
        size = min(len(inputs), self.largest or len(inputs))
        try:
            parts = [self._maps(part, seconds) for part in inputs.split(max(size, 1))]
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            self.largest = size // 2
        else:
            maps = {name: np.concatenate([part.maps[name] for part in parts]) for name in parts[0].maps}
            problems = {n * size + item: why for n, part in enumerate(parts) for item, why in part.problems.items()}
            return Made(maps, problems)
        torch.cuda.empty_cache()  # after the `except`, which still holds the tensors of the failed pass
        return self.maps(inputs, seconds)

    def _maps(self, inputs: Tensor, seconds: dict[str, float]) -> Made:
        started = time.perf_counter()
        features = self.extractor.features(inputs.to(self.device))
        self._wait()
        between = time.perf_counter()
        made = Made({}, {})
        for method, layer in self.columns:
            column, values = f"{method}/{layer}", features[layer]
            maps = METHODS[method].function(
                values,
                nan="propagate",
                normalize=False,
                precision=self.precision,
                backend=self.backend,
                **self.options[method],
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


def _why(finite: bool, layer: str, column: str) -> Problem:
    if finite:
        return Problem("overflow", f"the features are finite, but the map {column!r} is too large for float32")
    return Problem("non-finite", f"the model gives NaN or Inf at layer {layer!r}")
