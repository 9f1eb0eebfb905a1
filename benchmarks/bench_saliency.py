"""Whole saliency maps against plain PyTorch, TensorLy and pytorch-grad-cam; time and memory against the batch size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tsm_fast
from benchmarks import exact, memory, shapes
from benchmarks.conftest import Contender, Target
from tsm_fast.bench import peers
from tsm_fast.steps import reference
from tsm_fast.steps.choice import load

CONTRACT = {"tsm": 2e-5, "eigencam": 2e-5, "mtsm": 1e-4, "multivec_eigencam": 1e-4}
FLOAT64 = 1e-9
FULL = "TensorLy, rank = shape"
TARGETS = {
    ("tsm", "2048x7x7"): [Target("torch", 5, 8), Target(FULL, 50_000)],
    ("mtsm", "2048x7x7"): [Target("torch", 2.5, 5)],
    ("tsm", "1024x14x14"): [Target("torch", 15, 30)],
    ("mtsm", "1024x14x14"): [Target("torch", 2)],
    ("eigencam", "2048x7x7"): [Target("pytorch-grad-cam", 1000)],
}
CASES = [
    *[("tsm", shape) for shape in shapes.SHAPES],
    *[("mtsm", shape) for shape in shapes.SHAPES],
    *[("eigencam", shape) for shape in ("2048x7x7", "1280x7x7 signed", "1024x14x14")],
    *[("multivec_eigencam", shape) for shape in ("2048x7x7", "1280x7x7 signed", "1024x14x14")],
]


@pytest.mark.parametrize(("method", "shape"), CASES)
def test_saliency(method: str, shape: str, quick: bool, compare: Callable[..., dict]) -> None:
    x = shapes.features(shape)
    ours, plain = getattr(tsm_fast, method), partial(peers.torch_maps, method)
    checked = 64 if x[0, 0].numel() < 100 else 32 if x[0, 0].numel() < 400 else 4  # items whose exact maps are computed
    errors = _errors(x[:checked], shape, method)
    assert errors["maps"] < CONTRACT[method]
    assert errors["float64"] < FLOAT64

    contenders = [
        Contender("torch", lambda: plain(x), len(x)),
        Contender("torch, split", lambda: plain(x, peers.eigh_split), len(x)),
    ]
    if (method, shape) in TARGETS:
        contenders.append(
            Contender("torch.linalg.svd", lambda: torch.linalg.svd(x.flatten(2), False), len(x), rounds=3)
        )
    if (method, shape) == ("eigencam", "2048x7x7"):
        few = x[:2].numpy()
        _agree(peers.gradcam_eigencam(few), shape, "eigencam")
        contenders.append(Contender("pytorch-grad-cam", lambda: peers.gradcam_eigencam(few), len(few), rounds=5))
    if (method, shape) == ("tsm", "2048x7x7"):
        one, two = x[:1].numpy(), x[:2].numpy()
        feasible, full = (49, 7, 7), tuple(x.shape[1:])
        _agree(_tensorly_tsm(two, feasible), shape, "tsm")
        contenders.append(
            Contender("TensorLy, rank (49, 7, 7)", lambda: _tensorly_tsm(two, feasible), len(two), rounds=5)
        )
        if not quick:
            contenders.append(Contender(FULL, lambda: _tensorly_tsm(one, full), len(one), rounds=1))

    targets = [t for t in TARGETS.get((method, shape), []) if t.peer in {c.name for c in contenders}]
    compare(
        method,
        shape,
        Contender("tsm_fast", lambda: ours(x), len(x)),
        contenders,
        targets,
        errors=errors,
        origin=shapes.SHAPES[shape].origin,
        data=exact.statistics(shape, checked),
    )


@pytest.mark.parametrize("shape", ["2048x7x7", "1024x14x14"])
def test_finish(shape: str, compare: Callable[..., dict]) -> None:
    """Resizing to the input and normalising, what is done after every map; the reference is plain PyTorch."""
    maps = tsm_fast.tsm(shapes.features(shape), normalize=False)
    ours = partial(load("cpu").finish, maps, (224, 224), normalize=True)
    plain = partial(reference.finish, maps, (224, 224), normalize=True)
    exact = reference.finish(maps.double(), (224, 224), normalize=True)
    errors = {"maps": (ours() - exact).abs().max().item(), "torch": (plain() - exact).abs().max().item()}
    assert errors["maps"] < 1e-6
    compare(
        "finish",
        f"{shape.partition('x')[2]} to 224x224",
        Contender("tsm_fast", ours, len(maps)),
        [Contender("torch", plain, len(maps))],
        errors=errors,
    )


@pytest.mark.parametrize("batch", [1, 8, 32, 128, 512, 1024])
def test_time_against_batch(batch: int, compare: Callable[..., dict]) -> None:
    x = shapes.features("2048x7x7", batch)
    compare(
        "tsm, by batch size",
        "2048x7x7",
        Contender("tsm_fast", lambda: tsm_fast.tsm(x), batch),
        [Contender("torch", lambda: peers.torch_maps("tsm", x), batch)],
    )


@pytest.mark.parametrize("batch", [32, 128, 512, 1024])
@pytest.mark.parametrize("method", ["tsm", "mtsm"])
def test_memory_against_batch(method: str, batch: int, benchmark: Any) -> None:
    extra = benchmark.pedantic(lambda: memory.measure(method, "2048x7x7", batch), rounds=1)
    benchmark.extra_info.update(step="memory", method=method, shape="2048x7x7", items=batch, megabytes=extra)
    assert extra["tsm_fast"] <= 64


def _errors(x: Tensor, shape: str, method: str) -> dict[str, float]:
    """Worst differences of normalised maps from float64; items with a tie in a sign are counted, not compared."""
    ours, plain = getattr(tsm_fast, method), partial(peers.torch_maps, method)
    truth, clear = exact.maps(shape, len(x), method)

    def worst(maps: Tensor) -> float:
        return float((maps - truth).abs().amax((1, 2))[clear].max())

    return {
        "maps": worst(ours(x)),
        "float64": worst(ours(x, precision="float64")),
        "torch": worst(plain(x)),
        "ties": int((~clear).sum()),
        "items": len(x),
    }


def _tensorly_tsm(x: np.ndarray, rank: tuple[int, ...]) -> np.ndarray:
    """TSM by its definition, from TensorLy's `tucker` of every image."""
    found = zip(x, peers.tensorly_tucker(x, rank), strict=True)
    maps = [peers.tensorly_maps(item, core, factors)["tsm"] for item, (core, factors) in found]
    return peers.normalized(torch.from_numpy(np.stack(maps))).numpy()


def _agree(maps: np.ndarray, shape: str, method: str) -> None:
    """A peer computes the same map, up to its free sign: of a few items, at least one has ours."""
    truth, _ = exact.maps(shape, len(maps), method)
    assert np.abs(maps - truth.numpy()).max((1, 2)).min() < 1e-4
