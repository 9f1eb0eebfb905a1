"""What a study measures, and against what."""

from __future__ import annotations

from typing import NamedTuple

MAPS = (
    "eigencam",
    "tsm",
    "multivec_eigencam",
    "multivec_eigencam:combine=absolute",
    "mtsm",
    "mtsm:combine=absolute",
)

PRESETS = ("paper",)  # of `presets`

FAMILIES = {
    "localisation": "against masks",
    "faithfulness": "what the model's score does when pixels are taken away",
    "road": "the same, with pixels interpolated (ROAD), on a fifth as many pictures",
    "stability": "how far a map moves when the picture changes hardly",
    "randomisation": "how far a map moves when the network's layers are drawn anew, from the top",
    "spectra": "singular values of the feature tensors",
}

# What is no map of the model, or none that needs a decomposition.
CONTROLS = {
    "uniform": "all ones",
    "smooth": "smooth random",
    "centre": "centre Gaussian",
    "edges": "edges of the input (Sobel)",
    "mean_activation": "mean activation (LaFAM)",
    "energy": "energy of the features",
    "mask": "the mask itself",
}
FORMS = {
    "elsewhere": "its own histogram at other places",
    "other": "another image's map",
    "ranked": "at one common histogram",
}


class Metric(NamedTuple):
    """A number of each map of each image."""

    family: str
    title: str
    best: str  # "high" or "low"
    fooled_by: str


METRICS = {
    "energy_in_mask": Metric("localisation", "energy in mask", "high", "area and sharpness"),
    "pointing_game": Metric("localisation", "pointing game", "high", "centre bias"),
    "roc_auc": Metric("localisation", "ROC AUC", "high", "centre bias"),
    "average_precision": Metric("localisation", "average precision", "high", "centre bias"),
    "iou_at_mask_area": Metric("localisation", "IoU at the mask's area", "high", "centre bias"),
    "box_iou": Metric("localisation", "box IoU", "high", "centre bias"),
    "shuffled_auc": Metric("localisation", "shuffled AUC", "high", "nothing known"),
    "drop": Metric("faithfulness", "average drop", "low", "area"),
    "increase": Metric("faithfulness", "increase", "high", "area"),
    "coherency": Metric("faithfulness", "coherency", "high", "maps that ignore the image"),
    "complexity": Metric("faithfulness", "complexity (mean of the map)", "low", "area"),
    "adcc": Metric("faithfulness", "ADCC", "high", "area"),
    "insertion": Metric("faithfulness", "insertion (blur)", "high", "order only"),
    "deletion": Metric("faithfulness", "deletion (blur)", "low", "order only"),
    "insertion_mean": Metric("faithfulness", "insertion (mean)", "high", "order only"),
    "deletion_mean": Metric("faithfulness", "deletion (mean)", "low", "order only"),
    "road": Metric("road", "ROAD", "high", "order only"),
    "jpeg": Metric("stability", "JPEG 75", "high", "maps that ignore the image"),
    "shift": Metric("stability", "shift", "high", "maps that ignore the image"),
    "noise": Metric("stability", "noise", "high", "maps that ignore the image"),
    "rescale": Metric("stability", "rescale", "high", "maps that ignore the image"),
}

# Columns of a layer: the first five singular values over their sum, by SVD and by a Tucker decomposition of 32
# channels, and their squares over that of all; the first over the second.
SPECTRA = ("svd", "svd_energy", "tucker")
GAPS = ("gap", "gap_centred")
CURVES = ("insertion_curve", "deletion_curve")  # of a map, onto and from a blurred picture

# Columns of a row that are of no map: how its mask is ("ok", "none", "empty", "full", "no-object", "size",
# "unreadable"), the share of the input that it covers, whether the costly families ran (1) or not (0), how the score is
# ("ok", "nan"), its value, and the class it is of.
ROW = ("mask", "mask_area", "faithful", "score", "score_value", "target")


def heading(metric: str, form: str = "") -> str:
    """What stands above a table of one metric, for people."""
    return capital(METRICS[metric].title) + (f", {FORMS[form]}" if form else "")


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
