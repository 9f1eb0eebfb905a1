"""How much a map changes when its picture hardly does: ten photos, EfficientNet-lite0, three small changes.

    python -m benchmarks.stability

writes benchmarks/results/stability.json, its tables into docs/choosing.md, and docs/choosing.webp. A change leaves what
the picture shows as it is: JPEG at quality 75, a crop that begins about 8 pixels of the network's input further right
and down, and the mirrored picture. Maps are enlarged to the input, laid over each other where they show the same, and
compared by their correlation; that says which maps are stable, and nothing about which are right.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from tsm_fast.models import lite0, lite0_inputs
from tsm_fast.pictures import load_photos
from tsm_fast.pictures.drawing import Row, contact_sheet
from tsm_fast.variants import variant

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "stability.json"
PAGE = ROOT / "docs" / "choosing.md"
PICTURE = ROOT / "docs" / "choosing.webp"
MARKERS = ("<!-- stability: begin -->\n", "<!-- stability: end -->\n")
SIDE, PIXELS = 224, 8
LAYERS = {"features": "7x7, the last layer", "features.network._blocks.10": "14x14, block 10 of 16"}
MAPS = (
    "tsm",
    "tsm:rank=16x4x4",
    "mtsm",
    "mtsm:combine=absolute",
    "mtsm:rank=16x4x4",
    "mtsm:combine=absolute,rank=16x4x4",
    "eigencam",
    "eigencam:center=false",
    "multivec_eigencam",
    "multivec_eigencam:combine=absolute",
    "mean_activation",
)
DRAWN = ("tsm", "mtsm:combine=absolute", "mtsm", "eigencam", "multivec_eigencam")
CHANGES = {"jpeg": "JPEG 75", "shift": f"moved by {PIXELS} pixels", "mirror": "mirrored"}


def jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=75)
    return Image.open(file).convert("RGB")


def cropped(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The picture without its last pixels, right and below, and without its first."""
    w, h = image.size
    k = round(PIXELS * min(w, h) / (SIDE + PIXELS))
    return image.crop((0, 0, w - k, h - k)), image.crop((k, k, w, h))


def correlation(a: Tensor, b: Tensor) -> float:
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1])


def overlap(image: Image.Image) -> int:
    """Pixels of the network's input by which the two crops differ."""
    w, h = image.size
    k = round(PIXELS * min(w, h) / (SIDE + PIXELS))
    return round(k * SIDE / (min(w, h) - k))


def gaps(features: Tensor, center: bool) -> list[float]:
    f = features.flatten(2).double()
    if center:
        f = f - f.mean(2, keepdim=True)
    values = torch.linalg.svdvals(f)
    return (values[:, 0] / values[:, 1]).tolist()


def measure() -> dict[str, Any]:
    photos = load_photos()
    model = lite0()
    images = [photo.image.convert("RGB") for photo in photos]
    pairs = [cropped(image) for image in images]
    pictures: dict[str, list[Image.Image]] = {
        "as it is": images,
        "jpeg": [jpeg(image) for image in images],
        "first": [a for a, _ in pairs],
        "second": [b for _, b in pairs],
        "mirror": [ImageOps.mirror(image) for image in images],
    }
    read: dict[str, dict[str, Tensor]] = {layer: {} for layer in LAYERS}
    for name, shown in pictures.items():
        for layer, features in outputs(model, lite0_inputs(shown)).items():
            read[layer][name] = features

    moved = [overlap(image) for image in images]
    result: dict[str, Any] = {"photos": [photo.name for photo in photos], "layers": {}}
    for layer, features in read.items():
        original = features["as it is"]
        found: dict[str, Any] = {"shape": list(original.shape[1:]), "maps": {}}
        found["ratio"] = {"centred": gaps(original, True), "uncentred": gaps(original, False)}
        ours, mean = enlarged("tsm", original), enlarged("mean_activation", original)
        found["tsm and the mean"] = [correlation(a, b) for a, b in zip(ours, mean, strict=True)]
        for text in MAPS:
            maps = {name: enlarged(text, x) for name, x in features.items()}
            found["maps"][text] = {
                "jpeg": [correlation(a, b) for a, b in zip(maps["as it is"], maps["jpeg"], strict=True)],
                "shift": [
                    correlation(a[d:, d:], b[: SIDE - d, : SIDE - d])
                    for a, b, d in zip(maps["first"], maps["second"], moved, strict=True)
                ],
                "mirror": [correlation(a, b.flip(1)) for a, b in zip(maps["as it is"], maps["mirror"], strict=True)],
            }
        result["layers"][layer] = found
    return rounded({**result, "torch": torch.__version__})


