"""`report`: tables, figures and the page of a study, from its rows."""

from __future__ import annotations

from pathlib import Path

from .rows import Study


def report(out: str | Path) -> Study:
    """Write the tables, figures and the page of a study again; the model is not needed.

    Raises:
        FileNotFoundError: the folder holds no study.
    """
    return Study.open(out)
