"""Arrays in and out: torch, NumPy and DLPack, strides, dtypes, and what is refused."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import tsm_fast
from tsm_fast.steps.arrays import as_tensor

from ..helpers import BACKENDS, feature_maps
from ..needs import needs

pytestmark = pytest.mark.backends("reference", "cpu")

FEATURES = feature_maps(3, 30, 6, 7)


class OnlyDlpack:
    """An array of a library that exports DLPack and nothing else."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


class ArrayApi(OnlyDlpack):
    """An array of a library that follows the array API standard: results come back through its `from_dlpack`."""

    @classmethod
    def from_dlpack(cls, array) -> ArrayApi:
        return cls(torch.from_dlpack(array))

    def __array_namespace__(self):
        return type(self)


def test_torch_comes_back_as_torch(backend):
    maps = tsm_fast.tsm(FEATURES, backend=backend.name)
    assert isinstance(maps, torch.Tensor)
    assert maps.device == FEATURES.device
    result = tsm_fast.tucker(FEATURES, (4, 3, 3), backend=backend.name)
    assert isinstance(result.core, torch.Tensor)


def test_numpy_comes_back_as_numpy(backend):
    x = FEATURES.numpy()
    maps = tsm_fast.tsm(x, backend=backend.name)
    assert isinstance(maps, np.ndarray)
    assert maps.dtype == np.float32
    assert np.array_equal(maps, tsm_fast.tsm(FEATURES, backend=backend.name).numpy())
    for result in (tsm_fast.tucker(x, (4, 3, 3), backend=backend.name), tsm_fast.hosvd(x, (4, 3, 3))):
        arrays = [result.core, *result.factors, *result.singular_values, result.errors, result.n_sweeps]
        assert all(isinstance(array, np.ndarray) for array in [*arrays, result.converged, result.reconstruct()])
    for array in tsm_fast.truncated_svd(x[:, :, 0], backend=backend.name):
        assert isinstance(array, np.ndarray)
    assert isinstance(tsm_fast.fold(tsm_fast.unfold(x, 1), 1, x.shape), np.ndarray)


def test_dlpack_comes_back_through_its_library(backend):
    expected = tsm_fast.tsm(FEATURES, backend=backend.name)
    rich: Any = ArrayApi(FEATURES)
    maps = tsm_fast.tsm(rich, backend=backend.name)
    assert isinstance(maps, ArrayApi)
    assert torch.equal(maps.tensor, expected)
    bare: Any = OnlyDlpack(FEATURES)
    assert torch.equal(tsm_fast.tsm(bare, backend=backend.name), expected)


class Broken(OnlyDlpack):
    def __dlpack__(self, **options):
        raise BufferError("this array is spread over several devices")


def test_arrays_that_cannot_be_exported():
    message = "^features must be readable through DLPack, got Broken: this array is spread over several devices$"
    broken: Any = Broken(FEATURES)
    with pytest.raises(TypeError, match=message):
        tsm_fast.tsm(broken)


NUMPY_VIEWS = {
    "negative strides": lambda x: x[:, ::-1, ::-1, ::-1][:, ::-1, ::-1, ::-1],
    "negative batch stride": lambda x: x[::-1].copy()[::-1],
    "Fortran order": np.asfortranarray,
    "channels last": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "every other": lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
    "a field of records": lambda x: _field(x),
    "read-only": lambda x: _read_only(x),
    "one byte after a number's place": lambda x: _unaligned(x),
    "a field one byte after its place": lambda x: _unaligned_field(x),
}


def _field(x: np.ndarray) -> np.ndarray:
    records = np.zeros(x.shape, dtype=[("flag", "i1"), ("value", x.dtype)])
    records["value"] = x
    return records["value"]


def _read_only(x: np.ndarray) -> np.ndarray:
    copy = x.copy()
    copy.flags.writeable = False
    return copy


def _unaligned(x: np.ndarray) -> np.ndarray:
    return np.frombuffer(b"-" + x.tobytes(), dtype=x.dtype, offset=1).reshape(x.shape)


