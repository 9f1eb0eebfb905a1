"""The two ends of the worker: threads that read images ahead, and a thread that writes behind; both bounded.

So is the memory of the images that are decoded at the same time.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")
TICK = 0.1  # seconds between two looks at whether to stop


class Ahead(Generic[Given, Made]):
    """`function` of each item in order, computed by threads at most `ahead` items before they are taken.

    The threads are daemons: one that hangs in a read does not keep the process.
    """

    def __init__(
        self, function: Callable[[Given], Made], items: Sequence[Given], *, threads: int, ahead: int, name: str
    ) -> None:
        self._function, self._items, self._ahead = function, items, ahead
        self._made: dict[int, Made] = {}
        self._begun = self._taken = 0
        self._error: BaseException | None = None
        self._closed = False
        self._change = threading.Condition()
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Ahead[Given, Made]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._change:
            self._closed = True
            self._change.notify_all()
        until = time.monotonic() + 1
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))

    def take(self, count: int, check: Callable[[], None]) -> list[Made]:
        """The next `count` results; `check` is called while waiting, and may raise.

        An exception of `function` is raised here.
        """
        first, last = self._taken, self._taken + count
        with self._change:
            while not all(number in self._made for number in range(first, last)):
                if self._error is not None:
                    raise self._error
                self._change.wait(TICK)
                check()
            results = [self._made.pop(number) for number in range(first, last)]
            self._taken = last
            self._change.notify_all()
        return results

    def _work(self) -> None:
        while True:
            with self._change:
                while not self._closed and self._begun - self._taken >= self._ahead:
                    self._change.wait()
                if self._closed or self._error is not None or self._begun >= len(self._items):
                    return
                number = self._begun
                self._begun += 1
            try:
                made = self._function(self._items[number])
            except BaseException as error:  # raised again where the result is taken
                with self._change:
                    self._error = error
                    self._change.notify_all()
                return
            with self._change:
                self._made[number] = made
                self._change.notify_all()


class Behind(Generic[Given]):
    """Calls `function` on what it is given, in order, in one thread, at most `waiting` behind.

    Leaving the block waits until all is done, unless an exception leaves it; an exception of `function` is raised by
    the next `put`, or at the end.
    """

    def __init__(self, function: Callable[[Given], Any], *, waiting: int, name: str) -> None:
        self._function = function
        self._queue: queue.Queue[tuple[Given] | None] = queue.Queue(waiting)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __enter__(self) -> Behind[Given]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def put(self, value: Given) -> None:
        """Hand over a value; waits while too many are before it."""
        if self._error is not None:
            raise self._error
        self._queue.put((value,))

    def _work(self) -> None:
        while (entry := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._function(entry[0])
                except BaseException as error:  # raised again by `put` or at the end
                    self._error = error


class Room:
    """Memory that threads share: who takes of it waits until there is as much, or until nobody else has any."""

    def __init__(self, size: int) -> None:
        self._size = self._left = size
        self._change = threading.Condition()

    @contextmanager
    def shared(self) -> Iterator[Callable[[int], None]]:
        """A function that takes bytes, once; they are given back at the end of the block."""
        taken = 0

        def take(wanted: int) -> None:
            nonlocal taken
            taken = min(wanted, self._size)
            with self._change:
                while self._left < taken:
                    self._change.wait()
                self._left -= taken

        try:
            yield take
        finally:
            with self._change:
                self._left += taken
                self._change.notify_all()
