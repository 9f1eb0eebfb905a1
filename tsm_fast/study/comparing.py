"""`compare`: studies of several networks side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .rows import Study
from .tables import Table


@dataclass(frozen=True)
class Comparison:
    """Several studies of the same pictures; `tables` by name, also in the folder `out`."""

    out: Path
    studies: Mapping[str, Study]
    tables: Mapping[str, Table]


def compare(
    studies: Mapping[str, str | Path | Study] | Sequence[str | Path],
    out: str | Path,
    *,
    contrasts: Sequence[tuple[str, str]] | None = None,
    title: str | None = None,
) -> Comparison:
    """Networks side by side, on the images that all of them have; tables, figures and a page in `out`.

    Args:
        studies: by the names that the tables call them; of a sequence, the names of the folders.
        out: a folder.
        contrasts: pairs of names, such as ("objects", "scenes"): what a metric of the first network's maps is above
            that of the second's on the same images (the model contrast of BAM). None is every pair with the first
            study.
        title: of the page.

    Raises:
        FileNotFoundError: a folder holds no study.
        ValueError: fewer than two studies, or they share no image.
    """
    raise NotImplementedError
