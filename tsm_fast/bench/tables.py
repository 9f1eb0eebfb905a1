"""A run as text: for a terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log, prod
from typing import Any, NamedTuple

from ..readable import counted, digits, duration
from .cases import Case, case_of, cost
from .machine import BUSY
from .works import OURS

Row = dict[str, Any]

VERDICTS = {"same": "", "less": "less accurate", "wrong": "WRONG"}
HEADER = ("", "ms an item", "20 % to 80 %", "of ours", "error", "extra MB", "")
WIDTHS = (22, 11, 20, 9, 8, 10)


class Line(NamedTuple):
    """A contender of a row, in texts."""

    name: str
    ms: str
    spread: str
    ratio: str
    error: str
    megabytes: str
    note: str


def label(row: Row) -> str:
    return case_of(row).label


def ours_of(row: Row) -> Row | None:
    """What was measured of our first contender; None where it was not."""
    found = row.get("contenders", {})
    return next((one for name, one in found.items() if name.startswith(OURS) and "ms" in one), None)


def best_peer(row: Row) -> tuple[str, float] | None:
    """Of those that are as accurate as we promise to be: the quickest, and its time over ours."""
    ratios = {
        name: one["ratio"]["p50"]
        for name, one in row.get("contenders", {}).items()
        if one.get("verdict") == "same" and "ratio" in one
    }
    return min(ratios.items(), key=lambda pair: pair[1]) if ratios else None


def behind(rows: Sequence[Row]) -> list[tuple[Row, str, float]]:
    """The rows in which a peer of our accuracy is quicker."""
    found = ((row, best_peer(row)) for row in rows)
    return [(row, *best) for row, best in found if best is not None and best[1] < 1]


def faults(rows: Sequence[Row]) -> list[str]:
    """Where ours raised, or is off by more than promised."""
    found = [f"{label(row)}: {row['failed']}" for row in rows if "failed" in row]
    for row in rows:
        for name, one in row.get("contenders", {}).items():
            if name.startswith(OURS) and "failed" in one:
                found.append(f"{label(row)}, {name}: {one['failed']}")
            elif name.startswith(OURS) and one.get("verdict", "same") != "same":
                found.append(f"{label(row)}, {name}: an error of {one['error']:.1e} ({one['of']}), more than allowed")
    return found


def lines(row: Row) -> Iterator[Line]:
    for name, one in row.get("contenders", {}).items():
        if "failed" in one:
            yield Line(name, "", "", "", "", "", f"failed: {one['failed']}")
            continue
        notes = [VERDICTS[one["verdict"]]] if one.get("verdict", "same") != "same" else []
        notes += [f"on {one['items']} of {row['batch']}"] if one["few"] else []
        notes += [counted(one["rounds"], "round")] if one["rounds"] < 5 else []
        yield Line(
            name,
            digits(one["ms"]["p50"]),
            f"{digits(one['ms']['p20'])} to {digits(one['ms']['p80'])}",
            times(one["ratio"]["p50"]) if "ratio" in one else "",
            f"{one['error']:.0e}" if "error" in one else "",
            "" if one["megabytes"] is None else digits(one["megabytes"]) if one["megabytes"] >= 0.1 else "0",
            ", ".join(notes),
        )


def times(ratio: float) -> str:
    return f"{float(format(ratio, '.3g')):,.10g}x"


def share(row: Row) -> str:
    """What ours makes of the machine."""
    if "limit" not in row:
        return ""
    what = {"flops": "arithmetic", "bandwidth": "memory"}[row["limit"]["by"]]
    return f"{row['limit']['share']:.0%} of the {what} limit"


def outcome(row: Row) -> str:
    """What a row comes to, in a line."""
    if "failed" in row:
        return f"failed: {row['failed']}"
    if "left_out" in row:
        return f"left out: {row['left_out']}"
    best = best_peer(row)
    against = [] if best is None else [f"{times(best[1])} against {best[0]}"]
    return ", ".join([*against, *filter(None, [share(row)])])


def text(row: Row) -> str:
    """A row for a terminal."""
    out = [f"{label(row)}: {outcome(row)}"]
    for line in lines(row):
        *cells, note = line
        name, *numbers = (cell for cell in cells)
        widths = WIDTHS[1:]
        padded = "".join(f"{cell:>{width}}" for cell, width in zip(numbers, widths, strict=True))
        out.append(f"  {name:<{WIDTHS[0]}}{padded}  {note}".rstrip())
    return "\n".join(out)


def header() -> str:
    padded = "".join(f"{cell:>{width}}" for cell, width in zip(HEADER[1:], WIDTHS[1:], strict=False))
    return f"  {'':<{WIDTHS[0]}}{padded}"


def summary(run: dict[str, Any]) -> list[str]:
    """What a run comes to: the machine, its limits, peers that are absent, and where we are behind."""
    said = [machine(run)]
    for threads, most in run["limits"].items():
        count = f" with {counted(int(threads), 'thread')}" if threads != "0" else ""
        said.append(
            f"limits{count}: {most['flops'] / 1e9:,.0f} GFLOP/s by {most['flops_by']}, "
            f"{most['bandwidth'] / 1e9:,.1f} GB/s by {most['bandwidth_by']}"
        )
    said += [f"absent: {name}, {reason}" for name, reason in run["absent"].items() if not reason.startswith("is for")]
    slower = behind(run["rows"])
    compared = sum(best_peer(row) is not None for row in run["rows"])
    said.append(f"behind a peer of the same accuracy in {len(slower)} of {counted(compared, 'row')}")
    said += [f"  {label(row)}: {name} takes {times(ratio)} our time" for row, name, ratio in slower]
    if not run["complete"]:
        said.append("this run was interrupted: rows are missing")
    return said + doubts(run)


def doubts(run: dict[str, Any]) -> list[str]:
    """Why the times of a run are not to be quoted."""
    found = ["few and short rounds (--quick): to look, not to quote"] if run["quick"] else []
    if (run["others"] or 0) > BUSY:
        found.append(
            "other processes kept this machine busy, which slows peers with threads more than us: measure again on a "
            "quiet one before you quote"
        )
    return found


def machine(run: dict[str, Any]) -> str:
    m = run["machine"]
    versions = m["versions"]
    names = {"python": "Python", "torch": "torch", "numpy": "NumPy", "tensorly": "TensorLy"}
    known = ", ".join(f"{title} {versions[name]}" for name, title in names.items() if name in versions)
    gpu = f"{m['gpu']}, " if "gpu" in m else ""
    busy = "" if run["others"] is None else f" Other processes used {run['others']:.1%} of the CPUs' time."
    return (
        f"{gpu}{m['cpu']}, {m['cores']} cores, {counted(m['threads'], 'thread')}, {m['backend']}; {known}; "
        f"{run['date']}.{busy}"
    )


def markdown(run: dict[str, Any]) -> str:
    """Every row."""
    said = "\n".join(f"- {line.strip()}" for line in summary(run)[1:])
    head = (
        f"# Measurements\n\n{machine(run)} Made by `{run['command']}` in {duration(run['seconds'])}.\n\n{said}\n\n"
        "Milliseconds an item: median, 20 % and 80 % quantiles. Contenders take turns round by round; a ratio is the "
        "median over the rounds of their time to ours. An error is the largest difference from float64, in units of "
        "the largest value; `less accurate` is more than we promise, `WRONG` another result.\n\n"
    )
    cells = []
    for row in run["rows"]:
        cells.append([f"**{label(row)}**", *[""] * 5, outcome(row)])
        cells += [list(line) for line in lines(row)]
    return head + table(list(HEADER), cells) + "\n" + data(run)


def data(run: dict[str, Any]) -> str:
    """Where the numbers come from."""
    origins = dict.fromkeys((row["shape"].replace(":", " "), row["origin"]) for row in run["rows"] if row.get("origin"))
    return "## Data\n\n" + table(["shape", "origin"], [list(pair) for pair in origins])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def growth(rows: Sequence[Row], dimension: str) -> list[tuple[str, str, str, str, str]]:
    """How time grows with a dimension: its size, milliseconds, and the powers measured and expected since the last."""
    found: list[tuple[str, str, str, str, str]] = []
    last: tuple[float, float, float] | None = None
    for row in rows:
        ours = ours_of(row)
        if ours is None:
            continue
        case = case_of(row)
        size, each = extent(case, dimension), ours["ms"]["p50"]
        whole = each * case.batch if dimension == "batch" else each
        least = cost(case, row.get("sweeps") or 0).flop * (case.batch if dimension == "batch" else 1)
        powers = ["", ""]
        if last is not None and last[0] != size:
            step = log(size / last[0])
            powers = [f"{log(whole / last[1]) / step:.2f}", f"{log(least / last[2]) / step:.2f}" if least else ""]
            if dimension == "threads":
                powers[1] = "-1.00"
        found.append((f"{size:g}", digits(each), digits(whole), powers[0], powers[1]))
        last = size, whole, least
    return found


def powers(rows: Sequence[Row], dimension: str) -> tuple[float, float | None] | None:
    """The power of a dimension that a call's time grows by over all its sizes, and that of the operations."""
    points = []
    for row in rows:
        ours, case = ours_of(row), case_of(row)
        if ours is not None:
            many = case.batch if dimension == "batch" else 1
            flop = many * cost(case, row.get("sweeps") or 0).flop / (case.threads or 1)
            points.append((log(extent(case, dimension)), log(many * ours["ms"]["p50"]), log(flop) if flop else None))
    if len({x for x, *_ in points}) < 2:
        return None
    expected = [(x, y) for x, _, y in points if y is not None]
    return _slope([(x, y) for x, y, _ in points]), _slope(expected) if len(expected) == len(points) else None


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line through some points, by least squares."""
    middle = [sum(values) / len(points) for values in zip(*points, strict=True)]
    across = [(x - middle[0], y - middle[1]) for x, y in points]
    return sum(x * y for x, y in across) / sum(x * x for x, _ in across)


def extent(case: Case, dimension: str) -> float:
    """The size of a dimension."""
    sides = case.sides
    if dimension == "S" and case.work in ("eigh", "eigenpairs"):
        return sides[0]
    return {
        "C": sides[0],
        "S": prod(sides[1:]),
        "batch": case.batch,
        "rank": (case.rank or (1,))[0],
        "threads": case.threads or 1,
    }[dimension]
