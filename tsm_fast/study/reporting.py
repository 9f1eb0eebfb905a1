"""`report`: tables, figures and the page of a study, from its rows."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import variants
from ..models.region import region
from ..pictures.decode import ImageError
from ..pictures.drawing import Row, contact_sheet, png_bytes
from ..pictures.page import render
from ..pipeline.files import publish
from ..pipeline.results.pictures import Pictures
from ..pipeline.sources.source import Source
from . import figures as drawn
from . import names
from .rows import Study
from .tables import LEVEL, WRITERS, Table

PAGE = "index.html"
FOLDERS = ("tables", "figures")
NO_FIGURES = "figures need matplotlib: pip install 'tsm_fast[study]', then `tsm-fast study report`"


def report(out: str | Path, *, source: Source | None = None) -> Study:
    """Write the tables, figures and the page of a study again; the model is not needed.

    Args:
        out: the folder of the study, finished or not.
        source: where the pictures are now; None for where they were, if they are files.

    Returns:
        The `Study`.

    Raises:
        FileNotFoundError: the folder holds no study, or one without a finished shard.
    """
    study = Study.open(out)
    there = write_figures(study.out, {study.name: study})
    sheet = _sheet(study, source)
    if sheet is not None:
        publish.publish_bytes(study.out / "figures" / "maps.png", sheet)
        there["maps"] = ("Maps of a few pictures, chosen by hash (as figures 4 and 5 of the paper).", sheet, "png")
    tables = list(study.tables.values())
    write_tables(study.out, tables)
    subtitle = (
        f"{study.about['model']}, {', '.join(study.layers)}: {len(study.keys):,} images of {study.about['source']}"
    )
    write_page(study.out, f"Study of {study.name}", subtitle, tables, there, _numbers(study), _facts(study))
    return study


def write_tables(out: Path, tables: Sequence[Table]) -> None:
    """The files of tables, in the folder `tables`."""
    publish.make_folder(out / "tables")
    for table in tables:
        for end, write in WRITERS.items():
            publish.publish_bytes(out / "tables" / f"{table.name}.{end}", write(table).encode())


def write_figures(out: Path, studies: dict[str, Study]) -> dict[str, tuple[str, bytes, str]]:
    """The files of figures, in the folder `figures`; the caption and the picture of each."""
    publish.make_folder(out / "figures")
    found = {}
    for name, caption, figure in drawn.figures(studies) if drawn.available() else ():
        for end in ("png", "svg"):
            publish.publish_bytes(out / "figures" / f"{name}.{end}", data := drawn.written(figure, end))
        found[name] = (caption, data, "svg+xml")
    return found


def write_page(
    out: Path,
    title: str,
    subtitle: str,
    tables: Sequence[Table],
    figures: Mapping[str, tuple[str, bytes, str]],
    numbers: Sequence[tuple[str, str]],
    facts: Sequence[tuple[str, str]],
) -> Path:
    """index.html: one page that needs nothing but itself."""
    values = {
        "columns": 1,
        "numbers": numbers,
        "evidence": tables,
        "figures": [(name, caption, _uri(data, kind)) for name, (caption, data, kind) in figures.items()],
        "no_figures": "" if drawn.available() else NO_FIGURES,
    }
    text = render("tsm_fast.study", "study.html", title, subtitle, (), facts, values)
    publish.publish_bytes(out / PAGE, text.encode())
    return out / PAGE


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _numbers(study: Study) -> list[tuple[str, str]]:
    """What is to be seen first."""
    ok, masks = int(study.ok.sum()), Counter(study.column("mask"))
    found = [(f"{ok:,}", f"of {study.about['images']:,} images have maps")]
    if "localisation" in study.families:
        found.append((f"{masks['ok']:,}", "with a mask of an object"))
    if study.about["faithful_images"] and {"faithfulness", "stability"} & {*study.families}:
        found.append((f"{study.about['faithful_images']:,}", "for the costly metrics, chosen by hash"))
    if study.groups is not None:
        found.append((f"{len(set(study.groups.tolist())):,}", "independent groups"))
    return found


def _facts(study: Study) -> list[tuple[str, str]]:
    """How it was made, and what was not."""
    about, record = study.about, study.run.record
    masks = Counter(kind for kind in study.column("mask") if kind not in ("ok", None))
    scores = Counter(kind for kind in study.column("score") if kind not in ("ok", None))
    gaps = [
        np.nanmedian(study.column(f"{study.layers[-1]}:{name}")) for name in names.GAPS if "spectra" in study.families
    ]
    facts = [
        ("source", about["source"]),
        ("model", f"{about['model']}, layers {', '.join(study.layers)}"),
        ("maps", "; ".join(variants.title(name) for name in record.methods)),
        ("score", about["score"] or "none"),
        ("images without maps", _counts(Counter(kind for kind in study.column("status") if kind != "ok"))),
        ("images without a mask", _counts(masks) if "localisation" in study.families else "no masks"),
        ("images without a score", _counts(scores)),
        ("not measured", "; ".join(f"{name}: {why}" for name, why in study.left_out.items()) or "nothing"),
        (
            "intervals",
            f"95 %, bootstrap over {'groups' if study.groups is not None else 'images'}; pairs by image, Holm over a "
            f"family at {LEVEL}",
        ),
    ]
    if gaps:
        facts.append(("first over second singular value", f"median {gaps[0]:.3g}, centred {gaps[1]:.3g}"))
    fooled = {metric.title: metric.fooled_by for metric in names.METRICS.values() if metric.family in study.families}
    facts.append(("what fools the metrics", "; ".join(f"{name}: {what}" for name, what in fooled.items())))
    facts.append(
        ("versions", f"tsm_fast {about['package']}, " + ", ".join(f"{k} {v}" for k, v in record.versions.items()))
    )
    return facts


def _counts(counts: Counter[Any]) -> str:
    return ", ".join(f"{number:,} {kind}" for kind, number in sorted(counts.items(), key=str)) or "none"


def _sheet(study: Study, source: Source | None) -> bytes | None:
    """A sheet of maps over their pictures; None where no picture can be read."""
    pictures = Pictures(study.run, source)
    rows = []
    for index in drawn.sheet_rows(study):
        try:
            image = pictures.read(int(index))
        except ImageError:
            continue
        one = study.dataset[int(index)]
        maps = {
            variants.title(name): _unit(one.maps[f"{name}/{study.layers[-1]}"]) for name in study.run.record.methods
        }
        part = region(study.run.record.preprocessing, *image.size)
        rows.append(Row(study.keys[index], "", image, maps, part))
    if not rows:
        return None
    return png_bytes(contact_sheet(f"Maps of {study.name}", study.layers[-1], rows))


def _unit(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)
