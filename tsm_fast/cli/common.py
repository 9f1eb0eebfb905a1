"""What the commands share: errors in a line, tables, the `--json` option."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def parse_size(text: str) -> tuple[int, int]:
    """(h, w) of "224" or "224x320"."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdecimal() for side in sides):
        raise typer.BadParameter(f"must be a number of pixels, or HEIGHTxWIDTH, got {text!r}")
    return int(sides[0]), int(sides[-1])


Size = Annotated[Any, typer.Option(parser=parse_size, metavar="HxW", help="Input size, if not the model's own.")]


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
    except (ValueError, RuntimeError, ModuleNotFoundError) as error:
        complain(str(error))
        raise typer.Exit(code) from error


def complain(text: str) -> None:
    Console(stderr=True, highlight=False).print(f"tsm-fast: {text}", style="red", markup=False, soft_wrap=True)
