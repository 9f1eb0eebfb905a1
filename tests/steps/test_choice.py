"""The choice of a backend, and that every backend offers the same six functions."""

from __future__ import annotations

import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch

import tsm_fast
from tsm_fast.steps import choice

from ..helpers import NATIVE, STEPS, beyond_the_protocol

X = torch.rand(2, 9, 4, 3)


@pytest.fixture(autouse=True)
def _no_choice_by_environment(monkeypatch):
    monkeypatch.delenv("TSM_FAST_BACKEND", raising=False)


@pytest.fixture
def without_native(monkeypatch):
    """An install without the compiled module: its finder does not see it."""
    find = choice.importlib.util.find_spec
    monkeypatch.setattr(
        choice.importlib.util, "find_spec", lambda name: None if name == "tsm_fast._cpu" else find(name)
    )


@pytest.fixture
def with_broken_native(monkeypatch):
    """An install whose compiled module is there and does not load (built for another Python, say)."""
    find = choice.importlib.util.find_spec
    spec = ModuleSpec("tsm_fast._cpu", None)
    monkeypatch.setattr(
        choice.importlib.util, "find_spec", lambda name: spec if name == "tsm_fast._cpu" else find(name)
    )
    monkeypatch.setitem(sys.modules, "tsm_fast.steps.cpu", None)


def test_every_backend_has_the_functions_of_the_protocol(backend):
    assert len(STEPS) == 6
    assert beyond_the_protocol(backend) == {}
    assert backend.name in choice._ENTRIES


def test_the_automatic_choice():
    assert choice.resolve(None, X).name == ("cpu" if NATIVE else "reference")
    assert choice.resolve(None, X.clone().requires_grad_()).name == "reference"
    with torch.no_grad():
        assert choice.resolve(None, X.clone().requires_grad_()).name == ("cpu" if NATIVE else "reference")
    assert choice.resolve(None, X.to("meta")).name == "reference"


def test_a_backend_by_name(backend):
    assert choice.resolve(backend.name, X) is backend


def test_a_backend_by_environment(backend, monkeypatch):
    monkeypatch.setenv("TSM_FAST_BACKEND", backend.name)
    assert choice.resolve(None, X) is backend
    assert choice.resolve("reference", X).name == "reference"
    assert "TSM_FAST_BACKEND" in tsm_fast.backends()[backend.name].auto
    monkeypatch.setenv("TSM_FAST_BACKEND", "")
    assert choice.resolve(None, X).name == ("cpu" if NATIVE else "reference")


def test_an_unknown_name(monkeypatch):
    with pytest.raises(ValueError, match="backend must be one of 'reference', 'cpu', 'cuda', 'triton', got 'numpy'"):
        choice.resolve("numpy", X)
    monkeypatch.setenv("TSM_FAST_BACKEND", "numpy")
    with pytest.raises(ValueError, match=r"TSM_FAST_BACKEND must be one of 'reference', .*, got 'numpy'"):
        tsm_fast.tsm(X)


@pytest.fixture
def find_spec(monkeypatch):
    """A finder of modules that tests may blind to some, or make see ones that are not there."""
    find, known = choice.importlib.util.find_spec, {}
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: known[name] if name in known else find(name))
    return known


@pytest.mark.parametrize(
    ("name", "module", "hint"),
    [("cuda", "tsm_fast._cuda", ""), ("triton", "triton", ": pip install 'tsm_fast[gpu]'")],
)
def test_a_backend_that_is_not_built(name, module, hint, find_spec, monkeypatch):
    find_spec[module] = None
    message = re.escape(f"backend '{name}' cannot run: not built: this install has no {module}{hint}")
    with pytest.raises(RuntimeError, match=message):
        tsm_fast.tucker(X, backend=name)
    monkeypatch.setenv("TSM_FAST_BACKEND", name)
    with pytest.raises(RuntimeError, match=message):
        tsm_fast.tucker(X)
    assert not tsm_fast.backends()[name].available


