"""What only a GPU can show: graphs, streams, devices, lack of memory. Small shapes, also for compute-sanitizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tsm_fast
from tsm_fast import dispatch, reference

from ..helpers import MAP_ERROR, feature_maps
from .conftest import ON_GPU
from .on_gpu import require_gpu

pytestmark = pytest.mark.skipif(not ON_GPU, reason="runs on a GPU, by `make gpu-test`")

OPTIONS: dict[str, Any] = {"center": True, "combine": "signed", "sign": "u"}
CALLS = [("tsm", None), ("eigencam", None), ("mtsm", None), ("mtsm", (4, 3, 3))]
SHAPES = [(40, 7, 7), (20, 9, 10), (90, 7, 10)]


@pytest.fixture
def cuda() -> Any:
    require_gpu()
    return dispatch.load("cuda")


def maps(backend: Any, x: Tensor, method: str, rank: Any) -> Tensor:
    return backend.saliency(x, method, rank, **OPTIONS)[0]


def agree(result: Tensor, x: Tensor, method: str, rank: Any) -> bool:
    expected = maps(reference, x.cpu(), method, rank)
    return bool((result.cpu() - expected).abs().max() <= MAP_ERROR[method] * expected.max())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("method", "rank"), CALLS)
def test_small(cuda, shape, method, rank):
    x = feature_maps(3, *shape, relu=False)
    assert agree(maps(cuda, x.cuda(), method, rank), x, method, rank)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("method", "rank"), CALLS)
def test_graphs(cuda, shape, method, rank):
    x = feature_maps(4, *shape).cuda()
    warm = torch.cuda.Stream()
    with torch.cuda.stream(warm):
        maps(cuda, x, method, rank)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = maps(cuda, x, method, rank)
    x.copy_(feature_maps(4, *shape, seed=1))
    graph.replay()
    assert agree(result, x, method, rank)


def test_streams_at_once(cuda):
    items = [feature_maps(16, 256, 7, 7, seed=seed) for seed in range(4)]
    on_gpu = [x.cuda() for x in items]
    torch.cuda.synchronize()
    results = []
    for x in on_gpu:
        with torch.cuda.stream(torch.cuda.Stream()):
            results.append(maps(cuda, x, "mtsm", None))
    torch.cuda.synchronize()
    assert all(agree(result, x, "mtsm", None) for result, x in zip(results, items, strict=True))


def test_nothing_waits_for_the_device(cuda):
    x = feature_maps(8, 64, 7, 7).cuda()
    maps(cuda, x, "mtsm", None)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for method, rank in CALLS:
            maps(cuda, x, method, rank)
        cuda.hooi(x, (4, 3, 3), n_iter_max=20, tol=1e-4, sign="u", trim=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_lack_of_memory_leaves_no_state(cuda):
    x = feature_maps(64, 512, 7, 7).cuda()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (held + 2**20) / total))
    try:
        with pytest.raises(torch.OutOfMemoryError):
            maps(cuda, x, "mtsm", None)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.cuda.memory_allocated() == held
    assert agree(maps(cuda, x, "mtsm", None), x, "mtsm", None)


def test_a_cpu_tensor_is_refused(cuda):
    with pytest.raises(RuntimeError, match="runs on cuda tensors, got one on cpu"):
        tsm_fast.tsm(torch.rand(1, 8, 3, 3), backend="cuda")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_several_devices(cuda):
    x = feature_maps(3, 40, 7, 7).to("cuda:1")
    assert maps(cuda, x, "tsm", None).device == x.device
    with pytest.raises(ValueError, match="matrix must be on cuda:1"):
        tsm_fast.mode_dot(x, torch.rand(3, 40, device="cuda:0"), 0, backend="cuda")
