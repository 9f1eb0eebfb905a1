"""From a micro-batch of inputs to its maps, and what else is computed of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...models.forward import Forward
from ...steps.backend import Precision
from ..computation import Batch, Computation, Made, Problem
from ..errors import ShardFailed, Stopped
from ..files.run import STAGES
from .inputs import one_line

CPU_BATCH = 16  # images at once through a network on the CPU: larger batches take more memory and are no faster

POISON = "model"  # the kind of a problem that the network has with an image


def _nothing() -> None:
    pass


@dataclass
class Maps:
    """The computation of maps alone."""

    forward: Forward
    columns: Sequence[tuple[str, str]]  # method, as the record has it, and layer
    functions: Mapping[str, Callable[..., Tensor]]  # of each of these methods, with its options
    precision: Precision
    device: torch.device
    backend: str | None

    def prepare(self, key: str, picture: Image.Image | None, made: Tensor) -> None:
        return None

    def compute(self, batch: Batch, seconds: dict[str, float], beat: Callable[[], None] = _nothing) -> Made:
        started = time.perf_counter()
        features = self.forward(batch.inputs.to(self.device), batch.full)
        self.wait()
        seconds["forward"] += time.perf_counter() - started
        return self.of(features, seconds)

    def of(self, features: Mapping[str, Tensor], seconds: dict[str, float]) -> Made:
        """The maps of feature maps [B, C, H, W] by layer."""
        started = time.perf_counter()
        columns, problems = dict[str, np.ndarray](), dict[int, Problem]()
        for method, layer in self.columns:
            column, values = f"{method}/{layer}", features[layer]
            columns[column] = self.one(method, values).to("cpu", torch.float32).numpy()
            for item in np.flatnonzero(~np.isfinite(columns[column]).all(axis=(1, 2))).tolist():
                problems.setdefault(item, _why(bool(values[item].isfinite().all()), layer, column))
        seconds["decomposition"] += time.perf_counter() - started
        return Made(columns, problems)

    def one(self, method: str, features: Tensor) -> Tensor:  # [B, C, H, W] -> [B, H, W]
        """The maps of a method, as they are stored."""
        return self.functions[method](
            features, nan="propagate", normalize=False, precision=self.precision, backend=self.backend
        )

    def wait(self) -> None:
        """Until the device has done what it was given: the clock of a stage is read after that."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass
class Batches:
    """Micro-batches of a computation, within the memory of the device, and without images that the network refuses."""

    computation: Computation
    # The images that go through the network at once: for the caches, or for the memory of the device once that was too
    # small.
    largest: int | None

    def made(self, batch: Batch, seconds: dict[str, float], beat: Callable[[], None] = _nothing) -> Made:
        """The columns of a batch, of which at most `largest` images go through the network at once.

        A batch that does not fit into the memory of the device is halved, and so are all after it. An image for which
        the network raises has no map: it is found, and leaves its place in the batch blank. The time of the stages is
        added to `seconds`.
        """
        before = self.largest
        made = self._halved(batch, seconds, beat)
        poison = {item: why for item, why in made.problems.items() if why.kind == POISON}
        if self.largest == before or not poison:
            return made
        self.largest = before  # what did not fit was an image, perhaps, and not the batch
        made = self.made(batch.blanked(poison), seconds, beat)
        return made._replace(problems={**made.problems, **poison})

    def poison(self, batch: Batch) -> dict[int, Problem]:
        """The images for which the network raises, each beside a blank one; none where it does so for blank ones."""
        blank = torch.zeros_like(batch.inputs[:2])
        if self._error(Batch(blank, [None] * len(blank), self.largest or 0)) is not None:
            return {}
        found = {}
        for number, (image, extra) in enumerate(zip(batch.inputs, batch.extras, strict=True)):
            beside = blank.clone()
            beside[0] = image
            if (error := self._error(Batch(beside, [extra, None][: len(beside)], self.largest or 0))) is not None:
                found[number] = Problem(POISON, error)
        return found

    def _error(self, batch: Batch) -> str | None:
        try:
            self.computation.compute(batch, dict.fromkeys(STAGES, 0.0), _nothing)
        except (MemoryError, torch.OutOfMemoryError) as error:  # whose texts tell what was free
            return f"{type(error).__name__}: the network needs more memory for this image than there is"
        except Exception as error:  # networks of others raise anything
            return one_line(f"{type(error).__name__}: {error}")
        return None

    def _halved(self, batch: Batch, seconds: dict[str, float], beat: Callable[[], None]) -> Made:
        size = min(len(batch.extras), self.largest or len(batch.extras))
        try:
            parts = [self._part(part, seconds, beat) for part in batch.split(max(size, 1), self.largest or 0)]
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            self.largest = size // 2
        else:
            columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
            problems = {n * size + item: why for n, part in enumerate(parts) for item, why in part.problems.items()}
            return Made(columns, problems)
        torch.cuda.empty_cache()  # after the `except`, which still holds the tensors of the failed pass
        return self._halved(batch, seconds, beat)

    def _part(self, batch: Batch, seconds: dict[str, float], beat: Callable[[], None]) -> Made:
        """The columns of what goes through the network at once, without the images for which it raises."""
        try:
            return self.computation.compute(batch, seconds, beat)
        except (Stopped, ShardFailed):
            raise
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError) and len(batch.extras) > 1:
                raise
            poison = self.poison(batch)
            if not poison:
                raise
        made = self.computation.compute(batch.blanked(poison), seconds, beat)
        return made._replace(problems={**made.problems, **poison})


def _why(finite: bool, layer: str, column: str) -> Problem:
    if finite:
        return Problem("overflow", f"the features are finite, but the map {column!r} is too large for float32")
    return Problem("non-finite", f"the model gives NaN or Inf at layer {layer!r}")
