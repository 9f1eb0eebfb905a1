"""The computation of a study: every metric of every map and control, picture by picture."""

from __future__ import annotations

import copy
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as functional
from PIL import Image
from torch import Tensor, nn

from .. import metrics
from ..layers import first_tensor
from ..models import Model
from ..models.forward import Forward
from ..pipeline.computation import Batch, Made
from ..pipeline.files.record import digest
from ..pipeline.files.shards import MapColumn, ValueColumn
from ..pipeline.worker.maps import Maps
from ..steps.choice import resolve
from . import names
from .before import Before, at_grid, grid, number, rank
from .masks import OK, Cropped, Masks

STEPS = 8  # of insertion and deletion
SHARES = (0.2, 0.5, 0.8)  # of ROAD
QUALITY = 75  # of JPEG
SHIFT = 0.02  # of a side
NOISE = 0.05  # of the spread of the input
RESCALE = 0.75  # of the picture's sides
STAGES = 4  # of the randomisation
VALUES = 5  # of each spectrum
TUCKER_RANK = 32  # channels, of the spectrum

COSTLY = ("faithfulness", "road", "stability", "randomisation")
_LOCAL = [name for name, metric in names.METRICS.items() if metric.family == "localisation"]
_STABLE = [name for name, metric in names.METRICS.items() if metric.family == "stability"]
_BASELINES: tuple[tuple[Literal["blur", "mean"], str], ...] = (("blur", ""), ("mean", "_mean"))
_KEPT = ("drop", "increase")


def column(arm: str, layer: str, metric: str) -> str:
    """The name of a column: of a map, a control, or a form of a map."""
    return f"{arm}/{layer}:{metric}"


@dataclass(frozen=True)
class Measures:
    """What a study asks of a run.

    Args:
        families: of `names.FAMILIES`.
        masks: None without localisation.
        masks_digest: tells other masks.
        score: "class", "embedding", a function as in `metrics`, or None without one.
        score_name: what the record calls it.
        faithful, road: the rank of the last picture on which the costly families run, and ROAD.
        seed: of the choice of pictures and of what is random in controls.
        before: what has to be known of all pictures.
    """

    families: tuple[str, ...]
    masks: Masks | None = None
    masks_digest: str | None = None
    score: Any = None
    score_name: str | None = None
    faithful: str = ""
    road: str = ""
    seed: int = 0
    before: Before = field(default_factory=Before, compare=False)

    name = "study"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Measures) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @cached_property
    def _identity(self) -> str:
        return digest(self.options())

    def options(self) -> dict[str, Any]:
        constants = (STEPS, SHARES, QUALITY, SHIFT, NOISE, RESCALE, STAGES, TUCKER_RANK)
        return {
            "families": list(self.families),
            "masks": self.masks_digest,
            "score": self.score_name,
            "faithful": self.faithful,
            "road": self.road,
            "seed": self.seed,
            "before": self.before.digest(),
            "constants": json.loads(json.dumps(constants)),
        }

    def columns(self, maps: Sequence[MapColumn]) -> tuple[ValueColumn, ...]:
        found = [ValueColumn(name, "text" if name in ("mask", "score") else "number") for name in names.ROW]
        layers = list(dict.fromkeys(one.layer for one in maps))
        methods = list(dict.fromkeys(one.method for one in maps))
        for layer in layers:
            if "spectra" in self.families:
                found += [ValueColumn(f"{layer}:{name}", "list", VALUES) for name in names.SPECTRA]
                found += [ValueColumn(f"{layer}:{name}", "number") for name in names.GAPS]
            for arm in self.arms(methods):
                found += [ValueColumn(column(arm, layer, name), "number") for name in self.metrics(arm, methods)]
                if "faithfulness" in self.families and "@" not in arm:
                    found += [ValueColumn(column(arm, layer, name), "list", STEPS + 1) for name in names.CURVES]
                if "randomisation" in self.families and arm in methods:
                    found.append(ValueColumn(column(arm, layer, "randomised"), "list", STAGES))
        return tuple(found)

    def arms(self, methods: Sequence[str]) -> list[str]:
        """The maps and controls, and their other forms, of which there are columns."""
        controls = [
            name for name in names.CONTROLS if name not in methods and (name != "mask" or self.masks is not None)
        ]
        plain = [*methods, *controls]
        return [*plain, *(f"{arm}@{form}" for form in names.FORMS for arm in plain if _has(form, arm))]

    def metrics(self, arm: str, methods: Sequence[str]) -> list[str]:
        """Those that one of them has."""
        base, _, form = arm.partition("@")
        found = _LOCAL if "localisation" in self.families and form != "ranked" else []
        if "faithfulness" in self.families:
            kept = _KEPT if self.score == "class" else _KEPT[:1]
            if form:
                found = [*found, *kept]
            else:
                own = [name for name, metric in names.METRICS.items() if metric.family == "faithfulness"]
                found = [*found, *(name for name in own if name in kept or name not in _KEPT)]
        if "road" in self.families and not form:
            found = [*found, "road"]
        if "stability" in self.families and (arm in methods or base in ("edges", "energy")) and not form:
            found = [*found, *_STABLE]
        return found

    def start(self, maps: Maps, model: Model) -> Measuring:
        return Measuring(self, maps, model)


