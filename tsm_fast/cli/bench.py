"""`tsm-fast bench`: decompositions and maps beside what else is there, checked, on this machine."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..bench import compare as comparison
from ..bench import found, page, rows, sets, shapes, tables
from ..bench.cases import DTYPES, LAYOUTS, Case
from ..bench.compare import Comparison, read
from ..bench.works import WORKS
from ..pipeline.engines.signals import Interrupted, Signals
from ..pipeline.files.publish import publish_bytes
from ..readable import counted, digits
from ..steps import choice
from .common import complain, errors, refuse, table
from .options import AsJson, parse_rank

FORMATS = (".json", ".md", ".html")
WHAT, HOW, SHOWN = "What is measured", "How", "What becomes of it"
THREADS = 1024  # PyTorch dies of many more
CASES = {"rank", "batch", "dtype", "layout", "threads"}  # of what rows are made of
QUICK_SECONDS, QUICK_ROUNDS = 0.2, (2, 10)


def _words(known: Sequence[str]) -> Callable[[str], list[str]]:
    """A parser of one or several of some names, joined by commas."""

    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in known:
                raise typer.BadParameter(f"must be one of {', '.join(known)}, got {name!r}")
        return names

    return parse


def _counts(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise typer.BadParameter(f"must be numbers above 0, joined by commas, got {text!r}")
    return list(map(int, parts))


def _threads(text: str) -> list[int]:
    found = _counts(text)
    if max(found) > THREADS:
        raise typer.BadParameter(f"must lie in 1..{THREADS}, got {text!r}")
    return found


def _shapes(text: str) -> list[str]:
    try:
        return [shape for part in text.split(",") for shape in shapes.named(part.strip())]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _peers(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    try:
        found.chosen(names)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return names


def _file(text: str) -> Path:
    path = Path(text)
    if path.suffix not in FORMATS:
        raise typer.BadParameter(f"must end with one of {', '.join(FORMATS)}, got {text!r}")
    if not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"the folder {str(path.parent)!r} does not exist")
    return path


def _flat(lists: list[Any] | None) -> list[Any]:
    return [value for part in lists or () for value in part]


def bench(
    context: typer.Context,
    works: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORK]...",
            help=f"{', '.join(WORKS)}; nothing, and no --shape, for the standard set, which takes up to ten minutes.",
        ),
    ] = None,
    shape: Annotated[
        list[Any] | None,
        typer.Option(
            parser=_shapes,
            metavar="SHAPE",
            rich_help_panel=WHAT,
            help=f"Of an item, such as 2048x7x7 or 1280x7x7:signed, or a set: {', '.join(shapes.SETS)}. Repeatable.",
        ),
    ] = None,
    rank: Annotated[
        list[Any] | None,
        typer.Option(
            parser=parse_rank, metavar="R or RxRxR", rich_help_panel=WHAT, help="Of decompositions, or of tsm and mtsm."
        ),
    ] = None,
    batch: Annotated[
        Any, typer.Option(parser=_counts, metavar="N,...", rich_help_panel=WHAT, help="Default: about 50 MB.")
    ] = None,
    dtype: Annotated[
        Any, typer.Option(parser=_words(DTYPES), metavar="NAME,...", rich_help_panel=WHAT, help=", ".join(DTYPES))
    ] = None,
    layout: Annotated[
        Any, typer.Option(parser=_words(LAYOUTS), metavar="NAME,...", rich_help_panel=WHAT, help=", ".join(LAYOUTS))
    ] = None,
    scaling: Annotated[
        Any,
        typer.Option(
            parser=_words(sets.SCALING),
            metavar="NAME,...",
            rich_help_panel=WHAT,
            help=f"Let one of {', '.join(sets.SCALING)} grow and nothing else, one after the other, and show the "
            "powers of it that time grows by, beside the theory.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", rich_help_panel=WHAT, help="Few and short rounds: to look, not to quote.")
    ] = False,
    device: Annotated[str, typer.Option(rich_help_panel=HOW, help="cpu, cuda or cuda:1.")] = "cpu",
    threads: Annotated[
        Any, typer.Option(parser=_threads, metavar="N,...", rich_help_panel=HOW, help="Default: PyTorch's.")
    ] = None,
    backend: Annotated[
        Any,
        typer.Option(
            parser=_words(("auto", *choice.backends())),
            metavar="NAME,...",
            rich_help_panel=HOW,
            help="Ours, one after the other: auto, reference, cpu, ... as `tsm-fast info` lists them.",
        ),
    ] = None,
    peer: Annotated[
        list[Any] | None,
        typer.Option(
            parser=_peers,
            metavar="NAME,...",
            rich_help_panel=HOW,
            help=f"Those to compare with: none, or of {', '.join(found.PEERS)}. Default: all that are installed.",
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.01, rich_help_panel=HOW, help=f"Of timing a row; {rows.SECONDS:g} else.")
    ] = None,
    out: Annotated[
        list[Any] | None,
        typer.Option(
            "--out",
            "-o",
            parser=_file,
            metavar="FILE",
            rich_help_panel=SHOWN,
            help="Write FILE.json (all there is), FILE.md or FILE.html (charts; needs nothing else). Repeatable.",
        ),
    ] = None,
    show: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, rich_help_panel=SHOWN, help="Measure nothing; show, and write, this FILE.json."
        ),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="OLD NEW", rich_help_panel=SHOWN, help="What changed between two FILE.json beyond their noise."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Decompositions and maps beside what else is there, each checked against float64 before it is timed.

    tsm-fast bench --out bench.json --out bench.html

    tsm-fast bench tsm mtsm --shape resnet50 --batch 1,32

    tsm-fast bench tucker --shape 64x32x32 --rank 8 --peer tensorly,torch

    tsm-fast bench tsm --scaling S

    tsm-fast bench --compare before.json after.json
    """
    console = Console(highlight=False)
    if compare is not None:
        refuse(context, "does not go with --compare", but={"compare", "as_json"})
        with errors():
            _compared(console, comparison.compare(*map(read, compare)), as_json)
        return
    if show is not None:
        refuse(context, "does not go with --show", but={"show", "out", "as_json"})
        with errors():
            value = read(show)
            _written(value, out or ())
        _shown(console, value, as_json, whole=True)
        return
    if scaling is not None:
        refuse(context, "does not go with --scaling, which chooses it", only=CASES)
    elif not works and not shape:
        refuse(context, "needs WORK or --shape: the standard set has its own", only=CASES)
    cases = _cases(works, _flat(shape), rank, batch, dtype, layout, scaling, quick, device, threads)
    options = rows.Options(
        backends=tuple(None if name == "auto" else name for name in backend or ("auto",)),
        peers=frozenset(found.chosen(_flat(peer))),
        seconds=seconds or (QUICK_SECONDS if quick else rows.SECONDS),
        rounds=QUICK_ROUNDS if quick else rows.ROUNDS,
        full=not (works or shape or scaling or quick),
    )
    with errors():
        value = _measured(cases, options, device, out or (), quick, as_json)
    _shown(console, value, as_json, whole=False, scaling=scaling)
    if tables.faults(value["rows"]):
        for fault in tables.faults(value["rows"]):
            complain(fault)
        raise typer.Exit(1)


