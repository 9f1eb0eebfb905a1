"""`extract`: the command of the same name, from Python."""

import copy
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..models.load import live
from ..steps import checks
from ..variants import DEFAULT
from .engines.progress import Quiet, reporter
from .engines.run import Outcome, ready
from .engines.run import run as run_engine
from .engines.signals import Interrupted, Signals
from .errors import ShardFailed, TooManyErrors
from .results.reader import SaliencyDataset
from .settings import Resources, Settings
from .sources.datasets import DatasetSource
from .sources.lists import GivenPaths
from .sources.source import Source
from .worker.network import keeping_memory


def extract(
    pictures: Any,
    out: str | Path,
    *,
    model: str | nn.Module = "lite0",
    preprocess: Callable[[Any], Any] | None = None,
    maps: str | Sequence[str] = DEFAULT,
    add: bool = False,
    workers: int = 0,
    resources: Resources | None = None,
    retry_errors: str | None = None,
    progress: bool = False,
    **settings: Any,
) -> SaliencyDataset:
    """Saliency maps of many pictures, in the folder `out`: the same rows as `tsm-fast extract` writes.

    A call that was stopped, in whatever way, is repeated and goes on where it was; one that is complete reads `out`.
    Every picture is one row, with its maps or with why it has none, sorted by key.

    Args:
        pictures: what the command takes as SOURCE (a folder, a list, a manifest, tar files, `hf:NAME`, a factory); or
            paths; or a map-style dataset, such as a list of PIL pictures, arrays or bytes
            (`pipeline.sources.datasets.DatasetSource` gives it keys and columns). The key of a path is the path, that
            of an item its number.
        out: the folder of the run.
        model: a name as for the command, or a module of this program, of which a copy computes in float32. Hooks on it
            are on the copy too.
        preprocess: of such a module: a function from an RGB picture to `[C, H, W]`. None is the usual central crop of
            224 x 224 pixels, normalised for ImageNet, or what `size` and `fit` say.
        maps: "eigencam", "tsm", "multivec_eigencam", "mtsm", "mean_activation", with options as in
            "mtsm:combine=absolute,rank=16x4x4".
        add: take the pictures that the run in `out` does not have into it, as new shards; those that it has must be
            unchanged.
        workers: processes beside this one, for a model with a name; they import the main module again, so a script
            calls this below `if __name__ == "__main__":`. 0 computes in this process.
        resources: how it is computed. By default with all threads that PyTorch has in this process, and one in each
            worker.
        retry_errors: "all", or a kind of error: such rows are computed again.
        progress: show a bar on stderr.
        **settings: all else that `pipeline.Settings` has (`layers`, `size`, `dtype`, `filter`, `shard_size`, ...) and,
            without `resources`, what `pipeline.Resources` has (`max_errors`, `device`, `decode_threads`, ...).

    Returns:
        The `SaliencyDataset` of the run.

    Raises:
        TypeError, ValueError: an argument cannot be used; ValueError also for a folder that holds another run.
        TooManyErrors: more pictures have no map than `resources.max_errors` allows; `SaliencyDataset(out)` tells which.
        ShardFailed: something could not be computed; what was is kept.
        KeyboardInterrupt: Ctrl-C, or SIGTERM, after what was under way is in order.
        OSError: the folder cannot be written to.

    >>> import tempfile, torch, tsm_fast
    >>> from tsm_fast.pictures import load_photos
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3, stride=8), torch.nn.ReLU())
    >>> photos = [photo.image for photo in load_photos()[:3]]
    >>> found = tsm_fast.extract(photos, tempfile.mkdtemp(), model=net, layers=["1"], maps=["tsm", "mtsm:rank=4"])
    >>> found.columns, found.numpy("tsm/1").shape
    (['tsm/1', 'mtsm:rank=4/1'], (3, 28, 28))
    """
    text, source = source_of(pictures)
    own, name = None, model
    if checks.integer("workers", workers) < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    if source is not None and settings.get("root") is not None:
        raise ValueError(f"root is for a list or manifest with a name, got root={settings['root']!r}")
    if isinstance(model, nn.Module):
        if settings.get("weights") is not None:
            raise ValueError(f"weights are for a model with a name, got weights={settings['weights']!r}")
        if workers:
            raise ValueError(
                f"workers must be 0 for a module of this program, got {workers}: other processes find a model by its "
                "name, such as package.module:factory or file.py:factory"
            )
        size, fit = settings.get("size"), settings.get("fit")
        own = live(copied(model), preprocess, size=size, fit=fit)
        name = own.name
    elif preprocess is not None:
        raise ValueError(f"preprocess is for a module of this program, got model={model!r}")
    methods = (maps,) if isinstance(maps, str) else tuple(maps)
    settings, how = sorted_options("extract", settings, resources, workers)
    wanted = Settings(text, model=name, methods=methods, **settings)  # pyright: ignore[reportArgumentType]
    with reporter() if progress else nullcontext(Quiet()) as telling, Signals() as signals, keeping_memory(not workers):
        try:
            run = ready(wanted, out, "local", workers, how, add=add, source=source, model=own, say=telling.say)
            outcome = run_engine(
                run, "local", workers, how, retry_errors=retry_errors, progress=telling, signals=signals
            )
        except Interrupted:
            raise KeyboardInterrupt from None
    check_outcome(outcome, os.fspath(out))
    return SaliencyDataset(out)


