"""The model of a run on a device, and the state of PyTorch that its results depend on."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import torch

from ... import models
from ...extractor import SaliencyExtractor
from ...models import answers, weights
from ...models.forward import Forward
from ...steps.backend import Precision
from ...variants import variant
from ..errors import FingerprintError
from ..files.record import RunFile
from ..files.run import Command, Run
from ..settings import Resources
from ..sources.open import reopen
from ..sources.source import Item, Source
from .inputs import DECODED, Inputs, Slot
from .maps import CPU_BATCH, Batches, Maps
from .threads import Room


@dataclass(frozen=True)
class Network:
    """The model of a run with what belongs to it, ready on a device."""

    model: models.Model
    source: Source
    inputs: Inputs
    device: torch.device
    batches: Batches

    def read(self, item: Item) -> Slot:
        """One image as input, or its problem."""
        prepare = self.batches.computation.prepare
        return self.inputs.read(lambda: self.source.read(item), lambda *made: prepare(item.key, *made))


_networks: dict[tuple[Any, ...], Network] = {}
_networks_guard = threading.Lock()


def network(
    run: Run,
    command: Command,
    device: torch.device,
    resources: Resources,
    source: Source | None = None,
    model: models.Model | None = None,
) -> Network:
    """The model that the command names, or that is given, on a device, with the source that it names, or that is given.

    The last ones are kept for the next shard of the same command.
    """
    key = (str(run.out), run.file.fingerprint, str(device), resources.backend, command, command.mark)
    with _networks_guard:
        if key not in _networks:
            _networks.clear()
            found = model or models.load(command.settings.model, **command.settings.loading)
            _networks[key] = _load(run.file, command, device, resources, source, found)
        return _networks[key]


def _load(
    file: RunFile,
    command: Command,
    device: torch.device,
    resources: Resources,
    source: Source | None,
    model: models.Model,
) -> Network:
    settings, record = command.settings, file.record
    if weights.digest(model.module) != record.model.sha256:
        raise FingerprintError(
            f"model {settings.model} has other weights or layers here than when the run was planned; a factory must "
            "give the same weights at every call"
        )
    shape = record.preprocessing["input"]
    extractor = SaliencyExtractor(model.module, list(record.layers), reshape_transform=settings.reshape_transform)
    if file.evidence is not None:
        there = file.evidence.answers
        here = answers.of(
            model, extractor.features(answers.fixed_inputs(shape)), picture=answers.PREPROCESSING in there
        )
        if (text := answers.difference(settings.model, there, here)) is not None:
            raise FingerprintError(text)
    model.module.to(device)
    largest = CPU_BATCH if device.type == "cpu" else None
    forward = Forward(extractor, model.module, **asdict(record.forward))
    forward.warm(shape, largest or record.batch_size, device)
    maps = Maps(
        forward=forward,
        columns=[(column.method, column.layer) for column in record.columns],
        functions={name: partial(variant(name).function, **record.options(name)) for name in record.methods},
        precision=cast(Precision, record.precision),
        device=device,
        backend=resources.backend,
    )
    return Network(
        model,
        source or reopen(command.kind, command.root),
        Inputs(model.preprocess, tuple(shape), record.max_pixels, Room(resources.decode_threads * DECODED)),
        device,
        Batches(maps if settings.computation is None else settings.computation.start(maps, model), largest),
    )


def device_of(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def keep_memory() -> None:
    """Let this process keep the memory that it frees.

    glibc gives large blocks back to the system at once, so every layer of every batch faults its output in anew: half
    of the CPU time of a forward pass (lite0: 59 ms an image, 29 without). For processes that are ours; elsewhere than
    on Linux with glibc it does nothing.
    """
    _mallopt(2**30, 2**31 - 1)


@contextmanager
def keeping_memory(wanted: bool) -> Iterator[None]:
    """`keep_memory` for the time of the block, in a process of somebody else."""
    if not wanted:
        yield
        return
    keep_memory()
    try:
        yield
    finally:
        _mallopt(_DEFAULT, _DEFAULT)


def _mallopt(mmap: int, trim: int) -> None:
    """From how many bytes on a block is one of its own, and free memory is given back."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, mmap)
        mallopt(_M_TRIM_THRESHOLD, trim)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _DEFAULT = -1, -3, 128 << 10  # of malloc.h


@contextmanager
def torch_state(resources: Resources) -> Iterator[torch.device]:
    """The device, with everything set that the last bits of a forward pass depend on; as before afterwards."""
    device = device_of(resources.device)
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
