"""From whatever holds a picture to an input of the network, or what is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ...models.preprocessing import Preprocess
from ...pictures.content import Content, content
from ...pictures.decode import ImageError, Picture, from_value, unreadable
from ..computation import Batch, Problem
from .threads import Room

DECODED = 256 << 20  # bytes of decoded images at the same time, for each thread that decodes
MESSAGE = 500  # characters of a row's error


class Slot(NamedTuple):
    """One image on its way to the network."""

    input: Tensor | None  # [C, H, W]; None after a problem
    problem: Problem | None
    height: int | None
    width: int | None
    flags: int
    content: Content
    seconds: float
    extra: Any = None  # of `Computation.prepare`


@dataclass(frozen=True)
class Inputs:
    """Makes inputs of one shape."""

    preprocess: Preprocess
    shape: tuple[int, ...]  # C, H, W
    max_pixels: int
    room: Room = field(default_factory=lambda: Room(DECODED))  # for images that are decoded at the same time

    def read(
        self, fetch: Callable[[], object], also: Callable[[Image.Image | None, Tensor], Any] = lambda *_: None
    ) -> Slot:
        """What `fetch` gives (bytes of a file, a picture, pixels or a tensor) as input, or its problem.

        `also` is given the picture, where there is one, and the input.
        """
        started = time.perf_counter()
        made = problem = height = width = picture = extra = None
        flags, what = 0, Content(None, None)
        try:
            value = _fetched(fetch)
            if isinstance(value, bytes | bytearray):
                what = content(value)
            with self.room.shared() as take:
                found = from_value(value, self.max_pixels, take)
                if not isinstance(value, bytes | bytearray):
                    what = content(value)
                if isinstance(found, Picture):
                    picture = found.image
                    height, width, flags = picture.height, picture.width, found.flags
                    found = self._prepared(found)
            if found.shape != self.shape:
                raise ImageError("shape", f"inputs must be {list(self.shape)}, got {list(found.shape)}")
            extra = also(picture, found)
            made = found
        except ImageError as error:
            problem = Problem(error.kind, one_line(str(error)))
        return Slot(made, problem, height, width, flags, what, time.perf_counter() - started, extra)

    def batch(self, slots: Sequence[Slot]) -> Batch:
        """The inputs of images, blank for those with a problem: the last bits of the others depend on the size."""
        inputs = torch.zeros(len(slots), *self.shape)
        for number, slot in enumerate(slots):
            if slot.input is not None:
                inputs[number] = slot.input
        return Batch(inputs, [slot.extra for slot in slots])

    def _prepared(self, picture: Picture) -> Tensor:
        try:
            return self.preprocess(picture.image)
        except MemoryError:
            raise
        except Exception as error:  # transforms of others raise anything, for a picture one pixel high, say
            raise ImageError("preprocess", f"{type(error).__name__}: {error}") from None


def _fetched(fetch: Callable[[], object]) -> object:
    try:
        return fetch()
    except (ImageError, MemoryError):
        raise
    except OSError as error:
        raise unreadable(error) from None
    except Exception as error:  # a dataset raises anything
        raise ImageError("item", f"{type(error).__name__}: {error}") from None


def one_line(text: str) -> str:
    """A message as a row can hold it: messages of others may be long, or quote names that are no valid text."""
    return " ".join(text[:MESSAGE].split()).encode("utf-8", "backslashreplace").decode()
