"""Real photos for tests, and a folder of them; the network is out of reach."""

from __future__ import annotations

import os
import socket
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any of the tests imports a client of the hub

import pytest
from PIL import Image

from tsm_fast.pictures import load_photos


@pytest.fixture(scope="session")
def photos() -> dict[str, Image.Image]:
    """The real photos by name, at most 320 pixels wide: decoding them is not what these tests are about."""
    pytest.importorskip("skimage", reason="needs the extra demo")
    pytest.importorskip("sklearn", reason="needs the extra demo")
    found = {photo.name: photo.image for photo in load_photos()}
    for image in found.values():
        image.thumbnail((320, 320))
    return found


@pytest.fixture(scope="session")
def folder(photos: dict[str, Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures in two folders below one: each photo as JPEG, and mirrored as PNG."""
    root = tmp_path_factory.mktemp("pictures")
    for name in ("upright", "mirrored/png"):
        (root / name).mkdir(parents=True)
    for name, image in photos.items():
        image.save(root / "upright" / f"{name}.jpg", quality=92)
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "mirrored" / "png" / f"{name}.png")
    (root / "upright" / "notes.txt").write_text("no picture")
    (root / ".hidden.png").write_bytes(b"not listed")
    return root


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
