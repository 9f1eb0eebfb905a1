"""`compare`: studies of several networks side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._version import __version__
from ..pipeline.files import publish
from ..readable import counted
from . import names
from .reporting import write_figures, write_page, write_tables
from .rows import Study
from .tables import MAP_LIKE, Table, Values, made, title

NAME = "compare.json"


@dataclass(frozen=True)
class Comparison:
    """Several studies of the same pictures; `tables` by name, also in the folder `out`."""

    out: Path
    studies: Mapping[str, Study]
    tables: Mapping[str, Table]


def compare(
    studies: Mapping[str, str | Path | Study] | Sequence[str | Path],
    out: str | Path,
    *,
    contrasts: Sequence[tuple[str, str]] | None = None,
    title: str | None = None,
) -> Comparison:
    """Networks side by side, on the images that all of them have; tables, figures and a page in `out`.

    Args:
        studies: by the names that the tables call them; of a sequence, the names of the folders.
        out: a folder.
        contrasts: pairs of names, such as ("objects", "scenes"): what a metric of the first network's maps is above
            that of the second's on the same images (the model contrast of BAM). None is every pair with the first
            study.
        title: of the page.

    Raises:
        FileNotFoundError: a folder holds no study.
        ValueError: fewer than two studies, a name with a slash, or they share no image.
    """
    given = studies if isinstance(studies, Mapping) else {Path(path).name: path for path in studies}
    if len(given) < 2 or len(given) < len(studies):
        raise ValueError(f"studies must be at least two, of distinct names, got {', '.join(map(str, given)) or 'none'}")
    for name in given:  # of files too
        if not name or "/" in name or "\0" in name:
            raise ValueError(f"studies must have names without '/', got {name!r}")
    opened = {name: study if isinstance(study, Study) else Study.open(study) for name, study in given.items()}
    rows = _shared(opened)
    first = next(iter(opened))
    pairs = [(first, name) for name in opened if name != first] if contrasts is None else list(contrasts)
    for pair in pairs:
        for name in pair:
            if name not in opened:
                raise ValueError(f"contrasts must be of {', '.join(opened)}, got {name!r}")
    groups = opened[first].groups
    units = None if groups is None else groups[rows[first]]
    tables = [_side_by_side(opened, rows, metric, units) for metric in _common(opened)]
    tables += [_contrast(opened, rows, pair, units) for pair in pairs]
    tables = [table for table in tables if table.maps]
    folder = Path(out)
    publish.make_folder(folder)
    write_tables(folder, tables)
    drawings = write_figures(folder, opened)
    shared = len(next(iter(rows.values())))
    about = {"package": __version__, "studies": {name: str(study.out) for name, study in opened.items()}}
    publish.publish_json(folder / NAME, {**about, "images": shared, "contrasts": [list(pair) for pair in pairs]})
    facts = [
        (name, f"{study.about['model']}, {', '.join(study.layers)}, in {study.out}") for name, study in opened.items()
    ]
    facts.append(("images", f"{shared:,} that all of them have"))
    numbers = [(f"{len(opened)}", "networks"), (f"{shared:,}", "images that all of them have")]
    write_page(folder, title or "Networks side by side", ", ".join(opened), tables, drawings, numbers, facts)
    return Comparison(folder, opened, {table.name: table for table in tables})


def _shared(studies: Mapping[str, Study]) -> dict[str, np.ndarray]:
    """The rows of the images that all studies have, in one order."""
    places = {name: {key: row for row, key in enumerate(study.keys)} for name, study in studies.items()}
    keys = sorted(set.intersection(*({*known} for known in places.values())))
    if not keys:
        raise ValueError(f"studies must share images, got none that is in all of {', '.join(studies)}")
    return {name: np.array([known[key] for key in keys]) for name, known in places.items()}


def _common(studies: Mapping[str, Study]) -> list[tuple[str, str]]:
    """The metrics that all studies have of a map, and the form in which."""
    found = []
    for form in ("", "@ranked"):
        for metric in names.METRICS:
            if all(any(s.has(metric, f"{arm}{form}", s.layers[-1]) for arm in s.methods) for s in studies.values()):
                found.append((metric, form))
    return found


def _side_by_side(
    studies: Mapping[str, Study], rows: Mapping[str, np.ndarray], of: tuple[str, str], groups: np.ndarray | None
) -> Table:
    """A metric: a row a map, a column a network."""
    metric, form = of
    arms = _arms(studies, metric, form)
    values = {name: _matrix(study, rows[name], metric, arms) for name, study in studies.items()}
    about = names.METRICS[metric]
    candidates = [arm for arm in arms if arm.removesuffix(form) in {*MAP_LIKE, *_methods(studies)}]
    titles = [title(arm.removesuffix(form)) for arm in arms]
    best = [about.best] * len(studies)
    made_of = Values(arms, titles, list(studies), list(studies), best, values, candidates)
    text = names.heading(metric, "ranked" if form else "")
    shared = counted(len(next(iter(rows.values()))), "image")
    name = metric + ("-ranked" if form else "")
    return made(
        name, f"{text}, by network; {about.best} is better, fooled by {about.fooled_by}; {shared}", made_of, groups
    )


def _contrast(
    studies: Mapping[str, Study], rows: Mapping[str, np.ndarray], pair: tuple[str, str], groups: np.ndarray | None
) -> Table:
    """What metrics of localisation of one network are above those of another: a row a map."""
    two = {name: studies[name] for name in pair}
    metrics = [metric for metric, form in _common(two) if not form and names.METRICS[metric].family == "localisation"]
    arms = [arm for arm in _arms(two, metrics[0], "") if arm in {*MAP_LIKE, *_methods(two)}] if metrics else []
    values = {
        metric: _matrix(two[pair[0]], rows[pair[0]], metric, arms) - _matrix(two[pair[1]], rows[pair[1]], metric, arms)
        for metric in metrics
    }
    heads, best = [names.METRICS[metric].title for metric in metrics], ["high"] * len(metrics)
    made_of = Values(arms, list(map(title, arms)), metrics, heads, best, values, arms)
    return made(
        f"contrast-{pair[0]}-{pair[1]}", f"Model contrast: {pair[0]} less {pair[1]}, same images", made_of, groups
    )


def _methods(studies: Mapping[str, Study]) -> list[str]:
    return list(dict.fromkeys(method for study in studies.values() for method in study.methods))


def _arms(studies: Mapping[str, Study], metric: str, form: str) -> list[str]:
    """The maps and controls that all studies have of a metric, in one form."""
    first, *others = studies.values()
    arms = [arm for arm in first.maps if arm.endswith(form) and (form or "@" not in arm)]
    return [arm for arm in arms if all(one.has(metric, arm, one.layers[-1]) for one in (first, *others))]


def _matrix(study: Study, rows: np.ndarray, metric: str, arms: Sequence[str]) -> np.ndarray:  # [N, K]
    if not arms:
        return np.empty((len(rows), 0))
    return np.stack([study.values(metric, arm, study.layers[-1])[rows] for arm in arms], 1)
