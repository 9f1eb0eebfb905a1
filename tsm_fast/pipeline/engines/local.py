"""The `local` engine: shards in spawned worker processes of this machine, or in a thread of this process."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from ..files.run import ShardSpec
from ..settings import Resources
from ..sources.source import Source
from ..worker.network import keep_memory
from .attempt import attempt
from .lanes import GRACE, Done, Fatal, Lost, Message

STARTING = 120.0  # seconds that a new process may take to import and to load the model
HANGING = 5.0  # seconds after the deadline at which a shard that did not end by itself is taken to hang
ORPHANED = 5.0  # seconds a worker has to leave its micro-batch when the parent is gone
READY = "ready"


class ProcessLanes:
    """One spawned process for each device, each at one shard at a time.

    A process that dies, meets an error or runs over the deadline is replaced. When this process dies, its workers
    read the end of their pipes and end too.
    """

    def __init__(self, devices: Sequence[str], resources: Resources, source: Source | None = None) -> None:
        self._resources, self._source = resources, source
        self._context = multiprocessing.get_context("spawn")
        self._devices = list(devices)  # of the lanes that have no process yet
        self._idle: list[_Process] = []
        self._working: list[_Process] = []

    @property
    def busy(self) -> int:
        return len(self._working)

    @property
    def free(self) -> int:
        return len(self._idle) + len(self._devices)

    def start(self, spec: ShardSpec) -> None:
        while True:
            seconds = self._resources.shard_timeout + (HANGING if self._idle else STARTING)
            worker = self._idle.pop() if self._idle else self._new()
            try:
                worker.give(spec, seconds)
            except OSError:  # it died while it had nothing to do
                self._replace(worker)
                continue
            self._working.append(worker)
            return

    def poll(self, seconds: float) -> Iterable[Message]:
        ready = wait([worker.pipe for worker in self._working], seconds)
        for worker in list(self._working):
            if worker.pipe in ready:
                yield from self._read(worker)
            elif time.monotonic() > worker.deadline and worker.spec is not None:
                spec = self._lose(worker)
                yield Lost(spec, _late(self._resources))

    def stop(self) -> None:
        for worker in list(self._working):
            if worker.ready:
                worker.tell("stop")
            else:  # it still imports, and has nothing to leave in order
                self._lose(worker)

    def kill(self) -> None:
        for worker in [*self._working, *self._idle]:
            worker.process.kill()

    def close(self) -> None:
        workers = [*self._idle, *self._working]
        for worker in workers:
            worker.tell(None)
        end = time.monotonic() + GRACE
        for worker in workers:
            worker.process.join(max(0.1, end - time.monotonic()))
            worker.end()
        self._idle, self._working = [], []

    def _new(self) -> _Process:
        device = self._devices.pop(0)
        ours, theirs = self._context.Pipe()
        arguments = (theirs, replace(self._resources, device=device), self._source)
        process = self._context.Process(target=_serve, args=arguments, name=f"tsm-fast {device}", daemon=True)
        # Ctrl-C reaches every process of a terminal; a new one inherits that it is not to see it. The tracker, which
        # would be started on the way and clears the mask, comes first.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        return _Process(process, ours, device)

    def _read(self, worker: _Process) -> Iterable[Message]:
        """What a worker has sent; one that did not finish its shard is replaced, for it may be in disorder."""
        while worker.spec is not None:
            try:
                if not worker.pipe.poll():
                    return
                message = worker.pipe.recv()
            except (EOFError, OSError):
                code = _exit_code(worker.process)
                yield Lost(self._lose(worker), f"its worker died ({code})")
                return
            if message == READY:
                worker.ready = True
                continue
            if message is None:  # abandoned, as asked, or after a SIGTERM of its own
                message = Lost(self._lose(worker), "its worker was told to stop")
            elif isinstance(message, Lost | Fatal):
                self._lose(worker)
            elif isinstance(message, Done):
                worker.spec = None
                self._working.remove(worker)
                self._idle.append(worker)
            yield message

    def _lose(self, worker: _Process) -> ShardSpec:
        spec, worker.spec = worker.spec, None
        assert spec is not None
        self._working.remove(worker)
        self._replace(worker)
        return spec

    def _replace(self, worker: _Process) -> None:
        worker.end()
        self._devices.append(worker.device)


class _Process:
    """A worker process as its parent sees it."""

    def __init__(self, process: Any, pipe: Connection[Any, Any], device: str) -> None:
        self.process, self.pipe, self.device = process, pipe, device
        self.spec: ShardSpec | None = None
        self.deadline = 0.0
        self.ready = False

    def give(self, spec: ShardSpec, timeout: float) -> None:
        self.pipe.send(spec)
        self.spec, self.deadline = spec, time.monotonic() + timeout

    def tell(self, word: str | None) -> None:
        with suppress(OSError):  # it is dead already, which `poll` sees
            self.pipe.send(word)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _exit_code(process: Any) -> str:
    process.join(1)
    code = process.exitcode
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _serve(pipe: Connection[Any, Any], resources: Resources, source: Source | None) -> None:
    """A worker process: shards come in through the pipe, messages go out."""
    os.dup2(2, 1)  # what a model prints is talk, not data
    keep_memory()
    stop, sending = threading.Event(), threading.Lock()
    inbox: queue.SimpleQueue[ShardSpec | None] = queue.SimpleQueue()

    def leave(*_: Any) -> None:
        stop.set()
        inbox.put(None)

    def listen() -> None:
        try:
            while (message := pipe.recv()) is not None:
                leave() if message == "stop" else inbox.put(message)
            inbox.put(None)
        except (EOFError, OSError):
            leave()
            time.sleep(ORPHANED)
            os._exit(1)

    def send(message: Message | None) -> None:
        with sending:
            pipe.send(message)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, leave)
    threading.Thread(target=listen, daemon=True).start()
    pipe.send(READY)
    while (spec := inbox.get()) is not None:
        message = attempt(spec, resources, send, stop, source)
        send(message)
        if not isinstance(message, Done):
            break


class ThreadLane:
    """A thread of this process: no time to start, and the model that planned the run is at hand.

    A thread cannot be ended from outside: one that hangs ends the run, and is left behind.
    """

    def __init__(self, device: str, resources: Resources, source: Source | None = None) -> None:
        self._resources, self._source = replace(resources, device=device), source
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._spec: ShardSpec | None = None
        self._stop = threading.Event()
        self._deadline: float | None = None

    @property
    def busy(self) -> int:
        return int(self._spec is not None)

    @property
    def free(self) -> int:
        return 1 - self.busy

    def start(self, spec: ShardSpec) -> None:
        more = STARTING if self._deadline is None else HANGING
        self._spec, self._deadline = spec, time.monotonic() + self._resources.shard_timeout + more
        threading.Thread(target=self._work, args=(spec,), daemon=True).start()

    def _work(self, spec: ShardSpec) -> None:
        self._messages.put(attempt(spec, self._resources, self._messages.put, self._stop, self._source))

    def poll(self, seconds: float) -> Iterable[Message]:
        try:
            message = self._messages.get(timeout=seconds)
        except queue.Empty:
            if self._spec is not None and self._deadline is not None and time.monotonic() > self._deadline:
                index, self._spec = self._spec.index, None
                yield Fatal(f"shard {index} {_late(self._resources)}")
            return
        if message is None or isinstance(message, Done | Lost | Fatal):
            self._spec = None
        if message is not None:
            yield message

    def stop(self) -> None:
        self._stop.set()

    def kill(self) -> None:
        self._stop.set()

    def close(self) -> None:
        self._stop.set()


def _late(resources: Resources) -> str:
    return f"took longer than {resources.shard_timeout:g} s and hangs (--shard-timeout)"
