"""The `ray` engine: every shard is a task of a Ray cluster (extra `ray`)."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..settings import Resources
from ..sources.source import Source
from ..worker.network import keep_memory
from .attempt import attempt
from .lanes import GRACE
from .local import STARTING
from .messages import Fatal, Lost, Message, Note, Task
from .tries import RETRIES

WINDOW = 2  # tasks handed out for each place of the cluster
QUIET = 30.0  # seconds between notes that the cluster has no place to compute
EMPTY = 600.0  # seconds without such a place after which a run gives up


class RayLanes:
    """Tasks on all nodes that see the output folder, with Ray's own retries for workers and nodes that are lost.

    The model stays in the worker processes (`max_calls=0`). A task ends its own process where it runs over the
    deadline and does not stop, so that none hangs; where no task comes to an end for longer than all its tries may
    take, the run stops with a message.
    """

    def __init__(self, resources: Resources, workers: int | None, source: Source | None = None) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            raise ModuleNotFoundError("engine 'ray' needs Ray: pip install 'tsm_fast[ray]'", name="ray") from None
        self._ray = ray
        self._mine = not ray.is_initialized()
        if self._mine:
            ray.init(logging_level=logging.WARNING, log_to_driver=False, include_dashboard=False)
        gpu = _uses_gpu(resources.device, ray.cluster_resources())
        self._places, self._source = workers, source
        self._kind = "GPU" if gpu else "CPU"
        self._resources = replace(resources, device="cuda" if gpu else "cpu")
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": int(gpu), "max_calls": 0, "max_retries": RETRIES}
        self._task: Any = ray.remote(**options)(compute)
        self._under_way: dict[Any, Task] = {}
        self._stopping = False
        self._changed = time.monotonic()
        self._empty_since: float | None = None
        self._noted = 0.0

    @property
    def busy(self) -> int:
        return len(self._under_way)

    @property
    def free(self) -> int:
        places = self._places or WINDOW * int(self._ray.cluster_resources().get(self._kind, 0))
        return max(0, max(places, 1) - self.busy)

    def start(self, task: Task) -> None:
        self._under_way[self._task.remote(task, self._resources, self._source)] = task

    def poll(self, seconds: float) -> Iterable[Message]:
        if not self._under_way:
            time.sleep(seconds)
            return
        ready, _ = self._ray.wait(list(self._under_way), num_returns=1, timeout=seconds)
        for reference in ready:
            self._changed = time.monotonic()
            message = self._result(reference, self._under_way.pop(reference))
            if message is not None:
                yield message
        yield from self._silence(bool(ready))

    def _silence(self, ready: bool) -> Iterable[Message]:
        """What to say of a cluster from which nothing comes."""
        now = time.monotonic()
        empty = not self._ray.cluster_resources().get(self._kind, 0)
        self._empty_since = (self._empty_since or now) if empty else None
        if self._empty_since is not None and now - self._empty_since > EMPTY:
            yield Fatal(f"the cluster has had no {self._kind} for {EMPTY:.0f} s: look at `ray status`")
        elif self._empty_since is not None and now - self._noted > QUIET:
            self._noted = now
            yield Note(f"the cluster has no {self._kind} at present; waiting")
        longest = (1 + RETRIES) * (self._resources.shard_timeout + STARTING + 2 * GRACE)
        if not ready and now - self._changed > longest:
            yield Fatal(f"no shard came back from the cluster for {longest:.0f} s: look at `ray status`")

    def _result(self, reference: Any, task: Task) -> Message | None:
        from ray.exceptions import RayError

        try:
            message: Any = self._ray.get(reference)
        except RayError as error:
            if self._stopping:
                return None
            return Lost(task, _first_line(error), again=False)  # Ray has tried it again already
        return message

    def stop(self) -> None:
        self._stopping = True
        for reference in self._under_way:
            self._ray.cancel(reference, force=False)

    def kill(self) -> None:
        """Nothing: Ray ends the tasks of a driver that ends, and is not to be called from a signal handler."""

    def close(self) -> None:
        for reference in self._under_way:
            self._ray.cancel(reference, force=True)
        self._under_way = {}
        if self._mine:
            self._ray.shutdown()


def compute(task: Task, resources: Resources, source: Source | None) -> Message | None:
    """One shard in a worker of the cluster, with the deadline kept from inside."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    keep_memory()
    stop, done = threading.Event(), threading.Event()

    def guard() -> None:
        if not done.wait(resources.shard_timeout + STARTING):
            stop.set()
            if not done.wait(GRACE):
                os._exit(1)  # Ray takes this for a worker that died, and tries the shard again

    threading.Thread(target=guard, daemon=True).start()
    try:
        message = attempt(task, resources, lambda _: None, stop, source)
    finally:
        done.set()
    if message is None:
        return Lost(task, f"took longer than {resources.shard_timeout:g} s (--shard-timeout)")
    return message


def _uses_gpu(device: str, resources: Mapping[str, float]) -> bool:
    if device == "auto":
        return resources.get("GPU", 0) > 0
    return device.startswith("cuda")


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
