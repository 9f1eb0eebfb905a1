"""From what somebody asks of a study to what its run computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import metrics as measured
from ..extractor import SaliencyExtractor
from ..layers import describe, first_tensor
from ..models import Model, answers, load
from ..models.preprocessing import shapes
from ..pipeline.files import publish, urls
from ..pipeline.files.hold import turn
from ..pipeline.files.record import NAME as RUN
from ..pipeline.files.record import digest
from ..pipeline.planning.select import select
from ..pipeline.settings import Settings
from ..pipeline.sources.open import open_source
from ..pipeline.sources.source import Item, Source, listing
from ..pipeline.worker.inputs import Inputs
from ..readable import counted
from ..steps import checks
from ..variants import variant
from . import masks as mask_files
from . import names
from .before import CENTRE, POOL, STRANGERS, Before, at_grid, chosen, grid, threshold
from .masks import BoxMasks, Cropped, Masks
from .measures import COSTLY, SHARES, STAGES, STEPS, Measures

ROAD_PART = 5  # of the pictures on which the costly families run, ROAD runs on one in so many
BATCH = 16
_DECIDING = ("model", "weights", "reshape", "methods", "rank", "center", "combine", "sign", "precision", "size", "fit")
LARGEST = 256  # pictures of a shard
OVERHEAD = 1.3  # times the forward passes


@dataclass(frozen=True)
class Asked:
    """What is asked of a run, and what a reader of the study wants to know."""

    settings: Settings
    left_out: dict[str, str]  # family -> why
    keys: list[str]
    score: str | None
    seconds: float  # of one worker, about


def ask(
    settings: Settings,
    out: str | Path,
    *,
    masks: Any = None,
    score: Any = None,
    metrics: Sequence[str] | None = None,
    faithful_images: int = 500,
    seed: int = 0,
    source: Source | None = None,
    model: Model | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Asked:
    """Decide what can be measured, and look at the pictures that have to be known before.

    Raises:
        ValueError: a family that was named cannot be measured, or what is given cannot be used.
    """
    wanted = families_of(metrics)
    if checks.integer("faithful_images", faithful_images) < 0:
        raise ValueError(f"faithful_images must be at least 0, got {faithful_images}")
    if abs(checks.integer("seed", seed)) >= 2**63:
        raise ValueError(f"seed must be below 2**63, got {seed}")
    source = source or open_source(settings.source, settings.root)
    say("listing the images")
    items = select(listing(source), settings)
    keys = [item.key for item in items]
    say(f"loading the model {settings.model}")
    model = model or load(settings.model, **settings.loading)
    found = mask_files.find(masks, source.carried(items), source.root, items)
    network = _Network(model, settings)
    left_out: dict[str, str] = {}
    if found is None:
        left_out["localisation"] = "no masks were given"
    else:
        Cropped(model.preprocess).check()
    kind, why = network.score(score)
    if kind is None:
        left_out["faithfulness"] = left_out["road"] = why
    if not faithful_images:
        left_out |= dict.fromkeys(COSTLY, "faithful_images is 0")
    if metrics is not None and (
        refused := [f"{family}: {left_out[family]}" for family in wanted if family in left_out]
    ):
        raise ValueError(f"metrics cannot be measured: {'; '.join(refused)}")
    families = tuple(family for family in names.FAMILIES if family in wanted and family not in left_out)
    left_out |= {family: "it was not asked for" for family in names.FAMILIES if family not in wanted}
    costly = any(family in COSTLY for family in families)
    made = Measures(
        families=families,
        masks=found if "localisation" in families else None,
        masks_digest=None if found is None or "localisation" not in families else found.digest(keys),
        score=(score if callable(score) else kind) if {"faithfulness", "road"} & {*families} else None,
        score_name=kind if {"faithfulness", "road"} & {*families} else None,
        faithful=threshold(keys, faithful_images, seed) if costly else "",
        road=threshold(keys, max(faithful_images // ROAD_PART, 1), seed) if "road" in families else "",
        seed=seed,
    )
    made = replace(made, before=_before(made, network, Path(out), source, items, say))
    if settings.shard_size is None and not (Path(out) / RUN).exists():  # of a run that is there its own is taken
        share = len(items) / max(min(faithful_images, len(items)) if costly else 0, 1)
        settings = replace(settings, shard_size=max(BATCH, min(round(BATCH * share), LARGEST)))
    seconds = _estimate(network, made, settings, len(items), min(faithful_images, len(items)))
    return Asked(replace(settings, computation=made), left_out, keys, made.score_name, seconds)


def families_of(metrics: Sequence[str] | None) -> tuple[str, ...]:
    """The families that were named, or all; ValueError for one that there is not."""
    wanted = tuple(names.FAMILIES) if metrics is None else tuple(metrics)
    for family in wanted:
        checks.choice("metrics", family, names.FAMILIES)
    return wanted


class _Network:
    """The model as it is at the planning: on the CPU."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model, self.settings = model, settings
        tall, _ = shapes(model.preprocess)
        self.inputs = Inputs(model.preprocess, tall, settings.max_pixels)
        self.extractor = SaliencyExtractor(
            model.module, list(settings.layers) or None, reshape_transform=settings.reshape_transform
        )

    def score(self, asked: Any) -> tuple[str | None, str]:
        """The name of the score, or None and why there is none."""
        inputs = answers.fixed_inputs(self.inputs.shape)
        self.extractor.features(inputs)  # chooses the layer
        if callable(asked) or hasattr(asked, "against"):
            own: Any = asked
            measured.check_score(own, inputs)
            return getattr(asked, "__qualname__", type(asked).__qualname__), ""
        checks.choice("score", asked, (None, "class", "embedding"))
        try:
            output = self.extractor.features_and_output(inputs)[1]
            logits = first_tensor(getattr(output, "logits", output))
            classes = isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] > 1
        except Exception as error:  # networks of others raise anything beyond the layers
            output, classes = f"{type(error).__name__}: {error}", False
        if asked == "class" and not classes:
            text = output if isinstance(output, str) else describe(output)
            raise ValueError(f"score 'class' needs a model that gives [B, K] with K > 1, got {text}: take 'embedding'")
        kind = asked or ("class" if classes else "embedding")
        if kind == "class":
            measured.check_score(measured.class_score(self.model.module), inputs)
        return kind, ""

    def read(self, source: Source, item: Item) -> Tensor | None:
        return self.inputs.read(lambda: source.read(item)).input

    def features(self, inputs: Tensor) -> dict[str, Tensor]:
        return self.extractor.features(inputs)

    def maps(self, features: dict[str, Tensor]) -> dict[str, np.ndarray]:
        settings = self.settings
        found = {}
        for layer, values in features.items():
            for name in settings.methods:
                function = variant(name).function
                options = settings.options(name, all_of_them=True)
                maps = function(values, nan="propagate", normalize=False, precision=settings.precision, **options)
                found[f"{name}/{layer}"] = maps.float().numpy()
        return found