def _cases(
    works: list[str] | None,
    shape: list[str],
    rank: list[Any] | None,
    batch: list[int] | None,
    dtype: list[str] | None,
    layout: list[str] | None,
    scaling: list[str] | None,
    quick: bool,
    device: str,
    threads: list[int] | None,
) -> list[Case]:
    for work in works or ():
        if work not in WORKS:
            raise typer.BadParameter(f"WORK must be one of {', '.join(WORKS)}, got {work!r}")
    _check_device(device)
    try:
        if scaling is not None:
            if len(shape) > 1:
                raise ValueError(f"--scaling takes one shape, got {len(shape)}")
            start = shape[0] if shape else None
            pairs = [(work, each) for work in works or ["tsm"] for each in scaling]
            fitting = [pair for pair in pairs if sets.grows(*pair)] or pairs
            cases = [case for work, each in fitting for case in sets.scaling(work, each, start, device)]
            return list(dict.fromkeys(cases))
        if not works and not shape and not quick:
            return list(sets.standard(device))
        if not works and not shape:
            return list(sets.quick(device))
        return list(
            sets.asked(
                works or ["tsm", "mtsm"],
                shape or ["2048x7x7"],
                rank or (),
                batch or (),
                dtype or ("float32",),
                layout or ("contiguous",),
                device,
                threads or (0,),
            )
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _check_device(device: str) -> None:
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()) or (kind == "cpu" and number):
        raise typer.BadParameter(f"device must be cpu, cuda or cuda:NUMBER, got {device!r}")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise typer.BadParameter(
            f"device {device} is not there: torch finds {counted(torch.cuda.device_count(), 'GPU')}"
        )


