"""`follow`: a run that another process has planned, taken up without listing its pictures again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ...models import Model
from ..files import plan_file, urls
from ..files.run import Run, ShardSpec
from ..settings import Settings
from ..sources.open import open_source
from ..sources.source import Item, Source
from . import draft
from .compare import compare
from .prepare import as_planned, readable


def follow(
    settings: Settings,
    out: str | Path,
    share: Callable[[Sequence[ShardSpec]], Sequence[ShardSpec]],
    model: Model | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Run | None:
    """The planned run in a folder for a process that computes a share of its shards; None where it has to list.

    All of the record is compared but the listing, for which the plan stands: of the pictures in the share, size and
    time are compared with the plan, and with the hashes in their rows where these are others. A dataset must have the
    content that it had. What is listed otherwise (a filter, a limit, more pictures) is the business of who planned.

    Raises:
        FingerprintError: as `prepare`; or a picture of the share is not there.
    """
    run = readable(urls.folder(out))
    if run is None or not plan_file.path(out).is_file():
        return None
    source = open_source(settings.source, settings.root)
    parts = _parts(run, source)
    if parts is None:
        return None
    settings = as_planned(replace(settings, shard_size=None) if run.added else settings, run)
    planned = draft.make(
        settings, source=source, model=model, say=say, listed=(run.record.source, _ends(run, parts[0]))
    )
    specs = share(run.shards)
    compare(run, planned, say, share={part: [spec for spec in specs if spec.part == part] for part in parts})
    return replace(run, command=planned.command, model=model, mine=frozenset(parts))


def _parts(run: Run, source: Source) -> list[int] | None:
    """The parts of a run that are taken to be of a source, if what is pending is among them; None for a listing."""
    there = enumerate(run.parts)
    same = [n for n, part in there if (part.source.kind, part.root) == (source.kind, source.root)] if run.added else [0]
    known = [run.parts[n] for n in same]
    # Some remote stores tell sizes and times only in a listing; a dataset's content is that of all that was listed.
    by_files = all(part.stamps is not None and part.source.content is None for part in known)
    by_content = not run.added and run.parts[0].stamps is None
    usable = bool(same) and (by_files or by_content) and source.kind != "remote"
    return same if usable and {spec.part for spec in run.pending()} <= set(same) else None


def _ends(run: Run, part: int) -> list[Item]:
    """The first, the middle and the last item of a part."""
    about = run.parts[part]
    rows = (0, about.source.items // 2, about.source.items - 1)
    read = [(plan_file.read(run.out, row // about.shard_size, part), row % about.shard_size) for row in rows]
    return [items[row] for items, row in read]
