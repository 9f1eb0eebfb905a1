"""What only a GPU can show: graphs, streams, devices, lack of memory. Small shapes, also for compute-sanitizer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tsm_fast
from tsm_fast import SaliencyExtractor
from tsm_fast.steps import choice, cusolver, reference

from ..helpers import MAP_ERROR, feature_maps, orthonormality, projector, randn, spectrum
from .counting import BACKENDS, NAMED
from .on_gpu import ON_GPU, require_gpu

pytestmark = pytest.mark.skipif(not ON_GPU, reason="runs on a GPU, by `make gpu-test`")

OPTIONS: dict[str, Any] = {"center": True, "combine": "signed", "sign": "u"}
CALLS = [("tsm", None), ("eigencam", None), ("mtsm", None), ("mtsm", (4, 3, 3))]
SHAPES = [(40, 7, 7), (20, 9, 10), (90, 7, 10)]


@pytest.fixture
def cuda() -> Any:
    require_gpu()
    return choice.load("cuda")


@pytest.fixture(params=BACKENDS, ids=NAMED.format)
def built(request: pytest.FixtureRequest) -> Any:
    require_gpu()
    return choice.load(request.param)


def maps(backend: Any, x: Tensor, method: str, rank: Any) -> Tensor:
    return backend.saliency(x, method, rank, **OPTIONS)[0]


def agree(result: Tensor, x: Tensor, method: str, rank: Any) -> bool:
    expected = maps(reference, x.cpu(), method, rank)
    return bool((result.cpu() - expected).abs().max() <= MAP_ERROR[method] * expected.max())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("method", "rank"), CALLS)
def test_small(built, shape, method, rank):
    x = feature_maps(3, *shape, relu=False)
    assert agree(maps(built, x.cuda(), method, rank), x, method, rank)


def test_small_finish(built):
    x = torch.rand(3, 7, 9)
    finished = built.finish(x.cuda(), (20, 31), normalize=True).cpu()
    assert (finished - reference.finish(x, (20, 31), normalize=True)).abs().max() <= 1e-6


@pytest.mark.parametrize("method", ["tsm", "eigencam"])
def test_leading_pairs_above_256(built, method):
    x = feature_maps(3, 260, 17, 17)
    x[1] = 0
    assert agree(maps(built, x.cuda(), method, None), x, method, None)


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


PUBLIC: dict[str, Any] = {
    "tsm": tsm_fast.tsm,
    "eigencam": partial(tsm_fast.eigencam, size=(14, 14)),
    "mtsm": tsm_fast.mtsm,
    "mtsm, rank": partial(tsm_fast.mtsm, rank=(4, 3, 3)),
    "mean_activation": tsm_fast.mean_activation,
}


def captured(call: Any, x: Tensor) -> tuple[torch.cuda.CUDAGraph, Any]:
    """The call in a graph that reads x, after one on a side stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call(x)
    return graph, result


@pytest.mark.parametrize("name", PUBLIC)
def test_graphs_of_the_public_functions(built, name):
    call = partial(PUBLIC[name], backend=built.name)
    x = feature_maps(4, 40, 7, 7).cuda()
    graph, maps = captured(call, x)
    x.copy_(feature_maps(4, 40, 7, 7, seed=1))
    graph.replay()
    expected = call(x)
    assert torch.equal(maps, expected)
    x[1, 0, 0, 0] = torch.nan
    graph.replay()
    assert maps[1].isnan().all()
    assert torch.equal(maps[::2], expected[::2])


def test_graphs_of_decompositions(built):
    x = feature_maps(4, 40, 7, 7).cuda()
    graph, result = captured(partial(tsm_fast.tucker, rank=(4, 3, 3), n_iter_max=20, backend=built.name), x)
    pairs_graph, pairs = captured(partial(tsm_fast.eigh, backend=built.name), x[:, 0])
    x.copy_(feature_maps(4, 40, 7, 7, seed=1))
    graph.replay()
    pairs_graph.replay()
    expected = tsm_fast.tucker(x, rank=(4, 3, 3), n_iter_max=20, backend=built.name)
    assert torch.equal(result.core, expected.core)
    assert all(map(torch.equal, result.factors, expected.factors))
    assert all(map(torch.equal, pairs, tsm_fast.eigh(x[:, 0], backend=built.name)))


