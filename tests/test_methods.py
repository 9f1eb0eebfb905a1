"""Map methods that other packages add, as packages with entry points in a folder on the path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch

import tsm_fast
from tsm_fast import methods
from tsm_fast.methods import BUILT_IN, METHODS
from tsm_fast.pipeline import Settings
from tsm_fast.variants import title, variant

MAPS = """
import torch

def mean(features, *, power=1.0, root=False):
    '''The mean over channels.'''
    maps = features.abs().pow(power).mean(1)
    return maps.sqrt() if root else maps

mean.title = "Mean activation"

def flat(features):
    return features.mean(1).flatten(1)

def whole(features):
    return features.mean(1).round().int()

def needs_more(features, threshold):
    return features

def nothing():
    return 1

weight = torch.ones(1, requires_grad=True)

def learned(features):
    return features.mean(1) * weight

def with_our_name(features, size=3):
    return features
"""

NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 32, 3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""

Install = Callable[..., None]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, in which packages are found."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [name for name in sys.modules if name.startswith("added_maps")]:
        del sys.modules[name]
    forget()


def forget() -> None:
    methods._added.cache_clear()
    methods._loaded.cache_clear()


@pytest.fixture
def install(site: Path) -> Install:
    """Puts a package into the folder as pip does."""

    def put(package: str = "added-maps", source: str = MAPS, **entries: str) -> None:
        module = package.replace("-", "_")
        (site / f"{module}.py").write_text(source)
        info = site / f"{module}-1.2.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        lines = [f"{name} = {where}" for name, where in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(["[tsm_fast.methods]", *lines, ""]))
        forget()

    return put


FEATURES = torch.rand(3, 8, 5, 6, generator=torch.Generator().manual_seed(0))


def test_a_method_is_one_like_ours(install: Install) -> None:
    install(mean="added_maps:mean")
    assert list(METHODS) == [*BUILT_IN, "mean"]
    assert len(METHODS) == len(BUILT_IN) + 1
    row = METHODS["mean"]
    assert (row.title, row.options, row.package) == ("Mean activation", {"power": 1.0, "root": False}, "added-maps")
    assert row.function.__doc__ == "The mean over channels."
    common = ["nan", "normalize", "size", "precision", "backend"]
    assert list(signature(row.function).parameters) == ["features", "power", "root", *common]
    assert METHODS["tsm"] is BUILT_IN["tsm"]
    assert methods.adds("mean") == "added-maps"


def test_it_has_what_all_maps_have(install: Install) -> None:
    install(mean="added_maps:mean")
    function = METHODS["mean"].function
    raw = FEATURES.mean(1)
    low, high = raw.amin((1, 2), keepdim=True), raw.amax((1, 2), keepdim=True)
    assert torch.equal(function(FEATURES, normalize=False), raw)
    torch.testing.assert_close(function(FEATURES), (raw - low) / (high - low))
    assert function(FEATURES, size=(10, 12)).shape == (3, 10, 12)
    assert torch.equal(function(FEATURES.flatten(2), normalize=False), raw.flatten(1))
    assert function(FEATURES[:, :, None], size=(2, 10, 12)).shape == (3, 2, 10, 12)
    assert function(FEATURES[:0], size=(10, 12)).shape == (0, 10, 12)
    assert isinstance(function(FEATURES.half().numpy()), np.ndarray)
    assert function(FEATURES.half(), normalize=False).dtype == torch.float32
    assert function(FEATURES, precision="float64").dtype == torch.float64
    torch.testing.assert_close(
        function(FEATURES, power=2.0, root=True, normalize=False), FEATURES.pow(2).mean(1).sqrt()
    )
    broken = FEATURES.clone()
    broken[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"features must be finite.* 1"):
        function(broken)
    assert function(broken, nan="propagate").isnan().flatten(1).sum(1).tolist() == [0, 30, 0]
    assert torch.equal(function(broken, nan="zero")[[0, 2]], function(FEATURES)[[0, 2]])


def test_the_extractor_takes_it(install: Install) -> None:
    install(mean="added_maps:mean")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    images = torch.rand(2, 3, 9, 9)
    with tsm_fast.SaliencyExtractor(model, "1", method="mean", power=2.0, size="input") as extract:
        maps = extract(images)
    assert maps.shape == (2, 9, 9)
    with pytest.raises(TypeError, match="method 'mean' has no option 'rank': rank= is one of 'tsm' and 'mtsm'"):
        tsm_fast.SaliencyExtractor(model, "1", method="mean", rank=3)


def test_its_options_have_texts(install: Install) -> None:
    install(mean="added_maps:mean")
    made = variant("mean:root=true,power=2")
    assert (made.name, made.options) == ("mean:power=2.0,root=true", {"power": 2.0, "root": True})
    assert made.title == title(made.name) == "Mean activation, power 2.0, root true"
    assert variant(made.name) == made
    with pytest.raises(ValueError, match=r"power must be a number as 1.0 is, got 'much'"):
        variant("mean:power=much")
    with pytest.raises(ValueError, match="root must be one of 'true', 'false', got 'yes'"):
        variant("mean:root=yes")
    settings = Settings("photos", methods=("tsm", "mean:power=2"), rank=4)
    assert settings.options("mean:power=2.0", all_of_them=True) == {"power": 2.0, "root": False}
    with pytest.raises(ValueError, match="rank is an option of tsm, mtsm, got methods mean"):
        Settings("photos", methods=("mean",), rank=4)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"tsm": "added_maps:mean"}, "method 'tsm' is of tsm_fast and added-maps: one of them has to go"),
        (
            {"lost": "added_maps:lost"},
            "method 'lost' of added-maps cannot be loaded from added_maps:lost: AttributeErr",
        ),
        ({"lost": "no_such_module:f"}, "cannot be loaded from no_such_module:f: ModuleNotFoundError: No module named"),
        ({"text": "added_maps:__name__"}, "method 'text' of added-maps must be a function, got str"),
        ({"more": "added_maps:needs_more"}, r"must be a function of features and of options with defaults.*threshold"),
        ({"none": "added_maps:nothing"}, "must be a function of features and of options.*got added_maps:nothing"),
        ({"mean_": "torch:mean"}, "must be a function of features and of options with defaults.*; got torch:mean"),
        ({"ours": "added_maps:with_our_name"}, r"none of them nan, normalize, size.*got \(features, size=3\)"),
        ({"a.b": "added_maps:mean"}, r"method 'a.b' of added-maps must have a name of letters, digits, - and _"),
    ],
)
def test_methods_that_cannot_be_used(install: Install, entries: dict[str, str], message: str) -> None:
    """They say why when they are asked for, and are in nobody's way otherwise."""
    install(**entries, mean="added_maps:mean")
    (name, *_) = entries
    with pytest.raises(RuntimeError, match=message):
        METHODS[name]
    with pytest.raises(RuntimeError, match=message):
        tsm_fast.SaliencyExtractor(torch.nn.Conv2d(3, 8, 3), "", method=name)
    assert METHODS["mean"].function(FEATURES).shape == (3, 5, 6)
    assert name in METHODS
    Settings("photos", methods=("mtsm", "mean"), rank=4)


