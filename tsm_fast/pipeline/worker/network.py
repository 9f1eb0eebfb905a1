"""The model of a run on a device: one image to its input, a micro-batch of inputs to its maps."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ... import models
from ...extractor import SaliencyExtractor
from ...models import weights
from ...pictures.decode import ImageError, Picture, from_value, unreadable
from ...saliency import METHODS
from ..errors import FingerprintError
from ..files.run import Run
from ..files.shards import OK
from ..settings import Resources
from ..sources.open import reopen
from ..sources.source import Item, Source

MESSAGE = 500  # characters of a row's error
CPU_BATCH = 16  # images at once through a network on the CPU: larger batches take more memory and are no faster

Maps = tuple[dict[str, np.ndarray], dict[int, tuple[str, str]]]  # by column, and (kind, message) of items without


class Slot(NamedTuple):
    """One image on its way to the network."""

    input: Tensor | None  # [C, H, W]; None after an error
    status: str
    error: str | None
    height: int | None
    width: int | None
    flags: int
    seconds: float


def _one_line(text: str) -> str:
    """A message as a row can hold it: messages of others may be long, or quote names that are no valid text."""
    return " ".join(text[:MESSAGE].split()).encode("utf-8", "backslashreplace").decode()


@dataclass
class Network:
    """A model with what belongs to it, ready on a device."""

    run: Run
    model: models.Model
    extractor: SaliencyExtractor
    source: Source
    device: torch.device
    backend: str | None
    input_shape: tuple[int, ...]
    largest: (
        int | None
    )  # batch for the network: for the caches, or for the memory of the device once that was too small

    def read(self, item: Item) -> Slot:
        """One image as input, or its error."""
        started = time.perf_counter()
        height = width = None
        flags = 0
        try:
            found = from_value(self._fetch(item), self.run.settings.max_pixels)
            if isinstance(found, Picture):
                height, width, flags = found.image.height, found.image.width, found.flags
                found = self._prepared(found)
            if found.shape != self.input_shape:
                raise ImageError("shape", f"inputs must be {list(self.input_shape)}, got {list(found.shape)}")
        except ImageError as error:
            return Slot(None, error.kind, _one_line(str(error)), height, width, flags, time.perf_counter() - started)
        return Slot(found, OK, None, height, width, flags, time.perf_counter() - started)

    def _fetch(self, item: Item) -> object:
        try:
            return self.source.read(item)
        except (ImageError, MemoryError):
            raise
        except OSError as error:
            raise unreadable(error) from None
        except Exception as error:  # a dataset raises anything
            raise ImageError("item", f"{type(error).__name__}: {error}") from None

    def _prepared(self, picture: Picture) -> Tensor:
        try:
            return self.model.preprocess(picture.image)
        except MemoryError:
            raise
        except Exception as error:  # transforms of others raise anything, for a picture one pixel high, say
            raise ImageError("preprocess", f"{type(error).__name__}: {error}") from None

    def maps(self, inputs: Tensor, seconds: dict[str, float]) -> Maps:
        """Maps [B, h, w] of inputs [B, C, H, W], which go through the network at most `largest` at once.

        A batch that does not fit into the memory of the device is halved, and so are all after it.
        """
        size = min(len(inputs), self.largest or len(inputs))
        try:
            parts = [self._maps(part, seconds) for part in inputs.split(size)]
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            self.largest = size // 2
        else:
            maps = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
            errors = {number * size + item: what for number, part in enumerate(parts) for item, what in part[1].items()}
            return maps, errors
        torch.cuda.empty_cache()  # after the `except`, which still holds the tensors of the failed pass
        return self.maps(inputs, seconds)

    def _maps(self, inputs: Tensor, seconds: dict[str, float]) -> Maps:
        started = time.perf_counter()
        features = self.extractor.features(inputs.to(self.device))
        self._wait()
        between = time.perf_counter()
        maps, errors = {}, {}
        for column in self.run.columns:
            settings, layer = self.run.settings, features[column.layer]
            made = METHODS[column.method].function(
                layer,
                nan="propagate",
                normalize=False,
                precision=settings.precision,
                backend=self.backend,
                **settings.options(column.method),
            )
            maps[column.name] = made.to("cpu", torch.float32).numpy()
            for item in np.flatnonzero(~np.isfinite(maps[column.name]).all(axis=(1, 2))).tolist():
                errors.setdefault(item, _why(bool(layer[item].isfinite().all()), column.layer, column.name))
        finished = time.perf_counter()
        seconds["forward"] += between - started
        seconds["decomposition"] += finished - between
        return maps, errors

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _why(finite: bool, layer: str, column: str) -> tuple[str, str]:
    if finite:
        return "overflow", f"the features are finite, but the map {column!r} is too large for float32"
    return "non-finite", f"the model gives NaN or Inf at layer {layer!r}"


_networks: dict[tuple[str, str, str, str | None], Network] = {}
_networks_guard = threading.Lock()


def network(run: Run, device: torch.device, resources: Resources, source: Source | None) -> Network:
    """The model of a run on a device; the last one is kept for the next shard."""
    key = (str(run.out), run.fingerprint, str(device), resources.backend)
    with _networks_guard:
        if key not in _networks:
            _networks.clear()
            _networks[key] = _load(run, device, resources.backend, source)
        return _networks[key]


def _load(run: Run, device: torch.device, backend: str | None, source: Source | None) -> Network:
    settings, parts = run.settings, run.facts["parts"]
    model = models.load(
        settings.model, weights=settings.weights, trust_model_code=settings.trust_model_code, size=settings.size
    )
    if weights.digest(model.module) != parts["model"]["sha256"]:
        raise FingerprintError(
            f"model {settings.model} has other weights or layers here than when the run was planned; a factory must "
            "give the same weights at every call"
        )
    about = run.facts["source"]
    return Network(
        run=run,
        model=model,
        extractor=SaliencyExtractor(model.module.to(device), parts["layers"]),
        source=source or reopen(about["kind"], about["root"]),
        device=device,
        backend=backend,
        input_shape=tuple(parts["preprocessing"]["input"]),
        largest=CPU_BATCH if device.type == "cpu" else None,
    )


def keep_memory() -> None:
    """Let this process keep the memory that it frees.

    glibc gives large blocks back to the system at once, so every layer of every batch faults its output in anew: half
    of the CPU time of a forward pass (lite0: 59 ms an image, 29 without). For processes that are ours; elsewhere than
    on Linux with glibc it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


@contextmanager
def torch_state(resources: Resources) -> Iterator[torch.device]:
    """The device, with everything set that the last bits of a forward pass depend on; as before afterwards."""
    name = resources.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.benchmark, cudnn.deterministic
    if resources.torch_threads is not None:
        torch.set_num_threads(resources.torch_threads)
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        with torch.autocast(device.type, enabled=False):
            yield device
    finally:
        torch.set_num_threads(before[0])
        cudnn.benchmark, cudnn.deterministic = before[1:]
