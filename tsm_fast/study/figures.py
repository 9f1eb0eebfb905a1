"""Figures of a study, drawn with matplotlib (extra `study`)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import metrics as measured
from . import names
from .tables import MAP_LIKE, title

if TYPE_CHECKING:
    from .rows import Study

SHEET = 8  # pictures of a sheet
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")


def available() -> bool:
    """Whether matplotlib is there."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def figures(studies: dict[str, Study]) -> Iterator[tuple[str, str, Any]]:
    """The name, the caption and the matplotlib figure of each kind that some studies permit."""
    first = next(iter(studies.values()))
    if all("spectra" in study.families for study in studies.values()):
        yield (
            "first-share",
            "The first singular value over their sum, SVD and Tucker (as figure 2 of the paper).",
            _boxes(studies),
        )
        yield "shares", "The first five singular values over their sum (as figure 3 of the paper).", _shares(studies)
    if len(studies) > 1:
        return
    if "faithfulness" in first.families:
        for kind, caption in (("insertion", "highest pixels come"), ("deletion", "highest pixels go")):
            yield f"{kind}-curve", f"The score as the {caption}, mean and 95 % interval.", _curves(first, kind)
        yield "metrics-area", "Each metric against the mean of the map: what of it is area.", _area(first)
    if "randomisation" in first.families:
        yield "randomisation", "Rank correlation with the map of the network as layers are drawn anew.", _stages(first)


def written(figure: Any, kind: str) -> bytes:
    """The file of a figure; equal figures give equal bytes."""
    import matplotlib

    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "tsm_fast"}):
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(stream, format=kind, dpi=150, metadata=metadata)
    return stream.getvalue()


def _figure(wide: int, tall: int, columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure((wide, tall), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes


def _boxes(studies: dict[str, Study]) -> Any:
    figure, axes = _figure(2 + 2 * len(studies), 3)
    axis, places, ticks = axes[0, 0], [], []
    for number, (name, study) in enumerate(studies.items()):
        for shift, kind in ((-0.2, "svd"), (0.2, "tucker")):
            values = study.column(f"{study.layers[-1]}:{kind}")[:, 0]
            place = number + shift
            axis.boxplot([values[np.isfinite(values)]], positions=[place], widths=0.3, showfliers=False)
            places.append(place)
            ticks.append(f"{name}\n{'SVD' if kind == 'svd' else 'Tucker'}" if len(studies) > 1 else kind)
    axis.set_xticks(places, ticks, fontsize=7)
    axis.set_ylabel("first value / sum", fontsize=9)
    return figure


def _shares(studies: dict[str, Study]) -> Any:
    figure, axes = _figure(3 * len(studies) + 1, 3, columns=len(studies))
    for axis, (name, study) in zip(axes[0], studies.items(), strict=True):
        for kind, colour in (("svd", _COLOURS[0]), ("tucker", _COLOURS[1])):
            values = study.column(f"{study.layers[-1]}:{kind}")
            found = measured.interval(values, study.groups)
            steps = np.arange(1, values.shape[1] + 1)
            axis.plot(steps, found.mean, "o-", color=colour, markersize=3, label="SVD" if kind == "svd" else "Tucker")
            axis.fill_between(steps, found.low, found.high, color=colour, alpha=0.2, linewidth=0)
        axis.set_title(name if len(studies) > 1 else "", fontsize=9)
        axis.set_xticks(steps)
        axis.set_xlabel("number of the singular value", fontsize=9)
    axes[0, 0].set_ylabel("value / sum", fontsize=9)
    axes[0, 0].legend(fontsize=8, frameon=False)
    return figure


def _plain(study: Study) -> list[str]:
    """The arms that a plot can hold: the maps, and the controls that tell most."""
    keep = [*study.methods, *MAP_LIKE, "smooth", "centre"]
    return [arm for arm in study.maps if arm in keep]


def _curves(study: Study, kind: str) -> Any:
    figure, axes = _figure(6, 4)
    axis = axes[0, 0]
    for number, arm in enumerate(_plain(study)):
        values = study.column(f"{arm}/{study.layers[-1]}:{kind}_curve")
        found = measured.interval(values, study.groups)
        steps = np.linspace(0, 1, values.shape[1])
        colour = _COLOURS[number % len(_COLOURS)]
        axis.plot(steps, found.mean, color=colour, label=title(arm), linestyle=_style(arm, study), linewidth=1.2)
        axis.fill_between(steps, found.low, found.high, color=colour, alpha=0.12, linewidth=0)
    axis.set_xlabel(f"share of the pixels that {'came' if kind == 'insertion' else 'went'}", fontsize=9)
    axis.set_ylabel(f"score ({study.about['score']})", fontsize=9)
    axis.legend(fontsize=7, frameon=False)
    return figure


def _style(arm: str, study: Study) -> str:
    return "-" if arm in study.methods else "--"


def _area(study: Study) -> Any:
    layer = study.layers[-1]
    wanted = ("drop", "insertion", "deletion", "roc_auc", "energy_in_mask", "shuffled_auc")
    there = [name for name in wanted if study.has(name, study.methods[0], layer)]
    columns = min(3, len(there))
    rows = -(-len(there) // columns)
    figure, axes = _figure(3 * columns + 2, 3 * rows, columns, rows)
    for axis, name in zip(axes.flat, there, strict=False):
        for number, arm in enumerate(_plain(study)):
            area, value = study.values("complexity", arm, layer), study.values(name, arm, layer)
            colour = _COLOURS[number % len(_COLOURS)]
            axis.plot(area, value, ".", color=colour, alpha=0.25, markersize=3, linewidth=0)
            seen = np.isfinite(area) & np.isfinite(value)
            if seen.any():
                middle = area[seen].mean(), value[seen].mean()
                axis.plot(*middle, "o" if arm in study.methods else "s", color=colour, label=title(arm), markersize=6)
        axis.set_title(names.METRICS[name].title, fontsize=9)
        axis.set_xlabel("mean of the map", fontsize=8)
    for axis in axes.flat[len(there) :]:
        axis.set_visible(False)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside right", fontsize=7, frameon=False)
    return figure


def _stages(study: Study) -> Any:
    figure, axes = _figure(6, 4)
    axis = axes[0, 0]
    for number, arm in enumerate(arm for arm in study.maps if study.has("randomised", arm, study.layers[-1])):
        values = study.values("randomised", arm, study.layers[-1])
        found = measured.interval(values, study.groups)
        steps = np.arange(1, values.shape[1] + 1) / values.shape[1]
        colour = _COLOURS[number % len(_COLOURS)]
        axis.plot([0, *steps], [1, *found.mean], "o-", color=colour, label=title(arm), markersize=3, linewidth=1.2)
        axis.fill_between(steps, found.low, found.high, color=colour, alpha=0.12, linewidth=0)
    axis.set_xlabel("share of the layers that are drawn anew, from the top", fontsize=9)
    axis.set_ylabel("rank correlation", fontsize=9)
    axis.legend(fontsize=7, frameon=False)
    return figure


def sheet_rows(study: Study, count: int = SHEET) -> Sequence[int]:
    """The pictures of a sheet: the first by hash of those that have maps."""
    from .before import rank

    there = np.flatnonzero(study.ok).tolist()
    return sorted(there, key=lambda row: rank(study.about["seed"], study.keys[row]))[:count]