def sorted_options(
    caller: str, options: dict[str, Any], resources: Resources | None, workers: int
) -> tuple[dict[str, Any], Resources]:
    """The options that `Settings` has, and how it is computed."""
    known = {field.name for field in fields(Settings)} - {"source", "model", "methods"}
    working = {field.name for field in fields(Resources)} - known
    for name in options:
        if name not in known | working:
            near = get_close_matches(name, [*known, *working, "maps", "preprocess", "workers"], n=3)
            hint = f"; close names: {', '.join(near)}" if near else ""
            raise TypeError(f"{caller} has no option {name!r}{hint}")
    given = {name: value for name, value in options.items() if name in working}
    if given and resources is not None:
        raise TypeError(f"{', '.join(given)} must be in resources, where these are given")
    own = {name: value for name, value in options.items() if name in known}
    if isinstance(own.get("layers"), str):
        own["layers"] = (own["layers"],)
    return own, resources or Resources(**{"torch_threads": None if not workers else 1, **given})


def copied(model: nn.Module) -> nn.Module:
    """A copy in float32 on the CPU."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("model is scripted, so its layers cannot be read: give the module that was scripted")
    if any(value.is_meta for value in (*model.parameters(), *model.buffers())):
        raise ValueError("model must have its weights in memory, got tensors on the device meta")
    try:
        return copy.deepcopy(model).cpu().float()
    except Exception as error:  # modules of others raise anything
        raise ValueError(
            f"model cannot be copied, name it as package.module:factory or file.py:factory: {type(error).__name__}: "
            f"{error}"
        ) from None


def source_of(pictures: Any) -> tuple[str, Source | None]:
    """What the record says of the pictures, and the source that has them; None where their text names it."""
    if isinstance(pictures, str | Path):
        return str(pictures), None
    if isinstance(pictures, Source):
        return pictures.root or type(pictures).__qualname__, pictures
    if isinstance(pictures, list | tuple) and pictures and all(isinstance(path, str | Path) for path in pictures):
        return f"{len(pictures)} paths", GivenPaths([os.fspath(path) for path in pictures])
    source = DatasetSource(pictures)
    return f"{len(pictures)} items of a {source.root}", source


def check_outcome(outcome: Outcome, out: str) -> None:
    """What the exit codes of the command say."""
    if outcome.code in (0, 3) and not outcome.reason and not outcome.failed:
        if outcome.code == 3:
            first = "; ".join(f"{bad.key!r}: {bad.kind}: {bad.error}" for bad in outcome.bad)
            raise TooManyErrors(
                f"{outcome.errors:,} of {outcome.rows:,} pictures have no map, which is more than max_errors allows: "
                f"{first}; SaliencyDataset({out!r}) has them all, retry_errors='all' computes them again"
            )
        return
    if outcome.code in (130, 143):
        raise KeyboardInterrupt(outcome.reason)
    reasons = [outcome.reason, *(f"shard {index}: {why}" for index, why in outcome.failed.items())]
    text = "; ".join(filter(None, reasons))
    raise (TooManyErrors if outcome.code == 3 else ShardFailed)(f"{text}; the same call goes on where it was")
