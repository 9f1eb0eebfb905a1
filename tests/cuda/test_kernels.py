"""The CUDA backend's own promises, its kernels executed on the CPU: which kernel runs, that every output is
written, that threads may take any order, and what bad input gets.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import tsm_fast
from benchmarks import cuda_predictions
from tsm_fast.steps import reference

from ..helpers import DOUBLE_ERROR, MAP_ERROR, beyond_the_protocol, feature_maps, generator, randn
from .emulation.load import emulated
from .on_gpu import elsewhere, stand_in
from .waits import Waits

OPTIONS: dict[str, Any] = {"center": True, "combine": "signed", "sign": "u"}
NAMES = {
    torch.float16: "unsigned short",
    torch.bfloat16: "unsigned short",
    torch.float32: "float",
    torch.float64: "double",
}
SHAPES = [(33, 3, 5), (40, 7, 7), (70, 8, 8), (90, 7, 10), (10, 9, 10), (66, 9, 8)]
CALLS = {
    "tsm": ("tsm", None, {}),
    "eigencam, sum": ("eigencam", None, {"sign": "sum"}),
    "mtsm": ("mtsm", None, {}),
    "mtsm, v": ("mtsm", None, {"sign": "v"}),
    "multivec, absolute": ("multivec_eigencam", None, {"combine": "absolute"}),
    "mtsm, rank": ("mtsm", (4, 3, 3), {}),
    "tsm, signed": ("tsm", None, {"sign": "absmax", "relu": False}),
    "mtsm, signed": ("mtsm", None, {"relu": False}),
}


@pytest.fixture
def cuda() -> ModuleType:
    return emulated()


def kernels(cuda: ModuleType) -> list[str]:
    """Those launched since the last call."""
    return [name for name, _, _ in cuda._cuda.launches()]


def test_the_steps_are_those_of_the_protocol(cuda):
    assert beyond_the_protocol(cuda) == {}


@pytest.mark.parametrize("options", [{}, {"normalize": False}, {"size": (20, 20)}, {"nan": "propagate"}], ids=str)
@pytest.mark.parametrize("method", [tsm_fast.tsm, tsm_fast.mtsm, tsm_fast.eigencam])
def test_a_call_waits_once(cuda, monkeypatch, method, options):
    stand_in("cuda", cuda, monkeypatch)
    x = feature_maps(3, 40, 7, 7)
    with Waits() as waits:
        maps = method(x, backend="cuda", **options)
    assert waits.count == 1
    x[1] = torch.nan if "nan" in options else 1e-30
    again = method(x, backend="cuda", **options)  # of items that need another look, the others stay as they are
    assert torch.equal(again[::2], maps[::2])
    assert not torch.equal(again[1], maps[1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_left_unwritten(cuda, fresh_memory_is_nan, shape, call):
    method, rank, options = CALLS[call]
    x = feature_maps(3, *shape, relu=False)
    x[1] = 0
    maps, finite = cuda.saliency(x, method, rank, **{**OPTIONS, **options})
    expected, _ = reference.saliency(x, method, rank, **{**OPTIONS, **options})
    assert finite.all()
    assert (maps[1] == 0).all()
    assert (maps - expected).abs().max() <= MAP_ERROR[method] * expected.max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n", [1, 15, 32, 33, 49, 56, 57, 63, 64, 65, 130])
def test_gram_of_any_type_and_size(cuda, fresh_memory_is_nan, dtype, n):
    x = randn(2, 37, n).to(dtype)
    for view in (x, x.mT.contiguous().mT, torch.cat([x[:, :1], x], 1)[:, 1:]):
        gram = cuda.mode_gram(view, 1, precision="float64")
        assert (gram - reference.mode_gram(x, 1, precision="float64")).abs().max() <= 1e-13 * 37


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n", [2, 15, 32, 49, 56, 63, 64])
def test_gram_of_channels_that_come_last(cuda, fresh_memory_is_nan, dtype, n):
    """Copied by 16 bytes of a position; the last rows are no whole chunk."""
    x = randn(2, 72, n).to(dtype).mT.contiguous().mT
    kernels(cuda)
    gram = cuda.mode_gram(x, 1, precision="float64")
    assert kernels(cuda) == [f"gram_columns_kernel<{4 if n <= 32 else 7 if n <= 56 else 8}, {NAMES[dtype]}>"]
    assert (gram - reference.mode_gram(x, 1, precision="float64")).abs().max() <= 1e-13 * 72


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(72, 7, 7), (72, 8, 8), (72, 9, 10), (200, 14, 14)], ids=str)
@pytest.mark.parametrize(("method", "options"), [("tsm", {}), ("eigencam", {"sign": "sum"}), ("mtsm", {})])
def test_channels_that_come_last(cuda, fresh_memory_is_nan, shape, dtype, method, options):
    x = feature_maps(3, *shape, relu=False).to(dtype)
    x[1] = 0
    expected, _ = cuda.saliency(x, method, None, **{**OPTIONS, **options})
    maps, finite = cuda.saliency(
        x.contiguous(memory_format=torch.channels_last), method, None, **{**OPTIONS, **options}
    )
    assert finite.all()
    assert (maps - expected).abs().max() <= 2**-23 * expected.max()


def test_slices_of_channels_that_come_last(cuda, fresh_memory_is_nan):
    """Of 16 channels of 40 that begin at a multiple of 16 bytes, or not, and of 14, which are no multiple."""
    whole = randn(2, 7, 7, 40, dtype=torch.float32).movedim(3, 1)
    for view, name in ((whole[:, 4:20], "gram_columns"), (whole[:, 5:21], "gram"), (whole[:, 4:18], "gram")):
        kernels(cuda)
        maps, _ = cuda.saliency(view, "tsm", None, **OPTIONS)
        assert kernels(cuda)[0] == f"{name}_kernel<7, float>"
        assert (maps - cuda.saliency(view.contiguous(), "tsm", None, **OPTIONS)[0]).abs().max() <= 2**-23 * maps.max()


@pytest.mark.parametrize("rank", [(5, 3, 3), (12, 4, 5), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("shape", [(40, 4, 5), (4, 40, 5), (9, 8, 7), (24, 5, 5)], ids=str)
def test_hooi_leaves_nothing_unwritten(cuda, fresh_memory_is_nan, shape, rank):
    rank = tuple(min(r, n) for r, n in zip(rank, shape, strict=True))
    x = randn(2, *shape)
    result = cuda.hooi(x, rank, n_iter_max=20, tol=1e-4, sign="u")
    expected = reference.hooi(x, rank, n_iter_max=20, tol=1e-4, sign="u")
    assert result.n_sweeps.equal(expected.n_sweeps)
    assert (result.core.abs() - expected.core.abs()).abs().max() < DOUBLE_ERROR * expected.core.abs().max()
    for factor, other in zip(result.factors, expected.factors, strict=True):
        assert (factor.abs() - other.abs()).abs().max() < 1e-7


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("shape", [(40, 7, 7), (90, 7, 10)], ids=str)
def test_the_order_of_threads_does_not_matter(cuda, monkeypatch, shape, call):
    method, rank, options = CALLS[call]
    x = feature_maps(2, *shape, relu=False)
    forward, _ = cuda.saliency(x, method, rank, **{**OPTIONS, **options})
    monkeypatch.setenv("TSM_EMULATION_ORDER", "reverse")
    backward, _ = cuda.saliency(x, method, rank, **{**OPTIONS, **options})
    assert forward.equal(backward)


def leading(maps: Tensor, settled: Tensor, finite: Tensor) -> dict[str, int]:
    """Where a leading pair of uncentred features goes."""
    out = {"maps": maps.data_ptr(), "settled": settled.data_ptr(), "finite": finite.data_ptr()}
    return {"center": False, "wide": maps.dtype == torch.float64, "stream": 0, **out}


def test_a_proved_pair_needs_one_read(cuda):
    kernels(cuda)
    x = feature_maps(2, 40, 7, 7)
    maps = torch.empty(2, 49)
    settled, finite = torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    cuda._cuda.leading_small(cuda._array(x.flatten(2)), **leading(maps, settled, finite))
    assert kernels(cuda) == ["gram_kernel<7, float>"]
    assert settled.all()


def near_pair(dtype: torch.dtype, gap: float) -> Tensor:
    """Features [2, C, S] whose two largest eigenvalues are this apart, with many channels of either sign."""
    u, v = (torch.linalg.qr(randn(2, n, 49, seed=n))[0] for n in (300, 49))
    values = torch.full((49,), 0.1, dtype=torch.float64)
    values[:2] = torch.tensor([1.0, (1 - gap) ** 0.5])
    return (8 * (u * values) @ v.mT).to(dtype)


@pytest.mark.parametrize("gap", [0.5, 0.02, 0.005])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bits_are_multiplied_as_they_are(cuda, fresh_memory_is_nan, dtype, gap):
    """Sums in float cost a map little where its pair is settled; where little is not enough, it is not."""
    x = near_pair(dtype, gap)
    _, values, vectors = torch.linalg.svd(x.double(), full_matrices=False)
    expected = (values[:, 0, None] * vectors[:, 0]).abs()
    for view in (x, x.mT.contiguous().mT, torch.cat([x[:, :1], x], 1)[:, 1:]):
        kernels(cuda)
        maps, settled, finite = torch.empty(2, 49), torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
        cuda._cuda.leading_small(cuda._array(view), **leading(maps, settled, finite))
        assert kernels(cuda) == ["gram16_kernel<7>"]
        assert settled.tolist() == [gap > 0.01] * 2
        assert gap < 0.01 or (maps.abs() - expected).abs().max() <= 1e-6 * expected.max()


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e36])
def test_bfloat16_beyond_the_squares_of_float(cuda, size):
    x = (feature_maps(2, 60, 7, 7).clamp(max=1) * size).bfloat16()
    maps, finite = cuda.saliency(x, "tsm", None, **OPTIONS)
    expected, _ = reference.saliency(x, "tsm", None, **OPTIONS)
    assert finite.all()
    assert (maps - expected).abs().max() <= MAP_ERROR["tsm"] * expected.max()


@pytest.mark.parametrize("columns", [None, 66])
@pytest.mark.parametrize("shape", [(5, 1), (64, 9), (65, 49), (150, 64), (200, 70)], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_signs_of_ties_are_those_of_the_first_entry(
    cuda, monkeypatch, fresh_memory_is_nan, shape, transposed, columns, dtype
):
    """Small integers: products are exact, and most columns have several entries of largest magnitude."""
    draw = generator()
    x = torch.randint(-1, 2, (2, *shape), generator=draw).to(dtype)
    size = shape[0 if transposed else 1]
    columns = columns or size
    vectors = torch.randint(-1, 2, (2, size, columns), generator=draw).double()
    exact = (x.mT if transposed else x).double() @ vectors
    index = exact.abs().argmax(1, keepdim=True)
    assert (exact.amax(1) == -exact.amin(1)).any()
    kernels(cuda)
    for order in ("forward", "reverse"):
        monkeypatch.setenv("TSM_EMULATION_ORDER", order)
        for view in (x, x.mT.contiguous().mT):
            found = torch.empty(2, columns, dtype=torch.float64)
            how = {"transposed": transposed, "center": False, "vectors": vectors.data_ptr(), "n": columns}
            cuda._cuda.extremes(cuda._array(view), **how, out=found.data_ptr(), skip=0, stream=0)
            assert found.equal(exact.gather(1, index)[:, 0])
    small = not transposed and columns <= size <= 64
    assert all(name.startswith("extremes_small_kernel") == small for name in kernels(cuda))


@pytest.mark.parametrize("sign", ["absmax", "u", "v"])
def test_signs_of_single_maps_with_ties(cuda, sign):
    """Two positions, centred: a map and its opposite; every channel is there with either sign."""
    half = torch.randint(-9, 10, (3, 20, 1, 2), generator=generator()).double()
    half[..., 1] = -half[..., 0]
    x = torch.cat([half, -half], 1)
    for features in (x, x.flip(1), x.flip(3)):
        maps, _ = cuda.saliency(features, "eigencam", None, **{**OPTIONS, "sign": sign}, precision="float64")
        expected, _ = reference.saliency(features, "eigencam", None, **{**OPTIONS, "sign": sign}, precision="float64")
        assert (maps - expected).abs().max() <= DOUBLE_ERROR * expected.max()


def two_alike(c: int, h: int, w: int, ratio: float) -> Tensor:
    """Signed features whose two largest singular values have this ratio."""
    u, v = torch.linalg.qr(randn(c, 3))[0], torch.linalg.qr(randn(h * w, 3, seed=1))[0]
    return (u * torch.tensor([1.0, ratio, 0.1], dtype=torch.float64) @ v.mT).view(1, c, h, w)


@pytest.mark.parametrize("shape", [(40, 7, 7), (90, 7, 10)], ids=str)
def test_pairs_that_are_not_proved_come_from_the_full_solver(cuda, shape):
    x = two_alike(*shape, ratio=0.9999)
    maps = torch.empty(1, shape[1] * shape[2], dtype=torch.float64)
    settled, finite = torch.ones(1, dtype=torch.bool), torch.zeros(1, dtype=torch.bool)
    features, out = x.flatten(2), leading(maps, settled, finite)
    if shape[1] * shape[2] <= 64:
        cuda._cuda.leading_small(cuda._array(features), **out)
    else:
        room = torch.empty(cuda._cuda.leading_workspace(*features.shape[1:]), dtype=torch.uint8)
        cuda._cuda.leading_large(cuda._array(features), **out, workspace=room.data_ptr(), bytes=len(room))
    assert not settled.any()
    result, _ = cuda.saliency(x, "tsm", None, **OPTIONS, precision="float64")
    expected, _ = reference.saliency(x, "tsm", None, **OPTIONS, precision="float64")
    assert (result - expected).abs().max() <= DOUBLE_ERROR * expected.max()


# Channels and positions: rows by 1, 2, 4, 8 or 16 warps, and in two reads; all, some or none kept in shared memory.
LARGE = [(1, 70), (300, 90), (50, 225), (70, 600), (40, 900), (17, 3136), (9, 3600)]
SHARED = [40 * 1024, 99 * 1024, 227 * 1024]


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_leading_pairs_of_long_rows(cuda, monkeypatch, fresh_memory_is_nan, shape, dtype, center):
    c, n = shape
    x = (randn(2, c, 3) * torch.tensor([3.0, 1.0, 0.1]) @ randn(2, 3, n, seed=1)).to(dtype)
    x[0].abs_()
    exact = x.double() - (x.double().mean(2, keepdim=True) if center else 0)
    _, values, vectors = torch.linalg.svd(exact, full_matrices=False)
    expected = (values[:, 0, None] * vectors[:, 0]).abs()

    def pairs(view: Tensor) -> Tensor:
        maps = torch.empty(2, n, dtype=torch.float64)
        settled, finite = torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
        room = torch.empty(2 * cuda._cuda.leading_workspace(c, n), dtype=torch.uint8).fill_(255)
        out = leading(maps, settled, finite) | {"center": center}
        cuda._cuda.leading_large(cuda._array(view), **out, workspace=room.data_ptr(), bytes=len(room))
        assert settled.all()
        assert finite.all()
        return maps

    for shared in SHARED:
        monkeypatch.setenv("TSM_EMULATION_SHARED", str(shared))
        monkeypatch.setenv("TSM_EMULATION_ORDER", "forward")
        maps = pairs(x)
        assert ((maps.abs() - expected).abs().amax(1) <= 1e-10 * expected.amax(1)).all()
        monkeypatch.setenv("TSM_EMULATION_ORDER", "reverse")
        by_entries = torch.cat([x[:, :1], x], 1).mT.contiguous()[:, :, 1:].mT
        assert pairs(by_entries).equal(maps)
        by_columns = x.mT.contiguous().mT  # fewer rows stay on chip: sums are in another order
        assert (pairs(by_columns) - maps).abs().max() <= 1e-12 * maps.abs().max()


@pytest.mark.parametrize("size", [1e-30, 1, 1e30])
@pytest.mark.parametrize("gap", [0.5, 0.002])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_leading_pairs_of_long_rows_in_float(cuda, fresh_memory_is_nan, dtype, gap, size):
    """Products in float: the map stays far within the contract, at any size of features."""
    u, v = (torch.linalg.qr(randn(2, n, 70, seed=n))[0] for n in (200, 70))
    values = torch.full((70,), 0.01, dtype=torch.float64)
    values[:2] = torch.tensor([1.0, (1 - gap) ** 0.5])
    x = (size * (u * values) @ v.mT).to(dtype)
    _, values, vectors = torch.linalg.svd(x.double(), full_matrices=False)
    expected = (values[:, 0, None] * vectors[:, 0]).abs()
    maps, settled, finite = torch.empty(2, 70), torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    room = torch.empty(2 * cuda._cuda.leading_workspace(200, 70), dtype=torch.uint8).fill_(255)
    out = leading(maps, settled, finite)
    cuda._cuda.leading_large(cuda._array(x), **out, workspace=room.data_ptr(), bytes=len(room))
    assert finite.all()
    assert (maps.abs() - expected).abs().max() <= 2e-7 * expected.max()  # in double where two values are close


@pytest.mark.parametrize("spread", [0.5, 0.03, 0.001])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(60, 7, 7), (60, 9, 9)], ids=str)
def test_flat_maps_are_not_left_to_floats(cuda, dtype, shape, spread):
    """Normalising stretches what a map of little spread has of rounding."""
    x = (1 + spread * torch.rand(3, *shape, generator=generator())).to(dtype)
    maps, _ = cuda.saliency(x, "tsm", None, **OPTIONS)
    expected, _ = reference.saliency(x, "tsm", None, **OPTIONS, precision="float64")
    assert (maps - expected).abs().max() <= max(2e-7, 1e-6 * spread) * expected.max()


def test_matrices_go_where_they_fit(cuda):
    rest = ["tridiagonal_kernel", "back_kernel"]
    for n, precision, launched in (
        (40, "float64", ["svd_small_kernel<double>"]),
        (41, "float64", ["reduce_kernel<2>", *rest, "svd_small_kernel<double>"]),
        (65, "float64", ["reduce_kernel<4>", *rest, "svd_large_kernel<double>"]),
        (151, "float64", ["reduce_kernel<8>", *rest, "svd_large_kernel<double>"]),
        (152, "float64", ["svd_large_kernel<double>"]),
        (64, "float32", ["svd_small_kernel<float>"]),
        (130, "float32", ["svd_large_kernel<float>"]),
    ):
        kernels(cuda)
        cuda.truncated_svd(torch.eye(n)[None], 3, precision=precision)
        assert kernels(cuda) == launched
    cuda.truncated_svd(torch.eye(257)[None], 3)  # a library's
    assert kernels(cuda) == []


@pytest.mark.parametrize(("shared", "n"), [(99, 151), (163, 196), (227, 233)])
def test_half_a_matrix_is_reduced_on_chip_where_it_fits(cuda, monkeypatch, shared, n):
    monkeypatch.setenv("TSM_EMULATION_SHARED", str(shared * 1024))
    for size, fits in ((n, True), (n + 1, False)):
        kernels(cuda)
        cuda.truncated_svd(torch.eye(size)[None], 1)
        assert ("reduce_kernel<8>" in kernels(cuda)) == fits


def of_spectrum(values: Tensor) -> Tensor:
    q = torch.linalg.qr(randn(len(values), len(values)))[0]
    return q * values @ q.mT


@pytest.mark.parametrize(("height", "rank"), [(7, 3), (7, 70), (6, 60)])
def test_matrices_that_fail_their_test_go_to_the_full_solver(cuda, fresh_memory_is_nan, height, rank):
    """Clusters of more vectors than are straightened, and NaN; all others are settled before."""
    n = 10 * height
    features = [
        feature_maps(1, 90, height, 10)[0].flatten(1).double(),
        feature_maps(1, 20, height, 10)[0].flatten(1).double(),
        torch.zeros(1, n, dtype=torch.float64),
        torch.ones(3, n, dtype=torch.float64),
        1e-150 * randn(90, n),
        1e150 * randn(90, n),
        torch.eye(n, dtype=torch.float64),
    ]
    cluster = of_spectrum(torch.where(torch.arange(n) < 50, 1 - 1e-7 * torch.arange(n), 0.1).double())
    left = [cluster, torch.full((n, n), torch.nan, dtype=torch.float64)]
    symmetric = randn(n, n) + randn(n, n, seed=1).mT  # no Gram matrices: rounded, and of either sign
    other = [(features[0].mT @ features[0]).float().double(), symmetric + symmetric.mT]
    gram = torch.stack([*(x.mT @ x for x in features), *other, *left])
    room = torch.empty(cuda._cuda.truncated_svd_workspace(n, len(gram), True), dtype=torch.uint8).fill_(255)
    values, vectors = gram.new_empty(len(gram), rank), gram.new_empty(len(gram), n, rank)
    out = {"values": values.data_ptr(), "vectors": vectors.data_ptr(), "wide_out": True}
    how = {"wide_gram": True, "batch": len(gram), "n": n, "rank": rank, "wide": True, "skip": 0, "stream": 0}
    cuda._cuda.truncated_svd(gram.data_ptr(), **how, **out, workspace=room.data_ptr(), bytes=len(room))
    assert room[-len(gram) :].bool().tolist() == [True] * (len(gram) - 2) + [rank < n, False]
    assert values[-1].isnan().all()
    assert vectors[-1].isnan().all()
    gram, values, vectors = gram[:-1], values[:-1], vectors[:-1]
    expected, _ = reference.truncated_svd(gram, rank, precision="float64")
    assert ((values**2 - expected**2).abs() <= 1e-12 * gram.abs().amax((1, 2))[:, None]).all()
    assert (vectors.mT @ vectors - torch.eye(rank)).abs().max() <= 1e-12
    images = (vectors * (gram @ vectors)).sum(1)
    assert ((images.clamp(min=0) - values**2).abs().amax(1) <= 1e-13 * gram.abs().sum(1).amax(1)).all()
    residual = (gram @ vectors - vectors * images[:, None]).abs().amax((1, 2))
    assert (residual <= 1e-13 * gram.abs().sum(1).amax(1)).all()
    for item in range(len(gram)):  # whatever else is in the batch
        assert cuda.truncated_svd(gram[item, None], rank, precision="float64")[1][0].equal(vectors[item])


@pytest.mark.parametrize(
    ("shared", "precision", "n"),
    [(99, "float64", 72), (163, "float64", 95), (227, "float64", 113), (99, "float32", 105), (227, "float32", 163)],
)
def test_matrices_stay_on_chip_where_two_of_them_fit(cuda, monkeypatch, shared, precision, n):
    monkeypatch.setenv("TSM_EMULATION_SHARED", str(shared * 1024))
    matrix = (8 if precision == "float64" else 4) * n * n
    for size, fits in ((n, True), (n + 1, False)):
        cuda._cuda.launches()
        values, _ = cuda.truncated_svd(torch.eye(size)[None], 1, precision=precision)
        name, _, used = cuda._cuda.launches()[-1]
        assert name.startswith("svd_large_kernel")
        assert (used > matrix) == fits
        assert used <= (shared + 1) * 1024 // 2 - 1024
        assert values.item() == 1


@pytest.mark.parametrize("shape", [(64, 7, 7), (200, 14, 14)], ids=str)
def test_predictions_are_of_the_kernels_that_are_launched(cuda, monkeypatch, shape):
    monkeypatch.setenv("TSM_EMULATION_SHARED", str(cuda_predictions.SHARED_LIMIT))
    c, h, w = shape
    x = feature_maps(1, *shape)
    for call, predicted in cuda_predictions.launches(c, h * w).items():
        kernels(cuda)
        if call == "all eigenpairs":
            cuda.truncated_svd(torch.eye(h * w)[None], h * w)
        elif call.startswith("hooi"):
            cuda.hooi(x, cuda_predictions.RANK, n_iter_max=5, tol=1e-4, sign="u")
        elif call == "tsm, 16 bits":
            cuda.saliency(x.half(), "tsm", None, **OPTIONS)
        elif call == "tsm, channels_last":
            cuda.saliency(x.contiguous(memory_format=torch.channels_last), "tsm", None, **OPTIONS)
        elif call == "tsm, other strides":
            cuda.saliency(x.mT.contiguous().mT, "tsm", None, **OPTIONS)
        elif call.startswith("finish"):
            cuda.finish(x[:, 0], (224, 224), normalize=True)
        else:
            cuda.saliency(x, call, None, **OPTIONS)
        assert {name for name, _ in predicted} <= {name.partition("<")[0] for name in kernels(cuda)}


@pytest.mark.parametrize("shape", [(40, 14, 14), (1024, 14, 14), (30, 28, 28), (9, 56, 56)], ids=str)
def test_predictions_know_what_stays_on_chip(cuda, monkeypatch, shape):
    monkeypatch.setenv("TSM_EMULATION_SHARED", str(cuda_predictions.SHARED_LIMIT))
    x = feature_maps(1, *shape)
    last = x.contiguous(memory_format=torch.channels_last)
    for features, columns in ((x, False), (last, shape[0] % 4 == 0 and shape[1] <= 28)):
        cuda._cuda.launches()
        cuda.saliency(features, "tsm", None, **OPTIONS)
        shared = {size for name, _, size in cuda._cuda.launches() if name == "leading_large_kernel<float>"}
        assert shared == {cuda_predictions.leading_layout(shape[0], shape[1] * shape[2], columns)[2]}


def test_a_batch_in_parts_is_the_same(cuda, monkeypatch):
    x = feature_maps(5, 30, 7, 7)
    whole = cuda.saliency(x, "mtsm", None, **OPTIONS)[0]
    monkeypatch.setattr(cuda, "WORKSPACE_BYTES", 200_000)
    kernels(cuda)
    assert cuda.saliency(x, "mtsm", None, **OPTIONS)[0].equal(whole)
    assert kernels(cuda).count("reduce_kernel<2>") == 3


def test_addresses_beyond_32_bits(cuda):
    """Items 2^31 elements apart, in memory of which only they are touched."""
    items = feature_maps(2, 20, 7, 7).half()
    far = torch.empty(2**31 + 20 * 49, dtype=torch.float16).as_strided((2, 20, 7, 7), (2**31, 49, 7, 1))
    far.copy_(items)
    assert cuda.saliency(far, "tsm", None, **OPTIONS)[0].equal(cuda.saliency(items, "tsm", None, **OPTIONS)[0])


def test_a_workspace_that_is_too_small_is_refused(cuda):
    gram = torch.eye(130, dtype=torch.float64)[None]
    values, vectors = torch.empty(1, 2, dtype=torch.float64), torch.empty(1, 130, 2, dtype=torch.float64)
    out = {"values": values.data_ptr(), "vectors": vectors.data_ptr(), "wide_out": True, "skip": 0, "workspace": 0}
    how = {"wide_gram": True, "batch": 1, "rank": 2, "wide": True, "stream": 0, **out}
    with pytest.raises(ValueError, match="workspace must have at least 344785 bytes, got 344784"):
        cuda._cuda.truncated_svd(gram.data_ptr(), n=130, bytes=344784, **how)
    with pytest.raises(ValueError, match="gram must be at most 256 x 256 here"):
        cuda._cuda.truncated_svd(gram.data_ptr(), n=257, bytes=0, **how)


def test_tensors_elsewhere_are_refused(monkeypatch):
    backend = elsewhere("cuda", monkeypatch)
    with pytest.raises(RuntimeError, match="backend 'cuda' runs on cpu tensors, got one on meta"):
        tsm_fast.tucker(torch.empty(1, 3, 3, device="meta"), backend=backend.name)
    with pytest.raises(ValueError, match="matrix must be on cpu, the device of x, got meta"):
        tsm_fast.mode_dot(torch.rand(1, 3, 3), torch.empty(2, 3, device="meta"), 0, backend=backend.name)


@pytest.mark.parametrize(
    ("kernel", "error"),
    [
        ("a barrier that a warp misses", "a barrier that not all threads of the block reach, in block 0"),
        ("a warp barrier that lanes miss", "a warp operation that not all lanes of the warp reach"),
        ("a shuffle that meets a warp barrier", "a warp operation that not all lanes of the warp reach"),
        ("copies that nobody waits for", "a kernel that ends before its copies have come, in block 0"),
        ("a copy without a wait", "its result is NaN|races"),
        ("a wait that leaves the newest copies out", "its result is NaN|races"),
    ],
)
def test_the_emulation_finds_faults(cuda, kernel, error):
    with pytest.raises(RuntimeError, match=error):
        cuda._cuda.run_planted(kernel)


def test_the_emulation_passes_copies_that_are_waited_for(cuda):
    cuda._cuda.run_planted("sound: copies in turn")
