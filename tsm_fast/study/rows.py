"""`Study`: what lies in the folder of a study."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..pipeline.files import publish
from ..pipeline.files.run import Run
from ..pipeline.files.shards import OK, shard_path
from ..pipeline.files.urls import parquet
from ..pipeline.results.reader import SaliencyDataset
from . import names

NAME, GROUPS = "study.json", "groups.json"


@dataclass(frozen=True)
class Study:
    """The rows of a study, and its tables.

    Attributes:
        out: its folder.

    >>> study = tsm_fast.study.run("photos", "study", masks="masks")  # doctest: +SKIP
    >>> study.values("roc_auc", "tsm").mean()  # doctest: +SKIP
    """

    out: Path

    @classmethod
    def open(cls, out: str | Path) -> Study:
        """The study in a folder.

        Raises:
            FileNotFoundError: the folder holds no study.
        """
        folder = Path(out)
        if not (folder / NAME).is_file():
            raise FileNotFoundError(errno.ENOENT, f"holds no study (no {NAME})", str(folder))
        return cls(folder)

    @cached_property
    def about(self) -> Mapping[str, Any]:
        """What study.json says."""
        path = self.out / NAME
        try:
            about = json.loads(path.read_text())
            return {**about, "title": about["title"]}
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{path} is damaged: run `tsm-fast study` again, which writes it anew") from None

    @cached_property
    def run(self) -> Run:
        """The run that its rows are."""
        return Run.open(self.out)

    @cached_property
    def rows(self) -> pa.Table:
        """What is finished: all columns but the maps, a row an image."""
        names_ = ["index", "key", "status", *(column.name for column in self.run.record.values)]
        parts = []
        for index in sorted(self.run.done()):
            with parquet(shard_path(self.out, index)) as file:
                parts.append(file.read(names_))
        if not parts:
            raise FileNotFoundError(errno.ENOENT, "holds a study without a finished shard", str(self.out))
        return pa.concat_tables(parts)

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.about["title"]

    @property
    def methods(self) -> list[str]:
        """The maps, without the controls."""
        return [method for method in self.run.record.methods if method not in names.CONTROLS]

    @cached_property
    def maps(self) -> list[str]:
        """The maps, the controls and their other forms, as columns name them."""
        layer = f"/{self.layers[0]}:"
        found = (name.partition(layer) for name in self.rows.column_names)
        return list(dict.fromkeys(arm for arm, cut, _ in found if cut))

    @property
    def layers(self) -> list[str]:
        """Those of the network."""
        return list(self.run.record.layers)

    @property
    def families(self) -> list[str]:
        """What was measured."""
        return list(self.about["families"])

    @property
    def left_out(self) -> Mapping[str, str]:
        """Families that were not measured, and why."""
        return self.about["left_out"]

    @cached_property
    def keys(self) -> list[str]:
        """Of the images, a row each."""
        return self.rows["key"].to_pylist()

    @cached_property
    def dataset(self) -> SaliencyDataset:
        """The maps themselves."""
        return SaliencyDataset(self.out)

    def has(self, metric: str, map: str, layer: str | None = None) -> bool:
        """Whether there is such a column."""
        return f"{map}/{layer or self.layers[0]}:{metric}" in self.rows.column_names

    def values(self, metric: str, map: str, layer: str | None = None) -> np.ndarray:
        """[rows] float64 of one metric of a map, NaN where there is none; `layer` may be left out where there is one.

        Raises:
            ValueError: there is no such column; the message names close ones.
        """
        if layer is None and len(self.layers) > 1:
            raise ValueError(f"layer must be one of {', '.join(self.layers)}, got none")
        return self.column(f"{map}/{layer or self.layers[0]}:{metric}")

    def column(self, name: str) -> np.ndarray:
        """[rows], or [rows, n] of a column of lists, by its name in the shards; texts as objects."""
        if name not in self.rows.column_names:
            near = get_close_matches(name, self.rows.column_names, n=3)
            hint = f"; close names: {', '.join(near)}" if near else ""
            raise ValueError(f"{self.out} has no column {name!r}{hint}")
        values = self.rows[name].combine_chunks()
        if pa.types.is_fixed_size_list(values.type):
            flat = values.flatten().to_numpy(zero_copy_only=False)
            return flat.reshape(len(values), -1).astype(np.float64)
        found = values.to_numpy(zero_copy_only=False)
        return found.astype(np.float64) if pa.types.is_floating(values.type) else found

    @cached_property
    def ok(self) -> np.ndarray:
        """[rows] whether an image has maps."""
        return self.column("status") == OK

    @cached_property
    def groups(self) -> np.ndarray | None:
        """[rows] the independent unit of each image; None where each is its own."""
        path = self.out / GROUPS
        if not path.is_file():
            return None
        there = json.loads(path.read_text())
        return np.array([there.get(key, f"key {key}") for key in self.keys], object)

    @cached_property
    def tables(self) -> Mapping[str, Any]:
        """By name ("localisation", "faithfulness", "ranked", "stability", "spectra", ...), `tables.Table` each."""
        from .tables import tables

        return {table.name: table for table in tables(self)}


def write_about(out: Path, about: Mapping[str, Any], groups: Mapping[str, str] | None) -> None:
    """Put study.json and the groups into a folder."""
    if groups is not None:
        publish.publish_json(out / GROUPS, dict(groups))
    publish.publish_json(out / NAME, dict(about))
