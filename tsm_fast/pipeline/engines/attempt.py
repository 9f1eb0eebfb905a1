"""One try at a shard, and what its error means for the run."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

from ..errors import FingerprintError, OutOfSpace, ShardFailed, Stopped
from ..files.run import ShardSpec
from ..settings import Resources
from ..sources.source import Source
from ..worker.run_shard import run_shard
from .lanes import Done, Fatal, Lost, Message

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
NO_WRITING = (*NO_SPACE, errno.EROFS, errno.EACCES, errno.EPERM)
WORTH_ANOTHER = (OSError, RuntimeError, MemoryError)  # other errors come back every time


def attempt(
    spec: ShardSpec,
    resources: Resources,
    send: Callable[[Message], None],
    stop: threading.Event,
    source: Source | None = None,
) -> Message | None:
    """One try at a shard: Done, Lost, Fatal, or None for having been stopped."""
    try:
        return Done(run_shard(spec, resources, tell=send, stop=stop, source=source))
    except Stopped:
        return None
    except Exception as error:
        return judge(spec, error)


def judge(spec: ShardSpec, error: Exception) -> Message:
    """What an error of a shard means for the run."""
    if isinstance(error, OutOfSpace | FingerprintError) or (isinstance(error, OSError) and error.errno in NO_WRITING):
        return Fatal(_text(error))
    return Lost(spec, _text(error), again=isinstance(error, WORTH_ANOTHER))


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) if isinstance(error, ShardFailed | FingerprintError) else f"{type(error).__name__}: {error}"
