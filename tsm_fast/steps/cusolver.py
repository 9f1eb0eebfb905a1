"""All eigenpairs of matrices that are too large for the GPU kernels: by cuSOLVER's `XsyevBatched`, else by PyTorch.

`cusolverDnXsyevBatched` solves a batch at once, where `torch.linalg.eigh` before PyTorch 2.12 takes one matrix after
another, about a millisecond each (pytorch/pytorch#175585). It came with CUDA 12.6.2; the prototypes are those of
cusolverDn.h (https://docs.nvidia.com/cuda/cusolver/#cusolverdnxsyevbatched), called through ctypes.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .scaling import column_signs, per_item, scaled, unit_exponents

WORKSPACE_BYTES = 512 * 2**20  # a call with more is cut into parts
MOST_NUMBERS = 2**31 - 1  # of one call: the documented limit of n * lda * batchSize
MOST_MATRICES = 2**14  # of one call: 40 000 were refused (mujocolab/mjlab#732)
_SONAMES = {"12": "libcusolver.so.11", "13": "libcusolver.so.12"}  # of each major version of CUDA
_VECTOR, _LOWER = 1, 0  # CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER
_TYPES = {torch.float32: 0, torch.float64: 1}  # CUDA_R_32F, CUDA_R_64F
_STATUSES = {1: "NOT_INITIALIZED", 2: "ALLOC_FAILED", 3: "INVALID_VALUE", 6: "EXECUTION_FAILED", 7: "INTERNAL_ERROR"}
# handle, params, jobz, uplo, n, dataTypeA, A, lda, dataTypeW, W, computeType: what both functions begin with
_PROBLEM = (c_void_p, c_void_p, c_int, c_int, c_int64, c_int, c_void_p, c_int64, c_int, c_void_p, c_int)
_PROTOTYPES = {
    "cusolverDnCreate": (POINTER(c_void_p),),
    "cusolverDnDestroy": (c_void_p,),
    "cusolverDnCreateParams": (POINTER(c_void_p),),
    "cusolverDnDestroyParams": (c_void_p,),
    "cusolverDnSetStream": (c_void_p, c_void_p),
    "cusolverDnXsyevBatched_bufferSize": (*_PROBLEM, POINTER(c_size_t), POINTER(c_size_t), c_int64),
    "cusolverDnXsyevBatched": (*_PROBLEM, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p, c_int64),
}
_loading = threading.Lock()
_Handle = tuple[c_void_p, c_void_p]  # of the library, and parameters


def library_eigenpairs(
    gram: Tensor,  # [B, n, n], symmetric up to rounding, any float dtype
    rank: int,
    dtype: torch.dtype,  # what it is solved in
) -> tuple[Tensor, Tensor]:
    """The leading eigenvalues [B, R] float64, descending, and signed vectors [B, n, R]; NaN for items with NaN or Inf.

    The entry of largest magnitude of every vector is positive. Waits for the device.
    """
    finite = per_item(gram.isfinite().flatten(1).all(1), gram)
    matrix = torch.where(finite, gram, 0)
    exponent = unit_exponents(matrix)
    matrix = scaled(matrix, -exponent).to(dtype)
    values, vectors = eigh((matrix + matrix.mT) / 2)
    least = values.shape[1] - rank
    values, vectors = scaled(values[:, least:].double(), exponent).flip(-1), vectors[:, :, least:].flip(-1)
    vectors = vectors * column_signs(vectors)
    return torch.where(finite[:, 0], values, torch.nan), torch.where(finite, vectors, torch.nan)


def eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """What `torch.linalg.eigh` returns for symmetric, finite matrices [B, n, n], float32 or float64.

    Returns:
        The eigenvalues [B, n], ascending, and the eigenvectors [B, n, n], one a column. Waits for the device, to see
        which items did not converge: these go to `torch.linalg.eigh`, and so does everything where `library` is None.

    Raises:
        RuntimeError: a call failed, and how; torch.cuda.OutOfMemoryError where memory was lacking.
    """
    solver = library(gram.device)
    batch, n, _ = gram.shape
    if solver is None or not gram.numel() or n * n > MOST_NUMBERS:
        return torch.linalg.eigh(gram)
    vectors = gram.clone(memory_format=torch.contiguous_format)  # the solver works in place
    values = gram.new_empty(batch, n)
    info = gram.new_zeros(batch, dtype=torch.int32)
    with torch.cuda.device(gram.device if gram.is_cuda else -1), solver.handle(gram.device) as handle:
        size = solver.part(handle, vectors, values)
        parts = [slice(start, start + size) for start in range(0, batch, size)]
        # The host's memory is held until the work is done. The device's is freed before: PyTorch's allocator gives it
        # out again on the same stream only, whose work comes later.
        held = [solver.solve(handle, vectors[part], values[part], info[part]) for part in parts]
        failed = info.nonzero().flatten()
        del held
    vectors = vectors.mT  # they came column by column
    if len(failed):
        values[failed], vectors[failed] = torch.linalg.eigh(gram[failed])
    return values, vectors


def library(device: torch.device) -> Solver | None:
    """cuSOLVER of torch's own CUDA; None where there is no `XsyevBatched`: CPU, AMD, CUDA before 12.6.2, no library."""
    if device.type != "cuda":
        return None
    with _loading:
        return _load()


