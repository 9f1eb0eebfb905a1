"""Tensors without memory of their own, and calls that are traced: a right answer or a clear error."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.distributed as dist
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.masked import masked_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

import tsm_fast

from ..helpers import BACKENDS, NATIVE, feature_maps

needs_native = pytest.mark.skipif(not NATIVE, reason="needs the compiled backend, which this install was built without")

X = feature_maps(2, 9, 4, 3)
RANK = (4, 2, 2)
VALUES = "be a tensor of values, got"
RESULT = tsm_fast.tucker(X, RANK)
MATRIX = RESULT.factors[0][0]


class Function(NamedTuple):
    """A public function of one array."""

    call: Callable[..., Any]
    name: str = "x"  # what its errors call the array
    array: Tensor = X


TAKES_BACKEND = {
    "eigencam": Function(tsm_fast.eigencam, "features"),
    "tsm": Function(tsm_fast.tsm, "features"),
    "tsm at a rank": Function(partial(tsm_fast.tsm, rank=RANK), "features"),
    "multivec_eigencam": Function(tsm_fast.multivec_eigencam, "features"),
    "mtsm": Function(partial(tsm_fast.mtsm, size=(8, 8)), "features"),
    "tucker": Function(lambda x, **options: tsm_fast.tucker(x, RANK, **options).core),
    "hosvd": Function(lambda x, **options: tsm_fast.hosvd(x, RANK, **options).core),
    "truncated_svd": Function(lambda m, **options: tsm_fast.truncated_svd(m, **options)[1], "m", X[..., 0].clone()),
    "eigh": Function(lambda a, **options: tsm_fast.eigh(a, **options)[0], "a", X.flatten(2).mT @ X.flatten(2)),
    "mode_dot": Function(lambda x, **options: tsm_fast.mode_dot(x, MATRIX, 0, True, **options)),
    "mode_dot by it": Function(
        lambda matrix, **options: tsm_fast.mode_dot(X, matrix, 0, True, **options), "matrix", RESULT.factors[0]
    ),
    "multi_mode_dot by it": Function(
        lambda matrix, **options: tsm_fast.multi_mode_dot(X, [RESULT.factors[0], matrix], None, True, **options),
        "matrix",
        RESULT.factors[1],
    ),
}
COMPUTES = {
    **TAKES_BACKEND,
    "reconstruct": Function(lambda core: replace(RESULT, core=core).reconstruct(), array=RESULT.core),
    "reconstruct by it": Function(
        lambda factor: replace(RESULT, factors=[*RESULT.factors[:2], factor]).reconstruct(), "matrix", RESULT.factors[2]
    ),
    "an extractor": Function(tsm_fast.SaliencyExtractor(nn.Sequential(nn.Identity()), "0"), "features"),
}
RESHAPES = {
    "unfold": Function(lambda x: tsm_fast.unfold(x, 1)),
    "fold": Function(lambda unfolded: tsm_fast.fold(unfolded, 0, X.shape), "unfolded", X.flatten(2)),
}


def freed(x: Tensor, left: int = 0) -> Tensor:
    x = x.clone()
    x.untyped_storage().resize_(left)
    return x


def freed_view(x: Tensor) -> Tensor:
    whole = torch.cat([x, x])
    view = whole[2:]
    whole.untyped_storage().resize_(0)
    return view


def freed_transposed(x: Tensor) -> Tensor:
    return freed(x.movedim(1, -1).contiguous().movedim(-1, 1))


def masked(x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that masked tensors are a prototype
        return masked_tensor(x, x > 0)


class Watched(Tensor):
    """A subclass that sees every operation, and shares the memory of the tensor it was made of."""

    plain: Tensor

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(Watched, lambda x: x.plain, (args, kwargs or {}))
        return function(*args, **kwargs)


def watched(x: Tensor) -> Tensor:
    result = Tensor._make_subclass(Watched, x)
    result.plain = x
    return result


def double(x: Tensor) -> Tensor:
    return TwoTensor(x, x)


@pytest.fixture
def distributed() -> Iterator[Callable[[Tensor], Tensor]]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    yield lambda x: distribute_tensor(x, mesh, [Replicate()])
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "make",
    [freed, partial(freed, left=3), freed_view, freed_transposed, lambda x: watched(freed_view(x))],
    ids=["all", "all but three bytes", "a view", "transposed", "a view in a subclass"],
)
@pytest.mark.parametrize("function", [*COMPUTES, *RESHAPES])
def test_freed_memory(function: str, make: Callable[[Tensor], Tensor]) -> None:
    call, name, array = (COMPUTES | RESHAPES)[function]
    message = rf"^{name} must be in memory, got \d+ bytes of a storage that was resized to [03]$"
    with pytest.raises(RuntimeError, match=message):
        call(make(array))
    for backend in BACKENDS if function in TAKES_BACKEND else ():
        with pytest.raises(RuntimeError, match=message):
            call(make(array), backend=backend)


@needs_native
@pytest.mark.parametrize("function", COMPUTES)
def test_fake_tensors(function: str) -> None:
    call, name, array = COMPUTES[function]
    fake = FakeTensorMode().from_tensor(array)
    for options in ({}, {"backend": "cpu"}) if function in TAKES_BACKEND else ({},):
        with pytest.raises(TypeError, match=rf"^{name} must {VALUES} a fake one: pass one on a real device$"):
            call(fake, **options)


@pytest.mark.parametrize("function", [name for name in TAKES_BACKEND if "mode_dot" not in name])
def test_no_values(function: str) -> None:
    call, name, array = TAKES_BACKEND[function]
    for options in ({}, {"backend": "reference"}):
        with pytest.raises(TypeError, match=rf"^{name} must {VALUES} a meta one: pass one on a real device$"):
            call(array.to("meta"), **options)
    with pytest.raises(TypeError, match=f"^{name} must {VALUES} a fake one"):
        call(FakeTensorMode().from_tensor(array), backend="reference")


def test_what_depends_on_no_value_needs_none() -> None:
    assert tsm_fast.tsm(X.to("meta"), nan="propagate", normalize=False).shape == (2, 4, 3)


@needs_native
@pytest.mark.parametrize("function", COMPUTES)
def test_tensors_that_stand_for_others(function: str, distributed: Callable[[Tensor], Tensor]) -> None:
    call, name, array = COMPUTES[function]
    remedies = {
        double: "a TwoTensor: pass the plain tensor that it stands for",
        masked: rf"a MaskedTensor: pass {name}.to_tensor\(0\), or whatever the masked values count as",
        distributed: rf"a DTensor: pass {name}.to_local\(\) or {name}.full_tensor\(\)",
    }
    for make, remedy in remedies.items():
        for options in ({}, {"backend": "cpu"}) if function in TAKES_BACKEND else ({},):
            with pytest.raises(TypeError, match=f"^{name} must be in memory, got {remedy}$"):
                call(make(array), **options)


@pytest.mark.parametrize("function", TAKES_BACKEND)
def test_the_reference_works_on_what_plain_torch_works_on(function: str) -> None:
    call, _, array = TAKES_BACKEND[function]
    result = call(double(array), backend="reference")
    assert torch.equal(result.a, call(array, backend="reference"))


@pytest.mark.parametrize("function", RESHAPES)
def test_reshaping_needs_no_memory(function: str) -> None:
    call, _, array = RESHAPES[function]
    expected = call(array)
    assert call(array.to("meta")).shape == expected.shape
    assert call(FakeTensorMode().from_tensor(array)).shape == expected.shape
    assert torch.equal(call(double(array)).a, expected)
    assert torch.equal(torch.func.vmap(call)(array[None])[0], expected)
    assert torch.equal(make_fx(call)(array)(array), expected)
    traced: Any = torch.jit.trace(call, array, check_trace=False)
    assert torch.equal(traced(array), expected)
    assert torch.equal(torch.compile(call, backend="eager", fullgraph=True)(array), expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
@pytest.mark.parametrize("function", COMPUTES)
def test_jit_trace(function: str) -> None:
    call, _, array = COMPUTES[function]
    for options in ({}, *({"backend": backend} for backend in BACKENDS)) if function in TAKES_BACKEND else ({},):
        with pytest.raises(RuntimeError, match=r"^\w+ cannot be traced by torch\.jit\.trace: trace what"):
            torch.jit.trace(lambda x, options=options: call(x, **options), array)


class Calls(nn.Module):
    def __init__(self, call: Callable[..., Any]):
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Any:
        return self.call(x)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("function", COMPUTES)
def test_make_fx(function: str, mode: Literal["real", "fake", "symbolic"]) -> None:
    call, _, array = COMPUTES[function]
    graph = make_fx(lambda x: call(x), tracing_mode=mode, _allow_non_fake_inputs=True)(array)
    other = array + 0.1
    assert torch.equal(graph(other), call(other))


@pytest.mark.parametrize("function", TAKES_BACKEND)
def test_export(function: str, tmp_path: Path) -> None:
    call, _, array = TAKES_BACKEND[function]
    shapes = None if function.endswith("by it") else ({0: torch.export.Dim("batch", min=1, max=64)},)
    for strict in (False, True):
        torch._dynamo.reset()
        program = torch.export.export(Calls(call), (array,), strict=strict, dynamic_shapes=shapes)
        torch.export.save(program, tmp_path / "program.pt2")
        loaded = torch.export.load(tmp_path / "program.pt2").module()
        other = array + 0.1 if shapes is None else torch.cat([array, array + 0.1, array])
        assert torch.equal(loaded(other), call(other))


@pytest.mark.parametrize("function", TAKES_BACKEND)
def test_a_plain_tensor_among_fake_ones(function: str) -> None:
    """What would be written is then no memory either."""
    call, _, array = TAKES_BACKEND[function]
    message = r"^\w+ cannot run under FakeTensorMode: no values come of it$"
    with FakeTensorMode(), pytest.raises(RuntimeError, match=message):
        call(array)


@pytest.mark.parametrize("function", ["tsm", "eigencam", "multivec_eigencam"])
def test_options_are_traced(function: str) -> None:
    other = feature_maps(2, 9, 4, 3, seed=1)
    for backend in BACKENDS:
        for options in (
            {"normalize": False, "nan": "propagate"},
            {"normalize": True},
            {"nan": "raise"},
            {"nan": "zero"},
        ):
            call = partial(COMPUTES[function].call, backend=backend, **options)
            assert torch.equal(make_fx(lambda x: call(x))(X)(other), call(other))  # noqa: B023
            assert torch.equal(torch.func.vmap(call)(torch.stack([X, other]))[1], call(other))


@pytest.mark.parametrize("function", TAKES_BACKEND)
def test_symbolic_trace(function: str) -> None:
    call, name, _ = TAKES_BACKEND[function]
    with pytest.raises(TypeError, match=f"^{name} must be a torch, NumPy or DLPack array, got Proxy$"):
        torch.fx.symbolic_trace(Calls(call))


@pytest.mark.parametrize("function", TAKES_BACKEND)
def test_compiled_as_one_graph(function: str) -> None:
    call, _, array = TAKES_BACKEND[function]
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    @partial(torch.compile, backend=counter, fullgraph=True, dynamic=True)
    def compiled(x: Tensor) -> Tensor:
        return call(x.sin() + 1).cos() * 2

    counts = set()
    for size in (2,) if function.endswith("by it") else (11, 7):  # no other size of these problems
        batch = torch.cat([array + 0.1 * i for i in range(6)])[:size]
        assert torch.equal(compiled(batch), call(batch.sin() + 1).cos() * 2)
        counts.add(counter.frame_count)
    assert len(counts) == 1, "another batch size was compiled anew"
    x = array.clone().requires_grad_()
    compiled(x).sum().backward()
    other = array.clone().requires_grad_()
    (call(other.sin() + 1).cos() * 2).sum().backward()
    assert x.grad is not None
    assert other.grad is not None
    assert torch.allclose(x.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_arrays_that_are_no_tensors_are_computed_between_graphs() -> None:
    torch._dynamo.reset()
    maps = torch.compile(lambda x: tsm_fast.tsm(x), backend="eager")(X.numpy())
    assert np.array_equal(maps, tsm_fast.tsm(X.numpy()))
    with pytest.raises(Unsupported, match="tsm_fast runs on arrays that are no tensors between graphs: leave out"):
        torch.compile(lambda x: tsm_fast.tsm(x), backend="eager", fullgraph=True)(X.numpy())


@pytest.mark.parametrize("function", TAKES_BACKEND)
def test_transforms_go_through_the_reference(function: str) -> None:
    call, _, array = TAKES_BACKEND[function]
    call, x = partial(call, precision="float64"), array.double()
    tangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    leaf = x.clone().requires_grad_()
    result = call(leaf)
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=result.dtype)
    (wanted,) = torch.autograd.grad((result * weights).sum(), leaf)
    scale = wanted.abs().max()

    grad = torch.func.grad(lambda y: (call(y) * weights).sum())(x)
    assert (grad - wanted).abs().max() < 1e-5 * scale
    forward, change = torch.func.jvp(call, (x,), (tangent,))[:2]
    assert torch.equal(forward, result)
    along = ((change * weights).sum() - (wanted * tangent).sum()).abs()
    assert along < 1e-5 * scale * tangent.abs().sum()
    with forward_ad.dual_level():
        _, change = forward_ad.unpack_dual(call(forward_ad.make_dual(x, tangent)))
        assert change is not None, "the tangent was dropped"
        assert ((change * weights).sum() - (wanted * tangent).sum()).abs() < 1e-5 * scale * tangent.abs().sum()


def test_jacobians() -> None:
    x = X[:1, :2, :2, :2].double()
    call = partial(tsm_fast.tsm, normalize=False, precision="float64")
    backward, forward = torch.func.jacrev(call)(x), torch.func.jacfwd(call)(x)
    assert torch.allclose(backward, forward, atol=1e-6)
    assert torch.func.hessian(lambda y: call(y).sum())(x).isfinite().all()


@needs_native
@pytest.mark.parametrize("function", TAKES_BACKEND)
def test_a_compiled_backend_by_name_has_no_transforms(function: str) -> None:
    call, _, array = TAKES_BACKEND[function]
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="backend 'cpu' has no gradients"):
        call(forward_ad.make_dual(array, array), backend="cpu")
    with pytest.raises(RuntimeError, match="backend 'cpu' has no gradients"):
        torch.func.grad(lambda x: call(x, backend="cpu").sum())(array)


@pytest.mark.parametrize("function", TAKES_BACKEND)
def test_vmap(function: str) -> None:
    call, _, array = TAKES_BACKEND[function]
    several = torch.stack([array, array + 0.1, array + 0.2], 1)
    for options in ({}, *({"backend": backend} for backend in BACKENDS)):
        compute = partial(call, **options)
        mapped = torch.func.vmap(compute, in_dims=1)(several)
        expected = torch.stack([compute(one) for one in several.unbind(1)])
        assert torch.allclose(mapped, expected, rtol=1e-5, atol=1e-6)

    def loss(x: Tensor) -> Tensor:
        return call(x, precision="float64").square().sum()

    double = several.double()
    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=1)(double)
    for one, gradient in zip(double.unbind(1), gradients, strict=True):
        wanted = torch.func.grad(loss)(one)
        assert (gradient - wanted).abs().max() <= 1e-9 * wanted.abs().max()
    nested = torch.func.vmap(torch.func.vmap(call))(torch.stack([array, array + 0.1])[:, None])
    assert torch.allclose(nested[1, 0], call(array + 0.1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", TAKES_BACKEND)
def test_functionalize(function: str) -> None:
    call, name, array = TAKES_BACKEND[function]
    with pytest.raises(TypeError, match=rf"^{name} must {VALUES} one of torch\.func\.functionalize: call it outside$"):
        torch.func.functionalize(call)(array)


class Plain(Tensor):
    """A subclass that shares the memory of the tensor it was made of."""


@pytest.mark.parametrize("function", [*COMPUTES, *RESHAPES])
def test_what_has_memory_is_read(function: str) -> None:
    call, _, array = (COMPUTES | RESHAPES)[function]
    expected = call(array)
    with torch.inference_mode():
        assert torch.equal(call(array.clone()), expected)
    with torch.no_grad():
        assert torch.equal(call(nn.Parameter(array)), expected)
    assert torch.equal(call(array.as_subclass(Plain)), expected)
    assert torch.equal(call(watched(array)), expected)
    with FlopCounterMode(display=False):  # looks on, and records nothing
        assert torch.equal(call(array), expected)
    zero = torch._efficientzerotensor(array.shape)  # pyright: ignore[reportPrivateImportUsage]
    assert zero.data_ptr() == 0
    assert torch.equal(call(zero), call(torch.zeros(array.shape)))


@pytest.mark.parametrize("function", [name for name in TAKES_BACKEND if not name.endswith("by it")])
def test_an_empty_batch_has_no_memory_and_needs_none(function: str) -> None:
    call, _, array = TAKES_BACKEND[function]
    empty = array[:0].clone()
    assert empty.data_ptr() == 0
    for backend in (None, *BACKENDS):
        result = call(empty, backend=backend)
        assert result.shape == (0, *call(array).shape[1:])


@pytest.mark.parametrize("function", [*COMPUTES, *RESHAPES])
def test_results_lie_where_the_input_lies(function: str) -> None:
    """Whatever torch takes for the default device: on another one there is nothing to write to."""
    call, _, array = (COMPUTES | RESHAPES)[function]
    with torch.device("meta"):
        result = call(array)
        extract = tsm_fast.SaliencyExtractor(nn.Sequential(nn.Identity()), "0")
    assert torch.equal(result, call(array))
    assert extract(X).device.type == "cpu"
