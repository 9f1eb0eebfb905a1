"""What a run computes of its pictures: maps, and whatever else has columns with a type."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from ..models import Model
from .files.shards import MapColumn, ValueColumn


class Problem(NamedTuple):
    """Why an image has no map."""

    kind: str  # the status of its row
    message: str


class Batch(NamedTuple):
    """What goes through the network at once; images with a problem are blank, and have no extra."""

    inputs: Tensor  # [B, C, H, W]
    extras: Sequence[Any]  # [B], what `Computation.prepare` made of each picture
    full: int = 0  # images of a whole batch, for which a graph is compiled

    def split(self, size: int, full: int) -> Iterator[Batch]:
        """In parts of so many."""
        for start in range(0, max(len(self.extras), 1), size):
            yield Batch(self.inputs[start : start + size], self.extras[start : start + size], full)

    def blanked(self, items: Collection[int]) -> Batch:
        """With some images blank: the last bits of the others depend on the size of the batch."""
        left = self.inputs.clone()
        left[list(items)] = 0
        extras = [None if number in items else extra for number, extra in enumerate(self.extras)]
        return self._replace(inputs=left, extras=extras)


class Made(NamedTuple):
    """What was computed of a batch."""

    columns: dict[str, np.ndarray]  # maps [B, h, w] float32, and values as `ValueColumn.blank` has them
    problems: Mapping[int, Problem]  # of the images that have none


class Computation(Protocol):
    """Ready in a worker, with the network on its device."""

    def prepare(self, key: str, picture: Image.Image | None, made: Tensor) -> Any:
        """What else is needed of a picture (None where the source gives tensors), with its input [C, H, W].

        It is called by the threads that decode.
        """
        ...

    def compute(self, batch: Batch, seconds: dict[str, float], beat: Callable[[], None]) -> Made:
        """All columns of a batch. The time of the stages is added to `seconds`.

        `beat` is called at least every few seconds; it raises where the run is to stop.
        """
        ...


class Asked(Protocol):
    """A computation as settings have it: picklable, equal where it gives equal values."""

    name: str

    def options(self) -> dict[str, Any]:
        """All that decides its values, as JSON has it, for the record of the run."""
        ...

    def columns(self, maps: Sequence[MapColumn]) -> tuple[ValueColumn, ...]:
        """Its columns, beside those of the maps."""
        ...

    def start(self, maps: Any, model: Model) -> Computation:
        """It, computing maps too, which it has of a `worker.maps.Maps`."""
        ...
