"""CUDA graphs without a GPU: what a call does while one is captured, and the extractor's own, over a stand-in."""

from __future__ import annotations

import copy
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tsm_fast
from tsm_fast import SaliencyExtractor, _graphs
from tsm_fast._graphs import Graphs
from tsm_fast.steps.capture import as_captured

from ..helpers import feature_maps, randn
from .emulation.load import emulated
from .on_gpu import stand_in
from .tape import in_place_of_graphs
from .waits import Waits

CALLS: dict[str, Any] = {
    "tsm": partial(tsm_fast.tsm),
    "tsm, raw": partial(tsm_fast.tsm, normalize=False),
    "tsm, size": partial(tsm_fast.tsm, size=(20, 24)),
    "eigencam, sum": partial(tsm_fast.eigencam, sign="sum"),
    "mtsm": partial(tsm_fast.mtsm),
    "mtsm, rank": partial(tsm_fast.mtsm, rank=(6, 4, 4)),
    "multivec, float64": partial(tsm_fast.multivec_eigencam, precision="float64"),
    "mean": partial(tsm_fast.mean_activation, size=(9, 9)),
}


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    stand_in("cuda", emulated(), monkeypatch)
    return emulated()


@pytest.fixture
def graphs(cuda: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Graphs:
    in_place_of_graphs(cuda, monkeypatch)
    return Graphs()


def captured(call: Any, *args: Any, **options: Any) -> Any:
    with Waits() as waits, as_captured():
        result = call(*args, backend="cuda", **options)
    assert waits.count == 0
    return result


@pytest.mark.parametrize("call", CALLS)
def test_a_captured_call_waits_for_nothing(cuda, call):
    x = feature_maps(4, 40, 7, 7)
    assert torch.equal(captured(CALLS[call], x), CALLS[call](x, backend="cuda"))


@pytest.mark.parametrize("call", [tsm_fast.tsm, partial(tsm_fast.mtsm, rank=3)], ids=["tsm", "mtsm, rank"])
@pytest.mark.parametrize(("shape", "size"), [((20, 30), (12,)), ((20, 3, 4, 5), (4, 6, 6))], ids=str)
def test_nor_does_one_of_other_positions(cuda, call, shape, size):
    x = randn(3, *shape, dtype=torch.float32)
    assert torch.equal(captured(call, x, size=size), call(x, size=size, backend="cuda"))


@pytest.mark.parametrize("call", CALLS)
def test_what_nobody_saw_is_nan(cuda, call):
    """Other items stay as they are, and items of zeros are maps of zeros."""
    x = feature_maps(5, 40, 7, 7)
    expected = CALLS[call](x, backend="cuda")
    x[1, 3, 2, 2] = torch.nan
    x[2] = 0
    x[3] = torch.inf
    maps = captured(CALLS[call], x)
    assert maps[[1, 3]].isnan().all()
    assert (maps[2] == 0).all()
    assert torch.equal(maps[[0, 4]], expected[[0, 4]])


def test_what_would_be_computed_again_is_nan(cuda):
    x = feature_maps(3, 40, 7, 7)
    x[1] *= 1e-30  # the map is below the range of float32
    maps = captured(tsm_fast.mtsm, x)
    assert maps[1].isnan().all()
    assert torch.equal(maps[::2], tsm_fast.mtsm(x, backend="cuda")[::2])


@pytest.mark.parametrize("call", ["tsm", "mtsm, rank", "mean"])
def test_nan_as_zero(cuda, call):
    x = feature_maps(3, 40, 7, 7)
    x[1, 3, 2, 2] = torch.nan
    assert torch.equal(captured(CALLS[call], x, nan="zero"), CALLS[call](x, nan="zero", backend="cuda"))


def test_captured_decompositions(cuda):
    x = randn(3, 12, 6, 5)
    x[1] = torch.nan
    result = captured(tsm_fast.tucker, x, rank=(4, 3, 3), n_iter_max=20)
    expected = tsm_fast.tucker(x[::2], rank=(4, 3, 3), n_iter_max=20, backend="cuda")
    assert torch.equal(result.core[::2], expected.core)
    assert result.core[1].isnan().all()
    most = expected.errors.shape[1]
    assert torch.equal(result.errors[::2, :most].nan_to_num(), expected.errors.nan_to_num())
    assert result.errors[:, most:].isnan().all()
    assert result.errors.shape == (3, 20)
    values, vectors = captured(tsm_fast.eigh, gram := x[:, 0, :5, :5] + x[:, 0, :5, :5].mT)
    assert all(map(torch.equal, (values[::2], vectors[::2]), tsm_fast.eigh(gram[::2], backend="cuda")))
    assert values[1].isnan().all()


REFUSED = {
    "n = 260": partial(tsm_fast.tsm, torch.ones(1, 260, 17, 17), backend="cuda"),
    "n = 257": partial(tsm_fast.eigh, torch.ones(1, 257, 257), backend="cuda"),
    "'reference'": partial(tsm_fast.tsm, torch.ones(1, 4, 3, 3), backend="reference"),
    "random numbers": partial(tsm_fast.tucker, torch.ones(1, 4, 3, 3), init="random", backend="cuda"),
    "hosvd": partial(tsm_fast.hosvd, torch.ones(1, 4, 3, 3), backend="cuda"),
    "truncated_svd": partial(tsm_fast.truncated_svd, torch.ones(1, 4, 3), backend="cuda"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_asks_the_host_is_refused_before_a_launch(cuda, what):
    cuda._cuda.launches()
    with (
        as_captured(),
        pytest.raises(RuntimeError, match=f"{what}.* waits for the GPU, which cannot be while a CUDA gr"),
    ):
        REFUSED[what]()
    assert not cuda._cuda.launches()


def test_a_cpu_tensor_is_in_no_graph(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(ValueError, match="must be finite"):
        tsm_fast.tsm(torch.full((1, 4, 3, 3), torch.nan))


# The extractor's graphs


def all_maps(calls: list[Any], features: Tensor, size: Any) -> dict[str, Tensor]:
    calls.append(size)
    made = {"tsm": tsm_fast.tsm, "mtsm": tsm_fast.mtsm, "rank": partial(tsm_fast.mtsm, rank=(6, 4, 4))}
    return {name: function(features, size=size, backend="cuda") for name, function in made.items()}


def same(maps: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return maps.keys() == others.keys() and all(torch.equal(maps[name], others[name]) for name in maps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_replayed_maps_are_those_of_a_call(graphs, dtype):
    calls: list[Any] = []
    kept = []
    for seed in range(3):
        x = feature_maps(3, 40, 7, 7, seed=seed).to(dtype)
        kept.append((graphs(partial(all_maps, calls), x, (9, 9)), all_maps([], x, (9, 9))))
    assert len(calls) == 2  # what loads the kernels, and what is captured
    assert all(same(*pair) for pair in kept)  # each result has memory of its own


def test_what_a_call_looks_at_is_looked_at(graphs):
    compute = partial(all_maps, [])
    x = feature_maps(3, 40, 7, 7)
    graphs(compute, x, None)
    x[1] *= 1e-30
    assert same(graphs(compute, x, None), compute(x, None))
    x[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="features must be finite, got NaN or Inf in item 1"):
        graphs(compute, x, None)
    x = feature_maps(3, 40, 7, 7, seed=2)
    assert same(graphs(compute, x, None), compute(x, None))


def test_a_graph_of_the_caller_takes_it(graphs):
    x = feature_maps(3, 40, 7, 7)
    with Waits() as waits, as_captured():
        maps = graphs(partial(all_maps, []), x, None)
    assert waits.count == 0
    assert same(maps, all_maps([], x, None))


def test_another_kind_has_another_graph(graphs, monkeypatch):
    monkeypatch.setattr(_graphs, "MOST", 5)
    calls: list[Any] = []
    x = feature_maps(3, 40, 7, 7)
    last = x.contiguous(memory_format=torch.channels_last)
    kinds = [(x, None), (x, (9, 9)), (x[:2], None), (x.half(), None), (last, None), (x[:1], None), (x[:0], None)]
    for times in range(2):
        before = len(calls)
        for features, size in kinds:
            assert same(graphs(partial(all_maps, calls), features, size), all_maps([], features, size))
        assert len(calls) - before == (12 if times == 0 else 2)  # one beyond the most, and an empty one


def test_the_extractor_replays(graphs, monkeypatch):
    model = nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    options: dict[str, Any] = {"method": ["tsm", "mtsm"], "size": "input", "backend": "cuda"}
    plain, extract = (SaliencyExtractor(model, "1", cuda_graph=graph, **options) for graph in (False, True))
    for seed in range(3):
        images = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode(seed == 1):
            assert same(extract(images), plain(images))
    monkeypatch.setattr(tsm_fast.extractor.SaliencyExtractor, "_all_maps", None)  # nothing but the graph runs
    assert same(extract(images), extract(images))
    with pytest.raises(TypeError):
        copy.deepcopy(extract)(images)  # which would capture its own


def test_features_on_no_gpu_are_refused():
    extract = SaliencyExtractor(nn.Sequential(nn.Conv2d(3, 40, 3)), "0", method="tsm", cuda_graph=True)
    with pytest.raises(RuntimeError, match="cuda_graph=True needs features on a GPU, got them on cpu"):
        extract(torch.rand(1, 3, 9, 9))


def test_the_option_is_a_flag():
    with pytest.raises(TypeError, match="cuda_graph must be True or False, got 1"):
        SaliencyExtractor(nn.Conv2d(3, 40, 3), cuda_graph=1)  # pyright: ignore[reportArgumentType]
