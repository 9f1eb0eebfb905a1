"""All eigenpairs by cuSOLVER, without a GPU: a library with its functions on memory of the host stands in for it."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tsm_fast.steps import cusolver, reference

from ..helpers import largest_is_positive, orthonormality, projector, randn, spectrum
from .cusolver_stand_in import build
from .emulation.load import emulated

CUDA = torch.device("cuda")
CREATE, CREATE_PARAMS, SET_STREAM, BUFFER_SIZE, SOLVE = range(5)
# A backward stable solver leaves n * eps with a constant near 1 of the largest eigenvalue.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-12}


def symmetric(batch: int, n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    matrix = randn(batch, n, n, seed=seed)
    return (matrix + matrix.mT).to(dtype)


def check(gram: Tensor, pairs: tuple[Tensor, Tensor]) -> None:
    """Eigenpairs in ascending order, against NumPy in float64."""
    values, vectors = pairs
    assert values.dtype == vectors.dtype == gram.dtype
    exact = torch.from_numpy(np.linalg.eigvalsh(gram.double().numpy()))
    largest, tolerance = exact.abs().amax(1)[:, None], TOLERANCE[gram.dtype]
    assert ((values - exact).abs() <= tolerance * largest).all()
    residual = gram.double() @ vectors.double() - vectors.double() * values.double()[:, None]
    assert (residual.abs() <= tolerance * largest[:, None]).all()
    assert orthonormality(vectors) <= tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("batch", "n"), [(3, 257), (2, 300), (1, 513), (5, 1), (4, 2)])
def test_eigenpairs(library, batch, n, dtype):
    gram = symmetric(batch, n, dtype)
    before = gram.clone()
    check(gram, cusolver.eigh(gram))
    assert gram.equal(before)
    assert (library.calls, library.handles) == (1, 1)


def test_any_strides(library):
    gram = symmetric(6, 20)[::2].mT
    check(gram, cusolver.eigh(gram))


def test_the_stand_in_reads_the_lower_triangle(library):
    gram = symmetric(2, 9)
    # Column-major, so the upper one of torch's rows.
    values, _ = cusolver.eigh(gram.triu())
    assert torch.allclose(values, torch.linalg.eigvalsh(gram))


@pytest.mark.parametrize("limit", ["numbers", "matrices", "workspace"])
def test_parts(library, monkeypatch, limit):
    gram = symmetric(7, 30)
    whole = cusolver.eigh(gram)
    library.calls = 0
    if limit == "numbers":
        library.largest = 3 * 30 * 30
        with pytest.raises(RuntimeError, match=r"XsyevBatched_bufferSize returned 3 \(CUSOLVER_STATUS_INVALID_VALUE\)"):
            cusolver.eigh(gram)
        monkeypatch.setattr(cusolver, "MOST_NUMBERS", library.largest)
    elif limit == "matrices":
        monkeypatch.setattr(cusolver, "MOST_MATRICES", 3)
    else:  # 4 need more, 2 do not
        monkeypatch.setattr(cusolver, "WORKSPACE_BYTES", 1000 + 3 * 30 * 30 * 8)
    parts = cusolver.eigh(gram)
    assert library.calls == (4 if limit == "workspace" else 3)
    assert all(a.equal(b) for a, b in zip(parts, whole, strict=True))


def test_a_matrix_beyond_the_limit_goes_to_torch(library, monkeypatch):
    monkeypatch.setattr(cusolver, "MOST_NUMBERS", 99)
    gram = symmetric(2, 10)
    assert cusolver.eigh(gram)[0].equal(torch.linalg.eigh(gram)[0])
    assert library.calls == 0


def test_a_single_matrix_may_need_more_workspace(library, monkeypatch):
    monkeypatch.setattr(cusolver, "WORKSPACE_BYTES", 1)
    gram = symmetric(2, 10)
    check(gram, cusolver.eigh(gram))
    assert library.calls == 2


def test_items_that_do_not_converge_go_to_torch(library, monkeypatch):
    monkeypatch.setattr(cusolver, "MOST_MATRICES", 3)
    library.unconverged = 1
    gram = symmetric(5, 40)
    values, vectors = cusolver.eigh(gram)
    check(gram, (values, vectors))
    again = torch.linalg.eigh(gram[[1, 4]])
    assert values[[1, 4]].equal(again[0])
    assert vectors[[1, 4]].equal(again[1])


@pytest.mark.parametrize("function", [CREATE, CREATE_PARAMS, SET_STREAM, BUFFER_SIZE, SOLVE])
@pytest.mark.parametrize("status", [2, 7, 99])
def test_a_failing_call_raises_and_leaves_no_state(library, function, status):
    gram = symmetric(2, 12)
    names = "Create", "CreateParams", "SetStream", "XsyevBatched_bufferSize", "XsyevBatched"
    meaning = {2: "ALLOC_FAILED", 7: "INTERNAL_ERROR", 99: "of that number"}[status]
    library.failing_function, library.failing_status = function, status
    error = torch.cuda.OutOfMemoryError if status == 2 else RuntimeError
    with pytest.raises(error, match=rf"^cusolverDn{names[function]} returned {status} \(CUSOLVER_STATUS_{meaning}\)"):
        cusolver.eigh(gram)
    assert (library.handles, library.params_objects) == (0, 0)
    library.failing_function = -1
    check(gram, cusolver.eigh(gram))


# Sides above 256: the Gram matrix of the channels, and that of the positions.
ABOVE = [(260, 17, 17), (300, 13, 20)]


def one_without_proof(shape: tuple[int, int, int]) -> Tensor:
    """Two items whose leading pair is clear, between them one whose two largest singular values are nearly equal."""
    values = ([1.0, 0.1, 0.05], [1.0, 1 - 1e-7, 0.3], [1.0, 0.2, 0.1])
    c, h, w = shape
    return torch.stack([spectrum(v, c, h * w, seed) for seed, v in enumerate(values)]).view(3, c, h, w)


@pytest.mark.parametrize("method", ["tsm", "eigencam"])
@pytest.mark.parametrize("shape", ABOVE, ids=str)
def test_a_library_solves_only_items_without_proof(library, method, shape):
    cuda = emulated()
    x = one_without_proof(shape)
    options: dict[str, Any] = {"center": True, "combine": "signed", "sign": "absmax", "precision": "float64"}
    for items, solved in (([0, 2], 0), ([0, 1, 2], 1), ([1], 1)):
        library.calls = library.matrices = 0
        maps, finite = cuda.saliency(x[items], method, None, **options)
        expected, _ = reference.saliency(x[items], method, None, **options)
        assert finite.all()
        # Double rounding over a gap of 1e-7.
        assert (maps - expected).abs().amax() <= 1e-8 * expected.amax()
        assert (library.calls, library.matrices) == (solved, solved)


def test_items_that_are_not_finite_need_no_library(library):
    x = one_without_proof(ABOVE[0])[[0, 2, 0]]
    x[1, 5, 3, 2] = torch.nan
    maps, finite = emulated().saliency(x, "tsm", None, center=False, combine="signed", sign="u")
    assert finite.tolist() == [True, False, True]
    assert maps[1].isnan().all()
    assert not maps[[0, 2]].isnan().any()
    assert library.matrices == 0


def test_handles_are_kept_and_not_shared(library):
    """The stand-in refuses a handle that is in use; `together` keeps calls waiting until all threads are inside."""
    grams = [symmetric(2, 30, seed=seed) for seed in range(4)]
    for gram in grams:
        check(gram, cusolver.eigh(gram))
    assert library.created == 1
    library.together = library.calls + len(grams)
    with ThreadPoolExecutor(len(grams)) as pool:
        for gram, pairs in zip(grams, list(pool.map(cusolver.eigh, grams)), strict=True):
            check(gram, pairs)
    assert library.created == library.handles == len(grams)


def test_library_eigenpairs(library):
    x = torch.stack([spectrum([0.5**i for i in range(300)], 300, 400, seed) for seed in range(4)])
    scale = torch.tensor([1, 1e300, 1e-300, 1], dtype=torch.float64)[:, None]
    gram = x @ x.mT * scale[:, None]
    gram[3, 5, 7] = torch.inf
    values, vectors = cusolver.library_eigenpairs(gram, 4, torch.float64)
    exact = 4.0 ** -torch.arange(4.0, dtype=torch.float64) * scale[:3]
    assert ((values[:3] - exact).abs() <= 1e-12 * exact[:, :1]).all()
    assert largest_is_positive(vectors[:3])
    assert orthonormality(vectors[:3]) <= 1e-12
    assert values[3].isnan().all()
    assert vectors[3].isnan().all()


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_truncated_svd_of_the_cuda_backend(library, precision):
    x = torch.stack([spectrum([0.5**i for i in range(257)], 257, 300, seed) for seed in range(3)]).float()
    gram = x @ x.mT
    values, vectors = emulated().truncated_svd(gram, 3, precision=precision)
    expected, basis = reference.truncated_svd(gram, 3)
    assert library.calls == 1
    assert values.dtype == vectors.dtype == torch.float32
    assert ((values - expected).abs() <= 1e-5 * expected[:, :1]).all()
    assert ((projector(vectors) - projector(basis)).abs() <= 1e-5).all()


# The library itself: which one is taken, on a machine that has none.


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Builds the stand-in at a place below `nvidia`, where pip puts cuSOLVER, under a name that no other test uses."""
    soname = f"lib{tmp_path.name}.so.11"
    monkeypatch.setattr(cusolver, "_SONAMES", {"12": soname, "13": soname})
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.syspath_prepend(tmp_path)

    def install(folder: str, *options: str) -> Path:
        return build(tmp_path / folder / soname, f"-Wl,-soname,{soname}", *options)

    return install


