"""Arrays in and out: torch, NumPy and any DLPack array become torch tensors, results go back as the input came."""

from __future__ import annotations

import sys
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from .memory import stored

if TYPE_CHECKING:
    import numpy as np


class DLPackArray(Protocol):
    """Any other array: what comes out is of its kind."""

    @property
    def shape(self) -> Any: ...
    def __dlpack__(self) -> Any: ...
    def __getitem__(self, key: Any, /) -> Any: ...


Array = TypeVar("Array", Tensor, "np.ndarray", DLPackArray)  # a tensor in gives a tensor out, and so on


class Restore(Protocol):
    """Takes results back to the kind of array that came."""

    def __call__(self, tensor: Tensor, *, exact: bool = True) -> Any:
        """`exact`: whether a library that has no such wide dtype is worth a warning."""
        ...


FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NARROWER = {torch.float64: torch.float32, torch.int64: torch.int32}
_WAYS = {"xarray": "{}.values", "dask": "{}.compute()", "zarr": "{}[:]", "h5py": "{}[:]", "pandas": "{}.to_numpy()"}
_NAMES = ("float16", "bfloat16", "float32", "float64")
_NEED = f"{', '.join(_NAMES[:-1])} or {_NAMES[-1]}"


def as_tensor(name: str, array: Any) -> tuple[Tensor, Restore]:
    """The array as a torch tensor without a copy where memory allows, and the function that takes results back.

    `name` is the argument's name, for the errors: TypeError for anything that is not a floating-point array.
    """
    if isinstance(array, Tensor):
        tensor, restore = array, _same
    elif "numpy" in sys.modules and isinstance(array, sys.modules["numpy"].ndarray):
        tensor, restore = _from_numpy(name, array), _ToNumpy(array.dtype)
    elif hasattr(array, "__dlpack__") and not isinstance(array, torch.fx.Proxy):
        tensor, restore = _from_dlpack(name, array), _restore_to(array)
    else:
        raise TypeError(f"{name} must be a torch, NumPy or DLPack array, got {_kind(name, array)}")
    if tensor.layout is not torch.strided or tensor.is_nested:
        kind = "a nested tensor" if tensor.is_nested else f"layout {tensor.layout}"
        raise TypeError(f"{name} must be a dense array, got {kind}")
    if tensor.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name} must have dtype {_NEED}, got {dtype_name(tensor.dtype)}")
    return stored(name, tensor).resolve_neg(), restore


def _kind(name: str, array: Any) -> str:
    """What an array is, and how its numbers are had where it hands them out as NumPy's."""
    kind = type(array).__name__
    way = _WAYS.get(type(array).__module__.partition(".")[0])
    if way is None and hasattr(type(array), "__array__"):
        way = "numpy.asarray({})"
    return kind if way is None else f"{kind}: pass {way.format(name)}"


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` rather than `torch.float32`: what a NumPy user reads as well."""
    return str(dtype).removeprefix("torch.")


def _same(tensor: Tensor, *, exact: bool = True) -> Tensor:
    return tensor


class _ToNumpy:
    """NumPy has no bfloat16 of its own: results in it get the dtype of the array that came."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype

    def __call__(self, tensor: Tensor, *, exact: bool = True) -> Any:
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(self.dtype)
        return tensor.numpy()


def _from_numpy(name: str, array: Any) -> Tensor:
    numpy = sys.modules["numpy"]
    if array.dtype.name not in _NAMES:
        raise TypeError(f"{name} must have dtype {_NEED}, got {array.dtype}")
    if not array.dtype.isnative:
        raise TypeError(
            f"{name} must be in this machine's byte order, got dtype {array.dtype.str!r}: "
            f"pass {name}.astype({array.dtype.newbyteorder('=').name!r})"
        )
    if isinstance(array, numpy.ma.MaskedArray):
        raise TypeError(f"{name} must not be masked: pass {name}.filled(0), or whatever the masked values count as")
    if array.dtype.name == "bfloat16":  # of ml_dtypes, which torch does not know
        return _borrowed(array.view(numpy.int16)).view(torch.bfloat16)
    return _borrowed(array)


def _borrowed(array: Any) -> Tensor:
    """The tensor of an array's memory; of a copy where torch cannot address it."""
    if not array.flags.aligned or any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy(order="C")
    if not array.flags.writeable:
        # torch warns about read-only memory (a memory-mapped file, say); nothing here writes to it.
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        array = sys.modules["numpy"].asarray(SimpleNamespace(__array_interface__=interface, owner=array))
    return torch.from_numpy(array)


def _from_dlpack(name: str, array: Any) -> Tensor:
    try:
        return torch.from_dlpack(array)
    except Exception as error:
        kind = type(array).__name__
        hint = "; tsm_fast.integrations.jax has the maps under jit, vmap and grad" if kind.endswith("Tracer") else ""
        raise TypeError(f"{name} must be readable through DLPack, got {kind}: {error}{hint}") from error


def _restore_to(array: Any) -> Restore:
    """Back to the library of the array, where it follows the array API standard; otherwise torch tensors come out."""
    return _ArrayApi(array) if hasattr(array, "__array_namespace__") else _same


class _ArrayApi:
    """Results go back through the array's own `from_dlpack` (array API standard), to its device, in the dtype that they
    have or the one next to it that there is on that device.
    """

    def __init__(self, array: Any) -> None:
        self.namespace = array.__array_namespace__()
        self.device = getattr(array, "device", None)

    def __call__(self, tensor: Tensor, *, exact: bool = True) -> Any:
        if tensor.dtype in _NARROWER and not self._has(tensor.dtype):
            narrower = _NARROWER[tensor.dtype]
            if exact:
                name, wide = self.namespace.__name__, dtype_name(tensor.dtype)
                message = f"{name} has no {wide} on {self.device}: the result is rounded to {dtype_name(narrower)}"
                warnings.warn(message, stacklevel=_depth())
            tensor = tensor.to(narrower)
        result = self.namespace.from_dlpack(tensor)
        return result if self.device is None or result.device == self.device else result.to_device(self.device)

    def _has(self, dtype: torch.dtype) -> bool:
        info = getattr(self.namespace, "__array_namespace_info__", None)  # since 2023.12
        return info is None or dtype_name(dtype) in info().dtypes(device=self.device)


def _depth() -> int:
    """How many calls lie between the caller of this package and the caller of this function."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("tsm_fast."):
        depth, frame = depth + 1, frame.f_back
    return depth
