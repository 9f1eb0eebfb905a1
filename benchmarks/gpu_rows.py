"""Rows of a benchmark that survives what it measures, and keeps them as they come.

A process of its own measures one case after another. What a case raises is its row; where the process dies, gives no
answer in time, or is of no more use (a CUDA fault stays with it), the next case gets a new one.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

Row = dict[str, Any]

START_SECONDS = 300  # until the process is ready: imports, and the first use of the GPU
ROW_SECONDS = 120  # for a row: compiling, checking, timing
MOST_TEXT = 400  # characters of an error: compilers are talkative


class Case(NamedTuple):
    """What one row measures; two rows of one case are the same row."""

    work: str
    shape: str
    backend: str
    batch: int
    dtype: str = "float32"
    layout: str = "contiguous"


class Bench(Protocol):
    """Lives in the process that measures."""

    def facts(self) -> dict[str, Any]:
        """Of the machine, as JSON has them."""
        ...

    def row(self, case: Case) -> Row:
        """What is measured; raises what went wrong."""
        ...

    def synchronize(self) -> None:
        """Raises where nothing more can run in this process."""
        ...


class Lost(Exception):
    """The process that measures is gone, and why."""


class Process:
    """A process that measures cases by the Bench that `start` makes in it."""

    def __init__(self, start: Callable[[], Bench]) -> None:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, start), daemon=True)
        self._process.start()
        theirs.close()
        self.facts: dict[str, Any] = self._answer(START_SECONDS)

    def row(self, case: Case, seconds: float) -> tuple[Row, bool]:
        """The row, and whether the process is of further use."""
        try:
            return self._answer(seconds, case)
        except Lost as lost:
            return {"failed": str(lost)}, False

    def _answer(self, seconds: float, case: Case | None = None) -> Any:
        try:
            if case is not None:
                self._connection.send(case)
            if self._connection.poll(seconds):
                return self._connection.recv()
            self.end()
            raise Lost(f"no result in {seconds:g} s")
        except (EOFError, ConnectionError):
            self._process.join()
            raise Lost(f"the process ended with exit status {self._process.exitcode}") from None

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


def _serve(connection: Connection, start: Callable[[], Bench]) -> None:
    _end_with_parent()
    bench = start()
    connection.send(bench.facts())
    usable = True
    while usable:
        row, usable = _attempt(bench, connection.recv())
        connection.send((row, usable))


def _end_with_parent() -> None:
    """Also where the parent is killed: nothing goes on in the dark, least of all what hangs."""
    if sys.platform == "linux":
        parent_death_signal = 1
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


def _attempt(bench: Bench, case: Case) -> tuple[Row, bool]:
    try:
        return bench.row(case), True
    except Exception as error:  # whatever it is, it is what this case has to show
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    try:
        bench.synchronize()
    except Exception:
        return {"failed": text[:MOST_TEXT]}, False
    return {"failed": text[:MOST_TEXT]}, True


def measured(
    cases: Iterable[Case],
    start: Callable[[], Bench],
    process: Process | None = None,
    seconds: float = ROW_SECONDS,
) -> Iterator[Row]:
    """The rows of the cases, each with the case's own fields; begins with the process that is given.

    Raises:
        Lost: a process does not even start.
    """
    try:
        for case in cases:
            process = process or Process(start)
            row, usable = process.row(case, seconds)
            if not usable:
                process.end()
                process = None
            yield case._asdict() | row
    finally:
        if process is not None:
            process.end()


class Record:
    """Rows in a file that is whole at any time; a row of the same case takes the place of the one before."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path, self.facts = path, facts
        self._rows: dict[Case, Row] = {}

    @property
    def rows(self) -> list[Row]:
        return list(self._rows.values())

    def add(self, row: Row) -> None:
        self._rows[case_of(row)] = row
        publish(self.path, json.dumps({**self.facts, "rows": self.rows}, indent=1) + "\n")

    def take_over(self) -> None:
        """The rows of an earlier run with the same facts that did not fail."""
        earlier = json.loads(self.path.read_text()) if self.path.exists() else {"rows": []}
        rows = earlier.pop("rows")
        if earlier == self.facts:
            self._rows = {case_of(row): row for row in rows if "failed" not in row}

    def lacks(self, case: Case) -> bool:
        return case not in self._rows


def case_of(row: Row) -> Case:
    return Case(**{name: row[name] for name in Case._fields})


def publish(path: Path, text: str) -> None:
    """The file has the old text or the new one, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(text)
    os.replace(file.name, path)