def _unaligned_field(x: np.ndarray) -> np.ndarray:
    """Its strides are whole numbers, its address is none."""
    records = np.zeros(x.shape, np.dtype({"names": ["value"], "formats": [x.dtype], "offsets": [1], "itemsize": 16}))
    records["value"] = x
    return records["value"]


@pytest.mark.parametrize("name", NUMPY_VIEWS)
def test_numpy_views(backend, dtype, name):
    x = FEATURES.to(dtype).numpy()
    view = NUMPY_VIEWS[name](x)
    assert np.array_equal(view, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = tsm_fast.mtsm(view, backend=backend.name)
    assert np.abs(maps - tsm_fast.mtsm(x, backend=backend.name)).max() <= 2**-22


def test_reading_does_not_copy():
    x = FEATURES.numpy()
    for view in (x, NUMPY_VIEWS["read-only"](x), NUMPY_VIEWS["Fortran order"](x)):
        assert as_tensor("x", view)[0].data_ptr() == view.ctypes.data
    assert as_tensor("x", FEATURES)[0] is FEATURES


def _unaligned_tensor(x: torch.Tensor) -> torch.Tensor:
    return torch.frombuffer(bytearray(b"-" + x.numpy().tobytes()), dtype=x.dtype, offset=1).view(x.shape)


UNALIGNED = {
    "numpy": lambda x: _unaligned(x.numpy()),
    "a numpy field": lambda x: _unaligned_field(x.numpy()),
    "torch": _unaligned_tensor,
    "torch, transposed": lambda x: _unaligned_tensor(x.movedim(1, -1).contiguous()).movedim(-1, 1),
    "dlpack": lambda x: OnlyDlpack(_unaligned_tensor(x)),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", UNALIGNED)
def test_unaligned_arrays_are_copied(kind, dtype):
    """The kernels read numbers, and a number has its place: elsewhere it is undefined behaviour."""
    x = FEATURES.to(dtype)
    tensor, _ = as_tensor("x", UNALIGNED[kind](x))
    assert tensor.data_ptr() % tensor.element_size() == 0
    assert torch.equal(tensor, x)


def test_negated_views_are_resolved(backend):
    x = torch.complex(FEATURES, FEATURES).conj().imag
    assert x.is_neg()
    assert torch.equal(tsm_fast.tsm(x, backend=backend.name), tsm_fast.tsm(-FEATURES, backend=backend.name))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_dtypes(backend, dtype):
    x = FEATURES.numpy().astype(dtype)
    result = tsm_fast.tucker(x, (4, 3, 3), backend=backend.name)
    assert result.core.dtype == (np.float64 if dtype == np.float64 else np.float32)
    assert result.errors.dtype == np.float64
    assert result.n_sweeps.dtype == np.int64
    assert result.converged.dtype == np.bool_


REFUSED = [
    (torch.zeros(2, 3, 4, 5, dtype=torch.int64), "must have dtype float16, bfloat16, float32 or float64, got int64"),
    (torch.zeros(2, 3, 4, 5, dtype=torch.bool), "got bool"),
    (torch.zeros(2, 3, 4, 5, dtype=torch.complex64), "got complex64"),
    (torch.zeros(2, 3, 4, 5).to(torch.float8_e4m3fn), "got float8_e4m3fn"),
    (torch.zeros(2, 3, 4, 5).to_sparse(), "must be a dense array, got layout torch.sparse_coo"),
    (torch.zeros(2, 3, 4).to_sparse_csr(), "must be a dense array, got layout torch.sparse_csr"),
    (np.zeros((2, 3, 4, 5), dtype=np.uint8), "got uint8"),
    (np.zeros((2, 3, 4, 5), dtype=bool), "got bool"),
    (np.zeros((2, 3, 4, 5), dtype=complex), "got complex128"),
    (np.zeros((2, 3, 4, 5), dtype=np.longdouble), f"got {np.dtype(np.longdouble)}"),
    (np.zeros((2, 3, 4, 5), dtype=object), "got object"),
    (np.zeros((2, 3, 4, 5), dtype=">f4"), r"this machine's byte order, got dtype '>f4': pass \w+.astype\('float32'\)"),
    (np.ma.masked_array(np.zeros((2, 3, 4, 5)), mask=True), r"must not be masked: pass \w+.filled"),
    ([[1.0, 2.0]], "must be a torch, NumPy or DLPack array, got list"),
    (None, "got NoneType"),
    ("features", "got str"),
    (3.0, "got float"),
]


@pytest.mark.parametrize(("array", "message"), REFUSED, ids=[message for _, message in REFUSED])
@pytest.mark.parametrize("backend_name", BACKENDS)
def test_what_is_no_float_array_is_refused_by_name(backend_name, array, message):
    for function in (tsm_fast.eigencam, tsm_fast.tsm, tsm_fast.multivec_eigencam, tsm_fast.mtsm):
        with pytest.raises(TypeError, match=rf"^features .*{message}"):
            function(array, backend=backend_name)
    for function in (tsm_fast.tucker, tsm_fast.hosvd):
        with pytest.raises(TypeError, match=rf"^x .*{message}"):
            function(array, backend=backend_name)
    with pytest.raises(TypeError, match=rf"^m .*{message}"):
        tsm_fast.truncated_svd(array, backend=backend_name)
    with pytest.raises(TypeError, match=rf"^x .*{message}"):
        tsm_fast.unfold(array, 0)
    with pytest.raises(TypeError, match=rf"^unfolded .*{message}"):
        tsm_fast.fold(array, 0, (2, 3, 20))
    with pytest.raises(TypeError, match=rf"^x .*{message}"):
        tsm_fast.mode_dot(array, FEATURES, 0)
    with pytest.raises(TypeError, match=rf"^matrix .*{message}"):
        tsm_fast.mode_dot(FEATURES, array, 0)


@needs("ml_dtypes", extra="dev")
def test_bfloat16_of_ml_dtypes(backend):
    import ml_dtypes

    x = FEATURES.bfloat16()
    array = x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    read_only = array.copy()
    read_only.flags.writeable = False
    expected = tsm_fast.tsm(x, backend=backend.name).numpy()
    for one in (array, read_only, array.copy(order="F"), array[:, :, ::-1][:, :, ::-1]):
        maps = tsm_fast.tsm(one, backend=backend.name)
        assert maps.dtype == np.float32
        assert np.array_equal(maps, expected)
    unfolded = tsm_fast.unfold(array, 1)
    assert unfolded.dtype == ml_dtypes.bfloat16
    assert np.array_equal(unfolded, array.transpose(0, 2, 1, 3).reshape(3, 6, 210))
    with pytest.raises(TypeError, match=r"features must have dtype .*, got float8_e5m2"):
        tsm_fast.tsm(array.astype(ml_dtypes.float8_e5m2), backend=backend.name)


class HandsOutNumpy:
    def __array__(self, dtype=None, copy=None):
        return np.zeros((2, 3, 4, 5), dtype or np.float32)


@needs("zarr", "h5py", "pandas", extra="dev")
def test_other_arrays_are_told_how_they_become_one(tmp_path):
    import h5py
    import pandas
    import zarr

    chunked = zarr.create_array(tmp_path / "features.zarr", shape=(2, 3, 4, 5), dtype="f4")
    with h5py.File(tmp_path / "features.h5", "w") as file:
        stored = file.create_dataset("features", data=np.zeros((2, 3, 4, 5), np.float32))
        arrays: list[tuple[Any, str]] = [
            (chunked, r"got Array: pass features\[:\]"),
            (stored, r"got Dataset: pass features\[:\]"),
            (pandas.DataFrame([[1.0]]), r"got DataFrame: pass features.to_numpy\(\)"),
            (HandsOutNumpy(), r"got HandsOutNumpy: pass numpy.asarray\(features\)"),
        ]
        for array, way in arrays:
            with pytest.raises(TypeError, match=way):
                tsm_fast.tsm(array)
        assert tsm_fast.tsm(np.asarray(chunked[:])).shape == tsm_fast.tsm(stored[:]).shape == (2, 4, 5)