def _has(form: str, arm: str) -> bool:
    """Whether a map or control is also measured in another form."""
    return form == "ranked" or arm not in names.CONTROLS


class Extra(NamedTuple):
    """What else is needed of a picture."""

    key: str
    status: str  # of its mask
    mask: Tensor | None  # [h, w] bool
    area: float
    changed: Mapping[str, Tensor]  # inputs [C, H, W] of the picture after small changes


class Measuring:
    """A study's computation in a worker."""

    def __init__(self, asked: Measures, maps: Maps, model: Model) -> None:
        self._asked, self._maps, self._forward, self._model = asked, maps, maps.forward, model
        self._methods = list(dict.fromkeys(method for method, _ in maps.columns))
        self._layers = list(dict.fromkeys(layer for _, layer in maps.columns))
        self._known: tuple[Tensor, Any] | None = None  # the last inputs and what the network gave for them
        self._crop = Cropped(model.preprocess)
        self._columns = asked.columns(
            [MapColumn(f"{method}/{layer}", method, layer, (1, 1), "float32", None) for method, layer in maps.columns]
        )
        self._random = [] if "randomisation" not in asked.families else randomised(self._forward, asked.seed)
        pool = asked.before.pool
        self._pool = None if pool is None else torch.from_numpy(pool).to(maps.device)

    def prepare(self, key: str, picture: Image.Image | None, made: Tensor) -> Extra:
        status, mask, area = self._mask(key, picture, made)
        changed: dict[str, Tensor] = {}
        if "stability" in self._asked.families and self._wanted(key) and picture is not None:
            stream = io.BytesIO()
            picture.convert("RGB").save(stream, "JPEG", quality=QUALITY)
            smaller = tuple(max(round(side * RESCALE), 1) for side in picture.size)
            changed["jpeg"] = self._model.preprocess(Image.open(stream).convert("RGB"))
            changed["rescale"] = self._model.preprocess(
                picture.convert("RGB").resize(smaller, Image.Resampling.BICUBIC)  # pyright: ignore[reportArgumentType]
            )
        return Extra(key, status, mask, area, changed)

    def compute(self, batch: Batch, seconds: dict[str, float], beat: Callable[[], None]) -> Made:
        started = time.perf_counter()
        inputs = batch.inputs.to(self._maps.device)
        dear = any(family in COSTLY for family in self._asked.families)
        if self._asked.score == "class":
            features, output = self._forward.whole(inputs)
        else:
            features, output = self._forward(inputs, batch.full), None
        self._maps.wait()
        seconds["forward"] += time.perf_counter() - started
        made = self._maps.of(features, seconds)
        values = {one.name: one.blank(len(inputs)) for one in self._columns}
        rows = [row for row, extra in enumerate(batch.extras) if extra is not None and row not in made.problems]
        if rows:
            found = Rows(rows, [batch.extras[row] for row in rows], values)
            picked = torch.tensor(rows, device=inputs.device)
            own = {layer: features[layer][picked] for layer in self._layers}
            self._cheap(found, inputs[picked], own, seconds)
            beat()
            costly = [place for place, extra in enumerate(found.extras) if dear and self._wanted(extra.key)]
            if costly:
                started = time.perf_counter()
                self._costly(found.pick(costly), inputs[picked][costly], own, output, picked, costly, beat)
                self._maps.wait()
                seconds["forward"] += time.perf_counter() - started
        return Made({**made.columns, **values}, made.problems)

    def _wanted(self, key: str) -> bool:
        return bool(self._asked.faithful) and rank(self._asked.seed, key) <= self._asked.faithful

    def _mask(self, key: str, picture: Image.Image | None, made: Tensor) -> tuple[str, Tensor | None, float]:
        if self._asked.masks is None:
            return "none", None, float("nan")
        h, w = made.shape[-2:]
        found = self._asked.masks.read(key, (w, h) if picture is None else picture.size)
        if found.mask is None:
            return found.status, None, {"empty": 0.0, "full": 1.0}.get(found.status, float("nan"))
        if picture is None:
            cover = torch.from_numpy(np.asarray(found.mask, np.float32) / 255)
        else:
            cover = self._crop(found.mask)
        mask, area = at_grid(cover, grid(made.shape)), float(cover.mean())
        status = OK if mask.any() and not mask.all() else "full" if mask.any() else "no-object"
        return status, mask, area

    # Cheap: of all pictures

    def _cheap(self, rows: Rows, inputs: Tensor, features: Mapping[str, Tensor], seconds: dict[str, float]) -> None:
        started = time.perf_counter()
        rows.put("mask", [extra.status for extra in rows.extras])
        rows.put("mask_area", [extra.area for extra in rows.extras])
        rows.put("faithful", [float(self._wanted(extra.key)) for extra in rows.extras])
        for layer, maps in features.items():
            if "spectra" in self._asked.families:
                self._spectra(rows, layer, maps)
        if "localisation" in self._asked.families:
            self._localise(rows, inputs, features)
        seconds["decomposition"] += time.perf_counter() - started

    def _spectra(self, rows: Rows, layer: str, features: Tensor) -> None:
        channels, *size = features.shape[1:]
        svd = metrics.spectrum(features)
        tucker = metrics.spectrum(features, "tucker", rank=(min(TUCKER_RANK, channels), *size))
        centred = metrics.spectrum(features, center=True)
        for name, values in (("svd", svd.share), ("svd_energy", svd.energy), ("tucker", tucker.share)):
            first = values[:, :VALUES]
            rows.put(f"{layer}:{name}", functional.pad(first, (0, VALUES - first.shape[1]), value=torch.nan))
        for name, one in (("gap", svd), ("gap_centred", centred)):
            rows.put(f"{layer}:{name}", one.gap)

    def _localise(self, rows: Rows, inputs: Tensor, features: Mapping[str, Tensor]) -> None:
        there = [place for place, extra in enumerate(rows.extras) if extra.status == OK]
        if not there:
            return
        some, inputs = rows.pick(there), inputs[there]
        masks = torch.stack([extra.mask for extra in some.extras if extra.mask is not None]).to(inputs.device)
        for layer, values in features.items():
            raw = self._raw(layer, values[there], inputs, some, masks)
            raw |= self._forms(layer, raw, some)
            size = (masks.shape[1], masks.shape[2])
            local = {arm: finished(maps, size) for arm, maps in raw.items()}
            keys = [extra.key for extra in some.extras]
            for (arm, metric), found in localised(local, masks, keys, self._pool, self._asked.before.pool_keys).items():
                some.put(column(arm, layer, metric), found)

    # Costly: of some pictures

    def _costly(
        self,
        rows: Rows,
        inputs: Tensor,
        features: Mapping[str, Tensor],
        output: Any,
        picked: Tensor,
        places: list[int],
        beat: Callable[[], None],
    ) -> None:
        features = {layer: maps[places] for layer, maps in features.items()}
        masks = [extra.mask if extra.status == OK else None for extra in rows.extras]
        one = next((mask for mask in masks if mask is not None), None)
        objects = None
        if one is not None:
            objects = torch.stack([torch.zeros_like(one) if mask is None else mask for mask in masks]).to(inputs.device)
        raw = {layer: self._raw(layer, maps, inputs, rows, objects) for layer, maps in features.items()}
        if {"faithfulness", "road"} & {*self._asked.families}:
            left = list(range(len(rows.rows)))
            if self._asked.score == "class":
                logits = _logits(output)[picked][places]
                self._known = inputs, logits
            while left:
                try:
                    self._faithful(rows.pick(left), inputs[left], {k: _take(v, left) for k, v in raw.items()}, beat)
                    break
                except metrics.ScoreError as error:
                    if not error.items:
                        raise
                    rows.pick([left[item] for item in error.items]).put("score", ["nan"] * len(error.items))
                    left = [place for number, place in enumerate(left) if number not in error.items]
                    self._known = None
        if "stability" in self._asked.families:
            self._stable(rows, inputs, raw, beat)
        for number_, forward in enumerate(self._random):
            self._sanity(rows, forward(inputs), raw, number_)
            beat()

    def _faithful(
        self, rows: Rows, inputs: Tensor, raw: Mapping[str, Mapping[str, Tensor]], beat: Callable[[], None]
    ) -> None:
        fixed = metrics.against(self._score, inputs)
        classes = self._known
        self._known = None
        rows.put("score", [OK] * len(inputs))
        rows.put("score_value", fixed.untouched)
        if classes is not None and classes[1] is not None and len(classes[1]) == len(inputs):
            rows.put("target", classes[1].argmax(1))
        size = (inputs.shape[2], inputs.shape[3])
        fully = "faithfulness" in self._asked.families
        for layer, maps in raw.items():
            for arm, plain in maps.items():
                full = finished(plain, size)
                if fully:
                    self._kept(rows, layer, arm, full, inputs, fixed)
                    self._curves(rows, layer, arm, full, inputs, fixed, beat)
                    kept = metrics.kept_score(fixed, inputs, metrics.one_histogram(full).nan_to_num(0))
                    self._put_kept(rows, layer, f"{arm}@ranked", fixed.untouched, kept)
                if "road" in self._asked.families:
                    self._road(rows, layer, arm, full, inputs)
                beat()
            if fully:
                for arm, plain in self._forms(layer, maps, rows).items():
                    kept = metrics.kept_score(fixed, inputs, finished(plain, size))
                    self._put_kept(rows, layer, arm, fixed.untouched, kept)
                    beat()

    def _kept(self, rows: Rows, layer: str, arm: str, full: Tensor, inputs: Tensor, fixed: Any) -> None:
        kept = inputs * full[:, None]
        if arm in self._methods or arm == "energy":
            score = self._again(kept) if self._asked.score == "class" else None
            features = score[0] if score is not None else self._forward(kept)
            again = finished(self._one(layer, arm, features[layer]), full.shape[1:])
            if score is not None:
                self._known = kept, score[1]
        else:
            again = finished(metrics.edges(kept), full.shape[1:]) if arm == "edges" else full
        after = fixed(kept)
        self._known = None
        self._put_kept(rows, layer, arm, fixed.untouched, after)
        coherency, complexity = metrics.coherency(full, again), metrics.complexity(full)
        dropped = metrics.drop(fixed.untouched, after)
        rows.put(column(arm, layer, "coherency"), coherency)
        rows.put(column(arm, layer, "complexity"), complexity)
        rows.put(column(arm, layer, "adcc"), metrics.adcc(coherency, complexity, dropped))

    def _put_kept(self, rows: Rows, layer: str, arm: str, before: Tensor, after: Tensor) -> None:
        rows.put(column(arm, layer, "drop"), metrics.drop(before, after))
        if self._asked.score == "class":
            rows.put(column(arm, layer, "increase"), metrics.increase(before, after))

    def _curves(
        self, rows: Rows, layer: str, arm: str, full: Tensor, inputs: Tensor, fixed: Any, beat: Callable[[], None]
    ) -> None:
        for baseline, end in _BASELINES:
            found = metrics.insertion_deletion(fixed, inputs, full, STEPS, baseline)
            rows.put(column(arm, layer, f"insertion{end}"), found.insertion)
            rows.put(column(arm, layer, f"deletion{end}"), found.deletion)
            if not end:
                rows.put(column(arm, layer, "insertion_curve"), found.insertion_curve)
                rows.put(column(arm, layer, "deletion_curve"), found.deletion_curve)
            beat()

    def _road(self, rows: Rows, layer: str, arm: str, full: Tensor, inputs: Tensor) -> None:
        places = [n for n, extra in enumerate(rows.extras) if rank(self._asked.seed, extra.key) <= self._asked.road]
        if places:
            found = metrics.road(self._score, inputs[places], full[places], shares=SHARES, seed=self._asked.seed)
            rows.pick(places).put(column(arm, layer, "road"), found)

    def _stable(
        self, rows: Rows, inputs: Tensor, raw: Mapping[str, Mapping[str, Tensor]], beat: Callable[[], None]
    ) -> None:
        step = max(1, round(SHIFT * min(inputs.shape[2:])))
        moved = functional.pad(inputs, (step, 0, step, 0), mode="replicate")[..., : inputs.shape[2], : inputs.shape[3]]
        noise = torch.stack(
            [
                torch.randn(
                    inputs.shape[1:], generator=torch.Generator().manual_seed(number(self._asked.seed, one.key))
                )
                for one in rows.extras
            ]
        ).to(inputs)
        spread = inputs.flatten(1).std(1).view(-1, 1, 1, 1)
        changes = {"shift": moved, "noise": inputs + NOISE * spread * noise}
        for name in ("jpeg", "rescale"):
            if all(name in one.changed for one in rows.extras):
                changes[name] = torch.stack([one.changed[name] for one in rows.extras]).to(inputs)
        size = (inputs.shape[2], inputs.shape[3])
        for name, changed in changes.items():
            features = self._forward(changed)
            beat()
            for layer, maps in raw.items():
                for arm, plain in maps.items():
                    if arm not in self._methods and arm not in ("edges", "energy"):
                        continue
                    after = metrics.edges(changed) if arm == "edges" else self._one(layer, arm, features[layer])
                    one, two = plain, after
                    if name == "shift":
                        one = finished(plain, size)[:, : size[0] - step, : size[1] - step]
                        two = finished(after, size)[:, step:, step:]
                    rows.put(column(arm, layer, name), metrics.stability(one, two).correlation)

    def _sanity(
        self, rows: Rows, features: Mapping[str, Tensor], raw: Mapping[str, Mapping[str, Tensor]], stage: int
    ) -> None:
        for layer, maps in raw.items():
            for arm in self._methods:
                after = self._one(layer, arm, features[layer])
                found = metrics.sanity_similarity(maps[arm], after)
                values = torch.where(found.equal, 1.0, found.spearman).cpu().numpy()
                rows.values[column(arm, layer, "randomised")][rows.rows, stage] = values

    # The maps

    def _raw(
        self, layer: str, features: Tensor, inputs: Tensor, rows: Rows, masks: Tensor | None
    ) -> dict[str, Tensor]:  # [B, h, w], edges and masks at sizes of their own
        """The maps and controls of pictures."""
        size = (len(inputs), *features.shape[2:])
        seeds = [number(self._asked.seed, extra.key) for extra in rows.extras]
        found = {method: self._one(layer, method, features) for method in self._methods}
        found["uniform"] = metrics.uniform(size)
        found["smooth"] = metrics.smooth_noise(size, seeds)
        found["centre"] = metrics.center_gaussian(size)
        found["edges"] = metrics.edges(inputs)
        found.setdefault("mean_activation", metrics.mean_activation(features))
        found["energy"] = self._one(layer, "energy", features)
        if masks is not None:
            found["mask"] = masks.float()
        return {arm: maps.to(inputs.device, torch.float32) for arm, maps in found.items()}

    def _forms(self, layer: str, raw: Mapping[str, Tensor], rows: Rows) -> dict[str, Tensor]:
        """The maps at other places, and those of other images."""
        seeds = [number(self._asked.seed, extra.key) for extra in rows.extras]
        found: dict[str, Tensor] = {}
        for arm in self._methods:
            if not _has("other", arm):
                continue
            found[f"{arm}@elsewhere"] = metrics.same_histogram(raw[arm], seeds)
            other = self._asked.before.stranger(f"{arm}/{layer}", [one.key for one in rows.extras], self._asked.seed)
            if other is not None:
                found[f"{arm}@other"] = other.to(raw[arm])
        return found

    def _one(self, layer: str, arm: str, features: Tensor) -> Tensor:
        return metrics.energy(features).float() if arm == "energy" else self._maps.one(arm, features)

    # The score

    @cached_property
    def _score(self) -> Any:
        if self._asked.score == "class":
            return metrics.class_score(self._logits)
        if self._asked.score == "embedding":
            center = self._asked.before.center
            last = self._layers[-1]
            return metrics.embedding_score(
                lambda inputs: self._forward(inputs)[last],
                center=None if center is None else torch.from_numpy(center),
            )
        return self._asked.score

    def _logits(self, inputs: Tensor) -> Any:
        known = self._known
        return known[1] if known is not None and known[0] is inputs else self._forward.whole(inputs)[1]

    def _again(self, inputs: Tensor) -> tuple[Mapping[str, Tensor], Any]:
        return self._forward.whole(inputs)