def _before(
    made: Measures, network: _Network, out: Path, source: Source, items: Sequence[Item], say: Callable[[str], None]
) -> Before:
    """What lies in the folder, where it is of the same pictures, or what is found now and put there."""
    deciding = {name: str(getattr(network.settings, name)) for name in _DECIDING}
    keys = [item.key for item in items]
    mark = digest({**made.options(), **deciding, "keys": keys, "layers": list(network.extractor.layers)})
    publish.make_folder(urls.folder(out))
    with turn(urls.folder(out)):
        known = Before.load(out, mark)
        if known is not None:
            return known
        say("looking at pictures that are chosen by hash")
        found = _found(made, network, source, {item.key: item for item in items})
        found.save(out, mark)
    return found


def _found(made: Measures, network: _Network, source: Source, items: dict[str, Item]) -> Before:
    keys, inputs = [], []
    for key in chosen(items, CENTRE, made.seed):
        if (one := network.read(source, items[key])) is not None:
            keys.append(key)
            inputs.append(one)
    if not inputs:
        return Before()
    batches = [network.features(torch.stack(inputs[n : n + BATCH])) for n in range(0, len(inputs), BATCH)]
    layers = list(batches[0])
    center = torch.cat([found[layers[-1]].flatten(2).mean(2) for found in batches]).double().mean(0)
    maps = network.maps({layer: values[:STRANGERS] for layer, values in batches[0].items()})
    strangers = {name: values for name, values in maps.items() if np.isfinite(values).all()}
    pool_keys, pool = _pool(made.masks, network, items, source, made.seed)
    return Before(
        center=center.float().numpy() if made.score == "embedding" else None,
        pool=pool,
        pool_keys=tuple(pool_keys),
        strangers=strangers,
        stranger_keys=tuple(keys[:STRANGERS]),
    )


