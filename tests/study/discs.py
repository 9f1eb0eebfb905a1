"""Real photos, cut into squares with a red disc on each, whose masks are exact; and a study of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tsm_fast import study
from tsm_fast.study import Study

from . import nets

SIDE, EACH = 80, 2
OPTIONS: dict[str, Any] = {
    "maps": ("eigencam", "tsm", "mtsm:combine=absolute"),
    "size": (48, 48),
    "fit": "stretch",
    "faithful_images": 4,
}


class Discs(NamedTuple):
    images: Path
    masks: Path


@pytest.fixture(scope="session")
def discs(photos: dict[str, Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Discs:
    found = Discs(*(tmp_path_factory.mktemp(name) for name in ("images", "masks")))
    random = np.random.default_rng(0)
    for name, photo in photos.items():
        for number in range(EACH):
            x, y = (int(random.integers(0, side - SIDE)) for side in photo.size)
            image = photo.convert("RGB").crop((x, y, x + SIDE, y + SIDE))
            mask = Image.new("L", image.size)
            cx, cy = (int(value) for value in random.integers(18, SIDE - 18, 2))
            for picture, colour in ((image, (255, 40, 40)), (mask, 1)):
                ImageDraw.Draw(picture).ellipse([cx - 15, cy - 15, cx + 15, cy + 15], fill=colour)
            key = f"{name.replace(' ', '-')}/{number}.png"
            for folder, picture in zip(found, (image, mask), strict=True):
                (folder / key).parent.mkdir(exist_ok=True)
                picture.save(folder / key)
    return found


@pytest.fixture(scope="session")
def made(discs: Discs, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of everything, of a network that is drawn at random."""
    out = tmp_path_factory.mktemp("study")
    return study.run(discs.images, out, model=nets.classes(), masks=discs.masks, **OPTIONS)
