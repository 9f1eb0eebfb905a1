"""What goes to the lanes of an engine, and what comes from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..computation import Problem
from ..files.run import Marker, ShardSpec
from ..worker.run_shard import NOTHING, At, Event


class Task(NamedTuple):
    """What a lane is given: a shard to compute, or some of its rows to be looked into one by one."""

    spec: ShardSpec
    retry: str | None = None  # the error rows that are computed again, as in `run_shard`
    poison: Mapping[int, Problem] = NOTHING  # rows that are not to be touched
    suspects: tuple[int, ...] = ()
    patience: float = 1.0  # times the batch_timeout of the resources


class Done(NamedTuple):
    """A shard is published."""

    marker: Marker


class Found(NamedTuple):
    """Rows were looked into: one has a problem, or none."""

    task: Task
    row: int = -1
    problem: Problem | None = None


class Lost(NamedTuple):
    """A task was not finished: its worker died, ran over a deadline or met an error."""

    task: Task
    reason: str
    again: bool = True  # whether it may go better another time
    rows: tuple[int, ...] = ()  # what the worker had in its hands
    problem: Problem | None = None  # of an image that did this
    foreign: bool = False  # whether somebody else may have ended the worker
    late: bool = False  # whether it gave no sign of life


class Fatal(NamedTuple):
    """Nothing can go on: the disk is full, say."""

    reason: str


class Note(NamedTuple):
    """Something to tell the user."""

    text: str


Message = Event | At | Done | Found | Lost | Fatal | Note
