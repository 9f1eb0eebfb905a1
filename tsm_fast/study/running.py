"""`run`: the command `tsm-fast study`, from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from .._version import __version__
from ..models.load import live
from ..pipeline.engines.progress import Quiet, reporter
from ..pipeline.engines.run import ready
from ..pipeline.engines.run import run as run_engine
from ..pipeline.engines.signals import Interrupted, Signals
from ..pipeline.extract import check_outcome, copied, sorted_options, source_of
from ..pipeline.settings import Resources, Settings
from ..pipeline.worker.network import keeping_memory
from ..steps import checks
from ..variants import variant
from . import finished
from .asking import Asked, ask, told
from .groups import groups_of
from .names import MAPS
from .reporting import report
from .rows import Study, write_about

SILENCE = 600.0  # seconds: the metrics of a batch take longer than its maps


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
            "embedding" (the centred cosine of pooled features), or a picklable function from inputs [B, C, H, W] to
            floats [B], as in `metrics`. None is "class" where the model gives [B, K], else "embedding".
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
        TypeError, ValueError, TooManyErrors, ShardFailed, KeyboardInterrupt, OSError: as `tsm_fast.extract`.
    """
    if model is None and finished.is_run(pictures):
        with reporter() if progress else nullcontext(Quiet()) as telling:
            found = finished.run(
                pictures, out, masks=masks, groups=groups, metrics=metrics, seed=seed, title=title, say=telling.say
            )
        return report(out) if pages else found
    text, source = source_of(pictures)
    if checks.integer("workers", workers) < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    own, name = None, "lite0" if model is None else model
    if isinstance(name, nn.Module):
        if workers:
            raise ValueError(f"workers must be 0 for a module of this program, got {workers}")
        own = live(copied(name), preprocess, size=settings.get("size"), fit=settings.get("fit"))
        name = own.name
    elif preprocess is not None:
        raise ValueError(f"preprocess is for a module of this program, got model={model!r}")
    if workers and isinstance(masks, Mapping):
        raise ValueError(f"workers must be 0 for masks of this program, got {workers}")
    given, how = sorted_options("study.run", settings, resources, workers)
    if resources is None and "batch_timeout" not in settings:
        how = replace(how, batch_timeout=SILENCE)
    wanted = Settings(text, model=name, methods=with_control(maps), **given)
    if finished.is_run(pictures):
        wanted = finished.as_of(pictures, wanted)
    named = groups_of(groups)
    with reporter() if progress else nullcontext(Quiet()) as telling, Signals() as signals, keeping_memory(not workers):
        try:
            asked = ask(
                wanted,
                out,
                masks=masks,
                score=score,
                metrics=metrics,
                faithful_images=faithful_images,
                seed=seed,
                source=source,
                model=own,
                say=telling.say,
            )
            planned = ready(asked.settings, out, "local", workers, how, source=source, model=own, say=telling.say)
            describe(Path(out), asked, title or name, faithful_images, named)
            telling.say(told(asked, workers))
            outcome = run_engine(planned, "local", workers, how, progress=telling, signals=signals)
        except Interrupted:
            raise KeyboardInterrupt from None
    check_outcome(outcome, str(out))
    return report(out) if pages else Study.open(out)


def with_control(maps: str | Sequence[str]) -> tuple[str, ...]:
    """The maps, and the one that every table carries."""
    asked = (maps,) if isinstance(maps, str) else tuple(maps)
    there = any(variant(name).method == "mean_activation" for name in asked)
    return asked if there else (*asked, "mean_activation")


def describe(out: Path, asked: Asked, title: str, faithful_images: int, groups: Mapping[str, str] | None) -> None:
    """Write what is asked into the folder of a study."""
    computation: Any = asked.settings.computation
    about = {
        "package": __version__,
        "title": title,
        "model": asked.settings.model,
        "source": asked.settings.source,
        "images": len(asked.keys),
        "families": list(computation.families),
        "left_out": asked.left_out,
        "score": asked.score,
        "faithful_images": min(faithful_images, len(asked.keys)),
        "seed": computation.seed,
    }
    write_about(out, about, groups)
