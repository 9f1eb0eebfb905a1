"""`run_shard`: from a planned range of images to a published shard of maps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from .run import Marker, ShardSpec
from .settings import Resources


class Event(NamedTuple):
    """What happened since the last event of this shard."""

    shard: int
    images: int  # rows finished, with those that failed
    errors: int
    seconds: dict[str, float]  # by stage, as in `Marker.seconds`


def run_shard(
    spec: ShardSpec,
    resources: Resources | None = None,
    *,
    report: Callable[[Event], None] | None = None,
    stop: threading.Event | None = None,
) -> Marker:
    """Compute and publish one shard, or raise and leave nothing behind."""
    raise NotImplementedError
