"""`run`: the command `tsm-fast study`, from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..pipeline.settings import Resources
from .names import MAPS
from .rows import Study


def run(
    pictures: Any,
    out: str | Path,
    *,
    model: str | nn.Module | None = None,
    preprocess: Callable[[Any], Any] | None = None,
    maps: str | Sequence[str] = MAPS,
    masks: Any = None,
    score: Any = None,
    groups: str | Path | Mapping[str, str] | None = None,
    metrics: Sequence[str] | None = None,
    faithful_images: int = 500,
    seed: int = 0,
    title: str | None = None,
    workers: int = 0,
    resources: Resources | None = None,
    progress: bool = False,
    pages: bool = True,
    **settings: Any,
) -> Study:
    """What the maps of a model are worth on these pictures, beside controls: rows, tables, figures and a page in `out`.

    A call that was stopped, in whatever way, is repeated and goes on where it was. What the inputs do not permit is
    left out, and the page says why.

    Args:
        pictures: as `tsm_fast.extract` takes them; or the folder of a finished run of `extract`, whose maps are read:
            then its layers and maps are taken, and without `model` no network runs.
        out: the folder of the study.
        model, preprocess, workers, resources, progress, **settings: as `tsm_fast.extract` takes them (`layers`,
            `weights`, `rank`, `size`, `batch_size`, `limit`, `sample`, `filter`, ...). None is lite0.
        maps: methods with options, as in "mtsm:combine=absolute". The controls are added.
        masks: a folder of PNG files by the keys of the pictures (`a/cat.jpg` has `a/cat.png` or `a/cat.jpg.png`),
            non-zero where the object is; the name of a column of the manifest that has their paths; a CSV of boxes
            `key,left,top,right,bottom` in pixels of the picture; or a mapping from keys to `[h, w]` arrays or PIL
            pictures.
        score: what the faithfulness metrics watch: "class" (the probability of the class that the model names),
            "embedding" (the centred cosine of pooled features), or a picklable function from inputs [B, C, H, W] to a
            function from inputs to [B]. None is "class" where the model gives [B, K], else "embedding".
        groups: a CSV `key,group`, or a mapping: pictures of one group are one independent unit (a patient, a video).
        metrics: families of `study.names.FAMILIES`; None for all that the inputs permit.
        faithful_images: on how many pictures, chosen by hash, the costly families run.
        seed: of that choice, and of what is random in the controls.
        title: of the page; None for the model's name.
        pages: write tables, figures and the page too; False leaves that to `report`.

    Returns:
        The `Study`. Its folder has

        - `study.json`: what was asked, what was left out and why;
        - `run.json`, `plan.parquet`, `shards/`, `markers/`: a run as docs/format.md has it, with a row an image. Beside
          the maps `MAP/LAYER` it has a column `MAP/LAYER:METRIC` for each metric, where MAP is a map, a control of
          `study.names.CONTROLS`, or a map in another form: `MAP@elsewhere` (its values at other places), `MAP@other`
          (another image's) or `MAP@ranked` (at one common histogram); and the columns `study.names.ROW`;
        - `tables/NAME.{md,csv,tex}`, `figures/NAME.{png,svg}`, `index.html`.

    Raises:
        As `tsm_fast.extract` does.
    """
    raise NotImplementedError
