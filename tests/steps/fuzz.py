"""Random calls of the compiled CPU backend, each judged by NumPy in float64: sizes on both sides of every threshold,
structured spectra, all options, any strides, absurd scales.

    python -m tests.steps.fuzz --seconds 60            # or --calls 1000; --seed for others
    python -m tests.steps.fuzz --seed 0 --only 123     # one call again

Every call runs with guarded workspaces (see csrc/cpu/workspace.h) and once more without, which must give the same bits;
so must one of its items alone, where no step is PyTorch's. `make fuzz` runs it under the sanitizers at each SIMD level.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch and NumPy, as in conftest.py
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor

import tsm_fast
from tsm_fast import _cpu
from tsm_fast.steps.backend import Precision
from tsm_fast.steps.choice import load

from ..helpers import DOUBLE_ERROR, GAP, MAP_ERROR, VALUE_ERROR, orthonormality
from . import definitions

EDGES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 100, 128, 196, 256, 300)
METHODS = ("eigencam", "tsm", "multivec_eigencam", "mtsm")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


class Wrong(AssertionError):
    """A result that is not what it must be."""


def require(holds: Any, what: str) -> None:
    if not bool(holds):
        raise Wrong(what)


# ---- inputs ----
def edge(rng: np.random.Generator, most: int) -> int:
    """A size, mostly near a number at which the code changes its way."""
    size = rng.choice(EDGES) + rng.integers(-1, 3) if rng.random() < 0.8 else rng.integers(1, most + 1)
    return int(min(max(size, 1), most))


def sizes(rng: np.random.Generator, order: int, elements: int) -> tuple[int, ...]:
    found: list[int] = []
    for n in range(order):
        left = elements // int(np.prod(found, dtype=np.int64)) if found else elements
        found.append(edge(rng, max(1, min(320, left if n == order - 1 else max(2, left // 2)))))
    rng.shuffle(found)
    return tuple(found)


def with_spectrum(rng: np.random.Generator, shape: tuple[int, ...], values: Callable[[int], np.ndarray]) -> np.ndarray:
    """An item whose mode-1 unfolding has these singular values."""
    rows, columns = shape[0], int(np.prod(shape[1:], dtype=np.int64))
    n = min(rows, columns)
    u, v = (np.linalg.qr(rng.normal(size=(size, n)))[0] for size in (rows, columns))
    return ((u * values(n)) @ v.T).reshape(shape)


def graded(rng: np.random.Generator, n: int) -> np.ndarray:
    return 10.0 ** (-rng.uniform(0.05, 3) * np.arange(n)).clip(-300, 0)


def tied(rng: np.random.Generator, n: int) -> np.ndarray:
    """Groups of equal or nearly equal values."""
    gap = 10.0 ** rng.uniform(-17, -1) * rng.integers(0, 2)
    return np.sort(np.repeat(rng.random(n) + 0.1, rng.integers(1, n + 1))[:n] * (1 + gap * rng.random(n)))[::-1]


def low_rank(rng: np.random.Generator, n: int) -> np.ndarray:
    values = np.sort(rng.random(n) + 0.1)[::-1]
    values[rng.integers(1, n + 1) :] *= rng.choice([0.0, 1e-16, 1e-9, 1e-5, 1e-3])
    return values


def equal_slices(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    item, mode = rng.normal(size=shape), int(rng.integers(len(shape)))
    return np.take(item, rng.integers(0, max(1, shape[mode] // 3), shape[mode]), axis=mode)


def one_hot(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    item = np.zeros(shape)
    item.flat[rng.integers(item.size, size=int(rng.integers(1, 4)))] = rng.normal()
    return item


KINDS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "positive": lambda rng, shape: rng.exponential(size=shape) + 0.2 * rng.random(shape[-1:]),
    "relu": lambda rng, shape: rng.normal(size=shape).clip(0),
    "whole numbers": lambda rng, shape: rng.integers(-1, 2, shape).astype(float),
    "constant": lambda rng, shape: np.full(shape, rng.choice([-3.0, 0.1, 1 / 3, 7.5])),
    "constant channels": lambda rng, shape: np.broadcast_to(
        rng.normal(size=(shape[0], *(1 for _ in shape[1:]))), shape
    ).copy(),
    "zeros": lambda rng, shape: np.zeros(shape),
    "one hot": one_hot,
    "equal slices": equal_slices,
    "graded": lambda rng, shape: with_spectrum(rng, shape, lambda n: graded(rng, n)),
    "tied": lambda rng, shape: with_spectrum(rng, shape, lambda n: tied(rng, n)),
    "orthogonal": lambda rng, shape: with_spectrum(rng, shape, np.ones),
    "low rank": lambda rng, shape: with_spectrum(rng, shape, lambda n: low_rank(rng, n)),
    "little contrast": lambda rng, shape: (
        (rng.random((shape[0], *(1 for _ in shape[1:]))) + 0.5)
        * (1 + 10.0 ** -rng.uniform(1, 5) * rng.random((1, *shape[1:])))
    ),
    "offset": lambda rng, shape: rng.normal(size=shape) + 10.0 ** rng.integers(1, 5),
    "peak": lambda rng, shape: rng.normal(size=shape) + one_hot(rng, shape) * 10.0 ** rng.integers(2, 7),
}


def strided(rng: np.random.Generator, x: Tensor) -> Tensor:
    """The same values in strides of some kind."""
    way = rng.integers(6)
    if way == 0:
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if way == 1:
        order = [0, *(1 + rng.permutation(x.ndim - 1))]
        return x.permute(order).contiguous().permute(list(np.argsort(order)))
    if way == 2:
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), torch.nan, dtype=x.dtype)
        wide[..., 1::2] = x
        return wide[..., 1::2]
    if way == 3:
        return torch.cat([x.new_full((int(rng.integers(1, 4)),), torch.nan), x.flatten()])[-x.numel() :].view(x.shape)
    return x


class Input(NamedTuple):
    x: Tensor  # [B, I_1, ..., I_N] as it is passed
    items: np.ndarray  # the same in float64, each item of a magnitude about 1
    kind: str
    exponent: int  # x is items * 2 ** exponent


def draw(
    rng: np.random.Generator, shape: tuple[int, ...], dtypes: tuple[str, ...] = tuple(DTYPES), scales: bool = True
) -> Input:
    batch = int(rng.choice([1, 2, 3, 5, 8, 9, 17], p=[0.25, 0.2, 0.2, 0.1, 0.1, 0.1, 0.05]))
    batch = max(1, min(batch, 200_000 // int(np.prod(shape, dtype=np.int64))))
    kind = str(rng.choice(list(KINDS)))
    items = np.stack([KINDS[kind](rng, shape) for _ in range(batch)])
    name = str(rng.choice(dtypes))
    most = {"float16": 6, "bfloat16": 100, "float32": 100, "float64": 900}[name]
    exponent = int(rng.integers(-most, most + 1)) if scales and rng.random() < 0.3 else 0
    peak = np.abs(items).max()
    if peak > 0 and (exponent or name == "float16"):
        items = np.ldexp(items, -int(np.frexp(peak)[1]))
    x = torch.from_numpy(np.ldexp(items, exponent)).to(DTYPES[name])
    return Input(strided(rng, x), np.ldexp(x.double().numpy(), -exponent), kind, exponent)


# ---- how a call runs ----
def same(one: Any, other: Any) -> bool:
    return all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(one, other, strict=True))


def run(
    rng: np.random.Generator, call: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor, alone: bool = True
) -> tuple[Tensor, ...]:
    """The results, which neither guards nor threads nor (`alone`) the rest of the batch may change by a bit."""
    torch.set_num_threads(int(rng.integers(1, 4)))
    _cpu.guard_workspaces(True)
    _cpu.share_all_work(True)
    try:
        results = call(x)
    finally:
        _cpu.guard_workspaces(False)
        _cpu.share_all_work(False)
    require(same(results, call(x)), "the same call gave other bits without guards")
    i = int(rng.integers(len(x)))
    part = call(x[i : i + 1]) if alone else tuple(r[i : i + 1] for r in results)
    differ = [k for k, (r, one) in enumerate(zip(results, part, strict=True)) if not same([r[i : i + 1]], [one])]
    require(not differ, f"item {i} of {len(x)} alone gave other bits, results {differ}")
    return results


def orthonormal(columns: Tensor, what: str, tolerance: float) -> None:
    error = orthonormality(columns)
    require(error <= tolerance, f"{what}: |A^T A - I| = {error:.1e}, allowed {tolerance:.0e}")


def close(mine: Tensor, exact: np.ndarray, tolerance: float, what: str, per: np.ndarray | float = 1.0) -> None:
    """`per` [B]: what errors are relative to."""
    error = np.abs(mine.double().numpy() - exact).reshape(len(exact), -1).max(1) / np.where(per == 0, 1, per)
    require((error <= tolerance).all(), f"{what}: error {error.max():.1e}, allowed {tolerance:.0e}")


def precision_of(rng: np.random.Generator, x: Tensor, exponent: int = 0) -> tuple[Precision, bool]:
    """A precision, in whose results this exponent has room, and whether these are float64."""
    precision: Precision = ("auto", "auto", "float32", "float64")[rng.integers(4)]
    if precision == "float32" and abs(exponent) > 100:
        precision = "float64"
    return precision, precision == "float64" or (precision == "auto" and x.dtype == torch.float64)


# ---- the steps ----
def mode_gram(rng: np.random.Generator) -> str:
    order = int(rng.integers(2, 6))
    given = draw(rng, sizes(rng, order, 30_000), scales=False)
    mode, center = int(rng.integers(order)), bool(rng.integers(2))
    precision, wide = precision_of(rng, given.x, given.exponent)
    (gram,) = run(rng, lambda x: (cpu().mode_gram(x, mode, center=center, precision=precision),), given.x)
    items = given.items - given.items.mean(-1, keepdims=True) if center else given.items
    flat = np.moveaxis(items, mode + 1, 1).reshape(len(items), items.shape[mode + 1], -1)
    exact, largest = flat @ flat.transpose(0, 2, 1), (given.items**2).reshape(len(items), -1).sum(1)
    close(gram, exact, 1e-13 if wide else 2e-6, f"{given.kind} mode {mode} center {center}", largest)
    return given.kind


def truncated_svd(rng: np.random.Generator) -> str:
    n, more = edge(rng, 320), edge(rng, 400)
    given = draw(rng, (n, more), ("float32", "float64"), scales=False)
    gram = given.items @ given.items.transpose(0, 2, 1)
    x = torch.from_numpy(gram).to(given.x.dtype)
    gram = x.double().numpy()
    rank = int(rng.integers(1, n + 1))
    precision, wide = precision_of(rng, x)
    values, vectors = run(rng, lambda x: cpu().truncated_svd(x, rank, precision=precision), strided(rng, x))
    what = f"{given.kind} {n} x {more} rank {rank} {precision}"
    orthonormal(vectors, what, 1e-12 if wide else 1e-5)
    exact = np.linalg.eigvalsh(gram)[:, ::-1]
    close(values**2, exact[:, :rank].clip(0), 1e-13 * n if wide else 1e-5, what, exact[:, 0])
    v = vectors.double().numpy()
    residual = gram @ v - v * np.einsum("bir,bij,bjr->br", v, gram, v, optimize=True)[:, None]
    close(torch.from_numpy(residual), 0 * residual, 1e-13 * n if wide else 2e-5, f"{what} residual", exact[:, 0])
    return given.kind


def project(items: np.ndarray, factor: np.ndarray, mode: int) -> np.ndarray:
    """`X x_n A_n^T` for items [B, I_1, ..., I_N] and a factor [B, I_n, R]."""
    moved = np.moveaxis(items, mode + 1, -1)
    product = moved.reshape(len(items), -1, moved.shape[-1]) @ factor
    return np.moveaxis(product.reshape(*moved.shape[:-1], -1), -1, mode + 1)


def core_contraction(rng: np.random.Generator) -> str:
    order = int(rng.integers(2, 6))
    given = draw(rng, sizes(rng, order, 20_000), scales=False)
    modes = sorted(rng.choice(order, int(rng.integers(0, order + 1)), replace=False).tolist())
    precision, wide = precision_of(rng, given.x, given.exponent)
    factors = [rng.normal(size=(len(given.x), given.x.shape[m + 1], int(rng.integers(1, 20)))) for m in modes]
    factors = [f / np.linalg.norm(f, axis=1, keepdims=True) for f in factors]
    torch_factors = [torch.from_numpy(f).to(torch.float64 if wide else torch.float32) for f in factors]
    exact = given.items
    for factor, mode in zip(torch_factors, modes, strict=True):
        exact = project(exact, factor.double().numpy(), mode)
    torch.set_num_threads(int(rng.integers(1, 4)))
    core = cpu().core_contraction(given.x, torch_factors, modes, precision=precision)
    norm = np.sqrt((given.items**2).reshape(len(exact), -1).sum(1))
    close(core, exact, 1e-13 if wide else 1e-5, f"{given.kind} modes {modes}", norm)
    return given.kind


def finish(rng: np.random.Generator) -> str:
    shape = int(rng.integers(1, 40)), int(rng.integers(1, 40))
    given = draw(rng, shape, ("float32", "float64"), scales=False)
    maps = given.x.abs().contiguous()
    size = None if rng.random() < 0.2 else (int(rng.integers(1, 90)), int(rng.integers(1, 90)))
    normalize = bool(rng.integers(2))
    (mine,) = run(rng, lambda x: (cpu().finish(x, size, normalize=normalize),), maps)
    exact = load("reference").finish(maps, size, normalize=normalize)
    tolerance = 1e-12 if maps.dtype == torch.float64 else 1e-5
    spread = maps.amax((1, 2)) - maps.amin((1, 2))
    posed = (spread > 1e-2 * maps.amax((1, 2))) | (not normalize)
    largest = torch.ones(len(maps)) if normalize else maps.amax((1, 2))
    if posed.any():
        close(mine[posed], exact[posed].numpy(), tolerance, f"{given.kind} {shape} to {size}", largest[posed].numpy())
    require(not normalize or (mine.min() >= 0 and mine.max() <= 1), "a normalised map leaves 0..1")
    return given.kind


# ---- the public functions ----
def tucker(rng: np.random.Generator) -> str:
    order = int(rng.integers(2, 6))
    shape = sizes(rng, order, 12_000)
    given = draw(rng, shape)
    rank = tuple(int(rng.integers(1, size + 1)) for size in shape)
    if rng.random() < 0.3:
        rank = tuple(r if rng.random() < 0.5 else size for r, size in zip(rank, shape, strict=True))
    precision, wide = precision_of(rng, given.x, given.exponent)
    function = tsm_fast.hosvd if rng.random() < 0.3 else tsm_fast.tucker
    options: dict[str, Any] = {"precision": precision, "sign": str(rng.choice(["u", "v"]))}
    if function is tsm_fast.tucker:
        options |= {"n_iter_max": int(rng.choice([1, 2, 5, 100])), "tol": float(rng.choice([0, 1e-4, 1e-2]))}

    def call(x: Tensor) -> tuple[Tensor, ...]:
        r = function(x, rank, backend="cpu", **options)
        last = r.errors.nan_to_num(nan=2.0).amin(1)
        return r.core, *r.factors, *r.singular_values, r.n_sweeps, r.converged, last

    results = run(rng, call, given.x, alone=function is tsm_fast.tucker)
    core, factors, values = results[0], results[1 : 1 + order], results[1 + order : 1 + 2 * order]
    what = f"{function.__name__} {given.kind} {tuple(given.x.shape)} rank {rank} {given.x.dtype} 2^{given.exponent}"
    what = f"{what} {options}"
    for n, factor in enumerate(factors):
        orthonormal(factor, f"{what} factor {n}", 1e-9 if wide else 1e-5)
    unit = core.double().numpy() * 2.0**-given.exponent
    exact = given.items
    for mode, factor in enumerate(factors):
        exact = project(exact, factor.double().numpy(), mode)
    norm = np.sqrt((given.items**2).reshape(len(exact), -1).sum(1))
    tolerance = DOUBLE_ERROR if wide else VALUE_ERROR
    close(torch.from_numpy(unit), exact, 2 * tolerance, f"{what} core", norm)
    for n, value in enumerate(values):
        slices = np.linalg.norm(np.moveaxis(exact, n + 1, 1).reshape(len(exact), exact.shape[n + 1], -1), axis=2)
        close(value.double() * 2.0**-given.exponent, slices, 2 * tolerance, f"{what} values {n}", norm)
    captured = (exact.reshape(len(exact), -1) ** 2).sum(1) / np.where(norm == 0, 1, norm) ** 2
    left = np.where(norm == 0, 0, 1 - captured).clip(0)
    error = results[-1].numpy()
    # Factors in float32 leave part of the item behind; what is reported comes from before they were rounded.
    off = np.abs(error**2 - left) > (1e-11 if wide else 3e-6)
    # What completes the factor of a singular value that is lost may catch a part of the item after the last sweep.
    for value in values:
        off &= (value.amin(1) > 1e-7 * value.amax(1)).numpy()
    if function is tsm_fast.tucker:
        off &= results[-2].numpy() | (options["n_iter_max"] == 1)  # else the least error need not be the last one's
    require(not off.any(), f"{what}: errors {error[off]} for {np.sqrt(left)[off]}")
    defaults = {"precision": precision, "sign": "u", "n_iter_max": 100, "tol": 1e-4}
    if options == defaults and given.exponent == 0 and given.kind in ("normal", "positive", "relu"):
        against_tensorly(given, rank, precision, wide)
    return given.kind


def against_tensorly(given: Input, rank: tuple[int, ...], precision: str, wide: bool) -> None:
    if any(r > np.prod(rank) // r for r in rank):
        return
    result = cpu().hooi(given.x[:2], rank, n_iter_max=100, tol=1e-4, sign="u", precision=precision)
    definitions.check(result, [definitions.decompose(torch.from_numpy(item), rank) for item in given.items[:2]], wide)


def matrices(rng: np.random.Generator) -> str:
    rows, columns = edge(rng, 320), edge(rng, 320)
    given = draw(rng, (rows, columns))
    rank = int(rng.integers(1, min(rows, columns) + 1))
    precision, wide = precision_of(rng, given.x, given.exponent)
    call = partial(tsm_fast.truncated_svd, rank=rank, precision=precision, backend="cpu")
    u, s, vh = run(rng, call, given.x, alone=False)
    what = f"truncated_svd {given.kind} {rows} x {columns} rank {rank} {given.x.dtype} 2^{given.exponent} {precision}"
    orthonormal(u, f"{what} U", 1e-9 if wide else 1e-5)
    orthonormal(vh.mT, f"{what} V", 1e-9 if wide else 1e-5)
    exact = np.linalg.svd(given.items, compute_uv=False)
    unit, tolerance = s.double() * 2.0**-given.exponent, DOUBLE_ERROR if wide else VALUE_ERROR
    close(unit, exact[:, :rank], tolerance, f"{what} values", exact[:, 0])
    again = torch.from_numpy(given.items).mT @ u.double()
    residual = again - vh.double().mT * unit[:, None]
    close(residual, np.zeros(residual.shape), 10 * tolerance, f"{what} residual", exact[:, 0])
    return given.kind


def maps(rng: np.random.Generator) -> str:
    if rng.random() < 0.2:
        shape = sizes(rng, 3, 120_000)
    else:
        h, w = int(rng.integers(1, 18)), int(rng.integers(1, 18))
        shape = edge(rng, 400), h, w
    given = draw(rng, shape)
    method = str(rng.choice(METHODS))
    options: dict[str, Any] = {}
    rank = None
    if method in ("tsm", "mtsm") and rng.random() < 0.4 and np.prod(shape) < 12_000:
        rank = tuple(int(rng.integers(1, size + 1)) for size in shape)
        options["rank"] = rank
    if "eigencam" in method:
        options["center"] = bool(rng.integers(2))
    if method == "eigencam":
        options["sign"] = str(rng.choice(["absmax", "sum", "u", "v"]))
    if method in ("multivec_eigencam", "mtsm"):
        options |= {"combine": str(rng.choice(["signed", "absolute"])), "sign": str(rng.choice(["u", "v"]))}
    options["relu"] = bool(rng.random() < 0.7)
    precision = str(rng.choice(["auto", "auto", "auto", "float64"]))
    function = getattr(tsm_fast, method)
    (mine,) = run(rng, lambda x: (function(x, precision=precision, backend="cpu", **options),), given.x)
    what = f"{method} {given.kind} {tuple(given.x.shape)} {given.x.dtype} 2^{given.exponent} {precision} {options}"
    require(mine.isfinite().all() and mine.min() >= 0 and mine.max() <= 1, f"{what}: not in 0..1")
    if rank is not None and any(r > np.prod(rank) // r for r in rank):
        return given.kind
    for item, map_ in zip(given.items[:3], mine[:3], strict=True):
        judge(item, map_.double().numpy(), method, rank, options, precision == "float64", what)
    return given.kind


def judge(
    item: np.ndarray, mine: np.ndarray, method: str, rank: Any, options: dict[str, Any], wide: bool, what: str
) -> None:
    """One normalised map beside its definition, where that is well posed."""
    center, combine = options.get("center", False), options.get("combine", "signed")
    sign = options.get("sign", "absmax" if method == "tsm" else "u")
    if not item.any():
        require(not mine.any(), f"{what}: a map of zeros is not zero")
        return
    peak = np.abs(item).max()
    item = item / peak
    _, values, _ = definitions.channel_vectors(item, method, rank, center)
    scale = np.linalg.norm(item)
    if values[0] <= 1e-6 * scale:  # nothing is left after centring
        return
    squares = (values / values[0]) ** 2
    counted = squares[:1] if method in ("eigencam", "tsm") else squares[squares > 1e-6]
    following = np.append(squares, 0)[1 : len(counted) + 1]
    gap = float(((counted - following) / counted).min()) if rank is None else 0.0
    if rank is not None and (method == "mtsm" or len(values) > 1):
        gap = float(((counted - following) / counted).min())
        truncation = definitions.decompose(torch.from_numpy(item), rank).gaps
        if min(truncation) <= GAP:
            return
    if gap <= GAP or values[0] <= 1e-5 * scale:
        return
    exact, tie = definitions.definition(item, method, rank, center, combine, sign, options["relu"])
    spread = exact.max() - exact.min()
    largest = np.abs(exact).max()
    if tie or spread <= 1e-3 * largest:
        return
    error = np.abs(mine - (exact - exact.min()) / spread).max()
    contrast = largest / spread
    allowed = (1e-7 if wide else MAP_ERROR[method]) * max(1.0, contrast)
    require(error <= allowed, f"{what}: map error {error:.1e}, allowed {allowed:.0e}, gap {gap:.1e}")


CALLS = {f.__name__: f for f in (mode_gram, truncated_svd, core_contraction, finish, tucker, matrices, maps)}
WEIGHTS = {"tucker": 3, "maps": 4, "matrices": 2, "truncated_svd": 2}


def cpu() -> Any:
    return load("cpu")


def one(seed: int, number: int) -> tuple[str, str]:
    """Call `number` of a seed: its name and the kind of its input. Raises what is wrong."""
    rng = np.random.default_rng([seed, number])
    weights = np.array([WEIGHTS.get(name, 1) for name in CALLS], dtype=float)
    name = str(rng.choice(list(CALLS), p=weights / weights.sum()))
    return name, CALLS[name](rng)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--calls", type=int, default=sys.maxsize)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one call")
    parser.add_argument("--keep-going", action="store_true", help="count what is wrong, do not stop at the first")
    arguments = parser.parse_args()
    if arguments.only is not None:
        print(one(arguments.seed, arguments.only))
        return 0
    done: Counter[str] = Counter()
    wrong, start, number = 0, time.monotonic(), 0
    while number < arguments.calls and time.monotonic() - start < arguments.seconds:
        try:
            done[one(arguments.seed, number)[0]] += 1
        except Exception as error:
            wrong += 1
            where = traceback.format_exc() if not isinstance(error, Wrong) else ""
            print(f"--seed {arguments.seed} --only {number}: {error} {where}", flush=True)
            if not arguments.keep_going:
                return 1
        number += 1
    counts = ", ".join(f"{name} {count}" for name, count in sorted(done.items()))
    print(f"SIMD level {_cpu.simd_level()}, seed {arguments.seed}: {number} calls, {wrong} wrong ({counts})")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
