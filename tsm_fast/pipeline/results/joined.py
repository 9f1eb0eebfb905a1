"""Runs that are read, or merged, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice

import pyarrow as pa

from ...readable import counted, some
from ..errors import FingerprintError
from ..files import plan_file
from ..files.differences import differences
from ..files.run import Run


def check_joinable(runs: Sequence[Run]) -> None:
    """That runs hold the maps of other pictures by the same record.

    Raises:
        FingerprintError: they were made in different ways, or have keys in common; the message says which.
    """
    for run in runs[1:]:
        found = difference(runs[0], run)
        if found is not None:
            raise FingerprintError(f"{runs[0].out} and {run.out} cannot be joined: {found}")
    known = keys_of(runs[0])
    for run in runs[1:]:
        keys = keys_of(run)
        both = keys.filter(plan_file.places(keys, known).is_valid())
        if len(both):
            first = some(both.slice(0, 3).to_pylist())
            raise FingerprintError(
                f"{run.out} has {counted(len(both), 'key')} that {'are' if len(both) > 1 else 'is'} in the runs before "
                f"it too, such as {first}: a key must be that of one picture"
            )
        known = pa.concat_arrays([known, keys])


def keys_of(run: Run) -> pa.Array:
    """All keys of a run, in order."""
    return pa.concat_arrays([plan_file.keys(run.out, number) for number in range(len(run.parts))])


def difference(one: Run, other: Run) -> str | None:
    """What differs between the records of two runs beside their pictures, in words."""
    there, here = ({**asdict(run.record), "source": None, "shard_size": None, "columns": None} for run in (one, other))
    lines = list(islice(differences(there, here), 6))
    if lines:
        return "; ".join(lines).replace(" there and ", " in the first and ").replace(" now", " in the other")
    if one.file.evidence is not None and other.file.evidence is not None:
        from ...models import answers  # brings the models, which readers of one run do without

        name = other.file.about.model
        if answers.difference(name, one.file.evidence.answers, other.file.evidence.answers) is not None:
            return f"the code of {name}, or of its preprocessing, gives other numbers in one than in the other"
    columns = plan_file.difference(plan_file.carried(one.out), plan_file.carried(other.out))
    return None if columns is None else f"their columns of the source differ: {columns}"
