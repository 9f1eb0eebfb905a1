"""The `tsm-fast` command. Results go to stdout, progress and errors to stderr; exit codes: 0 ok, 1 failed, 2 usage."""

from __future__ import annotations

from typing import Annotated

import typer

from .._version import __version__
from . import options
from .demo import demo
from .extract import extract
from .info import info
from .layers import layers
from .map import map_
from .runs import export, merge, report, status, verify

app = typer.Typer(
    help="Batched Tucker decompositions and label-free saliency maps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The entry point of `tsm-fast` and `python -m tsm_fast`."""
    app(prog_name="tsm-fast")


@app.callback(invoke_without_command=True)
def root(show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show_version:
        print(__version__)
        raise typer.Exit


app.command("map")(map_)
app.command(cls=options.RetryErrorsCommand)(extract)
for command in (status, verify, report, export, merge, layers, demo, info):
    app.command()(command)
