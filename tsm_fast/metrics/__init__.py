"""Metrics of maps, batched, image by image: torch in, `[B]` out, on the device of the maps.

    auc = tsm_fast.metrics.roc_auc(maps, masks)  # [B]
    score = tsm_fast.metrics.class_score(model)
    drop = tsm_fast.metrics.average_drop(score, inputs, maps)  # [B]
    tsm_fast.metrics.interval(auc, groups=patients)  # mean, low, high

Of maps and masks: energy_in_mask, pointing_game, roc_auc, shuffled_auc, average_precision, iou_at_mask_area, box_iou;
localise takes all of these of several maps at once; status says why an item has none.
Of a score, inputs and maps: average_drop, average_increase (kept_score, drop, increase), insertion_deletion, road.
Of two maps: coherency, stability, sanity_similarity; of one: complexity; of three metrics: adcc.
Scores: class_score, embedding_score, against, check_score, ScoreError; changed inputs: blurred, imputed.
Controls: uniform, smooth_noise, center_gaussian, edges, energy, mean_activation, another_image, same_histogram,
one_histogram.
Of features: spectrum. Over images: interval, paired, holm.
"""

from __future__ import annotations

from ._imputation import imputed
from .controls import (
    another_image,
    center_gaussian,
    edges,
    energy,
    mean_activation,
    one_histogram,
    same_histogram,
    smooth_noise,
    uniform,
)
from .faithfulness import (
    InsertionDeletion,
    SanitySimilarity,
    Stability,
    adcc,
    average_drop,
    average_increase,
    blurred,
    coherency,
    complexity,
    drop,
    increase,
    insertion_deletion,
    kept_score,
    road,
    sanity_similarity,
    stability,
)
from .localisation import (
    average_precision,
    box_iou,
    energy_in_mask,
    iou_at_mask_area,
    localise,
    pointing_game,
    roc_auc,
    shuffled_auc,
    status,
)
from .scores import ScoreError, against, check_score, class_score, embedding_score
from .spectra import Spectrum, spectrum
from .statistics import Interval, Paired, holm, interval, paired

__all__ = [
    "InsertionDeletion",
    "Interval",
    "Paired",
    "SanitySimilarity",
    "ScoreError",
    "Spectrum",
    "Stability",
    "adcc",
    "against",
    "another_image",
    "average_drop",
    "average_increase",
    "average_precision",
    "blurred",
    "box_iou",
    "center_gaussian",
    "check_score",
    "class_score",
    "coherency",
    "complexity",
    "drop",
    "edges",
    "embedding_score",
    "energy",
    "energy_in_mask",
    "holm",
    "imputed",
    "increase",
    "insertion_deletion",
    "interval",
    "iou_at_mask_area",
    "kept_score",
    "localise",
    "mean_activation",
    "one_histogram",
    "paired",
    "pointing_game",
    "road",
    "roc_auc",
    "same_histogram",
    "sanity_similarity",
    "shuffled_auc",
    "smooth_noise",
    "spectrum",
    "stability",
    "status",
    "uniform",
]
