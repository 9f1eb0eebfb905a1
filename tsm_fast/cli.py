"""The `tsm-fast` command. Results go to stdout, progress and errors to stderr; exit codes: 0 ok, 1 failed, 2 usage."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from . import __version__, dispatch, timings
from . import demo as demo_run

app = typer.Typer(
    help="Batched Tucker decompositions and label-free saliency maps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PACKAGES = ("torch", "numpy", "pillow", "tensorly", "scikit-image", "scikit-learn", "efficientnet-lite-pytorch")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """The entry point of `tsm-fast` and `python -m tsm_fast`."""
    app(prog_name="tsm-fast")


def _known_backend(name: str | None) -> str | None:
    if name is not None and name not in (names := dispatch.backends()):
        raise typer.BadParameter(f"must be one of {', '.join(names)}, got {name!r}")
    return name


@app.callback(invoke_without_command=True)
def root(show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show_version:
        print(__version__)
        raise typer.Exit


@app.command()
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
    with _errors(), _progress(steps) as say:
        result = demo_run.run(out, photos or (), timing=timing, backend=backend, say=say)
    if as_json:
        print(json.dumps(_demo_json(result), indent=2))
    else:
        _print_demo(result)


@app.command()
def info(as_json: AsJson = False) -> None:
    """Versions, SIMD level, threads, the backends built, and what `auto` would choose and why."""
    with _errors():
        facts = _info()
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    console = Console(highlight=False)
    versions = {"tsm_fast": facts["tsm_fast"], "python": facts["python"], **facts["packages"]}
    rows = [(name, value or "not installed") for name, value in versions.items()]
    rows += [(name, str(facts[name])) for name in ("machine", "simd", "threads", "auto")]
    console.print(_table(("", ""), rows))
    rows = [(row["name"], "yes" if row["available"] else "no", row["reason"], row["auto"]) for row in facts["backends"]]
    console.print(_table(("backend", "available", "why", "auto"), rows))


def _info() -> dict[str, Any]:
    table = dispatch.backends()
    simd = "none: the compiled backend is not available"
    if table["cpu"].available:
        from . import native

        simd = f"{native.simd_level()} (of {', '.join(native.simd_levels())})"
    return {
        "tsm_fast": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "simd": simd,
        "threads": torch.get_num_threads(),
        "auto": f"{dispatch.resolve(None, torch.empty(0)).name} for CPU tensors",
        "backends": [
            {"name": row.name, "available": row.available, "reason": row.reason, "auto": row.auto}
            for row in table.values()
        ],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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
        table = demo_run.timing_table(result)
        console.print(_table(table.header, table.rows, title=table.caption, justify="right"))
        console.print(result.setting, style="dim")
    for path in result.files:
        console.print(f"wrote {path}", soft_wrap=True)


def _table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    justify: Literal["left", "right"] = "left",
) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=any(header))
    for number, name in enumerate(header):
        table.add_column(name, justify=justify if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


@contextmanager
def _errors() -> Iterator[None]:
    """What a user can put right is said in a line, with exit code 1; any other error shows whole."""
    try:
        yield
    except OSError as error:
        _complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
        raise typer.Exit(1) from error
    except (ValueError, RuntimeError, ModuleNotFoundError) as error:
        _complain(str(error))
        raise typer.Exit(1) from error


def _complain(text: str) -> None:
    Console(stderr=True, highlight=False).print(f"tsm-fast: {text}", style="red", markup=False, soft_wrap=True)


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
