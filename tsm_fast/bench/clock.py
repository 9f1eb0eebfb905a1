"""Times of calls that take turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

SECONDS = 0.5  # of measuring, for each time of `medians_ms`
PATIENCE = 10  # seconds after which slow runs are measured no more often
PAUSE = 0.01  # seconds after a turn; its threads spin that long, on cores that the next one needs
SHORTEST = 0.003  # seconds that a turn lasts at least


class Turn(NamedTuple):
    """A call that is timed `calls` times in a row, in the first `rounds` rounds."""

    run: Callable[[], Any]
    calls: int = 1
    rounds: int = 10**6
    pause: float = PAUSE
    warm: bool = True  # a call that is not timed comes before


def calls_of(once: float) -> int:
    """How many calls of so many seconds make a turn."""
    return max(1, min(1000, int(SHORTEST / max(once, 1e-7))))


def take_turns(
    turns: Sequence[Turn],
    seconds: float,
    rounds: tuple[int, int] = (5, 100),
    wait: Callable[[], Any] = lambda: None,
) -> list[list[float]]:
    """Seconds a call, round by round.

    There are as many rounds as fit into the time, within the limits. Each begins with another turn. `wait` returns when
    a device has done what it was given.
    """
    times: list[list[float]] = [[] for _ in turns]
    begin, done, pause = perf_counter(), 0, PAUSE
    while done < rounds[0] or (done < rounds[1] and (perf_counter() - begin) * (done + 1) / max(done, 1) < seconds):
        for place in range(len(turns)):
            number = (done + place) % len(turns)
            turn = turns[number]
            if done < turn.rounds:
                time.sleep(pause)
                pause = turn.pause
                if turn.warm:
                    turn.run()
                    wait()
                start = perf_counter()
                for _ in range(turn.calls):
                    turn.run()
                wait()
                times[number].append((perf_counter() - start) / turn.calls)
        done += 1
    return times


def quantiles(values: Sequence[float]) -> dict[str, float]:
    return dict(zip(("p20", "p50", "p80"), np.quantile(values, (0.2, 0.5, 0.8)).tolist(), strict=True))


def medians_ms(*runs: Callable[[], Any]) -> list[float]:
    """The median times in milliseconds: of three turns or more, unless three take longer than `PATIENCE` seconds."""
    times: list[list[float]] = [[] for _ in runs]
    begin = perf_counter()
    while (elapsed := perf_counter() - begin) < SECONDS * len(runs) or (len(times[0]) < 3 and elapsed < PATIENCE):
        for run, row in zip(runs, times, strict=True):
            start = perf_counter()
            run()
            row.append(perf_counter() - start)
    return [median(row) * 1e3 for row in times]
