"""Tables of a study: a row a map, a column a metric, each with its interval; and what they say, in sentences."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from .. import metrics as measured
from .. import variants
from ..readable import counted
from ..steps import checks
from . import names

# Below, `study` is a `rows.Study`, which has these tables.
LEVEL = 0.05  # of a family of comparisons, after Holm
PRIMARY = ("shuffled_auc", "drop", "road", "jpeg")  # the metrics whose sentences stand first
HEADLINES = 4
MAP_LIKE = ("mean_activation", "energy")  # controls that are maps of the network, and may be best


@dataclass(frozen=True)
class Cell:
    """The mean of a metric, its interval (None below ten units), and whether nothing is seen above it."""

    mean: float
    low: float | None
    high: float | None
    units: int
    best: bool = False

    @property
    def text(self) -> str:
        """The mean, and below it the interval.

        >>> Cell(0.5, 0.25, 0.75, 20).text
        '.500 [.250, .750]'
        """
        if self.low is None or self.high is None:
            return short(self.mean)
        return f"{short(self.mean)} [{short(self.low)}, {short(self.high)}]"


@dataclass(frozen=True)
class Table:
    """`cells[i][j]` of map `maps[i]` and metric `metrics[j]`.

    Attributes:
        name: of its files.
        caption: what it is, of which images.
        maps, metrics: as columns name them.
        titles, heads: what people read for these.
        cells: None where there is nothing.
        best: of each metric "high", "low", or "" where neither is better.
    """

    name: str
    caption: str
    maps: Sequence[str]
    metrics: Sequence[str]
    cells: Sequence[Sequence[Cell | None]]
    titles: Sequence[str] = ()
    heads: Sequence[str] = ()
    sentences: Sequence[str] = field(default_factory=list)
    headline: Sequence[str] = field(default_factory=list)

    @property
    def starts(self) -> list[str]:
        """The rows before which a line is drawn: the first control, and the first of each form."""
        kinds = [_kind(map) for map in self.maps]
        return [map for map, kind, before in zip(self.maps[1:], kinds[1:], kinds, strict=False) if kind != before]

    @property
    def heading(self) -> str:
        """For people: the metric that it is of, else its name."""
        metric, _, form = self.name.partition("-")
        if metric not in names.METRICS:
            return self.name.replace("-", " ").capitalize()
        return names.heading(metric, form)

    def cell(self, metric: str, map: str) -> Cell | None:
        """One of them."""
        checks.choice("metric", metric, self.metrics)
        checks.choice("map", map, self.maps)
        return self.cells[self.maps.index(map)][self.metrics.index(metric)]


@dataclass(frozen=True)
class Values:
    """What a table is of: `values` [N, K] of K rows for each of some metrics."""

    maps: Sequence[str]
    titles: Sequence[str]
    metrics: Sequence[str]
    heads: Sequence[str]
    best: Sequence[str]
    values: Mapping[str, np.ndarray]
    candidates: Sequence[str]  # the rows of which one may be best


def short(value: float) -> str:
    """A number of three digits behind the point, without a zero before it.

    >>> short(0.1234), short(-0.5), short(12.3456)
    ('.123', '-.500', '12.346')
    """
    if not np.isfinite(value):
        return ""
    text = f"{value:.3f}"
    text = "0.000" if float(text) == 0 else text
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _kind(map: str) -> str:
    base, _, form = map.partition("@")
    return form if form != "ranked" and form else "control" if base in names.CONTROLS else "map"


def title(arm: str) -> str:
    """What people read for a map, a control or a form of one."""
    base, _, form = arm.partition("@")
    text = names.CONTROLS.get(base) or variants.title(base)
    text = names.capital(text)
    return f"{text}, {names.FORMS[form]}" if form else text


def tables(study: Any) -> list[Table]:
    """All that a study permits."""
    found: list[Table] = []
    for layer in study.layers:
        end = "" if len(study.layers) == 1 else f"-{study.layers.index(layer)}"
        of = "" if len(study.layers) == 1 else f", layer {layer}"
        for name, family, form in _KINDS:
            if family in study.families:
                values = _values(study, layer, family, form)
                caption = _caption(study, family, form) + of + lower(values)
                found.append(made(f"{name}{end}", caption, values, study.groups))
        if "randomisation" in study.families:
            found.append(made(f"randomisation{end}", _RANDOMISED + of, _randomised(study, layer), study.groups))
        if "spectra" in study.families:
            found.append(made(f"spectra{end}", _SPECTRA + of, _spectra(study, layer), study.groups))
    return found


_KINDS = (
    ("localisation", "localisation", ""),
    ("faithfulness", "faithfulness", ""),
    ("ranked", "faithfulness", "ranked"),
    ("road", "road", ""),
    ("stability", "stability", ""),
)
_RANDOMISED = (
    "How alike (rank correlation) the maps of the network are, and those of the same with layers drawn anew from the "
    "top; below the layer that a map reads it must be 1"
)
_SPECTRA = "The first five singular values of the channels over their sum, and of their squares over that of all"
_WHAT = {
    "localisation": "Maps against masks",
    "faithfulness": "What the score does when pixels go",
    "road": "What the score does when pixels are interpolated (ROAD)",
    "stability": "Correlation with the map of the picture after a small change",
}


def lower(values: Values) -> str:
    """Of which columns less is better."""
    low = [head for head, best in zip(values.heads, values.best, strict=True) if best == "low"]
    return f"; lower is better for {', '.join(low)}" if low else ""


def made(name: str, caption: str, values: Values, groups: np.ndarray | None) -> Table:
    """The table, with intervals, and with what cannot be told from the best."""
    columns = []
    for metric, best in zip(values.metrics, values.best, strict=True):
        columns.append(_column(values, metric, best, groups))
    cells = [[column[row] for column in columns] for row in range(len(values.maps))]
    units = max((cell.units for row in cells for cell in row if cell is not None), default=0)
    caption = f"{caption}; {counted(units, 'independent unit')}"
    if units < measured.statistics.LEAST_UNITS:
        caption += f", which are too few for intervals ({measured.statistics.LEAST_UNITS})"
    elif any(values.best):
        caption += "; in bold the best map and all that cannot be told from it (paired, Holm over a column)"
    sentences = {
        metric: said(values, metric, best, groups) for metric, best in zip(values.metrics, values.best, strict=True)
    }
    first = next((metric for metric in PRIMARY if metric in values.metrics), next(iter(values.metrics), ""))
    everything = [text for some in sentences.values() for text in some]
    headline = sentences.get(first, [])[:HEADLINES]
    return Table(name, caption, values.maps, values.metrics, cells, values.titles, values.heads, everything, headline)


def _column(values: Values, metric: str, best: str, groups: np.ndarray | None) -> list[Cell | None]:
    table = values.values[metric]
    found = measured.interval(table, groups)
    good = _undecided(values, metric, best, groups) if best else set()
    cells: list[Cell | None] = []
    for row, map in enumerate(values.maps):
        if not found.units[row]:
            cells.append(None)
            continue
        edges = (None, None) if np.isnan(found.low[row]) else (float(found.low[row]), float(found.high[row]))
        cells.append(Cell(float(found.mean[row]), *edges, int(found.units[row]), map in good))
    return cells


def _undecided(values: Values, metric: str, best: str, groups: np.ndarray | None) -> set[str]:
    """The best candidate, and those that are not seen to be below it."""
    table = values.values[metric]
    rows = [row for row, map in enumerate(values.maps) if map in values.candidates and np.isfinite(table[:, row]).any()]
    if not rows:
        return set()
    means = np.nanmean(table[:, rows], 0)
    top = rows[int(means.argmax() if best == "high" else means.argmin())]
    others = [row for row in rows if row != top]
    if not others:
        return {values.maps[top]}
    found = measured.paired(np.repeat(table[:, [top]], len(others), 1), table[:, others], groups)
    if np.isnan(found.p).all():
        return set()
    p = measured.holm(found.p)
    return {values.maps[top], *(values.maps[row] for row, one in zip(others, p, strict=True) if not one < LEVEL)}


def said(values: Values, metric: str, best: str, groups: np.ndarray | None) -> list[str]:
    """What the differences of some pairs are in a metric, Holm over them."""
    pairs, head = _pairs(values), values.heads[values.metrics.index(metric)]
    if not best or not pairs:
        return []
    places = [[values.maps.index(map) for map in pair] for pair in pairs]
    first, second = (values.values[metric][:, side] for side in zip(*places, strict=True))
    found = measured.paired(first, second, groups)
    p = measured.holm(found.p)
    return [
        sentence(head, best, [values.titles[row] for row in place], found, p, number)
        for number, place in enumerate(places)
        if not np.isnan(found.low[number])
    ]


def sentence(head: str, best: str, titles: Sequence[str], found: Any, p: np.ndarray, number: int) -> str:
    """A difference in words: who is above whom, or that none is seen."""
    head = names.capital(head)
    mean, low, high = (float(values[number]) for values in (found.mean, found.low, found.high))
    if not p[number] < LEVEL:
        edges = f"{_fine(mean)} [{_fine(low)}, {_fine(high)}]"
        among = f" among {np.count_nonzero(~np.isnan(p))} comparisons" if low > 0 or high < 0 else ""
        alone = " alone" if among else ""
        return f"{head}: no difference seen{among} between {titles[0]} and {titles[1]} ({edges}{alone})."
    if mean < 0:
        titles, (mean, low, high) = titles[::-1], (-mean, -high, -low)
    better = "" if best == "high" else "; lower is better"
    return f"{head}: {titles[0]} above {titles[1]} by {_fine(mean)} [{_fine(low)}, {_fine(high)}]{better}."


def _fine(value: float) -> str:
    """As `short`, but no small number is 0."""
    text = short(value)
    return f"{value:.0e}" if text == ".000" and value else text


def _pairs(values: Values) -> list[tuple[str, str]]:
    """The comparisons that sentences are about: the maps with each other, with the mean activation and the centre."""
    maps = [map for map in values.candidates if map.partition("@")[0] not in MAP_LIKE]
    plain = [map for map in maps if ":" not in map]
    found = [(two, one) for one, two in combinations(plain or maps, 2)]
    against = [
        map for map in values.maps if map.partition("@")[0] in ("mean_activation", "centre") and map[-9:] != "elsewhere"
    ]
    return found + [(map, control) for control in against for map in maps]


def _values(study: Any, layer: str, family: str, form: str) -> Values:
    """The metrics of a family, of all maps and controls, or of those in one form."""
    if form:
        arms = [arm for arm in study.maps if arm.endswith(f"@{form}")]
    else:
        arms = [arm for arm in study.maps if not arm.endswith("@ranked")]
    keep = [name for name, metric in names.METRICS.items() if metric.family == family]
    keep = [name for name in keep if any(study.has(name, arm, layer) for arm in arms)]
    arms = [arm for arm in arms if any(study.has(name, arm, layer) for name in keep)]
    nothing = np.full(len(study.keys), np.nan)
    values = {
        name: np.stack([study.values(name, arm, layer) if study.has(name, arm, layer) else nothing for arm in arms], 1)
        for name in keep
    }
    methods = {*study.methods, *MAP_LIKE}
    candidates = [arm for arm in arms if arm.removesuffix("@ranked") in methods]
    titles = [title(arm.removesuffix("@ranked") if form else arm) for arm in arms]
    chosen = [names.METRICS[name] for name in keep]
    return Values(arms, titles, keep, [one.title for one in chosen], [one.best for one in chosen], values, candidates)


def _randomised(study: Any, layer: str) -> Values:
    arms = [arm for arm in study.maps if study.has("randomised", arm, layer)]
    table = np.stack([study.values("randomised", arm, layer) for arm in arms], 1)  # [N, K, stages]
    stages = [str(stage) for stage in range(table.shape[2])]
    heads = [f"{(number + 1) / len(stages):.0%} of the layers" for number in range(len(stages))]
    values = {stage: table[:, :, number] for number, stage in enumerate(stages)}
    return Values(arms, list(map(title, arms)), stages, heads, [""] * len(stages), values, [])


def _spectra(study: Any, layer: str) -> Values:
    rows = {"svd": "SVD", "tucker": "Tucker, 32 channels", "svd_energy": "SVD, squares"}
    lists = [study.column(f"{layer}:{name}") for name in rows]  # [N, 5] each
    heads = [f"value {number}" for number in range(1, lists[0].shape[1] + 1)]
    values = {head: np.stack([one[:, number] for one in lists], 1) for number, head in enumerate(heads)}
    return Values(list(rows), list(rows.values()), heads, heads, [""] * len(heads), values, [])


def _caption(study: Any, family: str, form: str) -> str:
    text = _WHAT[family] + (f", {names.FORMS[form]}" if form else "")
    if family in ("faithfulness", "road", "stability"):
        images = study.about["faithful_images"]
        text += f", on images chosen by hash ({images:,} of {study.about['images']:,})"
    if family in ("faithfulness", "road"):
        text += f"; score: {study.about['score']}"
    return text


# Files


def markdown(table: Table) -> str:
    """As Markdown."""
    lines = [f"{table.caption}.", "", "| | " + " | ".join(map(str, table.heads)) + " |"]
    lines.append("| --- " * (len(table.metrics) + 1) + "|")
    for name, row in zip(table.titles, table.cells, strict=True):
        lines.append(f"| {name} | " + " | ".join(_marked(cell, "**", "**") for cell in row) + " |")
    lines += ["", *(f"- {text}" for text in table.sentences)]
    return "\n".join(lines).rstrip() + "\n"


def latex(table: Table) -> str:
    """As a tabular with its caption."""
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        f"\\caption{{{_tex(table.caption)}.}}",
        "\\begin{tabular}{l" + "r" * len(table.metrics) + "}",
        "\\toprule",
        " & ".join(["", *map(_tex, table.heads)]) + " \\\\",
        "\\midrule",
    ]
    for name, row in zip(table.titles, table.cells, strict=True):
        lines.append(" & ".join([_tex(name), *(_marked(cell, "\\textbf{", "}") for cell in row)]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"]) + "\n"


def comma_separated(table: Table) -> str:
    """As CSV: a line a cell."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["map", "metric", "mean", "low", "high", "units", "best"])
    for name, row in zip(table.maps, table.cells, strict=True):
        for metric, cell in zip(table.metrics, row, strict=True):
            if cell is not None:
                edges = ["" if edge is None else f"{edge:.6g}" for edge in (cell.low, cell.high)]
                writer.writerow([name, metric, f"{cell.mean:.6g}", *edges, cell.units, int(cell.best)])
    return stream.getvalue()


WRITERS = {"md": markdown, "csv": comma_separated, "tex": latex}


def _marked(cell: Cell | None, left: str, right: str) -> str:
    if cell is None:
        return ""
    if not cell.best:
        return cell.text
    mean = short(cell.mean)
    return f"{left}{mean}{right}{cell.text[len(mean) :]}"


def _tex(text: str) -> str:
    for plain, escaped in (("\\", r"\textbackslash{}"), ("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("#", r"\#")):
        text = text.replace(plain, escaped)
    return text


def flat(tables: Iterable[Table]) -> list[str]:
    """The sentences of all."""
    return [text for table in tables for text in table.sentences]
