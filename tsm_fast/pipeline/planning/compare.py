"""Whether the run in a folder is the one that is asked for: the same pictures, model and settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ...models import answers
from ...readable import counted, some
from ..errors import FingerprintError
from ..files import plan_file
from ..files.differences import differences
from ..files.run import Run, ShardSpec
from ..files.shards import OK, read_columns
from ..sources.hashes import hashes
from ..sources.source import Item
from .draft import Draft

ADD = "take them into it with add=True, as new shards"
CHANGED = "whose size or time has changed"
LOOKED_AT = 16  # pictures of a source that has moved, about


class Match(NamedTuple):
    """What a listing has of the pictures of a run."""

    mine: frozenset[int]  # the parts that it has as they were planned
    new: list[int]  # the numbers of its items that the run does not have


def compare(
    run: Run,
    planned: Draft,
    say: Callable[[str], None],
    *,
    add: bool = False,
    share: Mapping[int, Sequence[ShardSpec]] | None = None,
) -> Match:
    """Check that the run in a folder is the planned one, and say where its source has moved.

    With `share` nothing is listed: it has the parts of the run that the source is taken to have, and of each the shards
    whose pictures are looked at.

    With `add` the listing may have more pictures than the run, or others; those with the keys of the run must be the
    same pictures. A run to which some were added goes on with any of its sources.

    Raises:
        FingerprintError: it is another one; the message says what differs, and what to do.
    """
    there, here = run.file, planned.file
    assert there.evidence is not None
    assert here.evidence is not None
    apart = add or bool(run.added)  # what is listed now is not what the record lists
    lost, as_begun = not (run.out / plan_file.NAME).exists(), here.fingerprint == there.fingerprint
    if apart:
        record = replace(here.record, source=there.record.source, shard_size=there.record.shard_size)
        planned = replace(planned, file=replace(here, fingerprint=record.fingerprint, record=record))
    if there.fingerprint != planned.file.fingerprint and not _other_content(run, planned, say):
        raise FingerprintError(_difference(run, planned))
    changed = answers.difference(here.about.model, there.evidence.answers, here.evidence.answers)
    if changed is not None:
        raise FingerprintError(f"{run.out} holds a run of another model: {changed}")
    if lost:
        if add or not as_begun:
            raise FingerprintError(
                f"{run.out} holds a run without its plan.parquet, which is written anew for the pictures that it began "
                f"with, those of {there.about.source}: run the command with them, without add=True"
            )
        if there.evidence.stamps != here.evidence.stamps:
            delete = "" if run.done() else f", or delete {run.out / 'run.json'}, for nothing is computed yet"
            raise FingerprintError(
                f"{run.out} holds a run without its plan.parquet, and pictures were replaced since: name another folder"
                f"{delete}"
            )
        return Match(frozenset({0}), [])
    _check_plans(run)
    if share is not None:
        for number, specs in share.items():
            _compare_share(run, number, specs, planned, say)
        return Match(frozenset(share), [])
    if apart:
        return _match(run, replace(planned, file=here), say, add)
    if there.evidence.stamps != here.evidence.stamps:
        rows = range(len(planned.items))
        _compare_pictures(run, 0, rows, planned, rows, None, say)
    _say_moved(run, 0, planned, say)
    return Match(frozenset({0}), [])


def _other_content(run: Run, planned: Draft, say: Callable[[str], None]) -> bool:
    """Whether only the digest of a dataset is another one, and every picture that has a map is the same.

    So it is when one of the items in that digest was repaired.
    """
    record, there = planned.file.record, run.record.source
    same = replace(record, source=replace(record.source, content=there.content))
    if same.fingerprint != run.file.fingerprint or planned.stamps is not None:
        return False
    rows = range(len(planned.items))
    if not (run.out / plan_file.NAME).exists() or not _hashes(run, 0, rows):
        return False
    try:
        _compare_pictures(run, 0, rows, planned, rows, None, say)
    except FingerprintError:  # `_difference` says it
        return False
    return True


def _compare_share(
    run: Run, number: int, specs: Sequence[ShardSpec], planned: Draft, say: Callable[[str], None]
) -> None:
    """Look at the pictures of some shards of a part, where they are files."""
    part = run.parts[number]
    if part.stamps is None:
        return
    first = specs[0].start - specs[0].group * part.shard_size if specs else 0
    rows = [row - first for spec in specs for row in range(spec.start, spec.stop)]
    items = [item for spec in specs for item in plan_file.read(run.out, spec.group, number)]
    here = replace(planned, items=items, stamps=planned.source.stamps(items))
    there = plan_file.stamps(run.out, number, rows)
    gone = [
        item.key
        for item, old, new in zip(items, there, here.stamps or (), strict=True)
        if new.bytes is None and old.bytes is not None
    ]
    if gone:
        raise FingerprintError(
            f"{run.out} was planned with {counted(len(gone), 'picture')} that {_were(gone)} not found in "
            f"{planned.file.about.root}: {some(gone)}. Put back what is missing, or name the source where they are"
        )
    _compare_pictures(run, number, rows, here, range(len(rows)), None, say)
    _say_moved(run, number, planned, say)


def _check_plans(run: Run) -> None:
    for number, part in enumerate(run.parts):
        try:
            found = plan_file.digests(run.out, number)
        except ValueError as error:
            raise FingerprintError(str(error)) from None
        if not plan_file.belongs(found, part):
            raise FingerprintError(
                f"{plan_file.path(run.out, number)} is not the plan of this run: {plan_file.anew(number)}"
            )


def _say_moved(run: Run, number: int, planned: Draft, say: Callable[[str], None]) -> None:
    before, now = run.parts[number].root, planned.file.about.root
    if before != now:
        _compare_some(run, number, planned)
        say(f"the source has moved: it was {before}, and has equal content in {now}")


def _compare_some(run: Run, number: int, planned: Draft) -> None:
    """Look at a few pictures of a part that have maps: files of equal size and time may be others elsewhere."""
    done = run.done()
    specs = [spec for spec in run.shards if spec.part == number and spec.index in done]
    if run.parts[number].stamps is None or not specs:
        return
    known: list[tuple[Item, str]] = []
    for spec in specs[:: max(1, len(specs) // LOOKED_AT)]:
        rows = list(zip(*read_columns(run.out, spec.index, ["status", "sha256"]), strict=True))
        items = plan_file.read(run.out, spec.group, number)
        found = [(item, sha) for item, (status, sha) in zip(items, rows, strict=True) if status == OK]
        known += found[:: max(1, len(found) // max(1, LOOKED_AT // len(specs)))]
    present = hashes(planned.source, (item for item, _ in known))
    other = [item.key for (item, sha), now in zip(known, present, strict=True) if now != sha]
    if other:
        raise FingerprintError(
            f"{run.out} holds the maps of other pictures: the source was {run.parts[number].root} then, and of "
            f"{len(known)} pictures that were looked at in {planned.file.about.root} {len(other)} "
            f"{'is another one' if len(other) == 1 else 'are others'} of the same size and time: {some(other)}. Name "
            "another folder"
        )


def _match(run: Run, planned: Draft, say: Callable[[str], None], add: bool) -> Match:
    """Which parts of a run a listing has, which of its items are new, and that all others are the same pictures."""
    now, present = pa.array([item.key for item in planned.items]), planned.file.record.source
    whole, mine, proven = set[int](), set[int](), set[int]()
    some_of: list[tuple[int, list[int], list[int], list[Item] | None]] = []
    known = np.zeros(len(now), bool)
    for number, part in enumerate(run.parts):
        places = plan_file.places(plan_file.keys(run.out, number), now)
        rows = np.flatnonzero(places.is_valid()).tolist()
        if not rows:
            continue
        numbers = places.drop_null().to_pylist()
        known[numbers] = True
        as_planned = plan_file.digest(planned.items[n] for n in numbers) == part.source.listing
        some_of.append((number, rows, numbers, None if as_planned else plan_file.items(run.out, number)))
        if len(rows) == part.source.items:
            whole.add(number)
            if as_planned and part.source.kind == present.kind:
                mine.add(number)
                if part.source.content == present.content:
                    proven.add(number)
    new = np.flatnonzero(~known).tolist()
    if not add:
        _check_whole(run, planned, whole, mine, new, len(whole) < len(some_of))
    for number, rows, numbers, places in some_of:
        _compare_columns(run, number, rows, planned, numbers)
        # A part of a dataset with this content is of these pictures; those before it were compared when it was added.
        if planned.stamps is not None or number > max(proven, default=-1):
            _compare_pictures(run, number, rows, planned, numbers, places, say)
    for number in sorted(mine):
        _say_moved(run, number, planned, say)
    _say_others(run, mine, say)
    if new:
        _check_ready(run, planned, mine, planned.items[new[0]].key)
    return Match(frozenset(mine), new)


def _say_others(run: Run, mine: Collection[int], say: Callable[[str], None]) -> None:
    """What of a run this source leaves as it is, its error rows and what is pending included."""
    others = [part for number, part in enumerate(run.parts) if number not in mine]
    if others:
        count = sum(part.source.items for part in others)
        names = ", ".join(dict.fromkeys(part.named for part in others))
        say(f"{counted(count, 'image')} of the run stay as they are: their places are in {names}, as planned then")


def _check_whole(run: Run, planned: Draft, whole: set[int], mine: set[int], new: Sequence[int], cut: bool) -> None:
    """That a listing has some parts of a run, all of each, and nothing else."""
    if new:
        raise FingerprintError(
            f"{run.out} does not have {counted(len(new), 'picture')} of this listing, such as "
            f"{some([planned.items[new[0]].key])}: {ADD}, or name another folder"
        )
    if cut:
        raise FingerprintError(
            f"{run.out} holds a run of other images: of {counted(run.n_items, 'image')} there the listing has "
            f"{len(planned.items):,} now. Name another folder, or the source as it was"
        )
    if not mine:
        names = ", ".join(dict.fromkeys(run.parts[number].named for number in sorted(whole)))
        raise FingerprintError(
            f"{run.out} holds a run of other pictures: those with these keys are of {names} there, and the content or "
            "the places of this source are others. Name another folder, or that source"
        )


def _check_ready(run: Run, planned: Draft, mine: Collection[int], new: str) -> None:
    """That pictures may be added: nobody else has to finish the run before, and `new`, one of them, is a new key."""
    others = [spec for spec in run.pending() if spec.part not in mine]
    if others:
        part = run.parts[others[0].part]
        raise FingerprintError(
            f"{run.out} has {counted(len(others), 'shard')} to compute, of pictures in {part.named}: finish these "
            "first, by a command with that source, then add others"
        )
    about, source = planned.file.about, planned.file.record.source
    same = [n for n, part in enumerate(run.parts) if (part.source.kind, part.root) == (source.kind, about.root)]
    known = [plan_file.keys(run.out, number)[0].as_py() for number in same if planned.stamps is None]
    if new.isdecimal() and any(key.isdecimal() and len(key) != len(new) for key in known):
        raise FingerprintError(
            f"{run.out} has the pictures of {about.source} under other keys: numbers have other widths now, so give "
            "the dataset keys of its own, or name another folder"
        )


def _compare_columns(run: Run, number: int, rows: Sequence[int], planned: Draft, numbers: Sequence[int]) -> None:
    """That columns which are carried along say the same of pictures that are in the run."""
    there = plan_file.carried(run.out, number)
    if there is not None and planned.carried is not None:
        pair = there.take(pa.array(rows)), planned.carried.take(pa.array(numbers))
        if len({json.dumps(plan_file.record(table), sort_keys=True) for table in pair}) > 1:
            raise FingerprintError(
                f"{run.out} has other values in the columns of its source ({', '.join(there.column_names)}), for "
                "pictures that are in the run already. Put them back, or name another folder"
            )


def _compare_pictures(
    run: Run,
    number: int,
    rows: Sequence[int],  # of the part
    planned: Draft,
    numbers: Sequence[int],  # of the items that have their keys
    places: Sequence[Item] | None,  # what the part has planned, where that is not the same
    say: Callable[[str], None],
) -> None:
    """Look at the pictures whose size, time or place is another one than in the plan of a part.

    One that has a map must have the same bytes. One that has none may have been repaired, in its place; in a source
    that has moved it must have the same size, and the others must tell that the source is the same one.
    """
    part, now = run.parts[number], planned.stamps
    stamps = plan_file.stamps(run.out, number, rows)
    pairs = [
        (row, item, stamp)
        for row, item, stamp in zip(rows, numbers, stamps, strict=True)
        if now is None or stamp != now[item] or (places is not None and places[row] != planned.items[item])
    ]
    known = _hashes(run, number, [row for row, _, _ in pairs])
    computed = [(row, item) for row, item, _ in pairs if row in known]
    if computed:
        count = counted(len(computed), "picture")
        say(f"comparing {count} {CHANGED if now is not None else 'of a dataset'} with the hashes in their rows")
    present = hashes(planned.source, (planned.items[item] for _, item in computed))
    replaced = [item for (row, item), sha in zip(computed, present, strict=True) if sha != known[row]]
    if replaced:
        names = some([planned.items[item].key for item in replaced])
        count, those = counted(len(replaced), "picture"), "its map was" if len(replaced) == 1 else "their maps were"
        raise FingerprintError(
            f"{run.out} holds the maps of other pictures: {count} {_were(replaced)} replaced since {those} computed: "
            f"{names}. Put {'it' if len(replaced) == 1 else 'them'} back, or name another folder; `tsm-fast verify "
            f"{run.out} SOURCE` compares all"
        )
    rest = [(item, stamp) for row, item, stamp in pairs if row not in known]
    if now is None or not rest:
        return
    if part.root != planned.file.about.root:
        other = [item for item, stamp in rest if stamp.bytes != now[item].bytes]
        other = other or ([] if computed else [item for item, _ in rest])
        if other:
            raise FingerprintError(
                f"{run.out} holds a run of other pictures: the source was {part.root} then, and of those in "
                f"{planned.file.about.root} {len(other):,} have another size or time, such as "
                f"{some([planned.items[other[0]].key])}, and no map to compare with. Name another folder"
            )
    else:
        keys = some([planned.items[item].key for item, _ in rest])
        say(f"{counted(len(rest), 'picture')} without a map {_were(rest)} replaced since the run was planned: {keys}")


def _hashes(run: Run, number: int, rows: Sequence[int]) -> dict[int, str]:
    """The hash of the picture of each row of a part that has a map."""
    size, done = run.parts[number].shard_size, run.done() if rows else {}
    before = sum(part.shards for part in run.parts[:number])
    by_shard: dict[int, list[int]] = {}
    for row in rows:
        if before + row // size in done:
            by_shard.setdefault(before + row // size, []).append(row)
    found = {}
    for shard, own in by_shard.items():
        status, sha = read_columns(run.out, shard, ["status", "sha256"])
        found |= {row: sha[row % size] for row in own if status[row % size] == OK}
    return found


def _were(rows: Sized) -> str:
    return "was" if len(rows) == 1 else "were"


def _difference(run: Run, planned: Draft) -> str:
    """What differs between the record in a folder and that of what is asked for."""
    there, here = (file.record.to_json() for file in (run.file, planned.file))
    same = [record["source"].pop(name) for name in ("listing", "items") for record in (there, here)]
    columns = [record.pop("columns") for record in (there, here)]
    lines = list(differences(there, here))
    if same[0] != same[1]:  # of the listings
        lines.append(_other_keys(run, [item.key for item in planned.items]))
    if there["source"]["content"] != here["source"]["content"]:
        lines.append("a dataset must give the same items whenever it is asked")
    if not lines:
        lines.append(f"the shapes of maps are {_shapes(columns[0])} there and {_shapes(columns[1])} now")
    more = f"; and {len(lines) - 6} more" if len(lines) > 6 else ""
    add = f"; or {ADD}" if same[0] != same[1] and _only_more(run, planned) else ""
    return (
        f"{run.out} holds a run with other settings: {'; '.join(lines[:6])}{more}. Name another folder, or repeat the "
        f"settings of that run{add}"
    )


def _only_more(run: Run, planned: Draft) -> bool:
    """Whether a listing has pictures that a run does not have."""
    try:
        there = plan_file.keys(run.out)
    except (FileNotFoundError, ValueError):
        return False
    return plan_file.places(pa.array([item.key for item in planned.items]), there).null_count > 0


def _other_keys(run: Run, now: list[str]) -> str:
    try:
        there = plan_file.keys(run.out).to_pylist()
    except (FileNotFoundError, ValueError):
        return f"the listing has other images ({len(now)} now)"
    gone, new = sorted(set(there) - set(now)), sorted(set(now) - set(there))
    parts = [f"{len(keys)} {word}, such as {keys[0]!r}" for keys, word in ((new, "more"), (gone, "fewer")) if keys]
    return f"the listing has {len(there)} images there and {len(now)} now" + (f" ({'; '.join(parts)})" if parts else "")


def _shapes(columns: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    return [list(column["shape"]) for column in columns]
