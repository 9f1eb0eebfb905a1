"""Threads take turns on objects that they share: on the modules of models, say."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class _Turn:
    thread: int
    objects: dict[int, Any]  # by identity, and alive as long as the turn
    taken: bool = False


_turns: list[_Turn] = []  # those that are taken or waited for, in the order in which they are served
_changed = threading.Condition()


@contextmanager
def turn(objects: Iterable[Any]) -> Iterator[None]:
    """A stretch in which no other thread has a turn on any of the objects.

    All are taken at once, so that nobody holds some while waiting for others, and first come, first served. Within a
    turn a thread may take another one.

    Raises:
        RuntimeError: threads would wait for each other for ever, each within a turn that the other one wants.
    """
    mine = _Turn(threading.get_ident(), {id(item): item for item in objects})
    try:
        with _changed:
            _queue(mine)
            while _in_the_way(mine):
                if _waits_for_itself(mine):
                    raise RuntimeError("threads would wait for each other for ever: each wants what another one uses")
                _changed.wait()
            mine.taken = True
        yield
    finally:
        with _changed:
            if mine in _turns:
                _turns.remove(mine)
            _changed.notify_all()


def _queue(mine: _Turn) -> None:
    """At the end; within another turn of its thread behind that one, before those who may be waiting for it."""
    own = [place for place, other in enumerate(_turns) if other.thread == mine.thread]
    _turns.insert(own[-1] + 1 if own else len(_turns), mine)


def _in_the_way(mine: _Turn) -> list[_Turn]:
    """The turns of other threads that share an object, and are taken or come before it."""
    place = _turns.index(mine)
    return [
        other
        for i, other in enumerate(_turns)
        if (other.taken or i < place)
        and other.thread != mine.thread
        and not other.objects.keys().isdisjoint(mine.objects)
    ]


def _waits_for_itself(mine: _Turn) -> bool:
    """Whether the thread waits for a thread that waits, over any number of others, for this one."""
    seen, unseen = {mine.thread}, [mine]
    while unseen:
        threads = {other.thread for other in _in_the_way(unseen.pop())}
        if mine.thread in threads:
            return True
        unseen += [other for other in _turns if other.thread in threads - seen and not other.taken]
        seen |= threads
    return False


def _after_fork() -> None:
    """A forked process has none of the other threads, whose turns would never end there."""
    global _changed
    _changed = threading.Condition()
    _turns[:] = [turn for turn in _turns if turn.thread == threading.get_ident()]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
