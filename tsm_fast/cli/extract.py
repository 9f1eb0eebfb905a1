"""`tsm-fast extract`: saliency maps of a whole dataset, in shards, resumable."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from ..pipeline import Resources, Run, Settings
from ..pipeline.engines.progress import Reporter, reporter, shares
from ..pipeline.engines.run import ENGINES, Outcome, ready
from ..pipeline.engines.run import run as run_engine
from ..pipeline.engines.signals import Interrupted, Signals
from ..pipeline.results.report import write_report
from ..pipeline.worker.network import keep_memory
from ..readable import duration
from .common import AsJson, complain, errors, parse_size, table
from .config import read_config

INPUT, MAPS, WORK, RUNNING = "Input", "Maps", "How it is computed", "This command"


def _rank(text: str) -> int | tuple[int, ...]:
    numbers = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in numbers):
        raise typer.BadParameter(f"must be a number, or one for each mode as in 32,7,7, got {text!r}")
    return int(numbers[0]) if len(numbers) == 1 else tuple(map(int, numbers))


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"must be a share such as 0.01 or 1%, got {text!r}")
    return value


def _engine(name: str) -> str:
    if name not in ENGINES:
        raise typer.BadParameter(f"must be one of {', '.join(ENGINES)}, got {name!r}")
    return name


def extract(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of pictures (with all below it), a list file, a CSV, TSV or Parquet manifest, webdataset "
            "tar files, hf:NAME, or package.module:factory of a map-style dataset.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the run. The same command again goes on where it stopped.")
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="lite0, timm:NAME, torchvision:NAME, transformers:NAME, package.module:factory, or a .pt2 file.",
            rich_help_panel=INPUT,
        ),
    ] = "lite0",
    weights: Annotated[
        str | None,
        typer.Option(help="File of weights: safetensors, or a state dict without code.", rich_help_panel=INPUT),
    ] = None,
    trust_model_code: Annotated[
        bool,
        typer.Option("--trust-model-code", help="Run code from model files (.pt2, pickles).", rich_help_panel=INPUT),
    ] = False,
    size: Annotated[
        Any,
        typer.Option(
            parser=parse_size, metavar="HxW", help="Input size, if not the model's own.", rich_help_panel=INPUT
        ),
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Larger pictures become error rows.", rich_help_panel=INPUT)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N images of the sorted listing.", rich_help_panel=INPUT)
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option("--layer", "-l", help="Layer or glob, repeatable; see `tsm-fast layers`.", rich_help_panel=MAPS),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help="eigencam, tsm, multivec_eigencam or mtsm (default), repeatable.", rich_help_panel=MAPS
        ),
    ] = None,
    rank: Annotated[
        Any,
        typer.Option(parser=_rank, metavar="R or R,R,R", help="Tucker rank of tsm and mtsm.", rich_help_panel=MAPS),
    ] = None,
    center: Annotated[
        bool | None,
        typer.Option("--center/--no-center", help="Centre channels (the EigenCAM methods).", rich_help_panel=MAPS),
    ] = None,
    combine: Annotated[
        str | None, typer.Option(help="signed or absolute (the multivector methods).", rich_help_panel=MAPS)
    ] = None,
    sign: Annotated[str | None, typer.Option(help="Sign of singular vectors.", rich_help_panel=MAPS)] = None,
    precision: Annotated[str, typer.Option(help="auto, float32 or float64.", rich_help_panel=MAPS)] = "auto",
    dtype: Annotated[
        str, typer.Option(help="Of the stored maps: float32, float16 or uint8.", rich_help_panel=MAPS)
    ] = "float32",
    shard_size: Annotated[int, typer.Option(min=1, help="Images in a shard.", rich_help_panel=WORK)] = 4096,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a forward pass.", rich_help_panel=WORK)] = 64,
    engine: Annotated[
        str,
        typer.Option(
            callback=_engine,
            help="local; rank (one of several processes of torchrun, SLURM or Kubernetes); ray.",
            rich_help_panel=WORK,
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Worker processes; 0 for none beside this one. Default: one on each GPU, else on each core.",
            rich_help_panel=WORK,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...", rich_help_panel=WORK)] = "auto",
    backend: Annotated[
        str | None, typer.Option(help="Of the decompositions, see `tsm-fast info`.", rich_help_panel=WORK)
    ] = None,
    decode_threads: Annotated[
        int, typer.Option(min=1, help="Threads that decode images, in each worker.", rich_help_panel=WORK)
    ] = 2,
    torch_threads: Annotated[
        int,
        typer.Option(
            min=1,
            help="Threads of the forward pass on the CPU, in each worker. Other than 1 may move the last bits.",
            rich_help_panel=WORK,
        ),
    ] = 1,
    shard_timeout: Annotated[float, typer.Option(help="Seconds that a shard may take.", rich_help_panel=WORK)] = 3600.0,
    max_errors: Annotated[
        Any,
        typer.Option(
            parser=_share,
            metavar="SHARE",
            help="Share of images that may fail, as 0.01 or 1%; the run stops as soon as there are more.",
            rich_help_panel=RUNNING,
        ),
    ] = "1%",
    resume: Annotated[
        bool, typer.Option(help="Go on with the run in OUT; --no-resume refuses one.", rich_help_panel=RUNNING)
    ] = True,
    report: Annotated[
        bool, typer.Option(help="Write report.html when every shard is done.", rich_help_panel=RUNNING)
    ] = True,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only say what would be done, how long it would take and how large it would be.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with these options by name; the command line wins.",
            is_eager=True,
            callback=read_config,
            exists=True,
            dir_okay=False,
            rich_help_panel=RUNNING,
        ),
    ] = None,
    as_json: AsJson = False,
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
            methods=tuple(methods or ("mtsm",)),
            rank=rank,
            center=center,
            combine=combine,
            sign=sign,
            precision=cast(Any, precision),
            dtype=cast(Any, dtype),
            size=size,
            limit=limit,
            shard_size=shard_size,
            batch_size=batch_size,
            **({} if max_pixels is None else {"max_pixels": max_pixels}),
        )
        resources = Resources(
            device=device,
            backend=backend,
            decode_threads=decode_threads,
            torch_threads=torch_threads,
            shard_timeout=shard_timeout,
            max_errors=max_errors,
        )
    keep_memory()
    with errors(), Signals() as signals:
        try:
            if dry_run:
                _dry_run(settings, out, resources, engine, workers, as_json)
                return
            run, outcome = _extract(settings, out, resources, engine, workers, signals, report, resume)
        except Interrupted as stopped:
            complain(f"{stopped}: stopped while there was nothing to finish")
            raise typer.Exit(stopped.code) from None
    _tell(run, outcome, as_json)
    raise typer.Exit(outcome.code)


def _dry_run(
    settings: Settings, out: Path, resources: Resources, engine: str, workers: int | None, as_json: bool
) -> None:
    from . import dry_run

    with redirect_stdout(sys.stderr), reporter() as progress:
        facts = dry_run.dry_run(settings, out, resources, engine, workers, progress)
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
) -> tuple[Run, Outcome]:
    """The run; what models print on the way is talk."""
    with redirect_stdout(sys.stderr), reporter() as progress:
        run = ready(settings, out, engine, resources, resume=resume, say=progress.say)
        _introduce(run, progress)
        outcome = run_engine(run, engine, workers, resources, progress=progress, signals=signals)
        if report and outcome.complete and (outcome.computed or not (run.out / "report.html").exists()):
            progress.say("writing report.html")
            with errors():
                write_report(run.out)
    return run, outcome


def _introduce(run: Run, progress: Reporter) -> None:
    done = len(run.done())
    total = len(run.shards)
    state = "already complete" if done == total else f"going on after {done:,} shards" if done else "starting"
    progress.say(f"{run.n_items:,} images in {total:,} shards, {state}: {run.out}")


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
    for index, reason in outcome.failed.items():
        complain(f"shard {index} failed: {reason}")
    if outcome.code == 3 and not outcome.reason:
        complain(f"{outcome.errors:,} error rows are more than --max-errors allows")
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
        lines.append(
            f"{outcome.computed:,} images in {duration(outcome.seconds)}, {rate:.3g} a second: {shares(outcome.stages)}"
        )
    elif outcome.shards_done == outcome.shards:
        lines.append("nothing was left to compute")
    return lines


def command_line() -> str:
    """The command that was given, to be pasted into a shell."""
    return shlex.join(["tsm-fast", *sys.argv[1:]])
