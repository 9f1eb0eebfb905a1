"""`run_shard`: from a planned range of images to a published shard of maps."""

from __future__ import annotations

import hashlib
import platform
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import models, weights
from ..extractor import METHODS, SaliencyExtractor
from . import images, plan_file, publish, sources
from .draft import versions
from .errors import FingerprintError, ShardFailed, Stopped
from .flow import Ahead, Behind
from .images import ImageError
from .run import Marker, Run, ShardSpec
from .settings import Resources
from .shards import FLAGS, OK, Rows, ShardWriter, marker_path, shard_path

# Seconds of each: "read" is that of the decoding threads together, "wait" that of the model for images, "write" that
# of the writing thread.
STAGES = ("read", "wait", "forward", "decomposition", "write")
WRITES_BEHIND = 2  # micro-batches of maps that wait for the writing thread


_Maps = tuple[dict[str, np.ndarray], dict[int, tuple[str, str]]]  # by column, and (kind, message) of items without


class Event(NamedTuple):
    """What happened since the last event of this shard."""

    shard: int
    images: int  # rows finished, with those that failed
    errors: int
    seconds: dict[str, float]  # by stage


def run_shard(
    spec: ShardSpec,
    resources: Resources | None = None,
    *,
    report: Callable[[Event], None] | None = None,
    stop: threading.Event | None = None,
    source: sources.Source | None = None,
) -> Marker:
    """Compute and publish one shard, or raise and leave nothing behind.

    The bytes of the shard depend on the plan alone: a second call publishes them again, and returns at once where the
    shard is there, whole. The model stays in memory for the next shard.

    Args:
        spec: which rows of which run.
        resources: how; default `Resources()`.
        report: told after every micro-batch.
        stop: once set, the shard is given up.
        source: needed where `prepare` was given one.

    Raises:
        Stopped: `stop` was set.
        ShardFailed: it took longer than `resources.shard_timeout`, or the model failed.
        FingerprintError: the folder holds another run, or the model here is another one.
        OutOfSpace: the disk is full.
        OSError: the folder cannot be written to.
    """
    resources = resources or Resources()
    run = Run.open(spec.out)
    if run.fingerprint != spec.fingerprint:
        raise FingerprintError(f"{spec.out} holds another run than the one that shard {spec.index} was planned for")
    present = run.marker(spec.index)
    if present is not None and run.is_whole(present):
        return present
    path = shard_path(spec.out, spec.index)
    publish.clean(path.parent, path.name)
    with _torch_state(resources) as device, images.quiet_decoders():
        shard = _Shard(run, spec, _network(run, device, resources, source), resources, report, stop)
        marker = shard.publish(path)
    publish.publish_json(marker_path(spec.out, spec.index), marker.to_json())
    return marker


class _Slot(NamedTuple):
    """One image on its way to the network."""

    input: Tensor | None  # [C, H, W]; None after an error
    status: str
    error: str | None
    height: int | None
    width: int | None
    flags: int
    seconds: float


