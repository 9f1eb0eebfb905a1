"""A run as one HTML page: charts drawn as SVG, and every table; it needs nothing but itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from html import escape
from math import ceil, floor, log10
from typing import Any, NamedTuple

from ..pictures.page import render
from ..readable import digits, duration
from . import tables
from .cases import case_of, cost
from .works import OURS

Row = dict[str, Any]

WIDTH, HEIGHT = 400, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 22, 12, 44
LEAST_ERROR = 1e-10  # smaller ones are drawn there
KINDS = ("ours", "torch", "other")  # classes of points


class Point(NamedTuple):
    x: float
    y: float
    kind: str
    title: str


class Line(NamedTuple):
    points: Sequence[tuple[float, float]]
    kind: str
    title: str = ""
    dashed: bool = False


class Axis(NamedTuple):
    title: str
    low: float
    high: float


def html(run: dict[str, Any]) -> str:
    title = "tsm-fast bench"
    facts = [
        ("command", run["command"]),
        ("machine", tables.machine(run)),
        ("took", duration(run["seconds"]) + ("" if run["complete"] else "; interrupted, rows are missing")),
        ("limits", "; ".join(line.removeprefix("limits: ") for line in tables.summary(run) if "GFLOP/s" in line)),
        ("times", "milliseconds an item, medians; contenders take turns"),
        ("of ours", "their time over ours, the median over the rounds: above 1, tsm_fast is faster"),
        (
            "error",
            "largest difference from float64, in units of the largest value, checked before anything is timed; of "
            "decompositions, by how much more the tensor is missed; less accurate: above what tsm_fast promises",
        ),
        ("extra MB", "peak memory of a call beyond its input and output"),
        *(("note", doubt) for doubt in tables.doubts(run)),
    ]
    absent = {name: why for name, why in run["absent"].items() if not why.startswith("is for")}
    values = {
        "columns": 1,
        "charts": charts(run),
        "rows": [
            {
                "label": tables.label(row),
                "outcome": tables.outcome(row),
                "behind": bool(tables.behind([row])),
                "lines": list(tables.lines(row)),
            }
            for row in run["rows"]
        ],
        "header": tables.HEADER,
        "absent": absent,
        "complete": run["complete"],
    }
    subtitle = f"{len(run['rows'])} rows on {run['machine'].get('gpu') or run['machine']['cpu']}, {run['date']}"
    return render("tsm_fast.bench", "bench.html", title, subtitle, [], facts, values)


class Drawn(NamedTuple):
    title: str
    note: str
    svg: str


def charts(run: dict[str, Any]) -> list[Drawn]:
    """Those for which there are rows."""
    rows = [row for row in run["rows"] if tables.ours_of(row)]
    return [*roofline(run, rows), *accuracy(rows), *throughput(rows), *growth(rows)]


def roofline(run: dict[str, Any], rows: Sequence[Row]) -> list[Drawn]:
    """Operations a second against operations a byte: ours beneath what the machine can do."""
    points = []
    for row in rows:
        if row.get("flop"):
            seconds = tables.ours_of(row)["ms"]["p50"] / 1e3  # pyright: ignore[reportOptionalSubscript]
            rate = row["flop"] / seconds / 1e9
            note = f"{tables.label(row)}: {rate:,.3g} GFLOP/s, {tables.share(row)}"
            points.append(Point(row["flop"] / row["bytes"], rate, "ours", note))
    if not points:
        return []
    most = max(run["limits"].values(), key=lambda limits: limits["flops"])
    peak, band = most["flops"] / 1e9, most["bandwidth"] / 1e9
    x = Axis("operations a byte", *decades(*(p.x for p in points), peak / band))
    y = Axis("GFLOP/s", *decades(*(p.y for p in points), peak))
    roof = [(x.low, x.low * band), (peak / band, peak), (x.high, peak)]
    note = (
        f"Each point is a row of ours, the line what this machine can do: {band:,.3g} GB/s, then {peak:,.4g} GFLOP/s. "
        "Operations are those of the cheapest way known; what fits into a cache may lie above the slope."
    )
    return [Drawn("Roofline", note, chart(x, y, points, [Line(roof, "limit", "limit of this machine")]))]


def accuracy(rows: Sequence[Row]) -> list[Drawn]:
    """Errors against times, both beside ours."""
    points = []
    for row in rows:
        for name, one in row["contenders"].items():
            if "error" in one and "ms" in one:
                ratio = one["ratio"]["p50"] if "ratio" in one else 1.0
                error = min(max(one["error"], LEAST_ERROR), 10.0)
                note = f"{tables.label(row)}, {name}: {tables.times(ratio)} our time, error {one['error']:.1e}"
                points.append(Point(ratio, error, kind_of(name), note))
    if not points:
        return []
    x = Axis("time, as a multiple of ours", *decades(*(p.x for p in points)))
    y = Axis("error", *decades(*(p.y for p in points)))
    note = (
        "Down is more accurate, left is quicker: what lies left of 1 and as low as ours beats us. Errors below 1e-10 "
        "lie there."
    )
    one = Line([(1, y.low), (1, y.high)], "limit", "our time")
    return [Drawn("Accuracy against speed", note, chart(x, y, points, [one], KINDS))]


def throughput(rows: Sequence[Row]) -> list[Drawn]:
    """Items a second by batch size, of whatever was measured at three or more."""
    found = []
    for group in groups(rows, lambda row: case_of(row)._replace(batch=0)):
        group = sorted(group, key=lambda row: row["batch"])
        if len({row["batch"] for row in group}) < 3:
            continue
        names = [name for name in (OURS, "torch") if all("ms" in row["contenders"].get(name, {}) for row in group)]
        lines = [
            Line(
                [(row["batch"], 1e3 / row["contenders"][name]["ms"]["p50"]) for row in group],
                kind_of(name),
                name,
            )
            for name in names
        ]
        what = case_of(group[0]).label.replace(f", batch {group[0]['batch']}", "")
        found.append(Drawn(f"Throughput by batch: {what}", "", lined("batch", "items a second", lines)))
    return found


def growth(rows: Sequence[Row]) -> list[Drawn]:
    """Milliseconds against a dimension beside the theory, of whatever was measured at three or more sizes of it."""
    found = []
    for dimension in ("C", "S", "rank", "threads"):
        for group in groups(rows, partial(but, dimension)):
            by_size = {tables.extent(case_of(row), dimension): row for row in reversed(group)}
            if len(by_size) < 3:
                continue
            sizes = sorted(by_size)
            names = [n for n in (OURS, "torch") if all("ms" in by_size[s]["contenders"].get(n, {}) for s in sizes)]
            lines = [Line([(s, by_size[s]["contenders"][n]["ms"]["p50"]) for s in sizes], kind_of(n), n) for n in names]
            last, ms = by_size[sizes[-1]], lines[0].points[-1][1]
            flop = {s: cost(case_of(by_size[s]), by_size[s].get("sweeps") or 0).flop for s in sizes}
            if dimension == "threads":
                theory = [(s, lines[0].points[0][1] * sizes[0] / s) for s in sizes]
            else:
                theory = [(s, ms * flop[s] / flop[sizes[-1]]) for s in sizes] if flop[sizes[-1]] else []
            lines.append(Line(theory, "limit", "as the operations grow", dashed=True))
            note = f"From {tables.label(by_size[sizes[0]])} to {tables.label(last)}."
            found.append(Drawn(f"{last['work']} against {dimension}", note, lined(dimension, "ms an item", lines)))
    return found


def but(dimension: str, row: Row) -> Any:
    """What rows have in common that differ in one dimension alone."""
    case = case_of(row)
    sides: tuple[int, ...] = case.sides
    alike = case._replace(shape="x".join(map(str, sides)))
    batch = min(case.batch, 2)  # of default batches, which shrink as items grow
    if dimension == "C":
        return alike._replace(shape=f"x{sides[1:]}", batch=batch), len(sides)
    if dimension == "S":
        square = case.work in ("eigh", "eigenpairs")
        return alike._replace(shape=f"{'' if square else sides[0]}x", batch=batch), len(sides)
    return alike._replace(**{dimension: None if dimension == "rank" else 0})


def groups(rows: Iterable[Row], key: Callable[[Row], Any]) -> list[list[Row]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return list(found.values())


def kind_of(name: str) -> str:
    return "ours" if name.startswith(OURS) else "torch" if name.startswith("torch") else "other"


# ---- drawing ----


def decades(*values: float) -> tuple[float, float]:
    """The powers of ten around some values."""
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    return 10.0**low, 10.0 ** max(high, low + 1)


def lined(x: str, y: str, lines: Sequence[Line]) -> str:
    """A chart of lines with a point at every value."""
    lines = [line for line in lines if line.points]
    xs, ys = ([p[axis] for line in lines for p in line.points] for axis in (0, 1))
    points = [
        Point(*p, line.kind, f"{line.title}, {x} {p[0]:g}: {digits(p[1])}")
        for line in lines
        for p in line.points
        if not line.dashed
    ]
    return chart(Axis(x, *decades(*xs)), Axis(y, *decades(*ys)), points, lines)


def chart(x: Axis, y: Axis, points: Sequence[Point], lines: Sequence[Line] = (), legend: Sequence[str] = ()) -> str:
    """Both axes logarithmic."""

    def across(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * log10(value / x.low) / log10(x.high / x.low)

    def down(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * log10(value / y.low) / log10(y.high / y.low)

    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y.title)} against {escape(x.title)}">']
    for value in ticks(x):
        at = across(value)
        out.append(f'<path class="grid" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        out.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{tick(value)}</text>')
    for value in ticks(y):
        at = down(value)
        out.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{LEFT - 5}" y="{at + 4:.1f}" text-anchor="end">{tick(value)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text x="{middle:.0f}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x.title)}</text>')
    out.append(
        f'<text transform="translate(11 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y.title)}</text>"
    )
    for line in lines:
        path = "L".join(f"{across(a):.1f} {down(min(max(b, y.low), y.high)):.1f}" for a, b in line.points)
        dashes = ' stroke-dasharray="4 3"' if line.dashed else ""
        out.append(f'<path class="line {line.kind}" d="M{path}"{dashes}><title>{escape(line.title)}</title></path>')
    for kind in reversed(KINDS):  # ours on top
        for p in points:
            if p.kind == kind:
                title = f"<title>{escape(p.title)}</title>"
                out.append(f'<circle class="{kind}" cx="{across(p.x):.1f}" cy="{down(p.y):.1f}" r="3">{title}</circle>')
    return "".join([*out, "</svg>"])


def ticks(axis: Axis) -> list[float]:
    """Powers of ten, at most eight."""
    low, high = round(log10(axis.low)), round(log10(axis.high))
    return [10.0**n for n in range(low, high + 1, -(-(high - low) // 7) or 1)]


def tick(value: float) -> str:
    return f"{value:,.0f}" if 1 <= value < 1e6 else f"{value:g}" if 1e-3 <= value < 1 else f"1e{round(log10(value))}"
