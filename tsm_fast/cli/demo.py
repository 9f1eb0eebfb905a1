"""`tsm-fast demo`: saliency maps of real photos through a real network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .. import demo as demo_run
from ..bench import timings
from ..steps import choice
from .common import errors, table
from .options import AsJson


def _known_backend(name: str | None) -> str | None:
    if name is not None and name not in (names := choice.backends()):
        raise typer.BadParameter(f"must be one of {', '.join(names)}, got {name!r}")
    return name


def demo(
    photos: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Picture files; none for the photos of the installed packages.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("demo_out"),
    timing: Annotated[bool, typer.Option(help="Time the decompositions against plain PyTorch and TensorLy.")] = True,
    backend: Annotated[
        str | None, typer.Option(help="Backend, as listed by `tsm-fast info`.", callback=_known_backend)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Saliency maps of real photos through EfficientNet-lite0: a contact sheet, an HTML page and the raw maps."""
    steps = demo_run.STEPS + (timings.STEPS if timing else 0)
    with errors(), _progress(steps) as say:
        result = demo_run.run(out, photos or (), timing=timing, backend=backend, say=say)
    if as_json:
        print(json.dumps(_demo_json(result), indent=2))
    else:
        _print_demo(result)


def _demo_json(result: demo_run.Result) -> dict[str, Any]:
    return {
        "files": [str(path) for path in result.files],
        "photos": result.photos,
        "layer": result.layer,
        "reason": result.reason,
        "setting": result.setting,
        "milliseconds_per_image": [timing._asdict() for timing in result.timings],
    }


def _print_demo(result: demo_run.Result) -> None:
    console = Console(highlight=False)
    console.print(f"layer {result.layer}: {result.reason}", soft_wrap=True)
    if result.timings:
        times = demo_run.timing_table(result)
        console.print(table(times.header, times.rows, title=times.caption, justify="right"))
        console.print(result.setting, style="dim")
    for path in result.files:
        console.print(f"wrote {path}", soft_wrap=True)


@contextmanager
def _progress(steps: int) -> Iterator[demo_run.Say]:
    """A bar on a terminal, a plain line for each step elsewhere; both on stderr."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda text: console.print(f"tsm-fast: {text}", markup=False, soft_wrap=True)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=steps)
        done = -1

        def say(text: str) -> None:
            nonlocal done
            done += 1
            progress.update(task, description=text, completed=done)

        yield say
