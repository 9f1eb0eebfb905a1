"""What the commands share: errors in a line, tables, the `--json` option."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    justify: Literal["left", "right"] = "left",
) -> Table:
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=any(header))
    for number, name in enumerate(header):
        made.add_column(name, justify=justify if number else "left")
    for row in rows:
        made.add_row(*row)
    return made


@contextmanager
def errors() -> Iterator[None]:
    """What a user can put right is said in a line, with exit code 1; any other error shows whole."""
    try:
        yield
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
        raise typer.Exit(1) from error
    except (ValueError, RuntimeError, ModuleNotFoundError) as error:
        complain(str(error))
        raise typer.Exit(1) from error


def complain(text: str) -> None:
    Console(stderr=True, highlight=False).print(f"tsm-fast: {text}", style="red", markup=False, soft_wrap=True)
