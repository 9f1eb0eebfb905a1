"""`tsm-fast extract`: saliency maps of a whole dataset, in shards, resumable."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import typer
from rich.console import Console

from ..pipeline import Resources, Run, Settings
from ..pipeline.engines.progress import Reporter, reporter, shares
from ..pipeline.engines.run import Outcome, ready
from ..pipeline.engines.run import run as run_engine
from ..pipeline.engines.signals import Interrupted, Signals
from ..pipeline.files.record import NAME
from ..pipeline.files.run import given
from ..pipeline.results.report import write_report
from ..pipeline.settings import BATCH_SIZE, MAX_PIXELS
from ..pipeline.sources.open import reopen
from ..pipeline.worker.network import keep_memory
from ..pipeline.worker.run_shard import has_errors
from ..readable import counted, duration
from ..variants import DEFAULT
from . import options
from .common import complain, errors, table

Command = options.RetryErrorsCommand


def extract(
    source: options.Source,
    out: options.Out,
    model: options.Model = "lite0",
    weights: options.Weights = None,
    trust_model_code: options.TrustModelCode = False,
    size: options.Size = None,
    fit: options.Fit = None,
    max_pixels: options.MaxPixels = None,
    root: options.Root = None,
    filter: options.Filter = None,
    keys: options.Keys = None,
    sample: options.Sample = None,
    seed: options.Seed = 0,
    limit: options.Limit = None,
    layers: options.Layers = None,
    reshape: options.Reshape = "auto",
    methods: options.Methods = None,
    rank: options.Rank = None,
    center: options.Center = None,
    combine: options.Combine = None,
    sign: options.Sign = None,
    precision: options.Precision = "auto",
    dtype: options.Dtype = "float32",
    shard_size: options.ShardSize = None,
    batch_size: options.BatchSize = BATCH_SIZE,
    channels_last: options.ChannelsLast = None,
    autocast: options.Autocast = None,
    compile: options.Compile = False,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    device: options.Device = "auto",
    backend: options.Backend = None,
    decode_threads: options.DecodeThreads = 2,
    torch_threads: options.TorchThreads = 1,
    shard_timeout: options.ShardTimeout = 3600.0,
    batch_timeout: options.BatchTimeout = 60.0,
    max_errors: options.MaxErrors = "1%",
    retry_errors: options.RetryErrors = None,
    add: options.Add = False,
    resume: options.Resume = True,
    report: options.Report = True,
    dry_run: options.DryRun = False,
    config: options.Config = None,
    as_json: options.AsJson = False,
) -> None:
    """Saliency maps of a whole dataset, resumable, on one machine or many.

    Every image of SOURCE is one row in OUT, in the order of the listing: with its maps, or with why it has none.

    Stopped in whatever way, the same command goes on where it was.

    Exit codes: 0 done, 1 failed, 2 usage, 3 too many error rows, 130 and 143 stopped by a signal.
    """
    with errors(2):
        settings = Settings(
            source=source,
            model=model,
            weights=weights,
            trust_model_code=trust_model_code,
            layers=tuple(layers or ()),
            reshape=reshape,
            methods=tuple(methods or (DEFAULT,)),
            rank=rank,
            center=center,
            combine=combine,
            sign=sign,
            precision=cast(Any, precision),
            dtype=cast(Any, dtype),
            size=size,
            fit=fit,
            root=root,
            filter=tuple(filter or ()),
            keys=keys,
            sample=sample,
            seed=seed,
            limit=limit,
            shard_size=shard_size,
            batch_size=batch_size,
            channels_last=channels_last,
            autocast=autocast,
            compile=compile,
            max_pixels=max_pixels or MAX_PIXELS,
        )
        resources = Resources(
            device=device,
            backend=backend,
            decode_threads=decode_threads,
            torch_threads=torch_threads,
            shard_timeout=shard_timeout,
            batch_timeout=batch_timeout,
            max_errors=max_errors,
        )
    keep_memory()
    with errors(), Signals() as signals:
        try:
            if dry_run:
                _dry_run(settings, out, resources, engine, workers, add, as_json)
                return
            run, outcome = _extract(
                settings, out, resources, engine, workers, signals, report, resume, add, retry_errors
            )
        except Interrupted as stopped:
            complain(f"{stopped}: stopped while there was nothing to finish")
            raise typer.Exit(stopped.code) from None
    _tell(run, outcome, as_json)
    raise typer.Exit(outcome.code)


def _dry_run(
    settings: Settings, out: Path, resources: Resources, engine: str, workers: int | None, add: bool, as_json: bool
) -> None:
    from . import dry_run

    with redirect_stdout(sys.stderr), reporter() as progress:
        facts = dry_run.dry_run(settings, out, resources, engine, workers, add, progress)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        Console(highlight=False).print(table(("", ""), dry_run.lines(facts)))


def _extract(
    settings: Settings,
    out: Path,
    resources: Resources,
    engine: str,
    workers: int | None,
    signals: Signals,
    report: bool,
    resume: bool,
    add: bool,
    retry_errors: str | None,
) -> tuple[Run, Outcome]:
    """The run; what models print on the way is talk."""
    new = not (out / NAME).exists()
    with redirect_stdout(sys.stderr), reporter() as progress:
        run = ready(settings, out, engine, workers, resources, resume=resume, add=add, say=progress.say)
        _introduce(run, retry_errors, progress)
        if engine == "local" and workers is None and new and len(run.shards) == 1:
            workers = 0  # no process to start; where that ends badly, the next start of the run has one
        outcome = run_engine(
            run, engine, workers, resources, retry_errors=retry_errors, progress=progress, signals=signals
        )
        if report and _worth_a_report(run, engine, outcome):
            progress.say("writing report.html")
            try:
                command = given(run.command, run.out)
                write_report(run.out, source=reopen(command.kind, command.root))
            except OSError as error:
                complain(f"report.html is not written: {error}")
    return run, outcome


def _worth_a_report(run: Run, engine: str, outcome: Outcome) -> bool:
    """Something is new or no report is there, nobody waits for the end, and no other rank will write it."""
    new = outcome.computed or not (run.out / "report.html").exists()
    mine = outcome.complete or engine != "rank"
    return bool(new and mine and outcome.shards_done and outcome.code in (0, 1, 3))


def _introduce(run: Run, retry_errors: str | None, progress: Reporter) -> None:
    markers, total = run.done(), len(run.shards)
    done = len(markers) - sum(has_errors(marker, retry_errors) for marker in markers.values())
    state = "already complete" if done == total else f"going on after {counted(done, 'shard')}" if done else "starting"
    if done < len(markers):
        state += f", computing error rows of {counted(len(markers) - done, 'shard')} again"
    progress.say(f"{counted(run.n_items, 'image')} in {counted(total, 'shard')}, {state}: {run.out}")


def _tell(run: Run, outcome: Outcome, as_json: bool) -> None:
    """The outcome on stdout; what went wrong, and how to go on, on stderr."""
    if as_json:
        print(json.dumps({"out": str(run.out), "fingerprint": run.fingerprint, **asdict(outcome)}, indent=2))
    else:
        console = Console(highlight=False)
        for text in summary(run, outcome):
            console.print(text, markup=False, soft_wrap=True)
    if outcome.reason:
        complain(outcome.reason)
    if outcome.failed:  # the reasons were said when they failed
        reasons = "reason" if len(outcome.failed) == 1 else "reasons"
        failed = ", ".join(map(str, outcome.failed))
        complain(f"{counted(len(outcome.failed), 'shard')} failed, for the {reasons} above: {failed}")
    if outcome.code == 3 and not outcome.reason:
        complain(f"{outcome.errors:,} error rows are more than --max-errors allows")
    for bad in outcome.bad:
        complain(f"{bad.key!r}: {bad.kind}: {bad.error}")
    if outcome.errors:
        complain("once that is put right, the same command with --retry-errors computes these rows again")
    if others := [spec for spec in (run.pending() if run.added else ()) if spec.command is None]:
        names = ", ".join(dict.fromkeys(run.parts[spec.part].named for spec in others))
        complain(
            f"{counted(len(others), 'shard')} to compute, of pictures in {names}, which this command does not name"
        )
    if outcome.shards_done < outcome.shards:
        complain(f"go on with the same command: {command_line()}")


def summary(run: Run, outcome: Outcome) -> list[str]:
    """What a person wants to know at the end."""
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in outcome.error_kinds.items())
    lines = [
        f"{outcome.images - outcome.errors:,} of {outcome.rows:,} images have maps, {outcome.errors:,} error rows"
        + (f" ({kinds})" if kinds else "")
        + f"; {outcome.shards_done:,} of {outcome.shards:,} shards in {run.out}"
    ]
    if outcome.computed:
        rate = outcome.computed / outcome.seconds
        images = counted(outcome.computed, "image")
        lines.append(f"{images} in {duration(outcome.seconds)}, {rate:.3g} a second: {shares(outcome.stages)}")
    elif outcome.shards_done == outcome.shards:
        lines.append("nothing was left to compute")
    return lines


def command_line() -> str:
    """The command that was given, to be pasted into a shell."""
    return shlex.join(["tsm-fast", *sys.argv[1:]])
