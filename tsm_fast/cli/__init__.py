"""The `tsm-fast` command. Results go to stdout, progress and errors to stderr; exit codes: 0 ok, 1 failed, 2 usage."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .._lazy import MissingExtra, lazy, needs

if TYPE_CHECKING:
    from .commands import app
else:
    __getattr__, __dir__ = lazy(__name__, {"app": ".commands"}, extras={"app": "cli"})

__all__ = ["app", "main"]


def main() -> None:
    """The entry point of `tsm-fast` and `python -m tsm_fast`."""
    try:
        with needs("cli", "tsm-fast"):
            from .commands import app

            app(prog_name="tsm-fast")
    except MissingExtra as error:
        sys.exit(str(error))