def enlarged(text: str, features: Tensor) -> Tensor:  # [B, C, H, W] -> [B, SIDE, SIDE]
    chosen = variant(text)
    return chosen.function(features, size=(SIDE, SIDE), **chosen.options)


def draw(names: tuple[str, ...]) -> Image.Image:
    """Some photos as they are and as JPEG 75, with maps of both."""
    rows = []
    for photo in (photo for photo in load_photos() if photo.name in names):
        before = photo.image.convert("RGB")
        for name, image in ((photo.name, before), ("as JPEG 75", jpeg(before))):
            found = outputs(lite0(), lite0_inputs([image]))["features"]
            maps = {variant(text).title: enlarged(text, found)[0].numpy() for text in DRAWN}
            left, top = ((side - min(image.size)) // 2 for side in image.size)
            square = image.crop((left, top, left + min(image.size), top + min(image.size)))
            rows.append(Row(name, "", square, maps))
    return contact_sheet("The same photo, saved again", "EfficientNet-lite0, last layer, 7x7", rows)


def outputs(model: torch.nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What the layers give, by name."""
    found: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(layer).register_forward_hook(lambda _, __, out, layer=layer: found.update({layer: out}))
        for layer in LAYERS
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return found


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 3) if isinstance(value, float) else value


def tables(result: dict[str, Any]) -> str:
    parts = []
    for layer, found in result["layers"].items():
        head = ["map", *(f"{title}: lowest, median" for title in CHANGES.values())]
        rows = [
            [
                ", ".join(f"`{part}`" for part in re.split("[:,]", text)),
                *(f"{min(values[name]):.2f}, {median(values[name]):.2f}" for name in CHANGES),
            ]
            for text, values in found["maps"].items()
        ]
        lines = [" | ".join(cells) for cells in (head, ["---"] * len(head), *rows)]
        parts.append(f"`{layer}` ({LAYERS[layer]}):\n\n" + "".join(f"| {line} |\n" for line in lines))

    last = result["layers"]["features"]
    head = ["photo", "`eigencam`, JPEG 75", "centred", "`tsm`, JPEG 75", "not centred", "`tsm` and `mean_activation`"]
    rows = [
        [name, f"{eigencam:.2f}", f"{centred:.2f}", f"{tsm:.2f}", f"{uncentred:.2f}", f"{mean:.2f}"]
        for eigencam, name, centred, tsm, uncentred, mean in sorted(
            zip(
                last["maps"]["eigencam"]["jpeg"],
                result["photos"],
                last["ratio"]["centred"],
                last["maps"]["tsm"]["jpeg"],
                last["ratio"]["uncentred"],
                last["tsm and the mean"],
                strict=True,
            )
        )
    ]
    lines = [" | ".join(cells) for cells in (head, ["---"] * len(head), *rows)]
    text = (
        "Photo by photo in the last layer: the correlations after JPEG 75 beside `sigma_1 / sigma_2` of the features, "
        "centred and not, and that of `tsm` with `mean_activation`:\n\n"
    )
    return "\n".join([*parts, text + "".join(f"| {line} |\n" for line in lines)])


def with_tables(page: str, result: dict[str, Any]) -> str:
    before, rest = page.split(MARKERS[0])
    return before + MARKERS[0] + "\n" + tables(result) + "\n" + MARKERS[1] + rest.split(MARKERS[1])[1]


if __name__ == "__main__":
    result = measure()
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(with_tables(PAGE.read_text(), result))
    draw(("cat", "coffee")).save(PICTURE, quality=80)
    print(tables(result))
