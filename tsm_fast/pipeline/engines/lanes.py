"""What every engine has: lanes that take tasks and give messages, and the loop that drives them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from ..worker.run_shard import Event
from .messages import Done, Fatal, Found, Lost, Message, Note, Task
from .signals import Signals
from .tally import Tally
from .tries import Tries

POLL = 0.2  # seconds between looks at signals and deadlines
GRACE = 20.0  # seconds that workers have to leave the micro-batch they are in


class Halt(NamedTuple):
    """Why a run ends before its last shard, and with which exit code."""

    code: int
    reason: str


class Lanes(Protocol):
    """Where shards are computed: processes, a thread, or the tasks of a cluster."""

    @property
    def busy(self) -> int: ...

    @property
    def free(self) -> int: ...

    def start(self, task: Task) -> None: ...

    def poll(self, seconds: float) -> Iterable[Message]:
        """Messages that have come, after waiting for at most so long."""
        ...

    def stop(self) -> None:
        """Ask for all that is under way to be abandoned; what is abandoned gives no message."""
        ...

    def kill(self) -> None:
        """End everything now; may be called from a signal handler."""
        ...

    def close(self) -> None:
        """Let go of processes and connections."""
        ...


def drive(
    todo: Iterable[Task],
    lanes: Lanes,
    tally: Tally,
    signals: Signals,
    *,
    show: Callable[[Tally], None],
    say: Callable[[str], None],
) -> Halt | None:
    """Work through tasks; returns why it stopped early, None where every shard is done or has failed."""
    waiting, tries = deque(todo), Tries(say, tally.fail)
    halt: Halt | None = None
    signals.at_once = lanes.kill
    while waiting or lanes.busy:
        while waiting and lanes.free and not signals.stop.is_set():
            lanes.start(waiting.popleft()._replace(patience=tries.patience))
        for message in lanes.poll(POLL):
            if isinstance(message, Event):
                tally.event(message)
            elif isinstance(message, Done):
                tally.finish(message.marker)
            elif isinstance(message, Fatal):
                halt = Halt(1, message.reason)
            elif isinstance(message, Note):
                say(message.text)
            elif isinstance(message, Found | Lost):
                tally.drop(message.task.spec.index)
                task = tries.found(message) if isinstance(message, Found) else tries.next(message)
                waiting.extendleft([task] if task is not None else [])
        show(tally)
        halt = halt or _reason_to_stop(tally, signals, say)
        if halt is not None:
            _wind_up(lanes, tally, show)
            return None if halt.code == 3 and not tally.left else halt
    return None


def _reason_to_stop(tally: Tally, signals: Signals, say: Callable[[str], None]) -> Halt | None:
    if signals.stop.is_set():
        say(f"{signals.name}: stopping after the micro-batch; once more stops at once")
        return Halt(signals.code or 1, f"stopped by {signals.name}")
    if tally.too_many_errors and tally.left:
        return Halt(1 if tally.failed else 3, _too_many(tally))
    return None


def _too_many(tally: Tally) -> str:
    failed = f" and {len(tally.failed)} failed shards" if tally.failed else ""
    return (
        f"{tally.errors:,} error rows{failed} among the first {tally.images:,} images; "
        f"--max-errors allows {int(tally.allowed):,} of {tally.rows:,}"
    )


def _wind_up(lanes: Lanes, tally: Tally, show: Callable[[Tally], None]) -> None:
    """Stop what is under way; a shard that is finished in this moment still counts."""
    lanes.stop()
    end = time.monotonic() + GRACE
    while lanes.busy and time.monotonic() < end:
        for message in lanes.poll(POLL):
            if isinstance(message, Done):
                tally.finish(message.marker)
            elif isinstance(message, Lost):
                tally.drop(message.task.spec.index)
        show(tally)
    lanes.kill()
