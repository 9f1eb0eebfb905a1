"""What has to be known of all pictures before the first is measured, from a few that are chosen by hash."""

from __future__ import annotations

import hashlib
import heapq
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..pipeline.files import publish

STRANGERS = 8  # pictures whose maps stand for "another image's"
CENTRE = 64  # pictures over which embeddings are averaged
POOL = 256  # masks of other images, for the shuffled AUC
FINEST = 64  # positions of a side at which maps and masks are compared
NAME = "before.npz"


def rank(seed: int, key: str) -> str:
    """A place that says nothing of the key, the same on every machine."""
    return hashlib.sha256(f"study {seed}:{key}".encode()).hexdigest()


def number(seed: int, key: str) -> int:
    """A seed for what is random in a picture's controls."""
    return int(rank(seed, key)[:15], 16)


def chosen(keys: Iterable[str], count: int, seed: int) -> list[str]:
    """So many of the keys, smaller samples being parts of larger ones."""
    return heapq.nsmallest(count, keys, key=lambda key: rank(seed, key))


def threshold(keys: Iterable[str], count: int, seed: int) -> str:
    """The last rank among so many."""
    found = chosen(keys, count, seed)
    return rank(seed, found[-1]) if found else ""


def grid(shape: Sequence[int]) -> tuple[int, int]:
    """The positions (h, w) at which maps and masks are compared, of inputs [C, H, W]."""
    h, w = shape[-2:]
    part = ceil(max(h, w) / FINEST)
    return ceil(h / part), ceil(w / part)


def at_grid(cover: Tensor, size: tuple[int, int]) -> Tensor:  # [H, W] in 0..1 -> [h, w] bool
    """A mask at the positions where it is compared: where at least half is of the object."""
    return torch.nn.functional.adaptive_avg_pool2d(cover[None], size)[0] >= 0.5


@dataclass(frozen=True)
class Before:
    """What is known of all pictures.

    `center` [D] is the mean embedding, `pool` [N, h, w] masks of other images, `strangers` the maps [K, h, w] of some
    pictures by column.
    """

    center: np.ndarray | None = None
    pool: np.ndarray | None = None
    pool_keys: tuple[str, ...] = ()
    strangers: Mapping[str, np.ndarray] = field(default_factory=dict)
    stranger_keys: tuple[str, ...] = ()

    def stranger(self, column: str, keys: Sequence[str], seed: int) -> Tensor | None:  # [B, h, w]
        """The map of another image for each key; None where there are fewer than two."""
        if column not in self.strangers or len(self.stranger_keys) < 2:
            return None
        count = len(self.stranger_keys)
        places = [number(seed, key) % count for key in keys]
        others = [(p + 1) % count if self.stranger_keys[p] == key else p for p, key in zip(places, keys, strict=True)]
        return torch.from_numpy(self.strangers[column][others])

    def arrays(self) -> dict[str, Any]:
        found: dict[str, Any] = {f"strangers {name}": maps for name, maps in self.strangers.items()}
        found["keys"] = np.array(self.stranger_keys, np.str_)
        if self.center is not None:
            found["center"] = self.center
        if self.pool is not None:
            found["pool"], found["pool keys"] = np.packbits(self.pool, axis=-1), np.array(self.pool_keys, np.str_)
            found["pool width"] = np.array(self.pool.shape[-1])
        return found

    def digest(self) -> str:
        found = hashlib.sha256()
        for name, values in sorted(self.arrays().items()):
            found.update(f"{name} {values.dtype} {values.shape}".encode() + values.tobytes())
        return found.hexdigest()

    def save(self, folder: Path, mark: str) -> None:
        """Into a folder; `mark` tells what it was found for."""
        stream = io.BytesIO()
        np.savez_compressed(stream, mark=np.array(mark), **self.arrays())
        publish.publish_bytes(folder / NAME, stream.getvalue())

    @classmethod
    def load(cls, folder: Path, mark: str) -> Before | None:
        """That of a folder; None where there is none, or one that was found for something else."""
        try:
            data = (folder / NAME).read_bytes()
        except FileNotFoundError:
            return None
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            there = {name: file[name] for name in file.files}
        if str(there["mark"]) != mark:
            return None
        pool = there.get("pool")
        return cls(
            center=there.get("center"),
            pool=None if pool is None else np.unpackbits(pool, axis=-1, count=int(there["pool width"])).astype(bool),
            pool_keys=tuple(there.get("pool keys", np.array([], np.str_)).tolist()),
            strangers={name[10:]: maps for name, maps in there.items() if name.startswith("strangers ")},
            stranger_keys=tuple(there["keys"].tolist()),
        )
