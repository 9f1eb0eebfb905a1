"""Where a run stands: what is done, under way and failed, how fast, and whether it should go on."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping

from ..files.run import Marker, ShardSpec
from ..worker.run_shard import NAMED, Bad, Event

RATE_WINDOW = 60.0  # seconds over which the rate is taken


class Tally:
    """The numbers of a run while it runs, from the events and markers that its workers send.

    Args:
        shards: all shards of this process's share, done or not.
        done: the markers of those that were done before.
        max_errors: share of the rows that may be errors.
    """

    def __init__(self, shards: Iterable[ShardSpec], done: Mapping[int, Marker], max_errors: float) -> None:
        self.sizes: dict[int, int] = {spec.index: spec.stop - spec.start for spec in shards}
        self.rows: int = sum(self.sizes.values())
        self.done: dict[int, Marker] = {index: marker for index, marker in done.items() if index in self.sizes}
        self.done_before: int = len(self.done)
        self.failed: dict[int, str] = {}
        self.allowed: float = max_errors * self.rows
        self.stages: Counter[str] = Counter()  # busy seconds of this session
        self.fresh: int = 0  # images of this session, also of tries that were lost
        self.published: int = 0  # those that are in shards
        self.bad: dict[str, Bad] = {}  # the first error rows of this session, by their keys
        self._under_way: dict[int, tuple[int, int]] = {}  # shard -> images, errors
        self._started = time.monotonic()
        self._moments: deque[tuple[float, int]] = deque()

    def event(self, event: Event) -> None:
        images, errors = self._under_way.get(event.shard, (0, 0))
        self._under_way[event.shard] = images + event.images, errors + event.errors
        self.stages.update(event.seconds)
        self._advance(event.images)
        self.bad.update({row.key: row for row in event.bad if len(self.bad) < NAMED or row.key in self.bad})

    def finish(self, marker: Marker) -> None:
        """A shard is published. Engines without events learn of its images here."""
        images, _ = self._under_way.pop(marker.shard, (0, 0))
        if not images:
            self.stages.update(marker.seconds)
            self._advance(marker.rows)
        self.published += images or marker.rows
        self.failed.pop(marker.shard, None)
        self.done[marker.shard] = marker

    def drop(self, index: int) -> None:
        """What was under way of a shard is lost."""
        self._under_way.pop(index, None)

    def fail(self, index: int, reason: str) -> None:
        self.drop(index)
        self.failed[index] = reason

    def settle(self, done: Mapping[int, Marker]) -> None:
        """Count what is on the disk, and nothing that was under way."""
        self._under_way = {}
        self.done = {index: marker for index, marker in done.items() if index in self.sizes}

    @property
    def images(self) -> int:
        """Rows finished, also those of earlier sessions."""
        return sum(self.sizes[index] for index in self.done) + sum(images for images, _ in self._under_way.values())

    @property
    def errors(self) -> int:
        done = sum(sum(marker.errors.values()) for marker in self.done.values())
        return done + sum(errors for _, errors in self._under_way.values())

    @property
    def error_kinds(self) -> Counter[str]:
        kinds: Counter[str] = Counter()
        for marker in self.done.values():
            kinds.update(marker.errors)
        return kinds

    @property
    def too_many_errors(self) -> bool:
        """Whether the errors so far are more than the whole share may have; rows of failed shards are errors here."""
        return self.errors + sum(self.sizes[index] for index in self.failed) > self.allowed

    @property
    def left(self) -> int:
        """Shards that are neither done nor failed."""
        return len(self.sizes) - len(self.done) - len(self.failed)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def rate(self) -> float:
        """Images a second, over the last minute; the start of workers does not count."""
        if not self._moments:
            return 0.0
        (then, before), now = self._moments[0], time.monotonic()
        return (self.fresh - before) / (now - then) if now > then else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds until the end; None as long as nothing can be said."""
        rate = self.rate
        return (self.rows - self.images) / rate if rate > 0 else None

    def _advance(self, images: int) -> None:
        now = time.monotonic()
        self.fresh += images
        self._moments.append((now, self.fresh))
        while len(self._moments) > 2 and self._moments[1][0] < now - RATE_WINDOW:
            self._moments.popleft()
