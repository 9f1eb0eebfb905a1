"""Traffic and arithmetic of every launch of both GPU backends beside the limits of an H200: counted, not measured.

`python -m benchmarks.gpu_predictions` writes the tables into results/gpu_predictions.md, and what both backends make of
each call into docs/gpu.md. Those of Triton come from the same launches
that `benchmarks.kernel_resources` compiles, those of CUDA from `benchmarks.cuda_predictions`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path

from benchmarks import cuda_predictions
from benchmarks.h200 import HEAD, Cost, rounded, row, totals
from benchmarks.kernel_resources import BATCH, SHAPES, Launch, calls, launches_of

ROOT = Path(__file__).resolve().parent.parent
PAGE, SHORT = ROOT / "benchmarks" / "results" / "gpu_predictions.md", ROOT / "docs" / "gpu.md"
END = "<!-- end of predictions -->"
A_RESIZED_ENTRY = 120  # instructions

# Counts that depend on the data, taken as real features show them.
SQUARINGS, JACOBI_SWEEPS, HOOI_SWEEPS, LANCZOS_STEPS = 5, 8, 5, 12


def cost(launch: Launch) -> Cost:
    """Per item of the batch. A launch for the items that need a second pass is taken to find none."""
    if launch.arguments.get("only") is not None:
        return Cost({"HBM": 1.0})
    return Cost(_COSTS[launch.name](launch))


def _gram(launch: Launch) -> dict[str, float]:
    a = launch.arguments
    n, depth, side, step = a["n"], a["depth"], a["N"], a["K"]
    blocks = ceil(n / side)
    operations = blocks * (blocks + 1) * side * side * ceil(depth / step) * step
    unit = "float64 matrix" if a["WIDE"] else "TF32"
    triple = 3 if a["INPUT_PRECISION"] == "tf32x3" and not a["WIDE"] else 1
    return {"HBM": n * depth * a["matrix"].element_size() + 8 * n * n, unit: triple * operations}


def _leading(launch: Launch) -> dict[str, float]:
    n, side = launch.arguments["n"], launch.arguments["N"]
    return {"HBM": 8 * n * (n + 1), "float64 matrix": (SQUARINGS + 1) * 2 * side**3}


def _rounds(side: int) -> dict[str, float]:
    """Jacobi: in a round both tiles are exchanged and turned, and three sums over a tile taken."""
    rounds = JACOBI_SWEEPS * (side - 1)
    return {"shared memory": rounds * 2 * 2 * 8 * side**2, "float64 vector": rounds * 12 * side**2}


def _jacobi(launch: Launch) -> dict[str, float]:
    n, rank, side = (launch.arguments[name] for name in ("n", "rank", "N"))
    return {"HBM": 8 * n * (n + rank), **_rounds(side)}


def _sweeps(launch: Launch) -> dict[str, float]:
    a = launch.arguments
    h, w, pq = a["H"], a["W"], a["P"] * a["Q"]
    s = a["height"] * a["width"]
    products = 2 * (h * w) ** 2 * pq * 3 + 2 * h * w * pq**2 * 2
    parts = [_rounds(side) for side in (pq, h, w)]
    together = {name: HOOI_SWEEPS * sum(part[name] for part in parts) for name in parts[0]}
    return {"HBM": 8 * s * (s + 2 * a["rank_1"]), "float64 matrix": HOOI_SWEEPS * products, **together}


def _contraction(launch: Launch) -> dict[str, float]:
    a = launch.arguments
    rows, size, rank = a["rows"], a["size"], a["rank"]
    padded = ceil(rows / a["Q"]) * a["Q"] * ceil(size / a["K"]) * a["K"] * ceil(rank / a["R"]) * a["R"]
    moved = rows * size * a["x"].element_size() + 8 * (size * rank + rows * rank)
    return {"HBM": moved, "float64 matrix": 2 * padded}


def _product(launch: Launch) -> dict[str, float]:
    a = launch.arguments
    rows, depth, columns = a["rows"], a["depth"], a["columns"]
    padded = ceil(rows / a["ROWS"]) * a["ROWS"] * ceil(depth / a["D"]) * a["D"] * ceil(columns / a["R"]) * a["R"]
    moved = rows * depth * a["matrix"].element_size() + 8 * depth * columns
    return {"HBM": moved, "float64 matrix": 2 * padded}


def _reduce(launch: Launch) -> dict[str, float]:
    n, side = launch.arguments["n"], launch.arguments["N"]
    return {"HBM": 3 * 8 * n * n, "L2": 8 * n**3, "float64 vector": 3 * n * n * side}


def _lanczos(launch: Launch) -> dict[str, float]:
    n, side, steps = launch.arguments["n"], launch.arguments["N"], launch.arguments["K"]
    passes = 1 + LANCZOS_STEPS
    operations = passes * 2 * n * side + LANCZOS_STEPS * 8 * steps * side
    return {
        "HBM": 8 * n * n,
        "L2": passes * 8 * n * n + LANCZOS_STEPS**2 * 4 * n,
        "float64 matrix": 3 * (SQUARINGS + 1) * 2 * steps**3,
        "float64 vector": operations,
    }


def _bisect(launch: Launch) -> dict[str, float]:
    n, rank = launch.arguments["n"], launch.arguments["rank"]
    lanes = ceil(rank / launch.arguments["R"]) * launch.arguments["R"]
    return {"HBM": 16 * n, "float64 vector": 58 * n * lanes * 20}  # a division is 16 operations


def _inverse(launch: Launch) -> dict[str, float]:
    n, rank = launch.arguments["n"], launch.arguments["rank"]
    return {"L2": 8 * n * rank * (6 + 2 * 4 + 3 * 6), "float64 vector": n * rank * 90}


def _back(launch: Launch) -> dict[str, float]:
    n, rank, side = (launch.arguments[name] for name in ("n", "rank", "N"))
    blocks = ceil(rank / launch.arguments["R"])
    return {"HBM": 16 * n * rank, "L2": 8 * n * n * blocks, "float64 vector": 4 * n * side * blocks * 16}


def _orthonormalize(launch: Launch) -> dict[str, float]:
    n, rank = launch.arguments["n"], launch.arguments["rank"]
    return {"HBM": 16 * n * rank, "L2": 8 * n * rank * rank * 5, "float64 vector": 4 * n * rank * rank}


def _finish(launch: Launch) -> dict[str, float]:
    a = launch.arguments
    made = a["rows"] * a["columns"]
    work = {"float64 vector": 2 * 14 * made, "instructions": A_RESIZED_ENTRY * made}
    return {"HBM": 4 * (a["height"] * a["width"] + made), **work}


_COSTS: dict[str, Callable[[Launch], dict[str, float]]] = {
    "gram_kernel": _gram,
    "leading_kernel": _leading,
    "jacobi_kernel": _jacobi,
    "sweeps_kernel": _sweeps,
    "contraction_kernel": _contraction,
    "extremes_kernel": _product,
    "absolute_kernel": _product,
    "lanczos_kernel": _lanczos,
    "reduce_kernel": _reduce,
    "bisect_kernel": _bisect,
    "inverse_kernel": _inverse,
    "back_kernel": _back,
    "orthonormalize_kernel": _orthonormalize,
    "finish_kernel": _finish,
}


def tables() -> str:
    """Two Markdown tables of the Triton backend: every call on every shape, and its launches."""
    calls_of, single = [], []
    for shape in SHAPES:
        for name in calls(shape):
            launches = launches_of(name, shape)
            costs = [cost(launch) for launch in launches]
            calls_of.append((shape, name, costs, " + eigh" if _uses_library(name, shape) else ""))
            label = "x".join(map(str, shape))
            single += [_row(label, name, launch, each) for launch, each in zip(launches, costs, strict=True)]
    return totals(calls_of) + "\n" + "\n".join([*HEAD, *dict.fromkeys(single)]) + "\n"


def _uses_library(name: str, shape: Sequence[int]) -> bool:
    return min(shape[0], shape[1] * shape[2]) > 256 and not name.startswith("finish")


def _row(label: str, name: str, launch: Launch, each: Cost) -> str:
    if launch.arguments.get("only") is not None:
        return f"| {label} | {name} | {launch.name}, second pass | 0 | 0 | no item needs it | 0 |"
    return row(label, name, launch.name, each)


def page() -> str:
    """The page of the results with its tables made anew."""
    text = PAGE.read_text()
    for backend, made in (("cuda", cuda_predictions.tables(SHAPES)), ("triton", tables())):
        text = _between(text, backend, made)
    return text


def short() -> str:
    """docs/gpu.md with its table made anew: each call on each shape, by both backends."""
    lines = ["| features | call | `cuda`, µs an image | `triton`, µs an image |", "| --- | --- | --- | --- |"]
    for shape in SHAPES:
        compiled = cuda_predictions.launches(shape[0], shape[1] * shape[2])
        for name in [name for name in calls(shape) if name in compiled]:
            costs = [cost for _, cost in compiled[name]], [cost(launch) for launch in launches_of(name, shape)]
            seconds = [rounded(1e6 * sum(each.limit()[1] for each in made)) for made in costs]
            library = " + library" if _uses_library(name, shape) and name == "mtsm" else ""
            cells = ["x".join(map(str, shape)), name, *(f"{each}{library}" for each in seconds)]
            lines.append(f"| {' | '.join(cells)} |")
    return _between(SHORT.read_text(), "both", "\n".join(lines) + "\n")


def _between(text: str, backend: str, made: str) -> str:
    begin = f"<!-- predictions of {backend}: written by benchmarks/gpu_predictions.py -->\n"
    before, rest = text.split(begin)
    return before + begin + "\n" + made + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page())
    SHORT.write_text(short())
    print(f"{PAGE}: predictions for {len(SHAPES)} shapes, {BATCH} images a batch")
