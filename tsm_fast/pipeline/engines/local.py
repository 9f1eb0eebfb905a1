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

from ...models import Model
from ..computation import Problem
from ..settings import Resources
from ..sources.source import Source
from ..worker.network import keep_memory
from ..worker.run_shard import At
from .attempt import attempt
from .lanes import GRACE
from .messages import Done, Fatal, Found, Lost, Message, Task

STARTING = 120.0  # seconds that the first process may take to import and to load the model
COMPILING = 10.0  # times as long where the network is compiled on the way
LATER = 15.0, 3.0  # seconds, and times as long as the slowest so far, that a process which is started later may take
HANGING = 5.0  # seconds after the deadline at which a shard that did not end by itself is taken to hang
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)  # nobody else sends them
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
        self._starting = STARTING
        self._slowest = 0.0  # start of a process, seconds
        self._idle: list[_Process] = []
        self._working: list[_Process] = []

    @property
    def busy(self) -> int:
        return len(self._working)

    @property
    def free(self) -> int:
        return len(self._idle) + len(self._devices)

    def start(self, task: Task) -> None:
        while True:
            worker = self._idle.pop() if self._idle else self._new()
            try:
                worker.give(task)
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
            elif (reason := self._late(worker)) is not None:
                problem = Problem("timeout", "the worker hung at this image")
                yield self._lost(worker, reason, problem=problem, late=True)

    def _late(self, worker: _Process) -> str | None:
        """Why a worker is taken to hang; None where it is in time."""
        now, patience = time.monotonic(), worker.task.patience if worker.task else 1.0
        if worker.begun is None and not worker.settled:
            patience *= _compiling(worker.task)
            return None if now < worker.given + self._starting * patience else "its worker did not start in time"
        if now > (worker.begun or worker.given) + self._resources.shard_timeout + HANGING:
            return _slow(self._resources)
        # What is looked into alone takes a part of the time of a micro-batch.
        seconds = self._resources.batch_timeout * patience / (2 if worker.task and worker.task.suspects else 1)
        if now > worker.alive + seconds:
            return _silent(seconds)
        return None

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
        """What a worker has sent; one that did not finish its task is replaced, for it may be in disorder."""
        while worker.task is not None:
            try:
                if not worker.pipe.poll():
                    return
                message = worker.pipe.recv()
            except (EOFError, OSError):
                code = _exit_code(worker.process)
                problem = Problem("crash", f"the worker died ({code}) at this image")
                foreign = worker.process.exitcode not in [-number for number in CRASHES]
                yield self._lost(worker, f"its worker died ({code})", problem=problem, foreign=foreign)
                return
            worker.alive = time.monotonic()
            if message == READY:
                worker.ready = True
            elif isinstance(message, At):
                self._begun(worker)
                worker.at = message
            elif message is None:  # abandoned, as asked, or after a SIGTERM of its own
                yield self._lost(worker, "its worker was told to stop", rows=())
            elif isinstance(message, Lost):
                yield self._lost(worker, message.reason, again=message.again)
            elif isinstance(message, Done) or (isinstance(message, Found) and message.problem is None):
                worker.task = None
                self._working.remove(worker)
                self._idle.append(worker)
                yield message
            else:
                if isinstance(message, Fatal | Found):  # after an error of the network the device may be unusable
                    self._lose(worker)
                yield message

    def _begun(self, worker: _Process) -> None:
        """The first sign of life of a task."""
        if worker.begun is None:
            worker.begun = worker.alive
            if not worker.settled:
                worker.settled = True
                self._slowest = max(self._slowest, worker.begun - worker.given)
                self._starting = min(STARTING, LATER[0] + LATER[1] * self._slowest)

    def _lost(self, worker: _Process, reason: str, **more: Any) -> Lost:
        task, rows = self._lose(worker), worker.at.rows if worker.at else ()
        return Lost(task, reason, **{"rows": rows, **more})

    def _lose(self, worker: _Process) -> Task:
        task, worker.task = worker.task, None
        assert task is not None
        self._working.remove(worker)
        self._replace(worker)
        return task

    def _replace(self, worker: _Process) -> None:
        worker.end()
        self._devices.append(worker.device)


