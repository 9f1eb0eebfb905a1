"""The commands by name: what `tsm-fast --help` says of them, and where they are imported from when one is called."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .._version import __version__

COMMANDS = {  # name -> (module, the first line of its help)
    "extract": (".extract", "Saliency maps of a whole dataset, resumable, on one machine or many."),
    "status": (".runs", "How far a run is: images, shards, errors by kind, throughput; quick, from the markers alone."),
    "verify": (
        ".runs",
        "Read every shard again: sizes, hashes, and each planned key once, in order; with SOURCE also the pictures.",
    ),
    "report": (".runs", "Write report.html into the folder of a run: one page that works offline."),
    "export": (".runs", "The maps of a run as arrays, pictures, overlays over the pictures in SOURCE, or boxes."),
    "merge": (
        ".runs",
        "One run of several that were made by the same settings of different pictures; those stay as they are.",
    ),
    "study": (
        ".study",
        "What the maps of a model are worth, beside controls, with intervals: rows, tables, figures and a page.",
    ),
    "map": (".map", "The saliency map of a picture, or of a few, in colour over the whole picture."),
    "layers": (
        ".layers",
        "The layers of a model that give feature maps, in the order in which they run, and the one chosen by itself.",
    ),
    "demo": (
        ".demo",
        "Saliency maps of real photos through EfficientNet-lite0: a contact sheet, an HTML page and the raw maps.",
    ),
    "bench": (
        ".bench",
        "Decompositions and maps beside what else is there, each checked against float64 before it is timed.",
    ),
    "info": (".info", "Versions, SIMD level, threads, the backends built, and what `auto` would choose and why."),
}


VERBS = {"study": ("report", "compare")}  # what may follow a command, and is one of its own


class Commands(TyperGroup):
    """Lists the commands by `COMMANDS` alone, and imports the one that is called."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: dict[str, Any] = {name: TyperCommand(name, help=said) for name, (_, said) in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        if rest and rest[0] in VERBS.get(name or "", ()):
            return f"{name} {rest[0]}", command(name, rest[0]), rest[1:]
        return name, None if name is None else command(name), rest


@cache
def command(name: str, verb: str = "") -> Any:
    """One command, with its code; of some what its verb does."""
    module = import_module(COMMANDS[name][0], __package__)
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    does = verb or name
    alone.command(does, cls=getattr(module, "Command", None))(
        getattr(module, does, None) or getattr(module, f"{does}_")
    )
    return typer.main.get_command(alone)


app: typer.Typer = typer.Typer(
    cls=Commands,
    help="Batched Tucker decompositions and label-free saliency maps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show_version:
        print(__version__)
        raise typer.Exit