class Rows(NamedTuple):
    """Some rows of a batch, and where their values go."""

    rows: Sequence[int]
    extras: Sequence[Extra]
    values: Mapping[str, np.ndarray]

    def pick(self, places: Sequence[int]) -> Rows:
        return Rows([self.rows[place] for place in places], [self.extras[place] for place in places], self.values)

    def put(self, name: str, found: Any) -> None:
        if name in self.values:
            self.values[name][list(self.rows)] = found.detach().cpu().numpy() if isinstance(found, Tensor) else found


def finished(maps: Tensor, size: Sequence[int]) -> Tensor:  # [B, h, w] -> [B, *size] in 0..1
    """Maps as the extractor finishes them; of constant ones those above 0, as the uniform control is, are ones."""
    made = resolve(None, maps).finish(maps, (size[0], size[1]), normalize=True)
    lowest, highest = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where((lowest == highest) & (lowest > 0), 1.0, made)


def localised(
    maps: Mapping[str, Tensor],  # [B, h, w] in 0..1 by arm
    masks: Tensor,  # [B, h, w]
    keys: Sequence[str],
    pool: Tensor | None,  # [N, h, w]
    pool_keys: Sequence[str],
) -> dict[tuple[str, str], Tensor]:
    """Every metric of localisation [B] of every map."""
    several = pool is not None and len(pool) > 1
    made = metrics.localise(
        maps,
        masks,
        pool if several else None,
        groups=list(keys) if several else None,
        other_groups=list(pool_keys) if several else None,
    )
    return {
        (arm, name): value
        for arm, values in made.items()
        for name, value in values.items()
        if several or name != "shuffled_auc"
    }


def randomised(forward: Forward, seed: int) -> list[Forward]:
    """Networks whose layers are drawn anew from the top: a quarter of them, a half, ..."""
    found = []
    for stage in range(1, STAGES + 1):
        made = copy.deepcopy(forward)
        leaves = [module for module in made.module.modules() if any(True for _ in module.parameters(recurse=False))]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for module in leaves[::-1][: -(-len(leaves) * stage // STAGES)]:
                _draw(module)
        found.append(made)
    return found


def _draw(module: nn.Module) -> None:
    reset: Any = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    for value in module.parameters(recurse=False):
        with torch.no_grad():
            value.normal_(0, 0.02)


def _logits(output: Any) -> Tensor:  # [B, K]
    return first_tensor(getattr(output, "logits", output))


def _take(maps: Mapping[str, Tensor], places: Sequence[int]) -> dict[str, Tensor]:
    return {arm: values[list(places)] for arm, values in maps.items()}
