"""The rows of a run: the standard set, those that were asked for, and those along which something grows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch

from .cases import Case
from .shapes import SETS, default_batch, default_rank, sides_of
from .works import WORKS

RESNET = "2048x7x7"
SCALING = ("C", "S", "batch", "rank", "threads")
_GROWING = {"C": (128, 256, 512, 1024, 2048), "S": (25, 49, 100, 196, 400, 784), "batch": (1, 4, 16, 64, 256)}
_WITH_RANK = ("tucker", "hosvd", "core_contraction", "multi_mode_dot", "tensorly tucker", "tensorly partial_tucker")
_MATRICES = ("truncated_svd", "eigh", "eigenpairs")


def of(work: str, shape: str, batch: int | None = None, rank: tuple[int, ...] | None = None, **how: Any) -> Case:
    """A case with the defaults of its work and shape."""
    device = how.get("device", "cpu")
    if work in _WITH_RANK and rank is None:
        rank = default_rank(shape)
        rank = rank[1:] if work == "tensorly partial_tucker" else rank
    if work == "eigenpairs" and rank is None:
        rank = (1,)
    if work in ("tensorly tucker", "tensorly partial_tucker", "first call"):
        batch = 1
    return Case(work, shape, batch or default_batch(shape, work, device), rank, **how)


def standard(device: str = "cpu") -> Iterator[Case]:
    """What the claims of this package rest on, in the order of the tables."""
    for case in _standard():
        if device == "cpu":
            yield case
        elif not case.work.startswith(("tensorly", "eigencam call", "first call")):
            batch = case.batch if case.batch == 1 else default_batch(case.shape, case.work, device)
            yield case._replace(device=device, batch=batch)


def _standard() -> Iterator[Case]:
    for shape in (
        RESNET,
        "1280x7x7",
        "1280x7x7:signed",
        "768x7x7",
        "1024x14x14",
        "512x14x14",
        "512x28x28",
        "256x56x56",
    ):
        yield of("tsm", shape)
        yield of("mtsm", shape)
    for shape in (RESNET, "1280x7x7:signed", "1024x14x14"):
        yield of("eigencam", shape)
        yield of("multivec_eigencam", shape)
    yield of("mean_activation", RESNET)
    yield of("tsm", RESNET, rank=(16, 4, 4))
    for shape in ("8x2x2", "512x7x7", "1280x7x7", RESNET, "1024x14x14"):
        yield of("tsm", shape, 1)
    for batch in (8, 32, 512):
        yield of("tsm", RESNET, batch)
    yield of("first call", RESNET)
    yield of("compiled tsm", RESNET, 32)
    yield of("eigencam call", "1280x7x7", 1)
    yield of("eigencam call", "1280x7x7", 8)
    for shape in (RESNET, "1024x14x14"):
        for dtype in ("float16", "bfloat16", "float64"):
            yield of("tsm", shape, dtype=dtype)
        for layout in ("channels_last", "sliced"):
            yield of("tsm", shape, layout=layout)
    for shape in (RESNET, "1280x7x7:signed", "1024x14x14"):
        yield of("tucker", shape, rank=(32, 4, 4))
    yield of("tucker", RESNET)
    yield of("hosvd", RESNET)
    for shape in SETS["one-tensor"]:
        many = {"145x145x200": 1, "128x128x128": 4}.get(shape, 32)
        if many > 1:
            yield of("tucker", shape, many)
        yield of("tucker", shape, 1)
    for shape in (RESNET, "64x32x32"):
        yield of("tensorly tucker", shape, dtype="float64")
    yield of("tensorly partial_tucker", "64x32x32", dtype="float64")
    for n in (49, 100, 196, 256, 512):
        yield of("eigh", f"{n}x{n}")
    yield of("eigenpairs", "49x49")
    yield of("eigenpairs", "196x196", rank=(8,))
    for shape in ("2048x49", "256x256", "1024x196"):
        yield of("truncated_svd", shape, min(32, default_batch(shape, "truncated_svd", "cpu")))
        yield of("truncated_svd", shape, min(32, default_batch(shape, "truncated_svd", "cpu")), (8,))
    for shape in (RESNET, "1280x7x7", "1024x14x14", "512x14x14"):
        yield of("mode_gram", shape)
    for shape in (RESNET, "1024x14x14"):
        yield of("core_contraction", shape)
        yield of("multi_mode_dot", shape)
        yield of("finish", shape)


def asked(
    works: Sequence[str],
    shapes: Sequence[str],
    ranks: Sequence[int | tuple[int, ...]] = (),
    batches: Sequence[int] = (),
    dtypes: Sequence[str] = ("float32",),
    layouts: Sequence[str] = ("contiguous",),
    device: str = "cpu",
    threads: Sequence[int] = (0,),
) -> Iterator[Case]:
    """Every combination that fits.

    Raises:
        ValueError: a work cannot be done with a shape or a rank.
    """
    for work in works:
        for shape in shapes:
            for rank in ranks or (None,):
                fits = _fits(work, shape)
                full = None if rank is None else _checked_rank(work, sides_of(fits), rank)
                for batch in batches or (None,):
                    for dtype in dtypes:
                        for layout in layouts:
                            for count in threads:
                                how = {"dtype": dtype, "layout": layout, "device": device, "threads": count}
                                yield of(work, fits, batch, full, **how)


def _fits(work: str, shape: str) -> str:
    """The shape as a work takes it: matrices are unfolded maps."""
    sides = sides_of(shape)
    if work in ("eigh", "eigenpairs") and (len(sides) != 2 or sides[0] != sides[1]):
        shape = "x".join([str(min(sides[0], prod(sides[1:])))] * 2)
    elif work == "truncated_svd" and len(sides) != 2:
        shape = f"{sides[0]}x{prod(sides[1:])}"
    elif work not in _MATRICES and len(sides) == 2 and not ("tucker" in work or work in ("hosvd", "multi_mode_dot")):
        raise ValueError(f"{work} needs a shape with channels and positions such as 2048x7x7, got {shape!r}")
    if work == "finish" and len(sides) != 3:
        raise ValueError(f"{work} needs maps of two position modes, such as of 2048x7x7, got {shape!r}")
    return shape


def _checked_rank(work: str, sides: tuple[int, ...], given: int | tuple[int, ...]) -> tuple[int, ...] | None:
    """One number for each mode that a work decomposes, a single one being for all; None where it decomposes none."""
    if work not in (*_WITH_RANK, *_MATRICES, "tsm", "mtsm") or work == "eigh":
        return None
    most = (min(sides),) if work in _MATRICES else sides[1:] if work == "tensorly partial_tucker" else sides
    rank = tuple(min(given, side) for side in most) if isinstance(given, int) else given
    if len(rank) != len(most) or any(not 1 <= r <= side for r, side in zip(rank, most, strict=True)):
        wanted = "x".join(map(str, most))
        raise ValueError(f"rank of {work} must be {len(most)} numbers, at most {wanted}, got {rank}")
    return rank


def grows(work: str, dimension: str) -> bool:
    """Whether a work has a dimension to grow in."""
    if work in ("compiled tsm", "first call", "eigencam call"):
        return False
    if dimension == "rank":
        return work in (*_WITH_RANK, "truncated_svd", "eigenpairs")
    return not (dimension == "C" and work in ("eigh", "eigenpairs"))


def scaling(work: str, dimension: str, shape: str | None = None, device: str = "cpu") -> Iterator[Case]:
    """One work with everything fixed but one dimension.

    Raises:
        ValueError: the work does not have that dimension.
    """
    square = work in ("eigh", "eigenpairs")
    if not grows(work, dimension):
        raise ValueError(f"{work} does not grow with {dimension}")
    if shape is None:
        shape = "196x196" if square else "1024x196" if work == "truncated_svd" else "1024x14x14"
    fixed = default_batch(shape, work, device)
    sides = sides_of(shape)
    if dimension == "batch":
        yield from (of(work, shape, batch, device=device) for batch in _GROWING["batch"])
    elif dimension == "threads":
        counts = [1 << n for n in range(torch.get_num_threads().bit_length()) if 1 << n <= torch.get_num_threads()]
        yield from (of(work, shape, fixed, device=device, threads=count) for count in counts)
    elif dimension == "rank":
        most = min(sides) if work in _MATRICES else sides[0]
        for rank in (r for r in (1, 2, 4, 8, 16, 32, 64) if r <= most):
            other = () if work in _MATRICES else tuple(min(rank, side) for side in sides[1:])
            yield of(work, shape, fixed, (rank, *other), device=device)
    else:
        for number in _GROWING[dimension]:
            grown = _grown(work, sides, dimension, number)
            yield of(work, grown, min(fixed, default_batch(grown, work, device)), device=device)


def _grown(work: str, sides: tuple[int, ...], dimension: str, number: int) -> str:
    if work in ("eigh", "eigenpairs"):
        return f"{number}x{number}"
    if dimension == "C":
        return "x".join(map(str, (number, *sides[1:])))
    side = int(number**0.5)
    return f"{sides[0]}x{number}" if work == "truncated_svd" else f"{sides[0]}x{side}x{side}"


def quick(device: str = "cpu") -> Iterator[Case]:
    """A row of each kind of work, on small batches."""
    for work in WORKS:
        if work not in ("compiled tsm", "first call", "eigencam call"):
            shape = _fits(work, "64x7x7")
            yield of(work, shape, 8, (8,) if work == "eigenpairs" else None, device=device)
