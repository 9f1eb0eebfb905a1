"""`Study`: what lies in the folder of a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .tables import Table


@dataclass(frozen=True)
class Study:
    """The rows of a study, and its tables.

    Attributes:
        out: its folder.
        maps: the maps, the controls and their other forms, as columns name them.
        layers: of the network.
        keys: of the images, a row each.
        tables: by name ("localisation", "faithfulness", "ranked", "stability", "spectra", ...).
        left_out: families that were not measured, and why.
    """

    out: Path

    @property
    def maps(self) -> list[str]:
        raise NotImplementedError

    @property
    def layers(self) -> list[str]:
        raise NotImplementedError

    @property
    def keys(self) -> list[str]:
        raise NotImplementedError

    @property
    def tables(self) -> Mapping[str, Table]:
        raise NotImplementedError

    @property
    def left_out(self) -> Mapping[str, str]:
        raise NotImplementedError

    def values(self, metric: str, map: str, layer: str | None = None) -> np.ndarray:
        """[rows] float64 of one metric of a map, NaN where there is none; `layer` may be left out where there is one.

        Raises:
            ValueError: there is no such column; the message names close ones.
        """
        raise NotImplementedError

    def column(self, name: str) -> np.ndarray:
        """[rows], or [rows, n] of a column of lists, by its name in the shards."""
        raise NotImplementedError

    def groups(self) -> np.ndarray:
        """[rows] the independent unit of each image."""
        raise NotImplementedError