def _measured(
    cases: list[Case], options: rows.Options, device: str, out: Sequence[Path], quick: bool, as_json: bool
) -> dict[str, Any]:
    """The run, which is kept and written after every row; interrupted too."""
    saved = [path for path in out if path.suffix == ".json"]
    with _progress(len(cases)) as (say, tell), Signals():
        if not as_json:
            tell(tables.header())

        def on_row(run: rows.Run) -> None:
            _written(run.value, saved)
            if not as_json and run.value["rows"] and not run.value["complete"]:
                tell(tables.text(run.value["rows"][-1]))

        command = shlex.join(["tsm-fast", *sys.argv[1:]])
        run = rows.Run(device, command, on_row, quick=quick)
        try:
            rows.measure(run, cases, options, say)
        except Interrupted as error:
            _written(run.value, out)
            kept = f"; {', '.join(map(str, out))} has the rows so far" if out else ""
            complain(f"interrupted after {len(run.value['rows'])} of {counted(len(cases), 'row')}{kept}")
            raise typer.Exit(error.code) from None
    _written(run.value, out)
    return run.value


def _written(value: dict[str, Any], files: Sequence[Path]) -> None:
    for path in files:
        if path.suffix == ".json":
            text = json.dumps(value, indent=1) + "\n"
        elif path.suffix == ".md":
            text = tables.markdown(value)
        else:
            text = page.html(value)
        publish_bytes(path, text.encode())


def _shown(
    console: Console, value: dict[str, Any], as_json: bool, *, whole: bool, scaling: Sequence[str] | None = None
) -> None:
    if as_json:
        print(json.dumps(value, indent=1))
        return
    if whole:
        console.print(tables.header(), soft_wrap=True, markup=False)
        for row in value["rows"]:
            console.print(tables.text(row), soft_wrap=True, markup=False)
    for dimension in scaling or ():
        for work, grown in _grown(value["rows"], dimension).items():
            header = (dimension, "ms an item", "ms a call", f"grows as {dimension}^", "theory")
            console.print(table(header, tables.growth(grown, dimension), title=work, justify="right"))
    console.print()
    for line in tables.summary(value):
        console.print(line, soft_wrap=True, markup=False)


def _grown(rows_: Sequence[Any], dimension: str) -> dict[str, list[Any]]:
    """The rows in which a dimension grew and nothing else, by work."""
    found: dict[str, list[Any]] = {}
    for work in dict.fromkeys(row["work"] for row in rows_):
        groups = page.groups((row for row in rows_ if row["work"] == work), partial(page.but, dimension))
        largest = max(groups, key=len)
        if len(largest) > 1:
            found[work] = largest
    return found


def _compared(console: Console, found: Comparison, as_json: bool) -> None:
    changed = [change for change in found.changes if change.changed]
    if as_json:
        told = {**found._asdict(), "changes": [{**c._asdict(), "changed": c.changed} for c in found.changes]}
        print(json.dumps(told, indent=1))
        return
    if changed:
        cells = [(c.label, c.name, digits(c.old), digits(c.new), f"{c.factor:.2f}", f"{c.noise:.2f}") for c in changed]
        console.print(table(("row", "", "old, ms", "new, ms", "new / old", "noise"), cells))
    for title, names in (("results", found.verdicts), ("only in the old run", found.gone), ("only new", found.added)):
        for name in names:
            console.print(f"{title}: {name}", soft_wrap=True, markup=False)
    console.print(
        f"{len(changed)} of {counted(len(found.changes), 'time')} changed beyond the noise; the peers took "
        f"{found.drift:.2f} of their old times, which is taken out, and 19 of 20 of them kept to that within "
        f"a factor of {found.wander:.2f}",
        soft_wrap=True,
    )
    if found.busy:
        shares = " and ".join("?" if share is None else f"{share:.0%}" for share in found.others)
        console.print(f"other processes used {shares} of the CPUs' time: measure on a quiet machine", soft_wrap=True)


@contextmanager
def _progress(total: int) -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """What is said of each row as it begins, a bar on a terminal; and what is told of it when it is done, on stdout."""
    console = Console(stderr=True, highlight=False)
    own = Console(highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        count = 0

        def line(text: str) -> None:
            nonlocal count
            count += 1
            console.print(f"tsm-fast: {count}/{total} {text}", markup=False, soft_wrap=True)

        yield line, lambda text: own.print(text, markup=False, soft_wrap=True)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("measuring the limits of this machine", total=total)
        done = -1

        def say(text: str) -> None:
            nonlocal done
            done += 1
            progress.update(task, description=text, completed=done)

        shown = progress.console if own.is_terminal else own
        yield say, lambda text: shown.print(text, markup=False, soft_wrap=True)
