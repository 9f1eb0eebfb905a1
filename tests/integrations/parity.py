"""Random calls of our `partial_tucker` beside TensorLy's: orders 2 to 5, feasible and infeasible ranks, every start.

    python -m tests.integrations.parity --calls 10000 --out benchmarks/results      # --seed for others

The counts go into `tensorly_parity.json`. Shapes are always the same. Sweeps, errors and subspaces are too, or one of
these rules says why not:

    gap           a singular value that is kept and the next one differ by less than 1e-3 of the largest
    float32 error TensorLy takes the error as a difference of squares in float32, which knows nothing below 1e-3
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy, as in conftest.py

import numpy as np
import torch
from tensorly.decomposition import partial_tucker as theirs

from tsm_fast import multi_mode_dot, unfold
from tsm_fast.integrations.tensorly import partial_tucker as ours

TOL = 1e-4


def low_rank(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    x = np.zeros(shape)
    for _ in range(2):
        term = np.ones(())
        for size in shape:
            term = np.multiply.outer(term, rng.normal(size=size))
        x += term
    return x


KINDS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "positive": lambda rng, shape: np.maximum(rng.normal(size=shape), 0) + 0.1 * rng.random(shape),
    "small numbers": lambda rng, shape: rng.integers(1, 4, shape).astype(float),
    "low rank": low_rank,
}


class Call(NamedTuple):
    rule: str  # "same", or that by which it differs
    order: int
    dtype: str
    start: str  # svd, random or factors
    ranks: str  # feasible or infeasible
    modes: str  # all or some


def one(seed: int, number: int) -> Call:
    """Call `number` of a seed; AssertionError where the results differ by no rule."""
    rng = np.random.default_rng([seed, number])
    order = int(rng.integers(2, 6))
    shape = tuple(int(n) for n in rng.integers(1, 12 - 2 * order + (8 if order < 4 else 4), order))
    x = KINDS[str(rng.choice(list(KINDS)))](rng, shape)
    x = x.astype(str(rng.choice(["float64", "float64", "float32"])))
    modes = [mode for mode in range(order) if rng.random() < 0.8] if rng.random() < 0.4 else list(range(order))
    modes = modes or [0]
    rank = [int(rng.integers(1, shape[mode] + 1)) for mode in modes]
    init: Any = str(rng.choice(["svd", "svd", "random", "factors"]))
    if init == "factors":
        init = [rng.normal(size=(shape[mode], r)).astype(x.dtype) for mode, r in zip(modes, rank, strict=True)]
    options = {"modes": modes, "n_iter_max": int(rng.choice([1, 2, 5, 100])), "tol": TOL, "random_state": 7}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (core, factors), errors = theirs(x.copy(), rank, init=_copied(init), **options)
        (mine, found), said = ours(x, rank, init=_copied(init), **options)
    what = f"call {number}: {shape} {x.dtype} rank {rank} {options} {init if isinstance(init, str) else 'factors'}"
    assert mine.shape == core.shape, what
    assert [f.shape for f in found] == [f.shape for f in factors], what
    assert mine.dtype == x.dtype, what
    assert all(type(error) is type(other) for error, other in zip(said, errors, strict=False)), what
    kept = prod(shape) // prod(shape[mode] for mode in modes)
    feasible = all(r * r <= prod(rank) * kept for r in rank)
    call = Call(
        "same",
        order,
        x.dtype.name,
        init if isinstance(init, str) else "factors",
        "feasible" if feasible else "infeasible",
        "all" if len(modes) == order else "some",
    )
    gap = min(gaps(x, factors, modes))
    rounding, close = (1e-7, 1e-6) if x.dtype == np.float64 else (2e-3, 1e-3)
    common = min(len(said), len(errors))
    apart = np.abs(np.square(said[:common], dtype=float) - np.square(errors[:common], dtype=float)).max()
    projectors = max(np.abs(a @ a.T - b @ b.T).max() for a, b in zip(found, factors, strict=True))
    if len(said) == len(errors) and apart < rounding and projectors < close:
        return call
    if gap < 1e-3:
        return call._replace(rule="gap")
    assert x.dtype == np.float32, f"{what}: sweeps {len(said)} {len(errors)}, {apart:.1e}, {projectors:.1e}, {gap:.1e}"
    assert apart < 1e-4 and projectors < 0.1, what  # noqa: PT018
    return call._replace(rule="float32 error")


def gaps(x: np.ndarray, factors: list[np.ndarray], modes: list[int]) -> list[float]:
    """For each mode, how far the last singular value kept is from the next, and from 0, relative to the largest."""
    found = [1.0]
    for index, (mode, factor) in enumerate(zip(modes, factors, strict=True)):
        kept = [i for i in range(len(modes)) if i != index]
        projected = torch.from_numpy(x).double()[None]
        matrices = [torch.from_numpy(factors[i]).double() for i in kept]
        if kept:
            projected = multi_mode_dot(projected, matrices, [modes[i] for i in kept], transpose=True)
        values = np.linalg.svd(unfold(projected, mode)[0].numpy(), compute_uv=False)
        r = min(factor.shape[1], len(values))
        after = values[r] if r < len(values) else 0.0
        if r < min(len(factor), len(values)) or factor.shape[1] < len(factor):
            found.append(float((values[r - 1] - after) / values[0]))
    return found


def _copied(init: Any) -> Any:
    return init if isinstance(init, str) else [factor.copy() for factor in init]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a folder for tensorly_parity.json")
    given = parser.parse_args()
    calls = [one(given.seed, number) for number in range(given.calls)]
    found = {
        "calls": given.calls,
        "seed": given.seed,
        "date": date.today().isoformat(),
        "versions": {name: version(name) for name in ("torch", "numpy", "tensorly")},
        "rules": dict(Counter(call.rule for call in calls).most_common()),
        "unexplained": 0,  # one would have ended the run
        "by": {
            field: {
                str(value): dict(Counter(call.rule for call in calls if getattr(call, field) == value).most_common())
                for value in sorted({getattr(call, field) for call in calls})
            }
            for field in Call._fields[1:]
        },
    }
    print(json.dumps(found, indent=1))
    if given.out:
        (given.out / "tensorly_parity.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
