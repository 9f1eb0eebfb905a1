"""Traffic, arithmetic and chains of dependent steps of the CUDA kernels on an H200: counted, not measured.

Registers and shared memory, which say how many blocks are on a multiprocessor at a time, are those of
benchmarks/results/kernel_resources.json. float32 features; every item has its proof, so that the launches for those
without one, which leave all others alone, count for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from math import ceil

from benchmarks.cuda_resources import RESULTS
from benchmarks.h200 import HEAD, Cost, blocks, chain, rounded, row, totals

SHARED_LIMIT = 227 * 1024
RANK = (16, 4, 4)
# Features and call, and how many a second are wanted.
WANTED = (
    ((2048, 7, 7), "tsm", 5e6),
    ((2048, 7, 7), "all eigenpairs", 3e6),
    ((2048, 7, 7), "mtsm", 1.5e6),
    ((2048, 7, 7), f"hooi {RANK}", 1e6),
    ((1024, 14, 14), "tsm", 1.2e6),
    ((1024, 14, 14), "mtsm", 7e4),
)

# Counts that depend on the data, as real features show them: Lanczos steps are those of ResNet-50's layer 3, sweeps of
# QL those of a copy of its loop in NumPy (2530 to 2620 rotations at n = 49, 36 300 at 196).
SQUARINGS, LANCZOS_STEPS, HOOI_SWEEPS, SWEEPS_A_VALUE = 5, 5.1, 5, 2.0
# Cycles, estimated from the machine code of sm_90: eight dependent float64 operations, a reciprocal root and a select
# make a rotation; a pass over a column changes it, four loads before four stores, and sums what it becomes. Sweeps turn
# columns four at a time.
A_ROTATION, A_STEP_OF_A_SUM, A_STEP_OF_A_PASS, A_TURN, A_BARRIER = 145, 10, 30, 25, 50
SWEEPS_A_PASS = 4
# Of Jacobi: 106 instructions make a warp's rotations, two inverse roots after each other, 125 turn matrix and vectors.
A_ROUND = 560
COLD_SWEEPS, WARM_SWEEPS = {16: 6.75, 7: 5.25}, {16: 3.5, 7: 2.75}  # counted in NumPy, on made-up maps
AN_OUTPUT = 60  # of a product: its place, by divisions
A_FETCH = 700  # eight entries of X at once, from memory, and their products
A_SQUARING = 3500  # 14 products that wait for each other, four times, and the norm
A_ROW_OF_16_BITS = 32 * (107 / 16 + 270 / 64)  # instructions of threads, one warp a row, at 56 positions
A_LOAD = 650  # an entry from memory, and the store that waits for it: 49 of them after each other bring 32 rows
BETWEEN_STEPS = 27_000  # of Lanczos, all of an item: orthogonalisation and tridiagonal problems
# Of the reduction to tridiagonal form: a reflector, with a sum over a warp, a root and two divisions; the sums of
# columns, with three barriers; and of a round of rows, a group of them a warp: its sums and where it lies, and every 32
# columns, where a warp waits for what it loads.
A_REFLECTOR, THEIR_SUMS, A_ROUND_OF_ROWS, A_STRETCH = 650, 250, 200, 100
# Eigenvalues: halvings of what lies between the first counts, and a row of a count: instructions, and cycles of two
# products that wait for each other. A row of a factorisation waits for an inverse and three products.
BISECTIONS, A_COUNTED_ROW, A_FACTORISED_ROW = 52, (7.6, 25), 75
A_PANEL = 2000  # of reflectors: read from the L2 cache, solved with, and four barriers
A_RESIZED_ENTRY = 50  # instructions on sm_90: 11 to look for the extremes, 27 to write, and the weights of its row


@cache
def _resources(kernel: str) -> tuple[int, int]:
    """Registers and shared memory on sm_90."""
    rows = json.loads(RESULTS.read_text())["rows"]
    found = [r for r in rows if r["backend"] == "cuda" and r["kernel"] == kernel and r["arch"] == "sm_90"]
    return found[0]["registers"], found[0]["shared"] or 0


def _tiles(s: int) -> int:
    """Columns of eight that the kernels for up to 64 positions are compiled for."""
    return 4 if s <= 32 else 7 if s <= 56 else 8


def _fragments(tiles: int) -> int:
    """16 x 8 fragments on and above the diagonal of a matrix of 8 `tiles`."""
    return sum(tiles - 2 * i for i in range(ceil(tiles / 2)))


def _gram(c: int, s: int, leading: bool) -> Cost:
    tiles = _tiles(s)
    a_row = 2 * 128 * _fragments(tiles)
    operations = a_row * c + (SQUARINGS * a_row * 8 * tiles if leading else 0)
    amounts = {"HBM": 4.0 * c * s + 8 * (s if leading else s * s), "float64 matrix": operations}
    # Three blocks a multiprocessor: what one waits for in its squarings, the products of the others fill in part.
    pause = chain(SQUARINGS * A_SQUARING, 3) if leading else 0.0
    return Cost({**amounts, "conversions": 8.0 * tiles * c}, pause)


def _gram_columns(c: int, s: int) -> Cost:
    """Of channels that come last: from shared memory an access for every eight columns of four rows."""
    packed = _gram(c, s, True)
    return packed._replace(amounts={**packed.amounts, "shared memory": 4.0 * c * s + 128 * _tiles(s) * c / 4})


def _gram_entries(c: int, s: int) -> Cost:
    """Of strides that no copy by 16 bytes is for: four warps bring chunks of 32 rows entry by entry."""
    packed = _gram(c, s, True)
    return packed._replace(amounts={**packed.amounts, "chain": chain(ceil(c / 32) / 4 * s * A_LOAD, 3)})


def _gram16(c: int, s: int) -> Cost:
    """Of 16 bits, by a leading pair; two blocks a multiprocessor. Sums go to double once in 64 rows."""
    tiles = _tiles(s)
    squared = SQUARINGS * 2 * 128 * _fragments(tiles) * 8 * tiles
    amounts = {"HBM": 2.0 * c * s + 8 * s, "float64 matrix": squared, "instructions": A_ROW_OF_16_BITS * c}
    return Cost({**amounts, "conversions": 128.0 * _fragments(tiles) * c / 64}, chain(SQUARINGS * A_SQUARING, 2))


def _gram_tiles(n: int, depth: int) -> Cost:
    tiles = ceil(n / 64)
    count = tiles * (tiles + 1) // 2
    moved = count * 2 * 64 * depth * 4
    return Cost(
        {"HBM": 4.0 * n * depth + 8 * n * n, "L2": moved, "float64 matrix": count * 2 * 64 * 64 * 16 * ceil(depth / 16)}
    )


def leading_layout(c: int, s: int, columns: bool = False) -> tuple[int, int, int]:
    """As leading_large.cu lays float32 features out: chunks of rows, those that stay on chip, bytes used. `columns`: of
    channels that come last, copied by 16 bytes.
    """
    groups = next(16 // warps for warps in (1, 2, 4, 8, 16) if warps * 224 >= s)
    chunk = (groups * 2 * s * 4 + (16 * s if columns else 0) + 15) // 16 * 16
    chunks = ceil(c / (groups * 2))
    used = (2872 + 8 * (s + (ceil(groups / 2) * s if groups > 1 else 0)) + 15) // 16 * 16 + 3 * chunk
    vector = 8 * ceil(s / 2) * 2
    used += vector * min((SHARED_LIMIT - used) // vector, 14 * 1024 // (8 * s), 32)
    held = min((SHARED_LIMIT - used) // chunk, chunks)
    return chunks, min(chunks, held + 3), used + held * chunk


def _leading(c: int, s: int, columns: bool = False) -> Cost:
    """One block on a multiprocessor. Entries of a column lie in the same fourth of the banks where `columns`."""
    chunks, kept, _ = leading_layout(c, s, columns)
    reads = 1 + (LANCZOS_STEPS - 1) * (1 - kept / chunks)
    amounts = {"HBM": 4 * c * s * reads, "float64 vector": 4.0 * c * s}
    # The first read is in double; after it sums go there once in eight rows.
    if columns:
        amounts["shared memory"] = 4.0 * c * s * (reads + 4 * LANCZOS_STEPS)
    amounts["conversions"] = (1 + (LANCZOS_STEPS - 1) / 8) * chunks * 2 * 512 * 7
    return Cost(amounts, chain(BETWEEN_STEPS, 1))


def _leading_entries(c: int, s: int) -> Cost:
    """Of strides that no copy by 16 bytes is for: a block brings chunks entry by entry."""
    chunks, kept, _ = leading_layout(c, s)
    fetched = chunks + (LANCZOS_STEPS - 1) * (chunks - kept)
    a_chunk = ceil(ceil(c / chunks) * s / 512) * A_LOAD
    packed = _leading(c, s)
    return packed._replace(amounts={**packed.amounts, "chain": chain(fetched * a_chunk, 1)})


def _eigen_cycles(n: int) -> float:
    """Householder reduction, forming Q and implicit QL by a warp; two columns of a lane turn together."""
    passes = 2 * A_STEP_OF_A_PASS * sum(m * ceil(m / 32) for m in range(1, n))
    return passes + 10 * A_BARRIER * n + SWEEPS_A_VALUE * n * n / 2 * (A_ROTATION + A_TURN * _padding(n))


def _padding(n: int) -> float:
    """What sweeps that pass together take for each entry of one: they begin and end a row after each other."""
    return 1 + 2 * SWEEPS_A_PASS / n


def _eigen_accesses(n: int) -> float:
    """The same in accesses of 128 bytes to shared memory: those of a column by 16 lanes, those of all lanes to the same
    number by 32, and five of the lane that makes a rotation.
    """
    wide = sum(m * ceil(m / 16) for m in range(1, n))
    same = sum(m * ceil(m / 32) for m in range(1, n))
    turn = _padding(n) * (2 * ceil(n / 16) / SWEEPS_A_PASS + 1)
    return 4 * wide + 5 * same + SWEEPS_A_VALUE * n * n / 2 * (turn + 5)


def _eigen_operations(n: int) -> float:
    """The same in operations of all lanes, idle or not: seven instructions a step of both passes, twenty a rotation,
    and four a turn.
    """
    steps, warps = sum(m * ceil(m / 32) for m in range(1, n)), ceil(n / 32)
    return 64 * (7 * steps + SWEEPS_A_VALUE * n * n / 2 * (20 + 4 * _padding(n) * warps))


def _svd_small(n: int) -> Cost:
    registers, _ = _resources("svd_small_kernel<double>")
    amounts = {
        "HBM": 16.0 * n * n,
        "float64 vector": _eigen_operations(n),
        "shared memory": 128 * _eigen_accesses(n),
        "chain": chain(_eigen_cycles(n), blocks(registers, 32, 8 * n * (n | 1) + 100 * n + 300)),
    }
    return Cost(amounts)


def _stretches(n: int) -> int:
    """Stretches of 32 entries of the lower triangles that the steps of a reduction pass over."""
    return sum(ceil((i + 1) / 32) * (n - 1 - i) for i in range(n))


def _reduce(n: int) -> Cost:
    """Half the matrix in shared memory, of which a step changes every entry and multiplies it twice."""
    tiles, warps, rows = next(of for of in ((2, 1, 4), (4, 4, 4), (8, 8, 8)) if n <= 32 * of[0] or of[0] == 8)
    registers, _ = _resources(f"reduce_kernel<{tiles}>")
    steps, parts = range(1, n), (warps + 1) // 2
    stretches, columns = _stretches(n), sum(ceil(k / 32) for k in steps)
    groups = sum(ceil(k / rows) for k in steps)
    rounds = [left for k in steps for left in range(k, 0, -rows * warps)]  # rows that are still to be done
    # Of 32 entries: a load and a store of 256 bytes each. Beside them what every warp reads for the reflector, and the
    # sums of columns.
    moved = 512 * stretches + 256 * columns * (2 * warps + 4 * parts + 4) + 128 * groups * 3 * rows
    instructions = 32 * ((6 + 8 / rows) * stretches + (50 + 10 * rows) * groups + warps * (16 * columns + 150 * n))
    passes = max(moved / 128, A_STRETCH * sum(ceil(left / 32) for left in rounds))
    cycles = passes + (A_REFLECTOR + THEIR_SUMS) * n + A_ROUND_OF_ROWS * len(rounds) + A_FETCH * ceil(n / warps)
    at_once = blocks(registers, 32 * warps, 8 * (n * (n + 1) // 2 + (parts + 3) * n + warps + 34))
    amounts = {
        "HBM": 12.0 * n * n,
        "float64 vector": 32 * 2 * 4.0 * stretches,
        "shared memory": moved,
        "instructions": instructions,
        "chain": chain(cycles, at_once),
    }
    return Cost(amounts)


def _tridiagonal(n: int) -> Cost:
    """A thread a row: bisection, both factorisations, and what is tested; vectors come and go eight rows at a time."""
    registers, _ = _resources("tridiagonal_kernel")
    threads = 32 * ceil(n / 32)
    row = BISECTIONS * A_COUNTED_ROW[0] + 190
    cycles = n * (BISECTIONS * A_COUNTED_ROW[1] + 2 * A_FACTORISED_ROW + 6 * A_FETCH / 8)
    amounts = {
        "HBM": 8 * 8.5 * n * n,
        "float64 vector": 2.0 * threads * n * (BISECTIONS * 3.25 + 40),
        "instructions": threads * n * row,
        "chain": chain(cycles, blocks(registers, threads, 108 * n + 272)),
    }
    return Cost(amounts)


def _back(n: int) -> Cost:
    """32 vectors a block, by panels of 16 reflectors: read, multiplied by, solved with and taken off."""
    registers, _ = _resources("back_kernel")
    strips, panels = ceil(n / 32), [min(k + 15, n - 1) for k in range(1, n, 16)]
    products = strips * 4 * sum(3 * 2 * ceil(m / 8) / 2 + 4 * ceil(m / 16) for m in panels)  # of 16 x 8 x 4
    cycles = sum(A_PANEL + 70 * ceil(m / 8) + 60 * ceil(m / 16) for m in panels) + 2 * A_FETCH * ceil(n / 32)
    amounts = {
        "HBM": 8 * 2.5 * n * n,
        "L2": strips * 8.0 * sum(16 * m for m in panels),
        "float64 matrix": products * 1024,
        "chain": chain(strips * cycles, blocks(registers, 128, 8 * (56 * n + 1232))),
    }
    return Cost(amounts)


def _eigenpairs(n: int) -> list[tuple[str, Cost]]:
    if n <= 40:
        return [("svd_small_kernel", _svd_small(n))]
    return [("reduce_kernel", _reduce(n)), ("tridiagonal_kernel", _tridiagonal(n)), ("back_kernel", _back(n))]


def _extremes_small(c: int, s: int) -> Cost:
    tiles = _tiles(s)
    operations = 2 * ceil(c / 16) * 16 * 4 * ceil(s / 4) * 8 * tiles
    return Cost({"HBM": 4.0 * c * s + 8 * s * s, "float64 matrix": operations, "conversions": 4.0 * ceil(s / 4) * c})


def _extremes_tiles(c: int, s: int) -> Cost:
    tiles = ceil(s / 64)
    operations = 2 * 64 * ceil(c / 64) * 16 * ceil(s / 16) * 64 * tiles
    return Cost(
        {
            "HBM": 4.0 * c * s + 8 * s * s,
            "L2": tiles * 4 * c * s + ceil(c / 64) * 8 * s * s,
            "float64 matrix": operations,
        }
    )


def _combine(s: int) -> Cost:
    return Cost({"HBM": 8.0 * s * s})


def _sign(s: int) -> Cost:
    """By the entry of largest magnitude of the map, as EigenCAM takes it by default: the features are not read."""
    return Cost({"HBM": 12.0 * s})


def _project(c: int, s: int) -> Cost:
    return Cost({"HBM": 4.0 * c * s + 8 * c * c, "float64 vector": 2 * c * s})


def _finish(s: int, side: int) -> Cost:
    """The rows of the map made wide in shared memory, and two passes over the result; the second one writes. Weights in
    double: of columns once a row of the map, of rows by every lane of a warp.
    """
    entries, weights = side * side, side * (s**0.5 + 2 * 32)
    work = {"instructions": A_RESIZED_ENTRY * entries, "conversions": 4.5 * weights}
    return Cost({"HBM": 4.0 * (s + entries), "float64 vector": 14.0 * weights, **work})


def _jacobi_cycles(n: int, warm: bool) -> float:
    sweeps = WARM_SWEEPS if warm else COLD_SWEEPS
    there = 2 * (2 * A_BARRIER + n * A_STEP_OF_A_SUM * ceil(n * n / 128)) if warm else 0  # to the last basis
    return sweeps[n] * ((n + n % 2 - 1) * A_ROUND + 4 * A_BARRIER) + there


def _hooi(c: int, s: int) -> Cost:
    """Of maps whose side is the square root of s: eigenproblems by Jacobi; ten products a sweep, sums as long as the
    mode contracted; X times the weights, 16 rows a warp; four passes over A_1.
    """
    registers, shared = _resources("hooi_kernel<true>")
    side, rho, r = round(s**0.5), RANK[1] * RANK[2], RANK[0]
    problems = 2 * _jacobi_cycles(side, False) + _jacobi_cycles(rho, False)
    problems += (HOOI_SWEEPS - 1) * _jacobi_cycles(rho, True) + 2 * HOOI_SWEEPS * _jacobi_cycles(side, True)
    products = 10 * (2 * A_BARRIER + ceil(s * rho / 128) * (AN_OUTPUT + side * A_STEP_OF_A_SUM))
    last = ceil(c / 64) * ceil(s / 16) * A_FETCH + 4 * ceil(c * r / 128) * 150
    cycles = problems + HOOI_SWEEPS * products + last
    moved = 4.0 * c * s + 8 * s * s + 8 * 6 * c * r
    return Cost({"HBM": moved, "chain": chain(cycles, blocks(registers, 128, shared))})


def launches(c: int, s: int) -> dict[str, list[tuple[str, Cost]]]:
    """Kernels of each call and what an item costs."""
    small = s <= 64
    lead = ("gram_kernel", _gram(c, s, True)) if small else ("leading_large_kernel", _leading(c, s))
    found = {"tsm": [lead], "eigencam": [lead, ("sign_kernel", _sign(s))]}
    last = ("gram_columns_kernel", _gram_columns(c, s)) if small else (lead[0], _leading(c, s, columns=True))
    found["tsm, channels_last"] = [last]
    found["tsm, other strides"] = [(lead[0], _gram_entries(c, s) if small else _leading_entries(c, s))]
    if small:
        found["tsm, 16 bits"] = [("gram16_kernel", _gram16(c, s))]
        gram = ("gram_kernel", _gram(c, s, False))
        signs = ("extremes_small_kernel", _extremes_small(c, s))
        found["all eigenpairs"] = _eigenpairs(s)
        found["mtsm"] = [gram, *found["all eigenpairs"], signs, ("combine_positions_kernel", _combine(s))]
        found[f"hooi {RANK}"] = [gram, ("hooi_kernel", _hooi(c, s))]
    elif s <= 256:
        gram = ("gram_tile_kernel", _gram_tiles(s, c))
        signs = ("extremes_kernel", _extremes_tiles(c, s))
        found["all eigenpairs"] = _eigenpairs(s)
        found["mtsm"] = [gram, *found["all eigenpairs"], signs, ("combine_positions_kernel", _combine(s))]
    else:
        found["mtsm"] = [("gram_tile_kernel", _gram_tiles(c, s)), ("project_kernel", _project(c, s))]
    found["finish, 224x224"] = [("finish_kernel", _finish(s, 224))]
    return found


def tables(shapes: Sequence[tuple[int, int, int]]) -> str:
    """Three Markdown tables: what is wanted, every call on every shape, and its launches."""
    lines = ["| features | call | wanted, a second | predicted |", "| --- | --- | --- | --- |"]
    for (c, h, w), name, wanted in WANTED:
        seconds = sum(cost.limit()[1] for _, cost in launches(c, h * w)[name])
        lines.append(f"| {c}x{h}x{w} | {name} | {rounded(wanted / 1e6)} M | {rounded(1e-6 / seconds)} M |")
    calls, single = [], []
    for c, h, w in shapes:
        for name, made in launches(c, h * w).items():
            library = " + XsyevBatched" if name == "mtsm" and h * w > 256 else ""
            calls.append(((c, h, w), name, [cost for _, cost in made], library))
            single += [row(f"{c}x{h}x{w}", name, kernel, cost) for kernel, cost in made]
    return "\n".join([*lines, "", totals(calls), *HEAD, *dict.fromkeys(single)]) + "\n"
