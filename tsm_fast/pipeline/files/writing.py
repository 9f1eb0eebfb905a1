"""A shard on its way to its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from . import plan_file, publish
from .record import FORMAT
from .run import Run, ShardSpec
from .shards import ShardWriter


@contextmanager
def writing(run: Run, spec: ShardSpec, path: Path) -> Iterator[tuple[ShardWriter, publish.HashingFile]]:
    """A writer, which the block closes, and its file, which becomes the shard at the end of the block."""
    about = {"format": FORMAT, "fingerprint": spec.fingerprint, "shard": spec.index}
    about["columns"] = [asdict(column) for column in run.columns]
    with publish.publishing(path) as file:
        hashing = publish.HashingFile(file)
        carried = plan_file.carried(run.out, spec.part, spec.group)
        writer = ShardWriter(
            hashing,  # pyright: ignore[reportArgumentType]
            run.columns,
            about,
            carried,
            run.record.values,
        )
        try:
            yield writer, hashing
        except BaseException:
            hashing.abandon()
            raise