@cache
def _load() -> Solver | None:
    major = (torch.version.cuda or "").partition(".")[0]
    if major not in _SONAMES or sys.platform != "linux":
        return None
    for name, mode in _candidates(_SONAMES[major], major):
        try:
            return Solver(ctypes.CDLL(name, mode=mode))
        except OSError:
            continue  # not there
        except AttributeError:
            return None  # before CUDA 12.6.2; a second library of that name in one process would be worse
    return None


def _candidates(soname: str, major: str) -> Iterator[tuple[str, int]]:
    """In this process, beside torch or from pip, in the system."""
    yield soname, os.RTLD_NOLOAD
    packages = importlib.util.find_spec("nvidia")
    roots = (packages and packages.submodule_search_locations) or ()
    folders = [Path(root, name, "lib") for root in roots for name in ("cusolver", f"cu{major}")]
    for folder in (Path(torch.__file__).parent / "lib", *folders):
        if (folder / soname).exists():
            yield str(folder / soname), ctypes.DEFAULT_MODE
    yield soname, ctypes.DEFAULT_MODE


class Solver:
    """The functions of one cuSOLVER (AttributeError where one is missing), and as many handles as calls at once."""

    def __init__(self, functions: ctypes.CDLL) -> None:
        for name, types in _PROTOTYPES.items():
            getattr(functions, name).argtypes = types
        self._functions = functions
        self._idle: dict[torch.device, list[_Handle]] = defaultdict(list)
        self._lock = threading.Lock()

    @contextmanager
    def handle(self, device: torch.device) -> Iterator[_Handle]:
        """A handle and parameters that no other thread uses meanwhile, on the current stream; kept for later calls."""
        with self._lock:
            idle = self._idle[device]
            handle, params = idle.pop() if idle else (c_void_p(), c_void_p())
        try:
            if not handle:
                self._call("cusolverDnCreateParams", byref(params))
                self._call("cusolverDnCreate", byref(handle))
            stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
            self._call("cusolverDnSetStream", handle, stream)
            yield handle, params
        except BaseException:
            if handle:
                self._functions.cusolverDnDestroy(handle)
            if params:
                self._functions.cusolverDnDestroyParams(params)
            raise
        with self._lock:
            self._idle[device].append((handle, params))

    def part(self, handle: _Handle, vectors: Tensor, values: Tensor) -> int:
        """How many of the matrices one call takes."""
        size = min(len(vectors), MOST_MATRICES, MOST_NUMBERS // vectors[0].numel())
        while size > 1 and self._bytes(handle, vectors[:size], values[:size])[0] > WORKSPACE_BYTES:
            size = -(-size // 2)
        return size

    def solve(self, handle: _Handle, vectors: Tensor, values: Tensor, info: Tensor) -> object:
        """Queues the work, which writes vectors over the matrices; returns what the host must hold until it is done."""
        on_device, on_host = self._bytes(handle, vectors, values)
        # In zeros: cuSOLVER 11.7.1 (CUDA 12.6) reads of it what it has not written (pytorch/pytorch#192483).
        workspace = torch.zeros(on_device, dtype=torch.uint8, device=vectors.device)
        host = ctypes.create_string_buffer(on_host)
        room = workspace.data_ptr(), on_device, ctypes.addressof(host), on_host
        self._batched("cusolverDnXsyevBatched", handle, vectors, values, *room, info.data_ptr())
        return host

    def _bytes(self, handle: _Handle, vectors: Tensor, values: Tensor) -> tuple[int, int]:
        """The workspace of a call, on the device and on the host."""
        device, host = c_size_t(), c_size_t()
        self._batched("cusolverDnXsyevBatched_bufferSize", handle, vectors, values, byref(device), byref(host))
        return device.value, host.value

    def _batched(self, name: str, handle: _Handle, vectors: Tensor, values: Tensor, *rest: object) -> None:
        n, kind = vectors.shape[-1], _TYPES[vectors.dtype]
        matrices = n, kind, vectors.data_ptr(), n, kind, values.data_ptr(), kind
        self._call(name, *handle, _VECTOR, _LOWER, *matrices, *rest, len(vectors))

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._functions, name)(*arguments)
        if status:
            error = torch.cuda.OutOfMemoryError if status == 2 else RuntimeError
            raise error(f"{name} returned {status} (CUSOLVER_STATUS_{_STATUSES.get(status, 'of that number')})")
