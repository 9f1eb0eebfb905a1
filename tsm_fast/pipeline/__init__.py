"""Whole datasets: images in, sharded maps out, resumable, on one machine or many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy
from .errors import FingerprintError, OutOfSpace, ShardFailed, Stopped, TooManyErrors
from .files.run import Marker, Run, ShardSpec
from .files.shards import MapColumn
from .settings import Resources, Settings

if TYPE_CHECKING:
    from .planning.prepare import prepare
    from .worker.run_shard import Event, run_shard
else:  # they bring the models, which readers of a run do without
    _HOMES = {"Event": ".worker.run_shard", "prepare": ".planning.prepare", "run_shard": ".worker.run_shard"}
    __getattr__, __dir__ = lazy(__name__, _HOMES)

__all__ = [
    "Event",
    "FingerprintError",
    "MapColumn",
    "Marker",
    "OutOfSpace",
    "Resources",
    "Run",
    "Settings",
    "ShardFailed",
    "ShardSpec",
    "Stopped",
    "TooManyErrors",
    "prepare",
    "run_shard",
]
