"""Turns: who waits for whom, and that nobody waits for ever."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tsm_fast import _turns
from tsm_fast._turns import turn

A, B, C = "a", "b", "c"


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    before = list(_turns._turns)
    yield
    assert _turns._turns == before


class Thread(threading.Thread):
    """A thread that has started and hands on what it raised."""

    def __init__(self, work: Callable[[], None]):
        super().__init__(daemon=True)
        self.work, self.error = work, None
        self.start()

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self.error = error

    def done(self) -> None:
        self.join(20)
        assert not self.is_alive(), "waits for ever"
        if self.error is not None:
            raise self.error


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "did not come"
        time.sleep(1e-3)


def waiting() -> int:
    return sum(not t.taken for t in _turns._turns)


class Worker:
    """A thread that takes a turn and ends it when told."""

    def __init__(self, name: str, log: list[str], *objects: str):
        self.leave = threading.Event()

        def work() -> None:
            with turn(objects):
                log.append(name)
                assert self.leave.wait(20)

        self.thread = Thread(work)

    def end(self) -> None:
        self.leave.set()
        self.thread.done()


def test_turns_that_share_nothing_overlap():
    log: list[str] = []
    one, other = Worker("one", log, A), Worker("other", log, B, C)
    until(lambda: len(log) == 2)
    one.end()
    other.end()


def test_turns_that_share_wait_in_the_order_in_which_they_came():
    """Nobody is passed over: who wants a and b would else wait for as long as others take them by turns."""
    log: list[str] = []
    first = Worker("a", log, A)
    until(lambda: log == ["a"])
    both = Worker("a and b", log, A, B)
    until(lambda: waiting() == 1)
    last = Worker("b", log, B)
    until(lambda: waiting() == 2)
    free = Worker("c", log, C)
    until(lambda: log == ["a", "c"])
    first.end()
    until(lambda: log == ["a", "c", "a and b"])
    assert waiting() == 1
    both.end()
    until(lambda: log[-1] == "b")
    last.end()
    free.end()


def test_a_thread_may_take_turns_within_turns():
    log: list[str] = []
    with turn([A]):
        other = Worker("other", log, A, B)
        until(lambda: waiting() == 1)
        with turn([A]), turn([B]), turn([A, B, C]):  # before the other one, which waits for this thread
            assert log == []
        assert waiting() == 1
    until(lambda: log == ["other"])
    other.end()


def test_a_turn_within_a_turn_waits_for_others():
    log: list[str] = []
    other = Worker("other", log, B)
    until(lambda: log == ["other"])

    def nested() -> None:
        with turn([A]), turn([B]):
            log.append("nested")

    thread = Thread(nested)
    until(lambda: waiting() == 1)
    assert log == ["other"]
    other.end()
    thread.done()
    assert log == ["other", "nested"]


@pytest.mark.parametrize("count", [2, 3])
def test_threads_that_would_wait_for_each_other_get_an_error(count: int):
    barrier = threading.Barrier(count)
    objects = (A, B, C)[:count]

    def work(k: int) -> None:
        with turn([objects[k]]):
            barrier.wait(20)
            with turn([objects[(k + 1) % count]]):
                pass

    threads = [Thread(lambda k=k: work(k)) for k in range(count)]
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    errors = [str(thread.error) for thread in threads if thread.error is not None]
    assert len(errors) == 1
    assert "would wait for each other for ever" in errors[0]


def test_a_turn_ends_with_an_exception_and_an_interrupted_wait_leaves_nothing(monkeypatch):
    with pytest.raises(ZeroDivisionError), turn([A]):
        raise ZeroDivisionError
    log: list[str] = []
    other = Worker("other", log, A)
    until(lambda: log == ["other"])

    def interrupted(timeout: float | None = None) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_turns._changed, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt), turn([A]):
            pass
    assert waiting() == 0
    other.end()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_does_not_inherit_the_turns_of_other_threads():
    log: list[str] = []
    other = Worker("other", log, A)
    until(lambda: log == ["other"])
    blocked = Worker("blocked", log, A)
    until(lambda: waiting() == 1)
    with turn([B]):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with turn([A]):
                    status = 0 if [list(t.objects.values()) for t in _turns._turns] == [[B], [A]] else 2
            finally:
                os._exit(status)

    def ended() -> bool:
        nonlocal status
        done, status = os.waitpid(child, os.WNOHANG)
        return done == child

    status = -1
    until(ended)
    assert status == 0
    other.end()
    blocked.end()


def test_many_threads_many_objects():
    """Whoever has a turn has each of its objects alone."""
    objects = list(range(12))
    owners: dict[int, int | None] = dict.fromkeys(objects)

    def work(seed: int) -> None:
        for step in range(200):
            wanted = [o for o in objects if (seed * 7919 + step * 104729 + o * o * 31) % 5 == 0]
            with turn(wanted):
                for o in wanted:
                    assert owners[o] is None
                    owners[o] = seed
                if step % 50 == 0:
                    time.sleep(1e-4)
                for o in wanted:
                    assert owners[o] == seed
                    owners[o] = None

    for thread in [Thread(lambda k=k: work(k)) for k in range(8)]:
        thread.done()