def test_gradients_reach_the_weights_of_a_method(install: Install) -> None:
    install(learned="added_maps:learned")
    maps = METHODS["learned"].function(FEATURES, size=(9, 9))
    assert maps.requires_grad
    with torch.no_grad():
        assert torch.allclose(maps, METHODS["learned"].function(FEATURES, size=(9, 9)), atol=1e-6)


def test_a_name_of_two_packages(install: Install) -> None:
    install(mean="added_maps:mean")
    install("added-maps-too", mean="added_maps_too:mean")
    with pytest.raises(RuntimeError, match=r"method 'mean' is of added-maps(-too)? and added-maps"):
        METHODS["mean"]


@pytest.mark.parametrize(
    ("function", "got"), [("flat", r"\(3, 30\) float32 on cpu"), ("whole", r"\(3, 5, 6\) int32 on cpu")]
)
def test_what_is_no_map_is_refused(install: Install, function: str, got: str) -> None:
    install(wrong=f"added_maps:{function}")
    message = rf"method 'wrong' of added-maps must give float maps \(3, 5, 6\) on cpu, got {got}"
    with pytest.raises(RuntimeError, match=message):
        METHODS["wrong"].function(FEATURES)


@pytest.mark.slow
def test_a_run_of_the_command(install: Install, site: Path, tmp_path: Path) -> None:
    """Of an installed package, with a worker; its version is on record, and the run can be read without it."""
    from PIL import Image

    install(mean="added_maps:mean", wrong="added_maps:flat")
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")

    def run(*arguments: str, path: Path = site) -> subprocess.CompletedProcess[str]:
        root = Path(tsm_fast.__file__).parents[1]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (root, path))), "NO_COLOR": "1"}
        command = [sys.executable, "-m", "tsm_fast", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    extract = ("extract", "photos", "--model", "net.py:make", "--layer", "1", "--size", "32x32", "--out")
    done = run(*extract, "out", "--map", "mean:power=2", "--map", "tsm", "--workers", "1")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())["record"]
    assert record["methods"]["mean:power=2.0"] == {"power": 2.0, "root": False}
    assert record["versions"]["added-maps"] == "1.2"
    assert "Mean activation, power 2.0" in (tmp_path / "out" / "report.html").read_text()
    maps = tsm_fast.SaliencyDataset(tmp_path / "out")[0].maps
    assert sorted(maps) == ["mean:power=2.0/1", "tsm/1"]
    elsewhere = tmp_path / "elsewhere"
    assert run("report", "out", path=elsewhere).returncode == 0
    assert run("verify", "out", path=elsewhere).returncode == 0
    assert json.loads(run("info", "--json").stdout)["maps"]["mean"] == "added-maps"
    wrong = run(*extract, "wrong", "--map", "wrong")
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines()[-1].startswith("tsm-fast: method 'wrong' of added-maps must give float maps (")
    unknown = run(*extract, "wrong", "--map", "mean", path=elsewhere)
    assert unknown.returncode == 2
    assert (
        "methods must be one of 'eigencam', 'tsm', 'multivec_eigencam', 'mtsm', 'mean_activation', got 'mean'"
        in unknown.stderr
    )
