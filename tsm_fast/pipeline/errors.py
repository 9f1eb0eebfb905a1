"""What a run of the pipeline raises."""

from __future__ import annotations


class FingerprintError(ValueError):
    """A folder holds a run with other settings, and the message says what differs."""


class ShardFailed(RuntimeError):
    """A shard could not be computed; nothing of it was published."""


class TooManyErrors(RuntimeError):
    """More images failed than the run allows."""


class Stopped(Exception):
    """The caller asked to stop; nothing of the unfinished shard was published, and no temporary file is left."""


class Unfinished(LookupError):
    """Rows of a run are not computed yet."""


class OutOfSpace(OSError):
    """The disk is full, or too small for what is still to be written."""
