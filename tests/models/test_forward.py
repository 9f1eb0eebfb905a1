"""How a network is computed changes its last bits and nothing else, and leaves what it was given for last."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor, nn

from tsm_fast import SaliencyExtractor
from tsm_fast.models.forward import Forward, takes_channels_last


class Net(nn.Module):
    """A layer whose output the next one writes into, and a classifier that no graph needs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 32, 3, stride=4)
        self.act = nn.ReLU(inplace=True)
        self.body = nn.Conv2d(32, 40, 3, padding=1)
        self.head = nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.act(self.stem(x))).mean((2, 3)))


class Flattening(Net):
    """As many networks: `view` takes only what lies in its own order."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(len(x), -1).view(x.shape))


class Ordered(Net):
    """Takes the memory as it lies."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.as_strided(x.shape, torch.empty(x.shape).stride()))


def features(net: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    return SaliencyExtractor(net, ["stem", "body"]).features(inputs)


@pytest.mark.parametrize("options", [{}, {"channels_last": True}, {"autocast": "bfloat16"}])
def test_the_same_features(options: dict[str, object]) -> None:
    inputs, net = torch.rand(3, 3, 33, 41), Net().eval()
    expected = features(net, inputs)
    found = Forward(SaliencyExtractor(net, ["stem", "body"]), net, **options)(inputs)  # pyright: ignore[reportArgumentType]
    tolerance = 2e-2 if options.get("autocast") else 1e-5
    assert found.keys() == expected.keys()
    for name, maps in expected.items():
        assert found[name].dtype == (torch.bfloat16 if options.get("autocast") else torch.float32)
        torch.testing.assert_close(found[name].float(), maps, rtol=0, atol=tolerance * float(maps.abs().max()))
    if options.get("channels_last"):
        assert found["body"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_features() -> None:
    """Of batches of several sizes, by the one graph of the largest."""
    net = Net().eval()
    forward = Forward(SaliencyExtractor(net, ["stem", "body"]), net, compile=True, channels_last=True)
    with torch.compiler.set_stance("fail_on_recompile"), pytest.raises(RuntimeError):
        forward(torch.rand(4, 3, 33, 41), 4)
    forward(torch.rand(4, 3, 33, 41), 4)
    for count in (4, 3, 1):
        inputs = torch.rand(count, 3, 33, 41)
        with torch.compiler.set_stance("fail_on_recompile"):
            found = forward(inputs, 4)
        for name, maps in features(Net().eval(), inputs).items():
            torch.testing.assert_close(found[name], maps, rtol=0, atol=1e-5 * float(maps.abs().max()))


class Weights(Net):
    """Reads the memory of its weights as it lies."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.stem.weight
        there = torch.as_strided(weight, weight.shape, torch.empty(weight.shape).stride())
        return super().forward(x * (1 + there[0, 0].mean()))


class Standardised(Net):
    """`view` takes only weights in their own order."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - self.stem.weight.view(32, -1).mean())


class Volumes(Net):
    """A weight that has no such memory format."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv3d(2, 2, 1)


@pytest.mark.parametrize(
    ("kind", "takes"),
    [(Net, True), (Flattening, False), (Ordered, False), (Weights, False), (Standardised, False), (Volumes, False)],
)
def test_networks_that_do_not_take_channels_last(kind: type[Net], takes: bool) -> None:
    inputs, net = torch.rand(2, 3, 33, 41), kind().eval()
    before = [(value.data_ptr(), value.stride()) for value in net.state_dict().values()]
    found = SaliencyExtractor(net, ["stem", "body"]).features(inputs)
    assert takes_channels_last(net, ["stem", "body"], found, inputs) is takes
    assert [(value.data_ptr(), value.stride()) for value in net.state_dict().values()] == before
