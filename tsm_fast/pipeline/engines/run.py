"""Engines: the shards of a run, computed here, as one of several ranks, or on a Ray cluster, by one `run_shard`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from ...models import Model
from ...steps import checks
from ..files import plan_file, urls
from ..files.hold import held, turn
from ..files.publish import make_folder
from ..files.run import Marker, Run, given
from ..files.shards import ALL, ERRORS, OK, read_columns
from ..planning.follow import follow
from ..planning.prepare import prepare, readable
from ..settings import Resources, Settings
from ..sources.source import Source
from ..worker.run_shard import NAMED, Bad, has_errors
from .lanes import Halt, Lanes, drive
from .messages import Task
from .progress import Quiet, Reporter
from .ranks import Place, place, share
from .signals import Signals
from .tally import Tally

ENGINES = ("local", "rank", "ray")
PLAN_WAIT = 60.0  # seconds that the other ranks give rank 0 to write a plan behind a URL
MOST_WORKERS = 1024  # on one machine
WORKER_BYTES = 1 << 30  # of memory that a worker may need, for the number chosen where none is named


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        code: the exit code: 0 all well, 1 failed, 3 more error rows than allowed, 130 and 143 stopped by a signal.
        reason: why it ended before its last shard; empty where it did not.
        rows, images, errors: planned rows of this process's share, those on the disk, and the error rows among them.
        error_kinds: the error rows by kind.
        bad: the first of them: of this session, or where it had none, of all.
        shards, shards_done, failed: shards of the share, those done, and why others failed.
        computed: images that this session published, in `seconds`; `stages` are the busy seconds of each stage.
        complete: whether every shard of the whole run is done.
    """

    code: int
    reason: str
    rows: int
    images: int
    errors: int
    error_kinds: dict[str, int]
    bad: list[Bad]
    shards: int
    shards_done: int
    failed: dict[int, str]
    computed: int
    seconds: float
    stages: dict[str, float]
    complete: bool


def run(
    run: Run,
    engine: str = "local",
    workers: int | None = None,
    resources: Resources | None = None,
    *,
    retry_errors: str | None = None,
    progress: Reporter | None = None,
    signals: Signals | None = None,
) -> Outcome:
    """Compute what is pending of a run.

    Args:
        run: as `prepare` gave it.
        engine: "local", "rank" or "ray".
        workers: of "local": spawned processes, 0 for a thread of this process, None for one on each GPU, or on each
            core of the CPU. Of "ray": tasks handed out at a time. "rank" computes with these workers what is this
            rank's share.
        resources: how to compute.
        retry_errors: "all" or a kind of error: such rows of finished shards are computed again, and no others of them.
        progress: what to tell of it, and where.
        signals: a context that is entered already; by default SIGINT and SIGTERM stop the run in order.

    Spawned processes import the main module again: a script must start a run below `if __name__ == "__main__":`.

    Raises:
        ValueError: an unknown engine or kind of error, a rank without its place in the environment, or a run that was
            only opened.
        RuntimeError: another run is working in the folder.
        ModuleNotFoundError: engine "ray" without Ray.
    """
    checks.choice("engine", engine, ENGINES)
    given(run.command, run.out)
    if retry_errors is not None:
        checks.choice("retry_errors", retry_errors, (ALL, *ERRORS))
    resources, progress = resources or Resources(), progress or Quiet()
    where = place() if engine == "rank" else None
    shards = [spec for spec in (run.shards if where is None else share(run.shards, where)) if spec.command is not None]
    with ExitStack() as stack:
        stack.enter_context(held(run.out, shared=where is not None))
        signals = signals or stack.enter_context(Signals())
        done = run.done()
        again = {index for index, marker in done.items() if has_errors(marker, retry_errors)}
        tally = Tally(shards, {index: done[index] for index in done if index not in again}, resources.max_errors)
        todo = [Task(spec, retry_errors) for spec in shards if spec.index not in tally.done]
        halt = None
        if todo:
            with signals.waiting():
                lanes = _lanes(run, engine, workers, resources, len(todo), where)
                stack.callback(lanes.close)
                signals.take_back()
                halt = drive(todo, lanes, tally, signals, show=progress.show, say=progress.say)
        done = run.done()
        tally.settle(done)
        bad = list(tally.bad.values()) or first_bad(run, tally.done)
        return _outcome(tally, halt, bad, complete=len(done) == len(run.shards))


