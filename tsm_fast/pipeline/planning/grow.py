"""New pictures for a run that is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from ..errors import FingerprintError
from ..files import parts, plan_file
from ..files.parts import Part
from ..files.record import Carried
from ..files.run import Run
from .draft import Draft
from .shard_size import shard_size


def plan_part(
    run: Run, planned: Draft, new: Sequence[int], size: int | None, devices: Sequence[str]
) -> tuple[Part, pa.Table]:
    """Some items of a listing, by their numbers, as one more part of a run, and its plan.

    Args:
        run: its other shards need not be done.
        planned: the listing.
        new: the items that the run does not have.
        size: of the new shards; None chooses for these pictures.
        devices: of all workers, by which it is chosen.

    Raises:
        FingerprintError: the columns that are carried along are others than those of the run.
    """
    record, after, about = run.record, run.parts[-1], planned.file.about
    items = [planned.items[number] for number in new]
    stamps = None if planned.stamps is None else [planned.stamps[number] for number in new]
    carried = None if planned.carried is None else planned.carried.take(pa.array(new))
    _check_columns(run, carried)
    source = replace(
        planned.file.record.source,
        items=len(items),
        listing=plan_file.digest(items),
        carried=None if carried is None else Carried(**plan_file.record(carried)),
    )
    size = size or shard_size(len(items), record.preprocessing["input"], devices, record.batch_size)
    part = Part(
        fingerprint=parts.fingerprint(after, source, size),
        source=source,
        shard_size=size,
        stamps=None if stamps is None else plan_file.digest(stamps),
        named=about.source,
        root=about.root,
        estimated_bytes=about.estimated_bytes * len(items) // len(planned.items),
    )
    return part, plan_file.planned(items, stamps, carried, run.n_items)


def _check_columns(run: Run, carried: pa.Table | None) -> None:
    difference = plan_file.difference(plan_file.carried(run.out), carried)
    if difference is not None:
        raise FingerprintError(
            f"{run.out} has columns of its source, which pictures that are added must have too: {difference}. Give "
            "them the same, or name another folder"
        )
