"""A small real run, shared by the tests of what reads runs: photos, broken files and hostile names through lite0."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tsm_fast.models import load
from tsm_fast.pictures import load_photos
from tsm_fast.pictures.decode import decode
from tsm_fast.pipeline import Resources, Settings, prepare, run_shard

HOSTILE = "<img src=x onerror=alert(1)>.png"
SIZE = (96, 96)
SHARD_SIZE = 260  # more than a row group, and several shards
CROPS = 540
STRANGE = (HOSTILE, "two\nlines.png", "a, b & \"c\" 'd'.png", "café.png", "__proto__.png", "=1+1.png")
BROKEN = {"empty.png": b"", "text.png": b"no picture", "truncated.jpg": None}
METHODS = ("tsm", "mtsm")


def write_pictures(folder: Path) -> None:
    """Crops of real photos, some with strange names, files that are no pictures, and kinds that get a flag."""
    (folder / "crops").mkdir(parents=True)
    photos = [photo.image for photo in load_photos()]
    for number in range(CROPS):
        photo = photos[number % len(photos)]
        left, top = 29 * number % (photo.width - 100), 17 * number % (photo.height - 100)
        photo.crop((left, top, left + 100, top + 90)).save(folder / "crops" / f"{number:04d}.jpg")
    for number, name in enumerate(STRANGE):
        photos[number].resize((60, 40)).save(folder / name)
    with open(os.path.join(os.fsencode(folder), b"latin-\xe9.png"), "wb") as file:
        photos[3].resize((50, 50)).save(file, "PNG")
    for name, data in BROKEN.items():
        (folder / name).write_bytes((folder / "crops" / "0000.jpg").read_bytes()[:1500] if data is None else data)
    photos[0].resize((80, 80)).save(folder / "moving.gif", save_all=True, append_images=[photos[1].resize((80, 80))])
    wide = np.asarray(photos[2].convert("L").resize((64, 48))).astype(np.uint16) * 257
    Image.fromarray(wide).save(folder / "sixteen.png")


def write_few(folder: Path, count: int) -> None:
    """Small crops of one photo."""
    folder.mkdir(parents=True)
    photo = load_photos()[0].image
    for number in range(count):
        photo.crop((20 * number, 10 * number, 20 * number + 90, 10 * number + 80)).save(folder / f"{number:02d}.png")


def settings(source: Path, **more: object) -> Settings:
    return Settings(str(source), **{"size": SIZE, "methods": METHODS, "shard_size": SHARD_SIZE, **more})


def extract(out: Path, source: Path, **more: object) -> Path:
    """A whole run in this process, or what is left of one."""
    run = prepare(settings(source, **more), out)
    for spec in run.pending():
        run_shard(spec, Resources(max_errors=1.0))
    return out


@cache
def _finished(base: Path) -> Path:
    write_pictures(base / "pictures")
    return extract(base / "maps", base / "pictures")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run, with the pictures beside it; nothing may change it."""
    return _finished(tmp_path_factory.getbasetemp() / "small_run")


@pytest.fixture
def changeable(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "maps"))


@pytest.fixture
def partial(changeable: Path) -> Path:
    """A copy whose middle shard is not computed yet."""
    (changeable / "markers" / "000001.json").unlink()
    (changeable / "shards" / "part-000001.parquet").unlink()
    return changeable


def network_input(path: Path) -> torch.Tensor:  # [3, 96, 96]
    """A picture as the network of the run got it."""
    return load("lite0", size=SIZE).preprocess(decode(path.read_bytes(), 10**8).image)
