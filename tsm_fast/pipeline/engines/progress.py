"""What a run tells while it runs: a bar on a terminal, a plain line every few seconds elsewhere, both on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ...readable import duration
from ..files.run import BUSY
from .tally import Tally

EVERY = 5.0  # seconds between plain lines


class Reporter(Protocol):
    """What an engine tells."""

    def show(self, tally: Tally) -> None:
        """Where the run stands; called several times a second."""
        ...

    def say(self, text: str) -> None:
        """Something that happened, to be read later too."""
        ...


class Quiet:
    """Tells nothing."""

    def show(self, tally: Tally) -> None: ...

    def say(self, text: str) -> None: ...


class Lines:
    """A plain line every few seconds in which something has changed, for logs."""

    def __init__(self, console: Console, every: float = EVERY) -> None:
        self._console, self._every, self._last = console, every, time.monotonic()
        self._shown: object = None

    def show(self, tally: Tally) -> None:
        now, state = time.monotonic(), (tally.images, tally.errors, len(tally.done), len(tally.failed))
        if now - self._last >= self._every and tally.fresh and state != self._shown:
            self._last, self._shown = now, state
            self.say(line(tally))

    def say(self, text: str) -> None:
        self._console.print(f"tsm-fast: {text}", markup=False, soft_wrap=True)


class Bar:
    """A bar, and the numbers beside it in two lines."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar = progress.add_task("starting", total=None, more=" ")

    def show(self, tally: Tally) -> None:
        numbers = f"{tally.images:,}/{tally.rows:,} images, {_speed(tally)}"
        self._progress.update(
            self._bar, total=tally.rows, completed=tally.images, description=numbers, more=_state(tally)
        )

    def say(self, text: str) -> None:
        self._progress.console.print(f"tsm-fast: {text}", markup=False, soft_wrap=True)


@contextmanager
def reporter() -> Iterator[Reporter]:
    """The one that suits stderr."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines(console)
        return
    columns = (
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.description}\n{task.fields[more]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as progress:
        yield Bar(progress)


def line(tally: Tally) -> str:
    """Where a run stands, in a line.

    "1,024/70,000 images (1%), 151 images/s, ETA 7m37s, decode 11%, forward 83%, decomposition 3%, write 3%, 0 errors,
    2/18 shards"
    """
    share = tally.images / tally.rows if tally.rows else 1.0
    return f"{tally.images:,}/{tally.rows:,} images ({share:.0%}), {_speed(tally)}, {_state(tally)}"


def _speed(tally: Tally) -> str:
    eta = tally.eta
    if not tally.fresh:
        return "starting"
    if tally.images >= tally.rows:
        return "finishing"
    return "the first images" if eta is None else f"{tally.rate:.3g} images/s, ETA {duration(eta)}"


def _state(tally: Tally) -> str:
    failed = f" ({len(tally.failed)} failed)" if tally.failed else ""
    shards = f"{len(tally.done):,}/{len(tally.sizes):,} shards{failed}"
    return f"{shares(tally.stages)}, {_count(tally.errors, 'error')}, {shards}"


def shares(seconds: Mapping[str, float]) -> str:
    """How the busy time divides over the stages: "decode 11%, forward 83%, decomposition 3%, write 3%"."""
    busy = {stage: seconds.get(stage, 0.0) for stage in BUSY}
    total = sum(busy.values()) or 1.0
    return ", ".join(f"{'decode' if stage == 'read' else stage} {own / total:.0%}" for stage, own in busy.items())


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
