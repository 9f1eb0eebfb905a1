"""Which options make the better map: centred or not, the first vector or all, and what becomes of signs.

The rule was fixed before anything was measured: a setting is recommended if its difference to EigenCAM as
pytorch-grad-cam has it, paired by image, is above -.005 in every cell, and above 0 in more than half of them after
Holm over all settings and cells. A cell is a metric of a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import metrics
from ..extractor import SaliencyExtractor
from ..metrics.scores import Score
from ..models import Model
from ..steps.choice import resolve

WORST, BATCH, STEPS = -0.005, 32, 10
METRICS = {  # those that area and sharpness do not reach; more is better in all
    "shuffled_auc": "shuffled AUC",
    "kept": "kept",  # 1 less the average drop, at one histogram
    "insertion_deletion": "insertion less deletion",
    "jpeg": "JPEG 75",  # correlation with the map of the picture so saved
}


class Setting(NamedTuple):
    """One way to make a map of the singular vectors of a feature tensor `F` [C, S].

    `sign` "cut": each vector's map turned so that its largest entry is positive, the negative part of their sum cut
    off. "absolute": the sum of absolute values. "signed": the absolute value of the sum, signs by the largest entry of
    the left vectors.
    """

    centered: bool
    all_vectors: bool
    sign: str

    @property
    def name(self) -> str:
        return f"{'centred' if self.centered else 'uncentred'}, {'all' if self.all_vectors else 'first'}, {self.sign}"

    @property
    def variant(self) -> str | None:
        """The map of this package that it is."""
        return _VARIANTS.get(self)


# Of one vector, "absolute" and "signed" are the same map.
SETTINGS = tuple(
    Setting(centered, all_vectors, sign)
    for centered in (True, False)
    for all_vectors in (False, True)
    for sign in ("cut", "absolute", "signed")
    if all_vectors or sign != "signed"
)
BASELINE = Setting(True, False, "cut")
_VARIANTS = {
    BASELINE: "eigencam",
    Setting(False, False, "cut"): "eigencam:center=false",
    Setting(False, False, "absolute"): "tsm",
    Setting(True, True, "absolute"): "multivec_eigencam:combine=absolute",
    Setting(True, True, "signed"): "multivec_eigencam",
    Setting(False, True, "absolute"): "mtsm:combine=absolute",
    Setting(False, True, "signed"): "mtsm",
}


def maps_of(features: Tensor) -> dict[Setting, Tensor]:  # [B, C, H, W] -> [B, H, W] each
    """The maps of all settings, not normalised."""
    rows = features.flatten(2).double()  # [B, C, S]
    found = {}
    for centered in (True, False):
        u, s, vh = torch.linalg.svd(rows - rows.mean(2, keepdim=True) if centered else rows, full_matrices=False)
        vectors = s[..., None] * vh  # [B, K, S] the map F^T u_i of each
        u_signed, v_signed = _signs(u.mT), _signs(vh)
        for setting in SETTINGS:
            if setting.centered == centered:
                weights = s[..., None] if setting.all_vectors else torch.eye(1, s.shape[1], dtype=s.dtype)[..., None]
                if setting.sign == "absolute":
                    made = (weights * vectors.abs()).sum(1)
                elif setting.sign == "signed":
                    made = (weights * u_signed * vectors).sum(1).abs()
                else:
                    made = (weights * v_signed * vectors).sum(1).clamp_min(0)
                found[setting] = made.view(len(features), *features.shape[2:])
    return found


def _signs(vectors: Tensor) -> Tensor:  # [B, K, N] -> [B, K, 1]
    """1 where the largest entry is positive, else -1."""
    return torch.where(vectors.amax(2, keepdim=True) < -vectors.amin(2, keepdim=True), -1.0, 1.0)


@dataclass(frozen=True)
class Rows:
    """What was measured of one network: `values[metric]` is [settings, images]."""

    network: str
    keys: Sequence[str]
    groups: Sequence[str]
    values: Mapping[str, np.ndarray]


def measure(
    network: str,
    model: Model,
    layer: str | None,
    score: str,
    pictures: Mapping[str, Image.Image],
    masks: Mapping[str, np.ndarray],
    groups: Mapping[str, str],
    costly: int,
) -> Rows:
    """All metrics of all settings on the pictures.

    Args:
        network: its name.
        model, layer: of the maps; None chooses the layer.
        score: "class" or "embedding".
        pictures, masks, groups: RGB, [h, w] of the input's size, and the independent unit, by key.
        costly: on how many of the pictures, the first ones, the metrics run that the network has to run for; the
            others have NaN.
    """
    keys = list(pictures)
    inputs = torch.stack([model.preprocess(pictures[key]) for key in keys])
    jpegs = torch.stack([model.preprocess(_as_jpeg(pictures[key])) for key in keys])
    size = (inputs.shape[2], inputs.shape[3])
    objects = torch.stack([_resized(masks[key], size) for key in keys])
    units = [groups[key] for key in keys]
    with SaliencyExtractor(model.module, layer) as extractor:
        watched = _score(score, model, extractor, inputs)
        values = {metric: np.full((len(SETTINGS), len(keys)), np.nan) for metric in METRICS}
        for part in _parts(len(keys)):
            x, mask = inputs[part], objects[part]
            some = slice(part.start, max(min(part.stop, costly), part.start))
            near = x[: some.stop - some.start]
            fixed = metrics.against(watched, near)
            here, changed = _maps(extractor, x, size), _maps(extractor, jpegs[part], size)
            own = units[part.start : part.stop]
            for row, setting in enumerate(SETTINGS):
                maps = here[setting]
                auc = metrics.shuffled_auc(maps, mask, objects, groups=own, other_groups=units)
                values["shuffled_auc"][row, part] = auc.numpy()
                values["jpeg"][row, part] = metrics.stability(maps, changed[setting]).correlation.numpy()
                if len(near):
                    maps = maps[: len(near)]
                    drop = metrics.average_drop(fixed, near, metrics.one_histogram(maps))
                    curves = metrics.insertion_deletion(fixed, near, maps, steps=STEPS)
                    values["kept"][row, some] = 1 - drop.numpy()
                    values["insertion_deletion"][row, some] = (curves.insertion - curves.deletion).numpy()
    return Rows(network, keys, units, values)


def _score(score: str, model: Model, extractor: SaliencyExtractor, inputs: Tensor) -> Score:
    if score == "class":
        return metrics.class_score(model.module)
    plain = metrics.embedding_score(extractor)
    center = torch.cat([plain.embeddings(inputs[part]) for part in _parts(len(inputs))]).mean(0)
    return metrics.embedding_score(extractor, center=center)


def _maps(extractor: SaliencyExtractor, inputs: Tensor, size: tuple[int, int]) -> dict[Setting, Tensor]:
    (features,) = extractor.features(inputs).values()
    return {
        setting: resolve(None, maps).finish(maps.float(), size, normalize=True)
        for setting, maps in maps_of(features).items()
    }


def _parts(count: int) -> list[slice]:
    return [slice(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


def _as_jpeg(picture: Image.Image) -> Image.Image:
    file = BytesIO()
    picture.save(file, "JPEG", quality=75)
    return Image.open(BytesIO(file.getvalue())).convert("RGB")


def _resized(mask: np.ndarray, size: tuple[int, int]) -> Tensor:
    picture = Image.fromarray(np.asarray(mask, bool)).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(picture))


class Cell(NamedTuple):
    """A setting against EigenCAM, in one metric of one network."""

    network: str
    metric: str
    mean: float
    low: float
    high: float
    p: float  # after Holm


@dataclass(frozen=True)
class Verdict:
    """What the rule says of a setting."""

    setting: Setting
    cells: Sequence[Cell]

    @property
    def worst(self) -> float:
        return min(cell.mean for cell in self.cells)

    @property
    def above(self) -> int:
        return sum(cell.mean > 0 and cell.p < 0.05 for cell in self.cells)

    @property
    def recommended(self) -> bool:
        return self.worst > WORST and 2 * self.above > len(self.cells)


def decide(rows: Sequence[Rows]) -> list[Verdict]:
    """The rule, for every setting but EigenCAM itself."""
    others = [setting for setting in SETTINGS if setting != BASELINE]
    base = SETTINGS.index(BASELINE)
    places = [SETTINGS.index(setting) for setting in others]
    cells = [(part, metric) for part in rows for metric in METRICS]
    pairs = []
    for part, metric in cells:
        values = part.values[metric].T  # [images, settings]
        pairs.append(metrics.paired(values[:, places], values[:, [base] * len(places)], groups=part.groups))
    p = metrics.holm(np.concatenate([pair.p for pair in pairs])).reshape(len(cells), len(others))

    def cell(row: int, column: int) -> Cell:
        (part, metric), pair = cells[row], pairs[row]
        mean, low, high = (float(numbers[column]) for numbers in pair[:3])
        return Cell(part.network, metric, mean, low, high, float(p[row, column]))

    return [Verdict(setting, [cell(row, column) for row in range(len(cells))]) for column, setting in enumerate(others)]


def sentence(verdicts: Sequence[Verdict]) -> str:
    """What the rule recommends."""
    good = [verdict for verdict in verdicts if verdict.recommended]
    if not good:
        return (
            "The rule recommends no setting: each is worse than EigenCAM by more than .005 in some cell, or above it "
            "in at most half."
        )
    named = [one.setting.name + (f" (`{one.setting.variant}`)" if one.setting.variant else "") for one in good]
    return f"The rule recommends, against EigenCAM: {'; '.join(named)}."


def note(rows: Sequence[Rows]) -> str:
    """What a reader of the table has to know of its columns."""
    counts = ", ".join(f"{part.network} {np.isfinite(part.values['kept'][0]).sum()}" for part in rows)
    return (
        "`kept` is 1 less the average drop at one histogram. It and insertion less deletion are of fewer pictures than "
        f"the other columns ({counts} of {len(rows[0].keys)}), chosen by hash."
    )


def table(verdicts: Sequence[Verdict]) -> str:
    """All differences as a table in Markdown; bold where they hold after Holm."""
    cells = [(cell.network, cell.metric) for cell in verdicts[0].cells]
    columns = (f"{network}: {METRICS[metric]}" for network, metric in cells)
    head = ["setting", "map", *columns, "worst", "above 0", "rule"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for verdict in verdicts:
        numbers = [_text(cell.mean, bold=cell.p < 0.05) for cell in verdict.cells]
        said = "recommended" if verdict.recommended else ""
        variant = f"`{verdict.setting.variant}`" if verdict.setting.variant else ""
        row = [verdict.setting.name, variant, *numbers, _text(verdict.worst)]
        lines.append(f"| {' | '.join([*row, f'{verdict.above} of {len(cells)}', said])} |")
    return "\n".join(lines)


def _text(number: float, bold: bool = False) -> str:
    text = f"{number:+.3f}"
    return f"**{text}**" if bold else text
