"""One try at a task, and what its error means for the run."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

from ...models import Model
from ..errors import FingerprintError, OutOfSpace, ShardFailed, Stopped
from ..settings import Resources
from ..sources.source import Source
from ..worker.run_shard import find_poison, run_shard
from .messages import Done, Fatal, Found, Lost, Message, Task

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_WRITING = (*NO_SPACE, errno.EROFS, errno.EACCES, errno.EPERM)
WORTH_ANOTHER = (OSError, RuntimeError, MemoryError)  # other errors come back every time


def attempt(
    task: Task,
    resources: Resources,
    send: Callable[[Message], None],
    stop: threading.Event,
    source: Source | None = None,
    model: Model | None = None,
) -> Message | None:
    """One try at a task: Done, Found, Lost, Fatal, or None for having been stopped."""
    try:
        if task.suspects:
            found = find_poison(task.spec, task.suspects, resources, alive=send, stop=stop, source=source, model=model)
            return Found(task) if found is None else Found(task, *found)
        marker = run_shard(
            task.spec,
            resources,
            tell=send,
            alive=send,
            stop=stop,
            source=source,
            model=model,
            poison=task.poison,
            retry=task.retry,
        )
        return Done(marker)
    except Stopped:
        return None
    except Exception as error:
        return judge(task, error)


def judge(task: Task, error: Exception) -> Message:
    """What an error of a task means for the run."""
    if isinstance(error, OutOfSpace | FingerprintError) or (isinstance(error, OSError) and error.errno in NO_WRITING):
        return Fatal(_text(error))
    return Lost(task, _text(error), again=isinstance(error, WORTH_ANOTHER))


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) if isinstance(error, ShardFailed | FingerprintError) else f"{type(error).__name__}: {error}"
