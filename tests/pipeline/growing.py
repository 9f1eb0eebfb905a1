"""Small real runs that grow and are joined: crops of a photo through a network that takes no time."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tsm_fast.pictures import load_photos
from tsm_fast.pipeline import Resources, Run, Settings, prepare, run_shard

from .processes import tsm_fast

SHARD = 4
NET = """
import torch
from torch import nn
def make():
    torch.manual_seed(SEED)
    return nn.Sequential(nn.Conv2d(3, 32, 3, stride=8), nn.Conv2d(32, 32, 1), nn.AdaptiveAvgPool2d(1))
SEED = 0
"""
MODEL = ("--model", "grow_net:make", "--layer", "0", "--size", "64", "--workers", 0, "--max-errors", 1, "--no-report")


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a module with the network."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "grow_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield tmp_path / "code"
    sys.modules.pop("grow_net", None)


def write(folder: Path, names: str, *, shift: int = 0) -> Path:
    """A picture for each letter, another one for each letter and shift."""
    folder.mkdir(parents=True, exist_ok=True)
    photo = load_photos()[0].image
    for name in names:
        left, top = 7 * (ord(name) - 96) + 11 * shift, 3 * (ord(name) - 96)
        photo.crop((left, top, left + 90, top + 80)).save(folder / f"{name}.bmp")
    return folder


def settings(source: Path | str, **more: Any) -> Settings:
    options = {"model": "grow_net:make", "layers": ("0",), "size": (64, 64), "shard_size": SHARD, **more}
    return Settings(str(source), **options)


def compute(source: Path | str, out: Path, *, shards: int | None = None, given: Any = None, **more: Any) -> Run:
    """A run in this process, or a part of it; `add` is the option of `prepare`."""
    add = more.pop("add", False)
    run = prepare(settings(source, **more), out, add=add, source=given)
    for spec in run.pending()[:shards]:
        run_shard(spec, Resources(max_errors=1.0), source=given)
    return run


def command(source: Path | str, out: Path, *more: object, shard: int | None = SHARD) -> Any:
    size = () if shard is None else ("--shard-size", shard)
    return tsm_fast("extract", source, "--out", out, *MODEL, *size, *map(str, more))


def files(out: Path) -> dict[str, str]:
    """The hash of every file of a run."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }
