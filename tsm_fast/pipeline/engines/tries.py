"""What is tried next of a shard that was lost, until the images that end or hang its workers are error rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ..computation import Problem
from ..files import plan_file, urls
from ..files.run import ShardSpec
from .messages import Found, Lost, Task

RETRIES = 3  # how often a shard is tried again
MOST = 16  # images of a shard that may end or hang its workers, before the shard fails


class Tries:
    """The next task for each one that was lost.

    A worker says before each step which images it is about to take up. Where it dies or hangs, they are looked into one
    by one, in memory and with nothing published, by a worker that says which one it is at: if it ends there again, the
    image gets an error row, and its place in the micro-batch stays blank in all later tries. So this costs one process
    more, and not one for each halving. Who sends SIGKILL may be anybody: that image is looked into once more, alone.
    """

    def __init__(self, say: Callable[[str], None], fail: Callable[[int, str], None]) -> None:
        self._say, self._fail = say, fail
        self._tries = Counter[int]()
        self._late: set[int] = set()  # shards whose worker gave no sign of life
        self.patience: float = 1.0  # of all tasks from now on

    def next(self, lost: Lost) -> Task | None:
        """What to do now; None where the shard has failed."""
        task, index = lost.task, lost.task.spec.index
        if task.suspects:
            guilty = lost.rows[:1]
            if not guilty or lost.problem is None:  # it ended without an image in its hands
                self._wait_longer(index, lost.late)
                return task._replace(suspects=())
            if lost.foreign and len(task.suspects) > 1:
                return task._replace(suspects=guilty)
            return self._blame(task, guilty[0], lost.problem)
        self._tries[index] += 1
        if not lost.again or self._tries[index] > RETRIES:
            self._say(f"shard {index} failed: {lost.reason}")
            self._fail(index, lost.reason)
            return None
        self._say(f"shard {index}: {lost.reason}; trying again ({self._tries[index]} of {RETRIES})")
        (self._late.add if lost.late else self._late.discard)(index)
        return task._replace(suspects=tuple(row for row in lost.rows if row not in task.poison))

    def found(self, found: Found) -> Task | None:
        """What to do after images were looked into and the worker lived."""
        if found.problem is None:
            index = found.task.spec.index
            self._wait_longer(index, index in self._late)
            return found.task._replace(suspects=())
        return self._blame(found.task, found.row, found.problem)

    def _wait_longer(self, index: int, late: bool) -> None:
        """No image hangs by itself: the network may be slow."""
        if late:
            self.patience *= 4
            self._say(
                f"shard {index}: no image is to blame; signs of life may take {self.patience:g} times as long now"
            )

    def _blame(self, task: Task, row: int, problem: Problem) -> Task | None:
        index = task.spec.index
        if len(task.poison) == MOST:
            reason = f"more than {MOST} of its images end or hang the worker; the last one: {problem.message}"
            self._say(f"shard {index} failed: {reason}")
            self._fail(index, reason)
            return None
        self._tries[index] = 0
        self._say(
            f"shard {index}: image {row} ({_key(task.spec, row)!r}): {problem.message}; it becomes an error row "
            f"{problem.kind!r}"
        )
        return task._replace(poison={**task.poison, row: problem}, suspects=())


def _key(spec: ShardSpec, row: int) -> str:
    return plan_file.read(urls.folder(spec.out), spec.group, spec.part)[row - spec.start].key