def loaded() -> Any:
    """The path of the library that would be taken."""
    solver = cusolver._load.__wrapped__()
    return solver and Path(solver._functions._name)


def test_the_library_from_pip(installed, monkeypatch):
    assert loaded() is None
    path = installed("nvidia/cu13/lib")
    assert loaded() is None  # of another major version than torch
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert loaded() == path


def test_the_library_from_pip_for_cuda_12(installed):
    path = installed("nvidia/cusolver/lib")
    assert loaded() == path
    assert loaded() == Path(path.name)  # now it is in the process, and no file is looked for


def test_no_second_library_beside_an_older_one(installed):
    older = installed("elsewhere", "-DBEFORE_CUDA_12_6_2")
    installed("nvidia/cusolver/lib")
    ctypes.CDLL(str(older))
    assert loaded() is None


@pytest.mark.parametrize("cuda", [None, "11.8", "14.0"])
def test_no_library_for_other_versions_of_cuda(installed, monkeypatch, cuda):
    installed("nvidia/cusolver/lib")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert loaded() is None


def test_a_broken_library_is_as_good_as_none(installed):
    installed("nvidia/cusolver/lib").write_bytes(b"nothing")
    assert loaded() is None


def test_without_a_library_torch_solves(monkeypatch):
    gram = symmetric(2, 300)
    assert cusolver.library(gram.device) is None
    assert all(a.equal(b) for a, b in zip(cusolver.eigh(gram), torch.linalg.eigh(gram), strict=True))
    monkeypatch.setattr(cusolver, "_load", lambda: None)
    assert cusolver.library(CUDA) is None


def test_threads_load_it_once(monkeypatch):
    looked = []

    def candidates(soname: str, major: str) -> list[Any]:
        looked.append(threading.get_ident())
        time.sleep(0.05)
        return []

    monkeypatch.setattr(cusolver, "_candidates", candidates)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    cusolver._load.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(lambda _: cusolver.library(CUDA), range(8)))
    cusolver._load.cache_clear()
    assert len(looked) == 1