def _pool(
    masks: Masks | None, network: _Network, items: dict[str, Item], source: Source, seed: int
) -> tuple[list[str], np.ndarray | None]:
    """Masks of some pictures, as large as where maps are compared."""
    keys, pool = [], []
    if masks is None:
        return keys, None
    crop, size = Cropped(network.model.preprocess), grid(network.inputs.shape)
    for key in chosen(items, POOL, seed):
        found = masks.read(key, _picture_size(network, source, items[key]) if isinstance(masks, BoxMasks) else None)
        if found.mask is not None and bool((mask := at_grid(crop(found.mask), size)).any()):
            keys.append(key)
            pool.append(mask.numpy())
    return keys, np.stack(pool) if pool else None


def _picture_size(network: _Network, source: Source, item: Item) -> tuple[int, int] | None:
    slot = network.inputs.read(lambda: source.read(item))
    return None if slot.width is None or slot.height is None else (slot.width, slot.height)


def _estimate(network: _Network, made: Measures, settings: Settings, images: int, costly: int) -> float:
    """Seconds of one worker, from the times of a forward pass and of a map against its mask, and how many there are."""
    inputs = answers.fixed_inputs(network.inputs.shape).repeat(BATCH // 2, 1, 1, 1)
    each = float("inf")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(3):  # the first ones are slow
        started = time.perf_counter()
        network.extractor.features_and_output(inputs) if made.score == "class" else network.features(inputs)
        each = min(each, (time.perf_counter() - started) / len(inputs))
    located = 0.0
    if "localisation" in made.families:
        maps = measured.smooth_noise((LARGEST, *grid(network.inputs.shape)), range(LARGEST))
        started = time.perf_counter()
        measured.localise({"": maps}, maps > 0.5)
        located = (time.perf_counter() - started) / len(maps)
    torch.set_num_threads(threads)
    layers = len(network.extractor.layers)
    methods = len(settings.methods)
    arms = made.arms(settings.methods)
    plain, forms = sum("@" not in arm for arm in arms), sum("@" in arm for arm in arms)
    passes = 0.0
    if "faithfulness" in made.families:
        passes += layers * (plain + methods + 1 + plain * 4 * (STEPS + 1) + forms)
    if "road" in made.families:
        passes += layers * plain * 2 * len(SHARES) / ROAD_PART
    passes += 4 * ("stability" in made.families) + STAGES * ("randomisation" in made.families)
    return OVERHEAD * (each * (images + costly * passes) + located * images * layers * len(arms))


def told(asked: Asked, workers: int) -> str:
    """What is about to be done, in a line."""
    from ..readable import duration

    families = ", ".join(getattr(asked.settings.computation, "families", ()))
    return f"{counted(len(asked.keys), 'image')}: {families}; about {duration(asked.seconds / max(workers, 1))}"
