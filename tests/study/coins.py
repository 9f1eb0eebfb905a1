"""Cut-outs and grounds without any download: the coins in the photo of scikit-image, on photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tsm_fast.pictures import load_photos
from tsm_fast.study.testbed import composites
from tsm_fast.study.testbed.composites import Pictures


@pytest.fixture(scope="session")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some twenty real cut-outs, by Otsu's threshold, enlarged and each tinted another way."""
    pytest.importorskip("skimage", reason="needs the extra demo")
    from skimage import data, filters, measure, morphology, segmentation

    folder = tmp_path_factory.mktemp("stamps")
    coins: Any = data.coins()
    above = morphology.closing(coins > filters.threshold_otsu(coins), np.ones((5, 5), bool))
    labels: Any = measure.label(segmentation.clear_border(above))
    random = np.random.default_rng(0)
    regions: Any = measure.regionprops(labels)
    for number, region in enumerate(one for one in regions if one.area > 600):
        part = region.slice
        tint = random.uniform(0.5, 1, 3)
        pixels: Any = np.empty((*coins[part].shape, 4), np.uint8)
        pixels[..., :3] = coins[part][..., None] * tint
        pixels[..., 3] = 255 * np.asarray(region.image_filled)
        size = (2 * pixels.shape[1], 2 * pixels.shape[0])
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(folder / f"coin-{number:02d}.png")
    return folder


@pytest.fixture(scope="session")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos."""
    pytest.importorskip("sklearn", reason="needs the extra demo")
    folder = tmp_path_factory.mktemp("grounds")
    for photo in load_photos()[:6]:
        photo.image.resize((256, 192)).save(folder / f"{photo.name}.jpg", quality=95)
    return folder


@pytest.fixture(scope="session")
def pictures(stamps: Path, grounds: Path) -> Pictures:
    return composites.read(stamps, grounds, None)
