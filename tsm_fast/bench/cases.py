"""What is measured in a row, and what that needs at least."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch

MAPS = ("tsm", "mtsm", "eigencam", "multivec_eigencam", "mean_activation")
ALL_VECTORS = ("mtsm", "multivec_eigencam")
DTYPES = ("float32", "float64", "float16", "bfloat16")
FINISHED = 224  # side of a map that is resized
LAYOUTS = ("contiguous", "channels_last", "sliced")


class Case(NamedTuple):
    """What one row measures."""

    work: str
    shape: str  # of an item: 2048x7x7, 1280x7x7:signed
    batch: int
    rank: tuple[int, ...] | None = None
    dtype: str = "float32"
    layout: str = "contiguous"
    device: str = "cpu"
    threads: int = 0  # 0 for those that torch has

    @property
    def sides(self) -> tuple[int, ...]:
        return sides_of(self.shape)

    @property
    def label(self) -> str:
        """The row's name in tables."""
        parts = [self.shape.replace(":", " ")]
        if self.rank is not None:
            parts.append(f"rank {', '.join(map(str, self.rank))}")
        parts.append(f"batch {self.batch}")
        parts += [text for text, plain in ((self.dtype, "float32"), (self.layout, "contiguous")) if text != plain]
        parts += [self.device] if self.device != "cpu" else []
        parts += [f"{self.threads} thread{'s' * (self.threads > 1)}"] if self.threads else []
        return f"{self.work} {', '.join(parts)}"

    @property
    def itemsize(self) -> int:
        return torch.empty(0, dtype=getattr(torch, self.dtype)).element_size()

    def as_json(self) -> dict[str, Any]:
        return {**self._asdict(), "rank": self.rank and list(self.rank)}


def case_of(row: dict[str, Any]) -> Case:
    fields = {name: row[name] for name in Case._fields}
    return Case(**{**fields, "rank": fields["rank"] and tuple(fields["rank"])})


def sides_of(shape: str) -> tuple[int, ...]:
    """(2048, 7, 7) of "2048x7x7" or "2048x7x7:signed".

    Raises:
        ValueError: it is no such text.
    """
    text = shape.removesuffix(":signed")
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,4}", text):
        raise ValueError(f"shape must be sides such as 2048x7x7, 2 to 5 of them, got {shape!r}")
    return tuple(map(int, text.split("x")))


class Cost(NamedTuple):
    """Of an item, by the cheapest way known: float32 operations, and bytes read and written once."""

    flop: float
    bytes: float


def cost(case: Case, sweeps: float = 0) -> Cost:
    """What a row needs at least; `sweeps` is what an item of HOOI took."""
    sides, size = case.sides, case.itemsize
    c, s = sides[0], prod(sides[1:])
    rank = case.rank or sides
    if "tucker" in case.work:
        rank = (*sides[: len(sides) - len(rank)], *rank)  # of the last modes alone
    read = size * c * s
    if case.work in ALL_VECTORS:
        return Cost(_gram(c, s) + _all_pairs(min(c, s)) + 2 * c * s * min(c, s), read + size * s)
    if case.work == "mean_activation":
        return Cost(c * s, read + size * s)
    if case.work in MAPS or case.work in ("compiled tsm", "first call"):
        return Cost(_leading(c, s, 1), read + size * s)
    if case.work == "mode_gram":
        return Cost(_gram(c, s), read + size * min(c, s) ** 2)
    if case.work == "eigh":
        return Cost(_all_pairs(c), 2 * read)
    if case.work == "eigenpairs":
        return Cost(4 / 3 * c**3 + 4 * c * c * rank[0], read)
    if case.work == "truncated_svd":
        r = case.rank[0] if case.rank else min(c, s)
        full = r == min(c, s)
        made = _gram(c, s) + _all_pairs(min(c, s)) if full else _leading(c, s, r)
        return Cost(made + 2 * c * s * r, read + size * r * (c + s))
    if case.work in ("core_contraction", "multi_mode_dot"):
        return Cost(_contraction(sides, rank), read + size * prod(rank))
    if case.work == "finish":
        return Cost(0, size * (s + FINISHED**2))
    if case.work in ("hosvd", "tucker", "tensorly tucker", "tensorly partial_tucker"):
        flop = sum(_leading(i, prod(sides) // i, r) for i, r in zip(sides, rank, strict=True))
        for mode in range(len(sides)):
            kept = (*rank[:mode], sides[mode], *rank[mode + 1 :])
            rest = prod(kept) // sides[mode]
            flop += sweeps * (_contraction(sides, kept) + _leading(sides[mode], rest, rank[mode]))
        return Cost(flop + _contraction(sides, rank), read)
    return Cost(0, 0)


def _gram(c: int, s: int) -> float:
    n, k = sorted((c, s))
    return k * n * (n + 1)


def _all_pairs(n: int) -> float:
    """Reduced to a tridiagonal matrix, and the vectors turned back."""
    return (4 / 3 + 2) * n**3


def _leading(c: int, s: int, rank: int) -> float:
    """By the Gram matrix, or by six products with `F^T F` for each vector, whichever is less."""
    n = min(c, s)
    return min(_gram(c, s) + 4 / 3 * n**3, 6 * 4 * c * s * rank)


def _contraction(sides: Sequence[int], rank: Sequence[int]) -> float:
    """One mode after the other, that which shrinks most first."""
    left, flop = list(sides), 0.0
    for mode in sorted(range(len(sides)), key=lambda n: rank[n] / sides[n]):
        if rank[mode] < left[mode] or rank[mode] < sides[mode]:
            flop += 2 * prod(left) * rank[mode]
            left[mode] = rank[mode]
    return flop