def test_what_waits_is_refused_in_a_graph(built):
    x = feature_maps(2, 260, 17, 17).cuda()
    torch.cuda.synchronize()
    with pytest.raises(RuntimeError, match="while a CUDA graph is captured"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        tsm_fast.tsm(x, backend=built.name)
    assert tsm_fast.tsm(x, backend=built.name).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_an_extractor_that_replays(built, dtype):
    model = nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU()).cuda().to(dtype)
    options: dict[str, Any] = {"method": [*PUBLIC][:3], "size": "input", "backend": built.name}
    plain, extract = (SaliencyExtractor(model, "1", cuda_graph=graph, **options) for graph in (False, True))
    for seed in range(6):
        images = randn(2 + seed % 2, 3, 9, 9, seed=seed, dtype=dtype).cuda()
        images = images.contiguous(memory_format=torch.channels_last) if seed > 3 else images
        with torch.cuda.stream(torch.cuda.Stream()) if seed == 2 else nullcontext():
            maps, expected = extract(images), plain(images)
            assert all(torch.equal(maps[name], expected[name]) for name in expected)
    images[0] = torch.nan
    with pytest.raises(ValueError, match="got NaN or Inf in item 0"):
        extract(images)


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
        cuda.hooi(x, (4, 3, 3), n_iter_max=20, tol=1e-4, sign="u")
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_lack_of_memory_leaves_no_state(cuda):
    """The Gram matrices need 79 MB, more than blocks of PyTorch's allocator have left over."""
    x = feature_maps(4096, 16, 7, 7).cuda()
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
    assert agree(maps(cuda, x, "mtsm", None)[:8], x[:8], "mtsm", None)


def test_a_cpu_tensor_is_refused(cuda):
    with pytest.raises(RuntimeError, match="runs on cuda tensors, got one on cpu"):
        tsm_fast.tsm(torch.rand(1, 8, 3, 3), backend="cuda")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_several_devices(cuda):
    x = feature_maps(3, 40, 7, 7).to("cuda:1")
    assert maps(cuda, x, "tsm", None).device == x.device
    with pytest.raises(ValueError, match="matrix must be on cuda:1"):
        tsm_fast.mode_dot(x, torch.rand(3, 40, device="cuda:0"), 0, backend="cuda")


SOLVED = {torch.float32: 1e-4, torch.float64: 1e-12}  # of the largest eigenvalue: n * eps with a constant near 1


@pytest.fixture
def solver() -> cusolver.Solver:
    """cuSOLVER, which must be there from CUDA 12.8 on."""
    require_gpu()
    found = cusolver.library(torch.device("cuda"))
    if found is None:
        version = torch.version.cuda
        assert version is None or tuple(map(int, version.split("."))) < (12, 8), f"no XsyevBatched with CUDA {version}"
        pytest.skip(f"CUDA {version} may be without XsyevBatched")
    return found


def symmetric(batch: int, n: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    matrix = randn(batch, n, n, seed=seed)
    return (matrix + matrix.mT).to(dtype)


def solved(gram: Tensor, pairs: tuple[Tensor, Tensor]) -> bool:
    values, vectors = (part.cpu().double() for part in pairs)
    exact, tolerance = torch.linalg.eigvalsh(gram.double()), SOLVED[gram.dtype]
    residual = gram.double() @ vectors - vectors * values[:, None]
    largest = exact.abs().amax(1)[:, None]
    return bool(
        ((values - exact).abs() <= tolerance * largest).all()
        and (residual.abs() <= tolerance * largest[:, None]).all()
        and orthonormality(vectors) <= tolerance
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n", [49, 257, 512])
def test_cusolver_on_another_stream(solver, n, dtype):
    """The matrices arrive late on that stream, and its memory is given out again right after the call."""
    gram = symmetric(5, n, dtype)
    source, target = gram.cuda(), torch.zeros(5, n, n, dtype=dtype, device="cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        target.copy_(source)
        pairs = cusolver.eigh(target)
        for _ in range(4):
            torch.full((5, n, n), torch.nan, dtype=dtype, device="cuda")
    torch.cuda.synchronize()
    assert target.equal(source)
    assert solved(gram, pairs)


def test_cusolver_in_parts(solver, monkeypatch):
    gram = symmetric(5, 257, torch.float64)
    for limit, value in (("MOST_MATRICES", 2), ("WORKSPACE_BYTES", 1)):
        monkeypatch.setattr(cusolver, limit, value)
        assert solved(gram, cusolver.eigh(gram.cuda()))


def test_cusolver_in_threads(solver):
    grams = [symmetric(3, 257, torch.float64, seed) for seed in range(4)]

    def solve(gram: Tensor) -> tuple[Tensor, Tensor]:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            pairs = cusolver.eigh(gram.cuda())
        stream.synchronize()
        return pairs

    for _ in range(3):
        with ThreadPoolExecutor(len(grams)) as pool:
            assert all(map(solved, grams, pool.map(solve, grams)))


@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_all_pairs_above_256_of_the_backends(solver, name):
    x = torch.stack([spectrum([0.5**i for i in range(257)], 257, 300, seed) for seed in range(5)])
    gram = x @ x.mT
    gram[2, 3, 3] = torch.nan
    values, vectors = (part.cpu() for part in choice.load(name).truncated_svd(gram.cuda(), 3))
    expected, basis = reference.truncated_svd(gram, 3)
    good = [0, 1, 3, 4]
    assert (values[good] - expected[good]).abs().max() <= 1e-12
    assert (projector(vectors[good]) - projector(basis[good])).abs().max() <= 1e-10
    assert values[2].isnan().all()
    assert vectors[2].isnan().all()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_cusolver_on_another_device(solver):
    gram = symmetric(3, 257, torch.float64)
    assert solved(gram, cusolver.eigh(gram.to("cuda:1")))