@dataclass
class _Network:
    """A model with what belongs to it, ready on a device."""

    run: Run
    model: models.Model
    extractor: SaliencyExtractor
    source: sources.Source
    device: torch.device
    backend: str | None
    input_shape: tuple[int, ...]
    largest: int | None = None  # batch that fits into the memory of the device, once that was too small

    def read(self, item: sources.Item) -> _Slot:
        """One image as input, or its error."""
        started = time.perf_counter()
        height = width = None
        flags = 0
        try:
            found = images.from_value(self._fetch(item), self.run.settings.max_pixels)
            if isinstance(found, images.Picture):
                height, width, flags = found.image.height, found.image.width, found.flags
                found = self._prepared(found)
            if found.shape != self.input_shape:
                raise ImageError("shape", f"inputs must be {list(self.input_shape)}, got {list(found.shape)}")
        except ImageError as error:
            return _Slot(None, error.kind, str(error), height, width, flags, time.perf_counter() - started)
        return _Slot(found, OK, None, height, width, flags, time.perf_counter() - started)

    def _fetch(self, item: sources.Item) -> object:
        try:
            return self.source.read(item)
        except (ImageError, MemoryError):
            raise
        except OSError as error:
            raise images.unreadable(error) from None
        except Exception as error:  # a dataset raises anything
            raise ImageError("item", f"{type(error).__name__}: {error}") from None

    def _prepared(self, picture: images.Picture) -> Tensor:
        try:
            return self.model.preprocess(picture.image)
        except MemoryError:
            raise
        except Exception as error:  # transforms of others raise anything, for a picture one pixel high, say
            raise ImageError("preprocess", f"{type(error).__name__}: {error}") from None

    def maps(
        self, inputs: Tensor, seconds: dict[str, float]
    ) -> tuple[dict[str, np.ndarray], dict[int, tuple[str, str]]]:
        """Maps [B, h, w] of inputs [B, C, H, W].

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

    def _maps(self, inputs: Tensor, seconds: dict[str, float]) -> _Maps:
        started = time.perf_counter()
        features = self.extractor.features(inputs.to(self.device))
        self._wait()
        between = time.perf_counter()
        maps, errors = {}, {}
        for column in self.run.columns:
            settings, layer = self.run.settings, features[column.layer]
            made = METHODS[column.method](
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


class _Shard:
    """The computation of one shard."""

    def __init__(
        self,
        run: Run,
        spec: ShardSpec,
        network: _Network,
        resources: Resources,
        report: Callable[[Event], None] | None,
        stop: threading.Event | None,
    ) -> None:
        self._run, self._spec, self._network, self._resources = run, spec, network, resources
        self._report, self._stop = report, stop
        self._started = time.monotonic()
        self._batch = resources.batch_size or run.settings.batch_size
        self._seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._told = dict(self._seconds)
        self._errors: Counter[str] = Counter()
        self._flags: Counter[str] = Counter()

    def publish(self, path: Path) -> Marker:
        """Write the shard, give it its name, and say what is in it."""
        about = {"format": self._run.facts["format"], "fingerprint": self._spec.fingerprint, "shard": self._spec.index}
        about["columns"] = [column.to_json() for column in self._run.columns]
        with publish.publishing(path) as file:
            hashing = HashingFile(file)
            writer = ShardWriter(hashing, self._run.columns, about)  # pyright: ignore[reportArgumentType]
            try:
                self._write_rows(writer)
                started = time.perf_counter()
                writer.close()
                self._seconds["write"] += time.perf_counter() - started
            except BaseException:
                hashing.abandon()
                raise
        rows = self._spec.stop - self._spec.start
        return Marker(
            shard=self._spec.index,
            rows=rows,
            ok=rows - self._errors.total(),
            errors=dict(sorted(self._errors.items())),
            flags=dict(sorted(self._flags.items())),
            sha256=hashing.sha256.hexdigest(),
            bytes=hashing.tell(),
            seconds={name: round(s, 6) for name, s in self._seconds.items()}
            | {"total": round(time.monotonic() - self._started, 6)},
            fingerprint=self._spec.fingerprint,
            host=platform.node(),
            device=str(self._network.device),
            batch_size=min(self._batch, self._network.largest or self._batch),
            torch_threads=torch.get_num_threads(),
            versions=versions(),
        )

    def _write_rows(self, writer: ShardWriter) -> None:
        items = plan_file.read(Path(self._spec.out), self._spec.index)

        def write(rows: Rows) -> None:
            started = time.perf_counter()
            writer.add(rows)
            self._seconds["write"] += time.perf_counter() - started

        with ExitStack() as stack:
            behind = stack.enter_context(Behind(write, waiting=WRITES_BEHIND, name="tsm-fast write"))
            threads, ahead = self._resources.decode_threads, 2 * self._batch
            reader = Ahead(self._network.read, items, threads=threads, ahead=ahead, name="tsm-fast read")
            stack.enter_context(reader)
            for first in range(0, len(items), self._batch):
                batch = items[first : first + self._batch]
                self._check()
                started = time.perf_counter()
                slots = reader.take(len(batch), self._check)
                self._seconds["wait"] += time.perf_counter() - started
                self._seconds["read"] += sum(slot.seconds for slot in slots)
                rows = self._rows(batch, slots, self._spec.start + first)
                behind.put(rows)
                self._tell(rows)

    def _rows(self, items: Sequence[sources.Item], slots: Sequence[_Slot], start: int) -> Rows:
        """A micro-batch. Images with an error are blank in it, so that its size, which the last bits of the others
        depend on, is always the same.
        """
        count = len(slots)
        maps = {c.name: np.full((count, *c.shape), np.nan, np.float32) for c in self._run.columns}
        errors: dict[int, tuple[str, str]] = {}
        if any(slot.input is not None for slot in slots):
            blank = torch.zeros(self._network.input_shape)
            inputs = torch.stack([blank if slot.input is None else slot.input for slot in slots])
            try:
                maps, errors = self._network.maps(inputs, self._seconds)
            except (RuntimeError, ValueError, TypeError) as error:
                where = f"shard {self._spec.index}, images {start}..{start + count - 1}"
                raise ShardFailed(f"{where}: {type(error).__name__}: {error}") from error
        status, message, flags = [], [], []
        for number, slot in enumerate(slots):
            kind, text = (slot.status, slot.error) if slot.input is None else errors.get(number, (OK, None))
            bits = slot.flags
            if kind != OK:
                for values in maps.values():
                    values[number] = np.nan
            elif any(values[number].min() == values[number].max() for values in maps.values()):
                bits |= FLAGS["constant"]
            status.append(kind)
            message.append(text)
            flags.append(bits)
        self._errors.update(kind for kind in status if kind != OK)
        self._flags.update(name for bits in flags for name, bit in FLAGS.items() if bits & bit)
        return Rows(
            index=range(start, start + count),
            key=[item.key for item in items],
            status=status,
            error=message,
            height=[slot.height for slot in slots],
            width=[slot.width for slot in slots],
            flags=flags,
            maps=maps,
        )

    def _tell(self, rows: Rows) -> None:
        if self._report is None:
            return
        seconds = {name: value - self._told[name] for name, value in self._seconds.items()}
        self._told = dict(self._seconds)
        errors = sum(kind != OK for kind in rows.status)
        self._report(Event(self._spec.index, len(rows.index), errors, seconds))

    def _check(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise Stopped(f"shard {self._spec.index} was stopped; nothing of it is kept")
        seconds = self._resources.shard_timeout
        if time.monotonic() - self._started > seconds:
            raise ShardFailed(f"shard {self._spec.index} took longer than shard_timeout={seconds:g} seconds")


class HashingFile:
    """A file to write to that keeps the hash and the number of its bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._size = file, 0
        self._abandoned = False
        self.sha256 = hashlib.sha256()
        self.closed = False

    def abandon(self) -> None:
        """Let what is written from now on go nowhere: PyArrow writes a footer when it gives up a file."""
        self._abandoned = True

    def write(self, data: bytes) -> int:
        if self._abandoned:
            return len(data)
        self._file.write(data)
        self.sha256.update(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        if not self._abandoned:
            self._file.flush()

    def close(self) -> None:
        self.closed = True


_networks: dict[tuple[str, str, str, str | None], _Network] = {}
_networks_guard = threading.Lock()


def _network(run: Run, device: torch.device, resources: Resources, source: sources.Source | None) -> _Network:
    """The model of a run on a device; the last one is kept for the next shard."""
    key = (str(run.out), run.fingerprint, str(device), resources.backend)
    with _networks_guard:
        if key not in _networks:
            _networks.clear()
            _networks[key] = _load(run, device, resources.backend, source)
        return _networks[key]


def _load(run: Run, device: torch.device, backend: str | None, source: sources.Source | None) -> _Network:
    settings, parts = run.settings, run.facts["parts"]
    model = models.load(
        settings.model, weights=settings.weights, trust_model_code=settings.trust_model_code, size=settings.size
    )
    if weights.digest(model.module) != parts["model"]["sha256"]:
        raise FingerprintError(f"model {settings.model} has other weights or layers here than when the run was planned")
    about = run.facts["source"]
    return _Network(
        run=run,
        model=model,
        extractor=SaliencyExtractor(model.module.to(device), parts["layers"]),
        source=source or sources.reopen(about["kind"], about["root"]),
        device=device,
        backend=backend,
        input_shape=tuple(parts["preprocessing"]["input"]),
    )


@contextmanager
def _torch_state(resources: Resources) -> Iterator[torch.device]:
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
