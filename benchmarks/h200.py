"""An H200 as the predictions see it: what it moves and multiplies a second, and how tables show that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

SMS, CLOCK = 132, 1.755e9
SHARED_BYTES, REGISTERS = 228 * 1024, 65536  # of a multiprocessor

# The copy was measured elsewhere; the others are the vendor's, at the clock under load, or, for the L2 cache, an
# assumption.
RATES = {
    "HBM": 4.3e12,  # bytes/s
    "L2": 5.5e12,
    "shared memory": SMS * 128 * CLOCK,
    "TF32": 395e12,  # operations/s on matrix units
    "float64 matrix": SMS * 256 * CLOCK,
    "float64 vector": SMS * 128 * CLOCK,
    "conversions": SMS * 16 * CLOCK,  # of float32 to float64
    "instructions": SMS * 128 * CLOCK,  # of a thread each
}


class Cost(NamedTuple):
    """What one item takes of each resource, padding and repeated products counted, and where nothing else runs."""

    amounts: dict[str, float]  # bytes or operations; "chain": seconds of a multiprocessor, see `chain`
    pause: float = 0  # seconds an item that nothing hides

    def seconds(self) -> dict[str, float]:
        return {resource: amount / RATES.get(resource, 1) for resource, amount in self.amounts.items()}

    def limit(self) -> tuple[str, float]:
        seconds = self.seconds()
        resource = max(seconds, key=seconds.__getitem__)
        return resource, seconds[resource] + self.pause


def blocks(registers: int, threads: int, shared: int) -> int:
    """How many blocks a multiprocessor holds."""
    return max(1, min(REGISTERS // (registers * threads), SHARED_BYTES // (shared + 1024), 2048 // threads, 32))


def chain(cycles: float, blocks: int) -> float:
    """Seconds an item whose steps wait for each other, `blocks` items at a time on each multiprocessor."""
    return cycles / CLOCK / SMS / blocks


HEAD = (
    "| features | call | kernel | traffic, kB | operations, M | limit | predicted, µs |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)


def totals(calls: Sequence[tuple[Sequence[int], str, Sequence[Cost], str]]) -> str:
    """A Markdown table of calls: shape, name, cost of each launch, and what a library adds."""
    lines = [
        "| features | call | one read of the features, µs | predicted, µs an image | images/s | launches |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for shape, name, costs, library in calls:
        label, read = "x".join(map(str, shape)), 4 * shape[0] * shape[1] * shape[2] / RATES["HBM"]
        seconds = sum(each.limit()[1] for each in costs)
        rate = "" if library else f"{rounded(1e-6 / seconds)} M"
        predicted = rounded(seconds * 1e6) + library
        lines.append(f"| {label} | {name} | {read * 1e6:.3f} | {predicted} | {rate} | {len(costs)} |")
    return "\n".join(lines) + "\n"


def row(label: str, name: str, kernel: str, each: Cost) -> str:
    resource, seconds = each.limit()
    traffic = each.amounts.get("HBM", 0.0) + each.amounts.get("L2", 0.0)
    operations = sum(
        amount for kind, amount in each.amounts.items() if kind in ("TF32", "float64 matrix", "float64 vector")
    )
    cells = [label, name, kernel, rounded(traffic / 1e3), rounded(operations / 1e6), resource]
    return f"| {' | '.join(cells)} | {rounded(seconds * 1e6)} |"


def rounded(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else f"{number:,.0f}"