class _Process:
    """A worker process as its parent sees it."""

    def __init__(self, process: Any, pipe: Connection[Any, Any], device: str) -> None:
        self.process, self.pipe, self.device = process, pipe, device
        self.ready = self.settled = False  # has imported; has once begun a task
        self.task: Task | None = None
        self.given = self.alive = 0.0
        self.begun: float | None = None
        self.at: At | None = None

    def give(self, task: Task) -> None:
        self.pipe.send(task)
        self.task, self.begun, self.at = task, None, None
        self.given = self.alive = time.monotonic()

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
    """A worker process: tasks come in through the pipe, messages go out."""
    os.dup2(2, 1)  # what a model prints is talk, not data
    keep_memory()
    stop, sending = threading.Event(), threading.Lock()
    inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()

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
    while (task := inbox.get()) is not None:
        message = attempt(task, resources, send, stop, source)
        send(message)
        if not isinstance(message, Done | Found):
            break


class ThreadLane:
    """A thread of this process: no time to start, and the model that planned the run is at hand.

    A thread cannot be ended from outside: one that hangs ends the run, and is left behind; a crash ends this process.
    """

    def __init__(
        self, device: str, resources: Resources, source: Source | None = None, model: Model | None = None
    ) -> None:
        self._resources, self._source, self._model = replace(resources, device=device), source, model
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._task: Task | None = None
        self._stop = threading.Event()
        self._begun: float | None = None
        self._alive = time.monotonic()
        self._waits = STARTING  # for a sign of life
        self._at: At | None = None

    @property
    def busy(self) -> int:
        return int(self._task is not None)

    @property
    def free(self) -> int:
        return 1 - self.busy

    def start(self, task: Task) -> None:
        self._task, self._begun, self._at = task, None, None
        self._alive = time.monotonic()
        threading.Thread(target=self._work, args=(task,), daemon=True).start()

    def _work(self, task: Task) -> None:
        self._messages.put(attempt(task, self._resources, self._messages.put, self._stop, self._source, self._model))

    def poll(self, seconds: float) -> Iterable[Message]:
        try:
            message = self._messages.get(timeout=seconds)
        except queue.Empty:
            if self._task is not None and (reason := self._late(self._task)) is not None:
                index, self._task = self._task.spec.index, None
                yield Fatal(f"shard {index} {reason}: the same command with --workers 1 finds the image")
            return
        self._alive = time.monotonic()
        if isinstance(message, At):
            self._begun, self._at = self._begun or self._alive, message
            self._waits = self._resources.batch_timeout
            return
        if isinstance(message, Lost):
            message = message._replace(rows=self._at.rows if self._at else ())
        if message is None or isinstance(message, Done | Found | Lost | Fatal):
            self._task = None
        if message is not None:
            yield message

    def _late(self, task: Task) -> str | None:
        now = time.monotonic()
        if self._begun is not None and now > self._begun + self._resources.shard_timeout + HANGING:
            return _slow(self._resources)
        seconds = self._waits * task.patience * (_compiling(task) if self._waits == STARTING else 1)
        return _silent(seconds) if now > self._alive + seconds else None

    def stop(self) -> None:
        self._stop.set()

    def kill(self) -> None:
        self._stop.set()

    def close(self) -> None:
        self._stop.set()


def _compiling(task: Task | None) -> float:
    command = task.spec.command if task else None
    return COMPILING if command is not None and command.settings.compile else 1.0


def _silent(seconds: float) -> str:
    return f"gave no sign of life for {seconds:g} s and hangs (--batch-timeout)"


def _slow(resources: Resources) -> str:
    return f"took longer than {resources.shard_timeout:g} s and hangs (--shard-timeout)"
