"""`tsm-fast study`: what the maps of a model are worth; and `study report`, `study compare`."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from .. import readable
from .. import study as studies
from ..pipeline import Resources, Settings
from ..pipeline.engines.progress import reporter
from ..pipeline.engines.run import all_devices, ready
from ..pipeline.engines.run import run as run_engine
from ..pipeline.engines.signals import Interrupted, Signals
from ..pipeline.files.run import given
from ..pipeline.settings import BATCH_SIZE, MAX_PIXELS
from ..pipeline.sources.open import open_source, reopen
from ..pipeline.worker.network import keep_memory
from ..steps import checks
from ..study import finished, names, running
from ..study.asking import ask, families_of, told
from ..study.groups import groups_of
from . import options
from .common import complain, errors, refuse
from .extract import command_line

STUDY, NETWORKS = "What is measured", "Several networks"
BOTH = {"out", "faithful_images", "seed", "workers", "methods", "metrics", "batch_size", "limit", "config"}
TESTBED = {"testbed", "seeds", "stamps", "grounds"}
PRESET = {"source", "preset", "networks", "masks", "groups", "sample", "filter", "keys"}
FINISHED = {"source", "out", "masks", "groups", "metrics", "seed", "title", "resume", "as_json", "config"}

_study = options.partial(typer.Option, rich_help_panel=STUDY)
_networks = options.partial(typer.Option, rich_help_panel=NETWORKS)


def study(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="Pictures as for `tsm-fast extract`, or the folder of a finished run: its maps are read, and without "
            "--model no network runs. `study report OUT` writes the page again, `study compare A B` networks side by "
            "side.",
        ),
    ] = None,
    out: options.OutOrNone = None,
    masks: Annotated[
        str | None,
        _study(
            metavar="MASKS",
            help="Folder of PNG files by key (non-zero is object), a column of the manifest, or a CSV of boxes.",
        ),
    ] = None,
    score: Annotated[
        str | None,
        _study(help="class or embedding: what is watched as pixels go. Default: class where the model has classes."),
    ] = None,
    groups: Annotated[
        Path | None, _study(metavar="CSV", help="Columns key and group: images of a group are one independent unit.")
    ] = None,
    metrics: Annotated[
        list[str] | None,
        _study("--metrics", help=f"Of {', '.join(names.FAMILIES)}; repeatable. Default: all that the inputs permit."),
    ] = None,
    faithful_images: Annotated[
        int, _study(min=0, metavar="N", help="On how many images, chosen by hash, the costly families run.")
    ] = 500,
    title: Annotated[str | None, _study(help="Of the page. Default: the model.")] = None,
    testbed: Annotated[
        bool,
        _networks(
            "--testbed",
            help="Build composites of known content, train small networks on them, study these and lite0 and compare "
            "them; no SOURCE. Fetches 210 MB of Debian's pictures; half an hour on two cores.",
        ),
    ] = False,
    seeds: Annotated[int, _networks(min=1, help="How often --testbed trains.")] = 1,
    stamps: Annotated[
        Path | None, _networks(metavar="FOLDER", help="Cut-outs with alpha (PNG), in place of Debian's stamps.")
    ] = None,
    grounds: Annotated[
        Path | None, _networks(metavar="FOLDER", help="Pictures without objects, in place of Debian's backgrounds.")
    ] = None,
    preset: Annotated[
        str | None,
        _networks(metavar="NAME", help=f"Study and compare the networks of {', '.join(names.PRESETS)}."),
    ] = None,
    networks: Annotated[
        list[str] | None, _networks("--network", metavar="NAME", help="Of a preset only these, repeatable.")
    ] = None,
    model: options.ModelOrNone = None,
    weights: options.Weights = None,
    trust_model_code: options.TrustModelCode = False,
    size: options.Size = None,
    fit: options.Fit = None,
    max_pixels: options.MaxPixels = None,
    root: options.Root = None,
    filter: options.Filter = None,
    keys: options.Keys = None,
    sample: options.Sample = None,
    seed: Annotated[int, _study(help="Of --sample, of the choice of images, and of random controls.")] = 0,
    limit: options.Limit = None,
    layers: options.Layers = None,
    reshape: options.Reshape = "auto",
    methods: options.Methods = None,
    rank: options.Rank = None,
    center: options.Center = None,
    combine: options.Combine = None,
    sign: options.Sign = None,
    precision: options.Precision = "auto",
    shard_size: options.ShardSize = None,
    batch_size: options.BatchSize = BATCH_SIZE,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    device: options.Device = "auto",
    backend: options.Backend = None,
    decode_threads: options.DecodeThreads = 2,
    torch_threads: options.TorchThreads = 1,
    shard_timeout: options.ShardTimeout = 3600.0,
    batch_timeout: options.BatchTimeout = running.SILENCE,
    max_errors: options.MaxErrors = "1%",
    resume: options.Resume = True,
    config: options.Config = None,
    as_json: options.AsJson = False,
) -> None:
    """What the maps of a model are worth, beside controls, with intervals: rows, tables, figures and a page.

    Everything that the inputs permit is measured, the rest is named with the reason. Stopped in whatever way, the same
    command goes on where it was.

    Exit codes: 0 done, 1 failed, 2 usage, 3 too many error rows, 130 and 143 stopped by a signal.
    """
    if out is None or (source is None and not testbed):
        raise typer.BadParameter("needs SOURCE and --out, or --testbed and --out")
    if testbed:
        refuse(context, "does not go with --testbed, which makes its own pictures and networks", but=BOTH | TESTBED)
    elif preset is not None:
        refuse(context, "does not go with --preset, which has its own networks", but=BOTH | PRESET)
    else:
        refuse(context, "goes with --testbed only", only=TESTBED)
        refuse(context, "goes with --preset only", only={"networks"})
    _check(metrics, score, preset, networks)
    if testbed or preset is not None:
        several = {"faithful_images": faithful_images, "seed": seed, "workers": workers, "maps": methods}
        several |= {"metrics": metrics, "batch_size": batch_size, "limit": limit}
        if testbed:
            several |= {"seeds": seeds, "stamps": stamps, "grounds": grounds}
        else:
            several |= {"masks": masks, "groups": groups, "sample": sample, "filter": filter, "keys": keys}
            several |= {"networks": networks}
        _several(source, out, preset, {name: value for name, value in several.items() if value is not None})
        return
    assert source is not None
    if model is None and finished.is_run(source):
        refuse(context, "needs --model: SOURCE is a finished run, whose maps are read as they are", but=FINISHED)
        with errors(), Signals() as signals, redirect_stdout(sys.stderr), reporter() as progress:
            found = finished.run(
                source,
                out,
                masks=masks,
                groups=groups,
                metrics=metrics,
                seed=seed,
                title=title,
                resume=resume,
                say=progress.say,
                stop=signals.stop,
            )
            progress.say("writing the page")
            studies.report(out)
        _tell(found, as_json)
        return
    with errors(2):
        wanted = Settings(
            source=source,
            model=model or "lite0",
            weights=weights,
            trust_model_code=trust_model_code,
            layers=tuple(layers or ()),
            reshape=reshape,
            methods=running.with_control(tuple(methods or names.MAPS)),
            rank=rank,
            center=center,
            combine=combine,
            sign=sign,
            precision=cast(Any, precision),
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
            max_pixels=max_pixels or MAX_PIXELS,
        )
        if finished.is_run(source):
            wanted = finished.as_of(source, wanted)
        resources = Resources(
            device=device,
            backend=backend,
            decode_threads=decode_threads,
            torch_threads=torch_threads,
            shard_timeout=shard_timeout,
            batch_timeout=batch_timeout,
            max_errors=max_errors,
        )
        named = groups_of(groups)
    keep_memory()
    with errors(), Signals() as signals:
        try:
            with redirect_stdout(sys.stderr), reporter() as progress:
                asked = ask(
                    wanted,
                    out,
                    masks=masks,
                    score=score,
                    metrics=metrics,
                    faithful_images=faithful_images,
                    seed=seed,
                    say=progress.say,
                )
                run = ready(asked.settings, out, engine, workers, resources, resume=resume, say=progress.say)
                running.describe(Path(out), asked, title or wanted.model, faithful_images, named)
                for family, why in asked.left_out.items():
                    progress.say(f"left out: {family}, for {why}")
                progress.say(told(asked, min(len(all_devices(resources, workers, None)), len(run.shards))))
                outcome = run_engine(run, engine, workers, resources, progress=progress, signals=signals)
                if outcome.shards_done and outcome.code in (0, 1, 3) and (outcome.complete or engine != "rank"):
                    progress.say("writing the page")
                    command = given(run.command, run.out)
                    studies.report(out, source=reopen(command.kind, command.root))
        except Interrupted as stopped:
            complain(f"{stopped}: stopped while there was nothing to finish")
            raise typer.Exit(stopped.code) from None
    if outcome.reason:
        complain(outcome.reason)
    for index, why in outcome.failed.items():
        complain(f"shard {index}: {why}")
    for bad in outcome.bad:
        complain(f"{bad.key!r}: {bad.kind}: {bad.error}")
    if outcome.shards_done < outcome.shards:
        complain(f"go on with the same command: {command_line()}")
    elif outcome.code in (0, 3):
        _tell(studies.Study.open(out), as_json)
    raise typer.Exit(outcome.code)


def _check(metrics: list[str] | None, score: str | None, preset: str | None, networks: list[str] | None) -> None:
    """What is wrong whatever the pictures and the model."""
    with errors(2):
        families_of(metrics)
        if score is not None:
            checks.choice("score", score, ("class", "embedding"))
        if preset is not None:
            from ..study import presets

            presets.chosen(preset, networks)


def _several(source: str | None, out: str | Path, preset: str | None, asked: dict[str, Any]) -> None:
    """The testbed, or a preset where one is named."""
    with errors(), redirect_stdout(sys.stderr), reporter() as progress:
        try:
            if preset is None:
                from ..study import testbed

                testbed.run(out, say=progress.say, **asked)
            else:
                from ..study import presets

                presets.study(preset, source, out, say=progress.say, **asked)
        except KeyboardInterrupt:
            complain(f"stopped: go on with the same command: {command_line()}")
            raise typer.Exit(130) from None
    Console(highlight=False).print(f"wrote {Path(out, 'index.html')}", markup=False, soft_wrap=True)


def report(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a study.")],
    source: options.Pictures = None,
    root: options.Root = None,
) -> None:
    """Tables, figures and the page of a study again, from its rows; the model is not needed."""
    with errors():
        studies.report(out, source=None if source is None else open_source(source, root))
    Console(highlight=False).print(f"wrote {out / 'index.html'}", markup=False, soft_wrap=True)


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="A B ...", help="Folders of studies of the same images.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for tables, figures and page.")],
    contrasts: Annotated[
        list[str] | None,
        typer.Option("--contrast", metavar="A:B", help="Model contrast of A less B, by the names of their folders."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page.")] = None,
) -> None:
    """Studies of several networks side by side, on the images that all of them have."""
    with errors():
        pairs = None if not contrasts else [_pair(text) for text in contrasts]
        studies.compare(folders, out, contrasts=pairs, title=title)
    Console(highlight=False).print(f"wrote {out / 'index.html'}", markup=False, soft_wrap=True)


def _pair(text: str) -> tuple[str, str]:
    one, colon, two = text.partition(":")
    if not colon:
        raise ValueError(f"contrast must be two names as in A:B, got {text!r}")
    return one, two


def _tell(found: studies.Study, as_json: bool) -> None:
    """What a person wants to know at the end."""
    if as_json:
        tables = {name: _cells(table) for name, table in found.tables.items()}
        print(json.dumps({"out": str(found.out), **found.about, "tables": tables}, indent=2))
        return
    console = Console(highlight=False)
    for table in found.tables.values():
        for text in table.headline:
            console.print(text, markup=False, soft_wrap=True)
    images = readable.counted(len(found.keys), "image")
    console.print(f"{images}: {found.out / 'index.html'}", markup=False, soft_wrap=True)


def _cells(table: Any) -> dict[str, dict[str, Any]]:
    return {
        map: {
            metric: {"mean": cell.mean, "low": cell.low, "high": cell.high, "units": cell.units, "best": cell.best}
            for metric, cell in zip(table.metrics, row, strict=True)
            if cell is not None
        }
        for map, row in zip(table.maps, table.cells, strict=True)
    }
