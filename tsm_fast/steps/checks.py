"""All checks, once, at the door: below this file inputs are trusted. Messages give name, need and fact."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from .capture import is_captured

MIN_ORDER, MAX_ORDER = 2, 5
_ORDERS = f"N in {MIN_ORDER}..{MAX_ORDER}"

Rank = int | Sequence[int] | None
Size = Sequence[int] | None


def choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """ValueError unless `value` is one of `allowed`."""
    allowed = tuple(allowed)
    if type(value) is str and value in allowed:
        return
    if not any(isinstance(value, type(one)) and value == one for one in allowed):  # arrays have no one truth
        near = get_close_matches(value, [one for one in allowed if isinstance(one, str)], 1) if _is_text(value) else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}{hint}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not torch.compiler.is_compiling()


def precision(value: Any) -> None:
    choice("precision", value, ("auto", "float32", "float64"))


def flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def integer(name: str, value: Any) -> int:
    """An int from anything that is one (NumPy integers too, bool not)."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def tensor(name: str, x: Tensor) -> None:
    """A batch [B, I_1, ..., I_N] of order 2 to 5 with no empty mode; B may be 0."""
    if not MIN_ORDER <= x.ndim - 1 <= MAX_ORDER:
        need = f"[B, I_1, ..., I_N] with {_ORDERS}"
        raise ValueError(f"{name} must be {need}, got shape {tuple(x.shape)}{_as_batch(name, x)}")
    _no_empty_mode(name, x)


def shape(sizes: Iterable[Any]) -> list[int]:
    """The shape (B, I_1, ..., I_N) of a batch."""
    numbers = [integer("shape", size) for size in _several("shape", sizes)]
    if not MIN_ORDER <= len(numbers) - 1 <= MAX_ORDER:
        raise ValueError(f"shape must be (B, I_1, ..., I_N) with {_ORDERS}, got {tuple(numbers)}")
    return numbers


def matrices(name: str, x: Tensor, need: str = "[B, M, N]") -> None:
    """A batch [B, M, N] of matrices."""
    if x.ndim != 3:
        raise ValueError(f"{name} must be {need}, got shape {tuple(x.shape)}{_as_batch(name, x)}")
    _no_empty_mode(name, x)


def symmetric(name: str, x: Tensor) -> None:
    """A batch [B, n, n] of square matrices."""
    matrices(name, x, "[B, n, n]")
    if x.shape[1] != x.shape[2]:
        raise ValueError(f"{name} must be [B, n, n], got shape {tuple(x.shape)}")


def features(x: Tensor) -> None:
    """Feature maps [B, C, *positions]; B may be 0."""
    if not 3 <= x.ndim <= 5:
        need = "[B, C, *positions] with 1 to 3 position modes"
        hint = "; a single map goes in as features[None]" if x.ndim == 2 else ""
        raise ValueError(f"features must be {need}, got shape {tuple(x.shape)}{hint}")
    _no_empty_mode("features", x)


def _as_batch(name: str, x: Tensor) -> str:
    return f"; a single matrix goes in as {name}[None]" if x.ndim == 2 else ""


def _no_empty_mode(name: str, x: Tensor) -> None:
    if 0 in x.shape[1:]:
        raise ValueError(f"{name} must have no empty mode (only the batch may be empty), got shape {tuple(x.shape)}")


def _several(name: str, values: Any) -> Iterable[Any]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) != 1:
        raise TypeError(f"{name} must be several integers, got {values!r}")
    return values


def mode(value: Any, order: int) -> int:
    """A mode number, item modes counted from 0, from the end when negative."""
    number = integer("mode", value)
    if not -order <= number < order:
        raise ValueError(f"mode must lie in 0..{order - 1} for items of order {order}, got {number}")
    return number % order


def item(value: Any, batch: int) -> int:
    """The index of an item, from the end when negative."""
    number = integer("index", value)
    if not -batch <= number < batch:
        raise IndexError(f"index must lie in {-batch}..{batch - 1} for a batch of {batch}, got {number}")
    return number


def modes(values: Iterable[Any] | None, count: int, order: int) -> list[int]:
    """The distinct modes that `count` matrices act on; None for the first `count`."""
    numbers = list(range(count)) if values is None else [mode(value, order) for value in _several("modes", values)]
    if len(numbers) != count:
        raise ValueError(f"modes must name one mode per matrix, got {len(numbers)} modes for {count} matrices")
    if count > order:
        raise ValueError(f"matrices must be at most {order} for items of order {order}, got {count}")
    if len(set(numbers)) != count:
        raise ValueError(f"modes must be distinct, got {numbers}")
    return numbers


def decomposed(values: Iterable[Any] | None, order: int) -> tuple[int, ...]:
    """The modes to decompose, rising; None for all."""
    if values is None:
        return tuple(range(order))
    numbers = tuple(mode(value, order) for value in _several("modes", values))
    if not numbers:
        raise ValueError("modes must name one mode at least, got none")
    if sorted({*numbers}) != list(numbers):
        raise ValueError(f"modes must rise, got {numbers}")
    return numbers


