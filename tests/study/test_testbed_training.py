"""The small networks learn, are kept, and go on where they were stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import tsm_fast
from tsm_fast.study.testbed import networks, training
from tsm_fast.study.testbed.composites import Pictures, generator
from tsm_fast.study.testbed.training import RECIPES, Recipe, train

pytestmark = pytest.mark.slow

SHORT = {"supervised": 24, "self-supervised": 30, "scene": 16}


def short(name: str, steps: int | None = None) -> Recipe:
    return replace(RECIPES[name], steps=steps or SHORT[name], batch=24)


@pytest.mark.parametrize("name", SHORT)
def test_networks_learn(name: str, pictures: Pictures, tmp_path: Path) -> None:
    known, _ = pictures.split()
    told: list[tuple[str, int, int]] = []
    found = train(name, short(name), 0, known, tmp_path, lambda *said: told.append(said[:3]))
    losses = torch.tensor(found.facts["losses"])
    assert len(losses) == SHORT[name]
    assert losses[-5:].mean() < losses[:5].mean() - 0.1
    assert told[-1] == (name, SHORT[name], SHORT[name])
    outputs = len(known.ground_names if name == "scene" else known.names)
    assert found.network()(torch.zeros(1, 3, 64, 64)).shape == (1, outputs)


def test_trained_networks_are_kept(pictures: Pictures, tmp_path: Path) -> None:
    """By what they were trained on: pictures, recipe and seed."""
    known, new = pictures.split()
    first = train("supervised", short("supervised", 2), 0, known, tmp_path)

    def never(*_: object) -> None:
        raise AssertionError("it was trained again")

    again = train("supervised", short("supervised", 2), 0, known, tmp_path, never)
    assert again == first
    others = [
        train("supervised", short("supervised", 2), 1, known, tmp_path),
        train("supervised", short("supervised", 3), 0, known, tmp_path),
        train("supervised", short("supervised", 2), 0, new, tmp_path),
    ]
    assert len({first.file, *(one.file for one in others)}) == 4
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize("name", ["supervised", "self-supervised"])
def test_resuming(name: str, pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that is stopped and goes on gives the weights of one that is not."""
    monkeypatch.setattr(training, "SAVED_EVERY", 0.0)
    recipe = short(name, 6)
    steps: list[int] = []

    def stop(_name: str, step: int, *_: object) -> None:
        steps.append(step)
        if step in (2, 3):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(name, recipe, 0, pictures, tmp_path / "stopped", stop)
    stopped = train(name, recipe, 0, pictures, tmp_path / "stopped", stop)
    assert steps == [1, 2, 3, 4, 5, 6]
    whole = train(name, recipe, 0, pictures, tmp_path / "whole")
    assert stopped.facts["losses"] == pytest.approx(whole.facts["losses"], rel=1e-5)
    for name, value in whole.network().state_dict().items():
        torch.testing.assert_close(stopped.network().state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_network() -> None:
    """A quarter of a million weights, and a last map as it is said to be."""
    network = networks.made(234, 0).eval()
    assert sum(value.numel() for value in network.parameters()) == 219_330
    with tsm_fast.SaliencyExtractor(network, "layer3") as extract:
        features = extract.features(torch.rand(2, 3, 64, 64))["layer3"]
    assert features.shape == (2, 192, 8, 8)
    assert features.min() == 0
    assert tsm_fast.SaliencyExtractor(network).features(torch.rand(1, 3, 64, 64)).keys() == {"layer3"}


def test_untrained_network(pictures: Pictures, tmp_path: Path) -> None:
    """Its features are as large as those of a trained one, whose batch norms know the pictures."""
    found = train("untrained", RECIPES["untrained"], 0, pictures, tmp_path)
    network = found.network()
    images = networks.normalised(pictures.batch(32, generator("any")).images)
    with torch.no_grad():
        stem = network.stem[:2](images)
        assert 0.1 < network.pooled(images).std() < 10
    torch.testing.assert_close(stem.mean((0, 2, 3)), torch.zeros(24), atol=0.5, rtol=0)


def test_maps_do_not_see_what_is_above(pictures: Pictures) -> None:
    """Sanity by randomising layers from the top (arXiv 1810.03292): a label-free map below them is bit-equal."""
    images = networks.normalised(pictures.batch(4, generator("any")).images)
    one, two = networks.made(10, 0), networks.made(10, 0)
    methods = ["eigencam", "tsm", "multivec_eigencam", "mtsm", "mean_activation"]

    def maps(network: nn.Module, layer: str) -> dict[str, torch.Tensor]:
        with tsm_fast.SaliencyExtractor(network, layer, methods) as extract:
            return extract(images)

    before = {layer: maps(one, layer) for layer in ("layer1", "layer2", "layer3")}
    other = networks.made(10, 1)
    two.head.load_state_dict(other.head.state_dict())
    for method in methods:
        assert torch.equal(maps(two, "layer3")[method], before["layer3"][method])
    two.layer3.load_state_dict(other.layer3.state_dict())
    for method in methods:
        assert torch.equal(maps(two, "layer2")[method], before["layer2"][method])
        assert torch.equal(maps(two, "layer1")[method], before["layer1"][method])
        assert not torch.equal(maps(two, "layer3")[method], before["layer3"][method])
