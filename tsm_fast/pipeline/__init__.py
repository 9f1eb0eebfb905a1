"""Whole datasets: images in, sharded maps out, resumable, on one machine or many."""

from __future__ import annotations

from .errors import FingerprintError, OutOfSpace, ShardFailed, Stopped, TooManyErrors
from .run import Marker, Run, ShardSpec, prepare
from .settings import Resources, Settings
from .shards import MapColumn
from .worker import Event, run_shard

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
