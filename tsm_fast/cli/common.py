"""What the commands share: errors in a line, tables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ..pipeline.errors import Unfinished

# Arguments of the package in its error texts that are options of the commands: overwrite=True is --overwrite.
_OPTIONS = "add|boxes|filter|keys|missing|overwrite|region|root|shard_timeout|to|trust_model_code"
_ARGUMENT = re.compile(rf"\b({_OPTIONS})=('[^']*'|[\w.]+)")


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    justify: Literal["left", "right"] = "left",
) -> Table:
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=any(header))
    for number, name in enumerate(header):
        made.add_column(name, justify=justify if number else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


@contextmanager
def errors(code: int = 1) -> Iterator[None]:
    """What a user can put right is said in a line, with exit code 1 or that named; any other error shows whole."""
    try:
        yield
    except typer.Exit:  # a RuntimeError too
        raise
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
        raise typer.Exit(code) from error
    except (ValueError, RuntimeError, ModuleNotFoundError, Unfinished) as error:
        complain(str(error))
        raise typer.Exit(code) from error


def refuse(context: typer.Context, why: str, *, but: Collection[str] | None = None, only: Collection[str] = ()) -> None:
    """A named option that would change nothing is an error: each that is not in `but`, or each in `only`."""
    for parameter in context.command.params:
        name, shown = parameter.name or "", parameter.opts[0]
        named = str(context.get_parameter_source(name)).rpartition(".")[2] in ("COMMANDLINE", "DEFAULT_MAP")
        if named and (name in only if but is None else name not in but):
            raise typer.BadParameter(f"{shown if shown[0] == '-' else shown.upper()} {why}")


def complain(text: str) -> None:
    said = _ARGUMENT.sub(_option, text)
    Console(stderr=True, highlight=False).print(f"tsm-fast: {said}", style="red", markup=False, soft_wrap=True)


def _option(argument: re.Match[str]) -> str:
    option = f"--{argument[1].replace('_', '-')}"
    value = argument[2].strip("'")
    return option if value == "True" else f"{option} {shlex.quote(value)}"