@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_a_gpu_backend_without_a_gpu(name, find_spec, monkeypatch):
    find_spec["tsm_fast._cuda"] = ModuleSpec("tsm_fast._cuda", None)
    find_spec["triton"] = ModuleSpec("triton", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match=f"backend '{name}' cannot run: no GPU: torch.cuda.is_available"):
        tsm_fast.tsm(X, backend=name)
    info = tsm_fast.backends()[name]
    assert not info.available
    assert info.auto == ""


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU, and holds nothing."""

    @staticmethod
    def __new__(
        cls, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, requires_grad: bool = False
    ) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta", requires_grad=requires_grad).as_subclass(cls)

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", 0)


SMALL, LARGE = (8, 2048, 7, 7), (8, 512, 28, 28)


@pytest.mark.parametrize(
    ("capability", "amd", "shape", "dtype", "order"),
    [
        ((9, 0), False, SMALL, torch.float32, ["cuda", "triton", "reference"]),
        ((9, 0), False, SMALL, torch.float64, ["cuda", "triton", "reference"]),
        ((8, 9), False, SMALL, torch.float16, ["triton", "cuda", "reference"]),
        ((8, 9), False, SMALL, torch.float64, ["cuda", "triton", "reference"]),
        ((8, 9), False, LARGE, torch.float32, ["cuda", "triton", "reference"]),
        ((7, 5), False, SMALL, torch.float32, ["triton", "reference"]),
        ((7, 0), False, SMALL, torch.float32, ["reference"]),
        ((9, 4), True, LARGE, torch.float32, ["triton", "reference"]),
        ((9, 0), False, (0, 5, 3, 2), torch.float32, ["cuda", "triton", "reference"]),
    ],
)
def test_the_choice_for_gpu_tensors(capability, amd, shape, dtype, order, find_spec, monkeypatch):
    """From one table by device, shape and dtype, whichever of the two backends is there."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", "6.2" if amd else None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    x = OnGpu(shape, dtype)
    modules = {"cuda": "tsm_fast._cuda", "triton": "triton"}
    for module in modules.values():
        find_spec[module] = ModuleSpec(module, None)
    for name in order:
        assert choice._automatic(x) == name
        if name in modules:
            find_spec[modules[name]] = None
    assert choice._automatic(OnGpu(shape, dtype, requires_grad=True)) == "reference"


def test_the_table_of_the_docs():
    text = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()
    rows = [f"| {row.tensors} | {', '.join(row.order)} | {row.why} |" for row in choice._GPU_CHOICE]
    assert "\n| --- | --- | --- |\n" + "\n".join(rows) + "\n\n" in text.replace("`", "")


def test_a_gpu_that_is_too_old(find_spec, monkeypatch):
    modules = {"cuda": ("tsm_fast._cuda", "tsm_fast.steps.cuda"), "triton": ("triton", "tsm_fast.kernels")}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for name, (built, module) in modules.items():
        find_spec[built], find_spec[module] = ModuleSpec(built, None), ModuleSpec(module, None)
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
        need = {"cuda": "sm_80", "triton": "sm_75"}[name]
        message = f"backend '{name}' needs a GPU of {need} or newer, got sm_70 on cuda:0"
        with pytest.raises(RuntimeError, match=message):
            choice.resolve(name, OnGpu(SMALL))
        with pytest.raises(RuntimeError, match=f"backend '{name}' runs on cuda tensors, got one on cpu"):
            choice.resolve(name, X)