def rank(
    value: Rank, sizes: Sequence[int], name: str = "", *, modes: Sequence[int] | None = None, pad: bool = False
) -> tuple[int, ...]:
    """The effective rank: one number for each mode of an item, or of `modes`, TensorLy's rank where that is feasible.

    `name` is that of tensors that may have come without their batch dimension.

    `r_n` must lie in `1..I_n`; where it is more than the product of the other ranks, and of the sizes of modes that
    have none, the unfolding has no such many singular vectors, and the effective rank is `min(r_n, that product)`, or
    with `pad` still `r_n`.
    """
    numbers = tuple(range(len(sizes)) if modes is None else modes)
    rest = prod([size for number, size in enumerate(sizes) if number not in numbers])
    sizes = [sizes[number] for number in numbers]
    if value is None:
        requested = tuple(sizes)
    elif isinstance(value, Iterable) and not isinstance(value, str) and getattr(value, "ndim", 1):
        requested = tuple(integer("rank", r) for r in value)
    else:
        requested = (integer("rank", value),) * len(sizes)
    if len(requested) != len(sizes):
        single = f"; the first dimension of {name} is the batch: a single tensor goes in as {name}[None]"
        hint = single if name and modes is None and len(requested) == len(sizes) + 1 else ""
        need = f"one number for each of the {len(sizes)} modes" + (" of an item" if modes is None else "")
        raise ValueError(f"rank must have {need}, got {len(requested)}{hint}")
    symbolic = torch.compiler.is_compiling() or not all(isinstance(size, int) for size in sizes)
    return (_feasible if symbolic else _remembered)(requested, tuple(sizes), numbers, rest, pad)


def _feasible(
    requested: tuple[int, ...], sizes: tuple[int, ...], numbers: tuple[int, ...], rest: int, pad: bool
) -> tuple[int, ...]:
    for number, r, size in zip(numbers, requested, sizes, strict=True):
        if not 1 <= r <= size:
            raise ValueError(f"rank must lie in 1..{size} for mode {number}, got {r}")
    effective, previous = list(requested), None
    while effective != previous and not pad:
        previous = list(effective)
        for n in range(len(effective)):
            effective[n] = min(effective[n], rest * prod(effective[:n] + effective[n + 1 :]))
    return tuple(effective)


_remembered = lru_cache(maxsize=1024)(_feasible)


def random_state(value: Any) -> Any:
    """None, an int, or a `numpy.random.RandomState`."""
    if value is None or type(value).__name__ == "RandomState":
        return value
    seed = integer("random_state", value)
    if not 0 <= seed < 2**32:
        raise ValueError(f"random_state must lie in 0..{2**32 - 1}, got {seed}")
    return seed


def matrix_rank(value: Any, rows: int, columns: int) -> int:
    """The number of singular triplets of a [rows, columns] matrix; None for all of them."""
    smaller = min(rows, columns)
    if value is None:
        return smaller
    number = integer("rank", value)
    if not 1 <= number <= smaller:
        raise ValueError(f"rank must lie in 1..{smaller} for a {rows} x {columns} matrix, got {number}")
    return number


def stopping(n_iter_max: Any, tol: Any) -> tuple[int, float]:
    """The sweep limit and the tolerance of HOOI."""
    limit = integer("n_iter_max", n_iter_max)
    if limit < 1:
        raise ValueError(f"n_iter_max must be at least 1, got {limit}")
    if isinstance(tol, bool) or not (isinstance(tol, float) or hasattr(tol, "__float__")):
        raise TypeError(f"tol must be a number, got {tol!r}")
    if not 0 <= tol < float("inf"):
        raise ValueError(f"tol must be finite and not negative, got {tol}")
    return limit, float(tol)


_SIZES = {1: "(n,)", 2: "(h, w)", 3: "(t, h, w)"}


def size(value: Any) -> tuple[int, int] | None:
    """The size of finished maps of pictures: None or (h, w)."""
    numbers = sizes(value, 2)
    return None if numbers is None else (numbers[0], numbers[1])


def sizes(value: Any, modes: int | None) -> tuple[int, ...] | None:
    """The size of finished maps: None, or one number for each position mode; `modes` is None where any of 1 to 3 do."""
    if value is None:
        return None
    need = "one to three numbers" if modes is None else _SIZES[modes]
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"size must be None or {need}, got {value!r}")
    if len(value) not in ((1, 2, 3) if modes is None else (modes,)):
        raise ValueError(f"size must be {need}, got {len(value)} numbers")
    numbers = tuple(integer("size", number) for number in value)
    if min(numbers) < 1:
        least = (1,) * len(numbers)
        raise ValueError(f"size must be at least {least}, got {numbers}")
    return numbers


def finite(name: str, mask: Tensor, remedy: str = "") -> None:
    """ValueError that names the items whose `mask` [B] is False; nobody looks while a CUDA graph is captured."""
    if not is_captured(mask) and not bool(mask.all()):
        items = (~mask).nonzero().flatten().tolist()
        shown = ", ".join(map(str, items[:10])) + (f" and {len(items) - 10} more" if len(items) > 10 else "")
        raise ValueError(f"{name} must be finite, got NaN or Inf in item{'s' * (len(items) > 1)} {shown}{remedy}")
