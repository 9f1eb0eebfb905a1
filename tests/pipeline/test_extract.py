"""`tsm_fast.extract`: the rows of the command, from Python, also of a network that has no name."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import tsm_fast
from tsm_fast.pictures.content import content
from tsm_fast.pipeline import FingerprintError, Resources, Settings, TooManyErrors, prepare, run_shard
from tsm_fast.pipeline.sources.datasets import DatasetSource

from ..needs import NETWORK, needs

pytestmark = pytest.mark.slow

Photos = dict[str, Image.Image]
MAPS = ("tsm", "mtsm:combine=absolute", "mtsm:rank=8x3x3", "eigencam:center=false")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 32, 3, stride=8)
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(32, 40, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x)).mean((2, 3))


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@needs(*NETWORK)
def test_the_rows_of_the_command(folder: Path, tmp_path: Path) -> None:
    """Byte for byte, whoever computes them, and for paths of this program as for a list of them."""
    options: dict[str, Any] = {"size": (96, 96), "shard_size": 8, "dtype": "float16"}
    run = prepare(Settings(str(folder), methods=MAPS, **options), tmp_path / "command")
    for spec in run.shards:
        run_shard(spec)
    found = tsm_fast.extract(folder, tmp_path / "python", maps=MAPS, resources=Resources(), **options)
    assert found.columns == [f"{name}/features" for name in MAPS]
    for shard in sorted((run.out / "shards").iterdir()):
        assert shard.read_bytes() == (tmp_path / "python" / "shards" / shard.name).read_bytes()
    paths = sorted(folder.rglob("*.*g"))
    listed = tsm_fast.extract([path for path in paths if path.name[0] != "."], tmp_path / "list", maps=MAPS, **options)
    for name in found.columns:
        assert np.array_equal(listed.numpy(name), found[listed_keys(folder, listed.keys)].numpy(name), equal_nan=True)


def listed_keys(folder: Path, paths: list[str]) -> list[str]:
    return [str(Path(path).relative_to(folder)) for path in paths]


def test_every_variant_is_its_function(net: Net, photos: Photos, tmp_path: Path) -> None:
    pictures = list(photos.values())[:5]
    found = tsm_fast.extract(pictures, tmp_path, model=net, layers=["body"], maps=MAPS, channels_last=False)
    with tsm_fast.SaliencyExtractor(net, "body") as extractor:
        inputs = torch.stack([usual(picture) for picture in pictures])
        features = extractor.features(inputs)["body"]
    expected = {
        "tsm": tsm_fast.tsm(features, normalize=False),
        "mtsm:combine=absolute": tsm_fast.mtsm(features, combine="absolute", normalize=False),
        "mtsm:rank=8x3x3": tsm_fast.mtsm(features, rank=(8, 3, 3), normalize=False),
        "eigencam:center=false": tsm_fast.eigencam(features, center=False, normalize=False),
    }
    for name, maps in expected.items():
        np.testing.assert_allclose(found.numpy(f"{name}/body"), maps.numpy(), atol=1e-4 * float(maps.max()))


def usual(picture: Image.Image) -> Tensor:
    from tsm_fast.models.preprocessing import Resize

    return Resize((224, 224))(picture.convert("RGB"))


@pytest.mark.parametrize("more", [{}, {"channels_last": True}, {"autocast": "bfloat16"}, {"fit": "pad"}])
def test_a_module_stays_as_it_is(net: Net, photos: Photos, tmp_path: Path, more: dict[str, Any]) -> None:
    net.train()
    before = {name: (value.data_ptr(), value.stride()) for name, value in net.state_dict().items()}
    found = tsm_fast.extract([photos["cat"]], tmp_path, model=net, layers=["body"], maps="tsm", **more)
    assert found.numpy().max() > 0
    assert {name: (value.data_ptr(), value.stride()) for name, value in net.state_dict().items()} == before
    assert all(module.training and not module._forward_hooks for module in net.modules())


def test_a_call_goes_on(net: Net, photos: Photos, tmp_path: Path) -> None:
    """And a network with other weights does not."""
    pictures = [photo.resize((80, 60)) for photo in photos.values()]
    options: dict[str, Any] = {"layers": ["body"], "shard_size": 4, "size": (64, 64)}
    whole = tsm_fast.extract(pictures, tmp_path / "a", model=net, **options)
    shard = tmp_path / "a" / "shards" / "part-000001.parquet"
    before, data = whole.numpy(), shard.read_bytes()
    shard.unlink()
    assert np.array_equal(tsm_fast.extract(pictures, tmp_path / "a", model=net, **options).numpy(), before)
    assert shard.read_bytes() == data
    with torch.no_grad():
        net.stem.weight[0] += 1
    with pytest.raises(FingerprintError, match=r"model\.sha256"):
        tsm_fast.extract(pictures, tmp_path / "a", model=net, **options)


def test_more_pictures(net: Net, photos: Photos, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": net, "layers": ["body"], "size": (64, 64)}
    for name in ("cat", "coffee", "rocket"):
        photos[name].save(tmp_path / f"{name}.png")
    paths = [tmp_path / f"{name}.png" for name in ("cat", "coffee", "rocket")]
    one = tsm_fast.extract(paths[:2], tmp_path / "a", **options).numpy()
    with pytest.raises(FingerprintError, match="add=True"):
        tsm_fast.extract(paths, tmp_path / "a", **options)
    more = tsm_fast.extract(paths, tmp_path / "a", add=True, **options)
    assert more.keys == [str(path) for path in paths]
    assert np.array_equal(more.numpy()[:2], one)


def test_pictures_that_cannot_be_used(net: Net, photos: Photos, tmp_path: Path) -> None:
    pictures = [photos["cat"], b"no picture", np.zeros((30, 40, 3), np.uint8), photos["coffee"]]
    options: dict[str, Any] = {"model": net, "layers": ["body"]}
    with pytest.raises(TooManyErrors, match=r"1 of 4 pictures have no map.*'1': format: .*retry_errors='all'"):
        tsm_fast.extract(pictures, tmp_path / "a", **options)
    assert tsm_fast.SaliencyDataset(tmp_path / "a").status.tolist() == ["ok", "format", "ok", "ok"]
    lenient = tsm_fast.extract(pictures, tmp_path / "b", resources=Resources(max_errors=1), **options)
    assert lenient.status.tolist() == ["ok", "format", "ok", "ok"]


@needs(*NETWORK)
def test_pictures_are_those_of_the_call(photos: Photos, tmp_path: Path) -> None:
    """Also of a second call in the same process, into the same folder, with a model that has a name."""

    def hashes_of(pictures: list[Image.Image]) -> list[str | None]:
        return [content(picture).sha256 for picture in pictures]

    some = [photo.resize((64, 64)) for photo in photos.values()][:7]
    options: dict[str, Any] = {"size": (64, 64), "maps": "tsm"}
    tsm_fast.extract(DatasetSource(some[:2], ["a", "b"]), tmp_path / "a", **options)
    more = tsm_fast.extract(DatasetSource(some[2:4], ["c", "d"]), tmp_path / "a", add=True, **options)
    assert [row.sha256 for row in more] == hashes_of(some[:4])
    tsm_fast.extract(some[:5], tmp_path / "b", **options)
    shutil.rmtree(tmp_path / "b")
    others = [some[0], some[5], some[2], some[6], some[4]]  # the first, the middle and the last are the same
    assert [row.sha256 for row in tsm_fast.extract(others, tmp_path / "b", **options)] == hashes_of(others)


@pytest.mark.parametrize("broken", [0, 1, 3, 5])
def test_a_repaired_dataset_goes_on(net: Net, photos: Photos, tmp_path: Path, broken: int) -> None:
    some: list[Any] = [photo.resize((64, 64)) for photo in photos.values()][:6]
    options: dict[str, Any] = {"model": net, "layers": "body", "size": (64, 64), "max_errors": 1.0}
    bad = [*some[:broken], b"no picture", *some[broken + 1 :]]
    tsm_fast.extract(bad, tmp_path / "a", **options)
    whole = tsm_fast.extract(some, tmp_path / "a", retry_errors="all", **options)
    assert whole.status.tolist() == ["ok"] * 6
    assert np.array_equal(whole.numpy(), tsm_fast.extract(some, tmp_path / "b", **options).numpy())
    with pytest.raises(FingerprintError, match="must give the same items"):
        tsm_fast.extract(some[::-1], tmp_path / "a", **options)


def test_datasets_with_keys_and_columns(net: Net, photos: Photos, tmp_path: Path) -> None:
    source = DatasetSource([photos["cat"], photos["coffee"]], ["b", "a"], columns={"label": [3, 4]})
    found = tsm_fast.extract(source, tmp_path, model=net, layers=["body"])
    assert (found.keys, found.carried()["label"].to_pylist()) == (["a", "b"], [4, 3])


def test_its_own_preprocessing(net: Net, photos: Photos, tmp_path: Path) -> None:
    def small(picture: Image.Image) -> np.ndarray:
        return np.asarray(picture.resize((40, 32)), np.float32).transpose(2, 0, 1) / 255

    found = tsm_fast.extract([photos["cat"]], tmp_path, model=net, layers=["stem"], preprocess=small)
    assert found.shape() == (4, 5)


def test_from_a_thread(net: Net, photos: Photos, tmp_path: Path) -> None:
    """Where no signals can be handled."""
    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.append(tsm_fast.extract([photos["cat"]], tmp_path, model=net, layers=["body"]))
    )
    thread.start()
    thread.join()
    assert len(found[0]) == 1


def test_an_interrupted_call(net: Net, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    calls = []

    class Interrupting(Net):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            if len(calls) == 4:
                signal.raise_signal(signal.SIGINT)
            return super().forward(x)

    pictures = [photo.resize((80, 60)) for photo in photos.values()] * 4
    options: dict[str, Any] = {"layers": ["body"], "shard_size": 2, "batch_size": 2, "size": (64, 64)}
    with pytest.raises(KeyboardInterrupt):
        tsm_fast.extract(pictures, tmp_path, model=Interrupting(), **options)
    calls.append(0)
    assert len(tsm_fast.extract(pictures, tmp_path, model=Interrupting(), **options)) == len(pictures)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"workers": None}, TypeError, "workers must be an integer, got None"),
        ({"workers": -1}, ValueError, "workers must be at least 0, got -1"),
        ({"weights": "other.pt"}, ValueError, "weights are for a model with a name, got weights='other.pt'"),
        ({"root": "."}, ValueError, "root is for a list or manifest with a name"),
        ({"map": "tsm"}, TypeError, "extract has no option 'map'; close names: maps"),
        ({"max_errors": 1, "resources": Resources()}, TypeError, "max_errors must be in resources"),
        ({"preprocess": lambda picture: None}, ValueError, r"the transform must give float \[C, H, W\], got NoneType"),
        ({"model": torch.nn.Conv2d(3, 32, 3, device="meta")}, ValueError, "got tensors on the device meta"),
        ({"workers": 2}, ValueError, "workers must be 0 for a module of this program, got 2: .*file.py:factory"),
        ({"preprocess": 3}, TypeError, "preprocess must be a function from a picture to .*got int"),
        ({"preprocess": np.asarray, "size": (3, 3)}, ValueError, "preprocess makes the whole input"),
        ({"model": "lite0", "preprocess": np.asarray}, ValueError, "preprocess is for a module of this program"),
        ({"maps": "gradcam"}, ValueError, "methods must be one of"),
        ({"maps": ()}, ValueError, "methods must name at least one"),
        ({"rang": 3}, TypeError, "rang"),
        ({"retry_errors": "some"}, ValueError, "retry_errors must be one of 'all'"),
        ({"fit": "squeeze"}, ValueError, "fit must be one of None, 'crop', 'pad', 'stretch', got 'squeeze'"),
        ({"autocast": "int8"}, ValueError, "autocast must be one of None, 'bfloat16', 'float16'"),
        ({"compile": 1}, TypeError, "compile must be True or False, got 1"),
    ],
)
def test_bad_arguments(
    net: Net, photos: Photos, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tsm_fast.extract([photos["cat"]], tmp_path, **{"model": net, "layers": ["body"], **options})


@pytest.mark.parametrize("pictures", [3, None, [], iter(())])
def test_what_is_no_source(net: Net, tmp_path: Path, pictures: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"dataset must have a length|is empty"):
        tsm_fast.extract(pictures, tmp_path, model=net)