def ready(
    settings: Settings,
    out: str | Path,
    engine: str = "local",
    workers: int | None = None,
    resources: Resources | None = None,
    *,
    resume: bool = True,
    add: bool = False,
    source: Source | None = None,
    model: Model | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Run:
    """`prepare`; of several ranks the first one lists the pictures, while the others wait for it and then `follow`.

    Where a plan is there already, rank 0 compares it with a new listing. With `add` every rank lists, one after the
    other: no plan tells whether another rank has added what is new.
    """
    where, folder = place() if engine == "rank" else None, urls.folder(out)
    names = all_devices(resources or Resources(), workers, where)

    def plan() -> Run:
        return prepare(
            settings,
            out,
            resources=resources,
            resume=resume,
            add=add,
            source=source,
            model=model,
            devices=names,
            say=say,
        )

    if where is None:
        return plan()
    say(f"rank {where.rank} of {where.world} (from {where.source})")
    make_folder(folder)
    if urls.url(folder) is not None and where.rank:  # where nobody has a turn
        _wait_for_plan(folder)
    with turn(folder) as waited:
        if add or (where.rank == 0 and not waited) or not _goes_on(folder):
            return plan()
    found = None if source is not None else follow(settings, folder, lambda specs: share(specs, where), model, say)
    return found or plan()


def _wait_for_plan(out: Path) -> None:
    """Give rank 0 a minute to write the plan; after that this rank does, and depends on none that starts later."""
    end = time.monotonic() + PLAN_WAIT
    while not plan_file.path(out).is_file() and time.monotonic() < end:
        time.sleep(0.5)


def _goes_on(out: Path) -> bool:
    """Whether a run is planned in a folder."""
    return readable(out) is not None and plan_file.path(out).is_file()


def _lanes(run: Run, engine: str, workers: int | None, resources: Resources, most: int, where: Place | None) -> Lanes:
    if engine == "ray":
        from .ray import RayLanes

        return RayLanes(resources, workers, run.source)
    from .local import ProcessLanes, ThreadLane

    names = devices(resources.device, workers, most, where)
    if workers == 0:
        return ThreadLane(names[0], resources, run.source, run.model)
    return ProcessLanes(names, resources, run.source)


def devices(device: str, workers: int | None, most: int, where: Place | None = None) -> list[str]:
    """The device of each worker: one worker on each GPU, else one on each core, and at most `most`.

    A rank has one GPU, that of its number on the machine, unless it is told how many workers it has.
    """
    if device != "auto":
        _check_device(device)
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    names = [f"cuda:{number}" for number in range(gpus)] or ["cpu" if device == "auto" else device]
    if gpus and where is not None and workers is None:
        names = [names[where.local % gpus]]
    count = (_cores() if names == ["cpu"] else len(names)) if workers is None else max(workers, 1)
    return [names[number % len(names)] for number in range(max(1, min(count, most)))]


def _check_device(device: str) -> None:
    try:
        named = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device must be auto, or one of PyTorch's such as cpu or cuda:1, got {device!r}") from None
    gpus = torch.cuda.device_count()
    if named.type == "cuda" and (named.index or 0) >= gpus:
        raise RuntimeError(f"device {device!r} needs a GPU that PyTorch can use, found {gpus or 'none'}")


def all_devices(resources: Resources, workers: int | None, where: Place | None) -> list[str]:
    """The device of each worker of a run, however many shards it has: of all ranks, which are taken to be alike."""
    return devices(resources.device, workers, MOST_WORKERS, where) * (where.world if where else 1)


def _cores() -> int:
    """Cores that this process may use, as far as the memory of the machine goes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return cores
    return max(1, min(cores, memory // WORKER_BYTES))


def first_bad(run: Run, done: Mapping[int, Marker]) -> list[Bad]:
    """The first error rows of finished shards."""
    found: list[Bad] = []
    for index in sorted(index for index, marker in done.items() if marker.errors):
        rows = zip(*read_columns(run.out, index, ["key", "status", "error"]), strict=True)
        found += [Bad(*row) for row in rows if row[1] != OK]
        if len(found) >= NAMED:
            break
    return found[:NAMED]


def _outcome(tally: Tally, halt: Halt | None, bad: list[Bad], *, complete: bool) -> Outcome:
    code = halt.code if halt else 1 if tally.failed else 3 if tally.too_many_errors else 0
    return Outcome(
        code=code,
        reason=halt.reason if halt else "",
        rows=tally.rows,
        images=tally.images,
        errors=tally.errors,
        error_kinds=dict(sorted(tally.error_kinds.items())),
        bad=bad,
        shards=len(tally.sizes),
        shards_done=len(tally.done),
        failed=dict(sorted(tally.failed.items())),
        computed=tally.published,
        seconds=tally.seconds,
        stages=dict(tally.stages),
        complete=complete,
    )
