"""Whether the run in a folder is the one that is asked for: the same pictures, model and settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ...models import answers
from ...readable import counted, some
from ..errors import FingerprintError
from ..files import plan_file
from ..files.run import Run
from ..files.shards import OK, read_columns
from ..sources.hashes import hashes
from .draft import Draft


def compare(run: Run, planned: Draft, say: Callable[[str], None]) -> None:
    """Check that the run in a folder is the planned one, and say where its source has moved.

    Raises:
        FingerprintError: it is another one; the message says what differs, and what to do.
    """
    there, here = run.file, planned.file
    assert there.evidence is not None
    assert here.evidence is not None
    if there.fingerprint != here.fingerprint:
        raise FingerprintError(_difference(run, planned))
    changed = answers.difference(here.about.model, there.evidence.answers, here.evidence.answers)
    if changed is not None:
        raise FingerprintError(f"{run.out} holds a run of another model: {changed}")
    if (run.out / plan_file.NAME).exists():
        try:
            found = plan_file.digests(run.out)
        except ValueError as error:
            raise FingerprintError(str(error)) from None
        if not plan_file.belongs(found, there):
            raise FingerprintError(
                f"{run.out / plan_file.NAME} is not the plan of this run: delete it and run the same command again, "
                "which writes it anew"
            )
        if there.evidence.stamps != here.evidence.stamps:
            _compare_pictures(run, planned, say)
    elif there.evidence.stamps != here.evidence.stamps:
        delete = "" if run.done() else f", or delete {run.out / 'run.json'}, for nothing is computed yet"
        raise FingerprintError(
            f"{run.out} holds a run without its plan.parquet, and pictures were replaced since: name another folder"
            f"{delete}"
        )
    if there.about.root != here.about.root:
        say(f"the source has moved: it was {there.about.root}, and has equal content in {here.about.root}")


def _compare_pictures(run: Run, planned: Draft, say: Callable[[str], None]) -> None:
    """Look at the pictures whose size or time is another one than in the plan.

    One that has a map must have the same bytes. One that has none may have been repaired, in its place; in a source
    that has moved it must have the same size, and the others must tell that the source is the same one.
    """
    stamps = plan_file.stamps(run.out)
    now = planned.stamps or []
    rows = [row for row, (old, new) in enumerate(zip(stamps, now, strict=True)) if old != new]
    known = _hashes(run, rows)
    computed = [row for row in rows if row in known]
    if computed:
        count = counted(len(computed), "picture")
        say(f"comparing {count} whose size or time has changed with the hashes in their rows")
    present = hashes(planned.source, (planned.items[row] for row in computed))
    replaced = [row for row, sha in zip(computed, present, strict=True) if sha != known[row]]
    if replaced:
        names = some([planned.items[row].key for row in replaced])
        count, those = counted(len(replaced), "picture"), "its map was" if len(replaced) == 1 else "their maps were"
        raise FingerprintError(
            f"{run.out} holds the maps of other pictures: {count} {_were(replaced)} replaced since {those} computed: "
            f"{names}. Put {'it' if len(replaced) == 1 else 'them'} back, or name another folder; `tsm-fast verify "
            f"{run.out} SOURCE` compares all"
        )
    rest = [row for row in rows if row not in known]
    if run.file.about.root != planned.file.about.root:
        other = [row for row in rest if stamps[row].bytes != now[row].bytes] or ([] if computed else rest)
        if other:
            raise FingerprintError(
                f"{run.out} holds a run of other pictures: the source was {run.file.about.root} then, and of those in "
                f"{planned.file.about.root} {len(other):,} have another size or time, such as "
                f"{some([planned.items[other[0]].key])}, and no map to compare with. Name another folder"
            )
    elif rest:
        keys = some([planned.items[row].key for row in rest])
        say(f"{counted(len(rest), 'picture')} without a map {_were(rest)} replaced since the run was planned: {keys}")


def _hashes(run: Run, rows: Sequence[int]) -> dict[int, str]:
    """The hash of the picture of each row that has a map."""
    size, done = run.record.shard_size, run.done()
    by_shard: dict[int, list[int]] = {}
    for row in rows:
        if row // size in done:
            by_shard.setdefault(row // size, []).append(row)
    found = {}
    for shard, own in by_shard.items():
        status, sha = read_columns(run.out, shard, ["status", "sha256"])
        found |= {row: sha[row % size] for row in own if status[row % size] == OK}
    return found


def _were(rows: Sequence[int]) -> str:
    return "was" if len(rows) == 1 else "were"


def _difference(run: Run, planned: Draft) -> str:
    """What differs between the record in a folder and that of what is asked for."""
    there, here = (asdict(file.record) for file in (run.file, planned.file))
    same = [record["source"].pop(name) for name in ("listing", "items") for record in (there, here)]
    columns = [record.pop("columns") for record in (there, here)]
    lines = list(_differences(there, here))
    if same[0] != same[1]:  # of the listings
        lines.append(_other_keys(run, [item.key for item in planned.items]))
    if there["source"]["content"] != here["source"]["content"]:
        lines.append("a dataset must give the same items whenever it is asked")
    if not lines:
        lines.append(f"the shapes of maps are {_shapes(columns[0])} there and {_shapes(columns[1])} now")
    more = f"; and {len(lines) - 6} more" if len(lines) > 6 else ""
    return (
        f"{run.out} holds a run with other settings: {'; '.join(lines[:6])}{more}. Name another folder, or repeat the "
        "settings of that run"
    )


def _other_keys(run: Run, now: list[str]) -> str:
    try:
        there = plan_file.keys(run.out).to_pylist()
    except (FileNotFoundError, ValueError):
        return f"the listing has other images ({len(now)} now)"
    gone, new = sorted(set(there) - set(now)), sorted(set(now) - set(there))
    parts = [f"{len(keys)} {word}, such as {keys[0]!r}" for keys, word in ((new, "more"), (gone, "fewer")) if keys]
    return f"the listing has {len(there)} images there and {len(now)} now" + (f" ({'; '.join(parts)})" if parts else "")


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """What differs in two nested mappings, in words."""
    for key in {**there, **here}:
        name, old, new = above + key, there.get(key, _ABSENT), here.get(key, _ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{name}.")
        elif old is _ABSENT or new is _ABSENT:
            yield f"{name} is {'new' if old is _ABSENT else 'there and not asked for now'}"
        elif old != new:
            yield f"{name} is {_plain(old)} there and {_plain(new)} now"


def _shapes(columns: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    return [list(column["shape"]) for column in columns]


def _plain(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)


_ABSENT = object()
