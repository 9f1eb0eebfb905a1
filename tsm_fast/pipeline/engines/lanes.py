"""What every engine has: lanes that take shards and give messages, and the loop that drives them."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from ..files.run import Marker, ShardSpec
from ..worker.run_shard import Event
from .signals import Signals
from .tally import Tally

RETRIES = 3  # how often a shard is tried again
POLL = 0.2  # seconds between looks at signals and deadlines
GRACE = 20.0  # seconds that workers have to leave the micro-batch they are in


class Done(NamedTuple):
    """A shard is published."""

    marker: Marker


class Lost(NamedTuple):
    """A shard was not finished: its worker died, ran over the deadline or met an error."""

    spec: ShardSpec
    reason: str
    again: bool = True  # whether it may go better another time


class Fatal(NamedTuple):
    """Nothing can go on: the disk is full, say."""

    reason: str


class Note(NamedTuple):
    """Something to tell the user."""

    text: str


Message = Event | Done | Lost | Fatal | Note


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

    def start(self, spec: ShardSpec) -> None: ...

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
    todo: Iterable[ShardSpec],
    lanes: Lanes,
    tally: Tally,
    signals: Signals,
    *,
    show: Callable[[Tally], None],
    say: Callable[[str], None],
) -> Halt | None:
    """Work through shards; returns why it stopped early, None where every shard is done or has failed."""
    waiting, tries = deque(todo), Counter[int]()
    halt: Halt | None = None
    signals.at_once = lanes.kill
    while waiting or lanes.busy:
        while waiting and lanes.free and not signals.stop.is_set():
            lanes.start(waiting.popleft())
        for message in lanes.poll(POLL):
            if isinstance(message, Event):
                tally.event(message)
            elif isinstance(message, Done):
                tally.finish(message.marker)
            elif isinstance(message, Fatal):
                halt = Halt(1, message.reason)
            elif isinstance(message, Note):
                say(message.text)
            elif _again(message, tries, tally, say):
                waiting.appendleft(message.spec)
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


def _again(lost: Lost, tries: Counter[int], tally: Tally, say: Callable[[str], None]) -> bool:
    """Whether a lost shard is to be tried once more; it is counted as failed where not."""
    index = lost.spec.index
    tries[index] += 1
    if lost.again and tries[index] <= RETRIES:
        tally.drop(index)
        say(f"shard {index}: {lost.reason}; trying again ({tries[index]} of {RETRIES})")
        return True
    tally.fail(index, lost.reason)
    say(f"shard {index} failed: {lost.reason}")
    return False


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
                tally.drop(message.spec.index)
        show(tally)
    lanes.kill()