@pytest.mark.parametrize(
    ("version", "capability", "amd", "need"),
    [
        ("3.6.0", (9, 0), False, None),
        ("3.6.0", (8, 0), False, None),
        ("3.6.0", (12, 0), False, None),
        ("3.6.0", (10, 0), False, "Triton 3.8 or newer for a GPU of sm_100, got 3.6.0"),
        ("3.7.1", (10, 3), False, "Triton 3.8 or newer for a GPU of sm_103, got 3.7.1"),
        ("3.7.1", (11, 0), False, "Triton 3.8 or newer for a GPU of sm_110, got 3.7.1"),
        ("3.7.1", (10, 3), True, None),
        ("3.8.0", (10, 0), False, None),
        ("3.10.0+git1234", (10, 0), False, None),
        ("3.5.1", (9, 0), False, "Triton 3.6 or newer, got 3.5.1"),
        ("2.10.0", (9, 0), True, "Triton 3.6 or newer, got 2.10.0"),
    ],
)
def test_a_triton_that_cannot_compile_the_kernels(version, capability, amd, need, find_spec, monkeypatch):
    """The backend says so where it is named and in `backends()`, and the automatic choice takes another."""
    triton, kernels = ModuleType("triton"), ModuleType("tsm_fast.kernels")
    vars(triton).update(__version__=version)
    vars(kernels).update(name="triton")
    for name, module in (("triton", triton), ("tsm_fast.kernels", kernels)):
        find_spec[name] = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    find_spec["tsm_fast._cuda"] = None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", "6.2" if amd else None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    info = tsm_fast.backends()["triton"]
    assert choice._automatic(OnGpu(SMALL)) == ("triton" if need is None else "reference")
    assert info.available == (need is None)
    if need is None:
        assert choice.resolve("triton", OnGpu(SMALL)) is kernels
        return
    assert info.reason == f"needs {need}"
    assert info.auto == ""
    with pytest.raises(RuntimeError, match=rf"backend 'triton' (cannot run: )?needs {re.escape(need)}"):
        choice.resolve("triton", OnGpu(SMALL))


def test_a_triton_that_does_not_load_is_not_passed_over(find_spec, monkeypatch):
    find_spec["tsm_fast._cuda"] = None
    for name in ("triton", "tsm_fast.kernels"):
        find_spec[name] = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "does not load" in tsm_fast.backends()["triton"].reason
    with pytest.raises(RuntimeError, match="backend 'triton' cannot run: built, but it does not load"):
        choice.resolve(None, OnGpu(SMALL))


def test_a_second_gpu_may_suit_a_backend(find_spec, monkeypatch):
    find_spec["tsm_fast._cuda"] = ModuleSpec("tsm_fast._cuda", None)
    monkeypatch.setitem(sys.modules, "tsm_fast.steps.cuda", ModuleType("tsm_fast.steps.cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for newer, available in ((9, True), (7, False)):
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda device, n=newer: (n, 0) if device == 1 else (7, 0)
        )
        assert tsm_fast.backends()["cuda"].available == available
    assert tsm_fast.backends()["cuda"].reason == "needs a GPU of sm_80 or newer, got sm_70"


@pytest.mark.usefixtures("without_native")
def test_an_install_of_pure_torch():
    assert choice.resolve(None, X).name == "reference"
    assert not tsm_fast.backends()["cpu"].available
    assert "for CPU tensors too" in tsm_fast.backends()["reference"].auto
    with pytest.raises(RuntimeError, match="backend 'cpu' cannot run: not built: this install has no"):
        tsm_fast.tsm(X, backend="cpu")


@pytest.mark.usefixtures("with_broken_native")
def test_a_backend_that_does_not_load_is_not_passed_over():
    for name in (None, "cpu"):
        with pytest.raises(RuntimeError, match="backend 'cpu' cannot run: built, but it does not load: "):
            choice.resolve(name, X)
    assert choice.resolve("reference", X).name == "reference"
    assert "does not load" in tsm_fast.backends()["cpu"].reason


@pytest.mark.skipif(not NATIVE, reason="needs the compiled backend, which this install was built without")
def test_what_the_compiled_backend_cannot_do():
    with pytest.raises(RuntimeError, match="backend 'cpu' runs on cpu tensors, got one on meta"):
        choice.resolve("cpu", X.to("meta"))
    with pytest.raises(RuntimeError, match="backend 'cpu' has no gradients, and the input requires them"):
        tsm_fast.tsm(X.clone().requires_grad_(), backend="cpu")
    with pytest.raises(RuntimeError, match="has no gradients"):
        tsm_fast.mode_dot(X, torch.rand(2, 9, requires_grad=True), 0, backend="cpu")
    with torch.no_grad():
        assert tsm_fast.tsm(X.clone().requires_grad_(), backend="cpu").shape == (2, 4, 3)


def test_the_table_of_backends():
    table = tsm_fast.backends()
    assert list(table) == ["reference", "cpu", "cuda", "triton"]
    for name, info in table.items():
        assert info.name == name
        assert info.reason
        assert str(info).startswith(f"{name}: ")
        assert info.available or not info.auto
    assert table["reference"].available
    assert table["cpu"].available == NATIVE
    assert "gradients" in table["reference"].auto
