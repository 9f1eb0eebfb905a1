"""Published weights: files of the authors' layouts go into the networks, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn

from tsm_fast import SaliencyExtractor, models
from tsm_fast.models import published
from tsm_fast.models.published import PUBLISHED

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_network")]

State = dict[str, Tensor]


def drawn(network: nn.Module) -> State:
    """Weights that tell every row of every tensor from every other; a file of them is small."""
    torch.manual_seed(0)
    return {
        name: torch.rand(value.shape[:1] + (1,) * (value.ndim - 1)).expand(value.shape)
        if value.is_floating_point()
        else value
        for name, value in network.state_dict().items()
    }


def below(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + name: value for name, value in state.items()}


def head(*sizes: int) -> State:
    return nn.Sequential(nn.Linear(sizes[0], sizes[1]), nn.ReLU(), nn.Linear(sizes[1], sizes[2])).state_dict()


def moco(state: State) -> object:
    """`{epoch, arch, state_dict}` of DistributedDataParallel: both encoders with their heads, and the queue."""
    encoder = {**state, **below("fc.", head(2048, 64, 128))}
    queue = {"module.queue": torch.rand(128, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    other = {name: torch.zeros_like(value) for name, value in encoder.items()}
    both = {**below("module.encoder_q.", encoder), **below("module.encoder_k.", other), **queue}
    return {"epoch": 800, "arch": "resnet50", "state_dict": both}


def swav(state: State) -> object:
    prototypes = {"prototypes.weight": torch.rand(30, 128)}
    return below("module.", {**state, **below("projection_head.", head(2048, 64, 128)), **prototypes})


def plain(state: State) -> object:
    return state


def old(state: State) -> object:
    """As PyTorch saved before it counted batches."""
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


LAYOUTS: dict[str, Callable[[State], object]] = {
    "supervised": old,
    "moco-v2": moco,
    "swav": swav,
    "dino": plain,
    "barlow-twins": plain,
    "vicreg": plain,
    "vicregl": plain,
    "vicregl-convnext": plain,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_layouts(name: str, tmp_path: Path) -> None:
    """A file as the authors save it gives exactly its weights; the heads of the training are left out."""
    state = drawn(PUBLISHED[name].network())
    torch.save(LAYOUTS[name](state), tmp_path / "weights.pth")
    model = models.load(f"published:{name}", weights=str(tmp_path / "weights.pth"))
    assert not model.module.training
    for key, value in model.module.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_names_of_torchvision() -> None:
    """Of its resnet50: as many weights, and those that a published file would name."""
    names = dict(published.ResNet50(1000).named_parameters())
    assert len(names) == 161
    assert sum(value.numel() for value in names.values()) == 25_557_032
    assert {"conv1.weight", "layer1.0.downsample.1.bias", "layer4.2.bn3.weight", "fc.weight"} <= set(names)


def test_resnet_is_that_of_torchvision() -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    theirs = torchvision.models.resnet50(weights=None).eval()
    ours = published.ResNet50(1000).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs(images))


def test_convnext_is_that_of_the_paper() -> None:
    """ConvNeXt-S has 49.45 M weights before its classifier, layer scale and all; VICRegL leaves that scale out."""
    network = published.ConvNeXtSmall()
    scales = sum(bias.numel() for name, bias in network.named_parameters() if name.endswith("pwconv2.bias"))
    weights = sum(value.numel() for value in network.parameters())
    assert weights + scales + 768 * 1000 + 1000 == 50_223_688
    names = dict(network.named_parameters())
    assert {
        "downsample_layers.0.0.weight",
        "downsample_layers.3.1.bias",
        "stages.2.26.dwconv.bias",
        "norm.weight",
    } <= set(names)


@pytest.mark.parametrize(
    ("name", "layer", "channels"), [("moco-v2", "layer4", 2048), ("vicregl-convnext", "stages.3", 768)]
)
def test_maps(name: str, layer: str, channels: int, tmp_path: Path) -> None:
    """The named layer gives the last maps, and the output is the pooled features."""
    entry = PUBLISHED[name]
    assert entry.layer == layer
    network = entry.network().eval()
    images = torch.rand(1, 3, 64, 64)
    with SaliencyExtractor(network, layer) as extract:
        assert extract.features(images)[layer].shape == (1, channels, 2, 2)
    with torch.no_grad():
        assert network(images).shape == (1, channels)


def test_other_weights(tmp_path: Path) -> None:
    torch.save(head(3, 4, 5), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth' do not belong to ResNet50: conv1.weight is missing"):
        models.load("published:dino", weights=str(tmp_path / "other.pth"))


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"published:mocov2 does not exist; close names: moco-v2"):
        models.load("published:mocov2")


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says where the weights are, and where to put them; there they are then taken from."""

    def unreachable(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    there = tmp_path / "checkpoints" / "dino_resnet50_pretrain.pth"
    with pytest.raises(ConnectionError, match="cannot be reached") as problem:
        models.load("published:dino")
    assert PUBLISHED["dino"].url in str(problem.value)
    assert str(there) in str(problem.value)
    state = drawn(published.ResNet50())
    torch.save(state, there)
    assert torch.equal(models.load("published:dino").module.state_dict()["bn1.bias"], state["bn1.bias"])


def test_files_have_names_of_their_own() -> None:
    assert len({entry.file for entry in PUBLISHED.values()}) == len(PUBLISHED)
