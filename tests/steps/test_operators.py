"""The operators of PyTorch behind compiled, exported and mapped calls."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.library import opcheck

import tsm_fast
import tsm_fast.operators  # registers them
from tsm_fast.models import lite0, lite0_inputs

from ..helpers import BACKENDS, feature_maps, randn
from ..photos import photos as photos

X = feature_maps(2, 9, 4, 3)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


def maps(
    method: str = "tsm", rank: list[int] | None = None, size: list[int] | None = None, **how: Any
) -> tuple[Any, ...]:
    """The options of the operator `saliency`."""
    options = {"center": True, "combine": "signed", "sign": "u", "relu": True, "nan": "raise", "normalize": True, **how}
    precision, backend = options.pop("precision", "auto"), options.pop("backend", None)
    return method, rank, *options.values(), size, precision, backend


CALLS = {
    "tsm": ("saliency", [X], maps()),
    "mtsm at a rank, resized": ("saliency", [X], maps("mtsm", [4, 2, 2], [7, 9], normalize=False)),
    "eigencam in float64": ("saliency", [X], maps("eigencam", sign="absmax", precision="float64")),
    "half": ("saliency", [X.half()], maps("multivec_eigencam", nan="zero")),
    "channels last": ("saliency", [X.to(memory_format=torch.channels_last)], maps("mean_activation")),
    "video": ("saliency", [X.unflatten(2, (2, 2))], maps("tsm", [3, 2, 1, 2], [3, 4, 5])),
    "an empty batch": ("saliency", [X[:0]], maps()),
    "tucker": ("tucker", [X], ([4, 2, 2], [0, 1, 2], 100, 1e-4, "svd", False, None, "u", "auto", None)),
    "tucker of some modes, from factors": (
        "tucker",
        [X, randn(2, 4, 2).float(), randn(2, 3, 2).float()],
        ([2, 2], [1, 2], 9, 1e-4, "given", False, None, "u", "auto", None),
    ),
    "tucker, padded": ("tucker", [X], ([9, 2, 2], [0, 1, 2], 9, 1e-4, "random", True, 3, "v", "auto", None)),
    "hosvd": ("hosvd", [X.double()], ([4, 2, 2], "v", "auto", None)),
    "truncated_svd": ("truncated_svd", [X.flatten(2)], (3, "u", "float64", None)),
    "multi_mode_dot": ("multi_mode_dot", [X, randn(2, 9, 5).float(), randn(2, 3, 2).float()], ([0, 2], "auto", None)),
    "eigh": ("eigh", [X.flatten(2).mT @ X.flatten(2)], ("auto", None)),
}


@pytest.mark.parametrize("by", BACKENDS)
@pytest.mark.parametrize("case", CALLS)
def test_opcheck(case: str, by: str) -> None:
    name, tensors, options = CALLS[case]
    options = (*options[:-1], by)
    operator = getattr(torch.ops.tsm_fast, name).default
    assert set(opcheck(operator, (tensors, *options)).values()) == {"SUCCESS"}
    if by != "reference":
        return
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    assert set(opcheck(operator, (leaves, *options)).values()) == {"SUCCESS"}
    grads = [torch.rand_like(out) for out in operator(tensors, *options) if out.is_floating_point()]
    backward = getattr(torch.ops.tsm_fast, f"{name}_backward").default
    assert set(opcheck(backward, (tensors, grads, *options)).values()) == {"SUCCESS"}


@pytest.mark.parametrize(
    ("name", "tensors", "options", "message"),
    [
        ("saliency", [X], maps(rank=[99, 9, 9]), "rank must lie in 1..9 for mode 0, got 99"),
        ("saliency", [X], maps(rank=[0, 1, 1]), "rank must lie in 1..9 for mode 0, got 0"),
        ("saliency", [X], maps(rank=[2]), "rank must have one number for each of the 3 modes"),
        ("saliency", [X[:, :0]], maps(), "features must have no empty mode"),
        ("saliency", [X], maps(size=[5]), r"size must be \(h, w\)"),
        (
            "tucker",
            [X],
            ([10, 4, 3], [0, 1, 2], 9, 1e-4, "svd", False, None, "u", "auto", None),
            "rank must lie in 1..9 for mode 0, got 10",
        ),
        ("hosvd", [X], ([10, 4, 3], "u", "auto", None), "rank must lie in 1..9 for mode 0, got 10"),
        ("truncated_svd", [X.flatten(2)], (10, "u", "auto", None), "rank must lie in 1..9 for a 9 x 12 matrix"),
        ("eigh", [X.flatten(2)], ("auto", None), r"a must be \[B, n, n\]"),
        ("multi_mode_dot", [X, X.new_ones(2, 3, 5)], ([0], "auto", None), r"matrix must be .* for mode 0"),
        ("multi_mode_dot", [X, X.new_ones(1, 9, 5)], ([0], "auto", None), "matrix must be"),
        ("multi_mode_dot", [X, *[X.new_ones(2, 9, 5)] * 2], ([0, 0], "auto", None), "modes must be distinct"),
    ],
)
def test_operators_check_what_no_function_has(name: str, tensors: list[Tensor], options: Any, message: str) -> None:
    """An exported program may hold a rank that is none for what it is called with."""
    call = getattr(torch.ops.tsm_fast, name).default
    with pytest.raises(ValueError, match=message):
        call(tensors, *options)


class Explained(nn.Module):
    """A network's last feature maps, and their map."""

    def __init__(self, features: nn.Module, method: Any = tsm_fast.mtsm, **options: Any) -> None:
        super().__init__()
        self.features, self.method, self.options = features, method, options

    def forward(self, images: Tensor) -> Tensor:
        return self.method(self.features(images), size=(images.shape[2], images.shape[3]), **self.options)


@pytest.mark.slow
@pytest.mark.parametrize("method", [tsm_fast.tsm, tsm_fast.mtsm])
def test_a_network_and_its_map_in_one_graph(photos: dict[str, Any], method: Any) -> None:
    images = lite0_inputs([photos[name] for name in list(photos)[:3]])
    model = Explained(lite0().get_submodule("features"), method).eval().requires_grad_(requires_grad=False)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    assert torch.equal(compiled(images), model(images))
    assert counter.frame_count == 1
    weights = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(0))
    gradients = []
    for run in (compiled, model):  # the latter goes through the reference
        leaf = images.clone().requires_grad_()
        (run(leaf) * weights).sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-5 * gradients[1].abs().max()


@needs_compiler
@pytest.mark.slow
def test_inductor_with_dynamic_shapes() -> None:
    torch._dynamo.reset()
    model = Explained(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU()), tsm_fast.eigencam).eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for shape in ((2, 3, 12, 14), (5, 3, 20, 17)):
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        assert (compiled(images) - model(images)).abs().max() <= 2e-5
        leaf, other = images.clone().requires_grad_(), images.clone().requires_grad_()
        weights = torch.rand(shape[0], *shape[2:], generator=torch.Generator().manual_seed(1))
        (compiled(leaf) * weights).sum().backward()
        (model(other) * weights).sum().backward()
        assert leaf.grad is not None
        assert other.grad is not None
        assert (leaf.grad - other.grad).abs().max() <= 1e-4 * other.grad.abs().max()
    with pytest.raises(ValueError, match="features must be finite, got NaN or Inf in items 0, 1, 2, 3, 4;"):
        compiled(images * torch.nan)


@needs_compiler
@pytest.mark.slow
def test_aot_inductor(tmp_path: Path) -> None:
    model = Explained(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())).eval()
    images = torch.rand(2, 3, 12, 12)
    with torch.no_grad():
        shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
        program = torch.export.export(model, (images,), dynamic_shapes=shapes)
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
        loaded = torch._inductor.aoti_load_package(package)
        for batch in (images, torch.rand(5, 3, 12, 12)):
            assert (loaded(batch) - model(batch)).abs().max() <= 1e-5


def test_an_exported_program_can_be_trained() -> None:
    program = torch.export.export(Explained(nn.Conv2d(3, 16, 3)), (torch.rand(2, 3, 8, 8),)).module()
    images = torch.rand(2, 3, 8, 8).requires_grad_()
    program(images).square().sum().backward()
    assert images.grad is not None
    assert (images.grad != 0).any()


def test_a_result_of_tucker_in_a_graph() -> None:
    torch._dynamo.reset()
    result = torch.compile(lambda x: tsm_fast.tucker(x, (4, 2, 2)), backend="eager", fullgraph=True)(X)
    expected = tsm_fast.tucker(X, (4, 2, 2))
    assert result.errors.shape == (2, 100), "their number must not depend on values"
    most = expected.errors.shape[1]
    assert torch.equal(result.errors[:, :most], expected.errors)
    assert result.errors[:, most:].isnan().all()
    assert torch.equal(result.error, expected.error)
    assert torch.equal(result.reconstruct(), expected.reconstruct())
    assert (result.rank, result.n_sweeps.tolist()) == (expected.rank, expected.n_sweeps.tolist())


def test_gradients_of_an_operator_are_finite_at_ties_and_zeros() -> None:
    x = torch.stack([torch.zeros(4, 2, 2), torch.ones(4, 2, 2), torch.eye(4).view(4, 2, 2)]).requires_grad_()
    torch._dynamo.reset()
    for function in (tsm_fast.tsm, tsm_fast.mtsm, tsm_fast.eigencam, lambda x: tsm_fast.tucker(x, 2).core):
        (gradient,) = torch.autograd.grad(torch.compile(function, backend="aot_eager", fullgraph=True)(x).sum(), x)
        (expected,) = torch.autograd.grad(function(x).sum(), x)
        assert gradient.isfinite().all()
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    "options",
    [{"rank": (2, 2), "modes": (1, 2)}, {"rank": (9, 2, 2), "pad": True, "init": "random", "random_state": 0}],
    ids=["modes", "padded"],
)
def test_partial_tucker_compiled_exported_and_mapped(options: dict[str, Any]) -> None:
    torch._dynamo.reset()

    def core(x: Tensor) -> Tensor:
        return tsm_fast.tucker(x, **options).core

    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return core(x)

    expected = core(X)
    compiled = torch.compile(core, backend="aot_eager", fullgraph=True)
    assert compiled(X).equal(expected)
    assert torch.export.export(Module(), (X,)).module()(X).equal(expected)
    assert torch.func.vmap(core)(X[None])[0].equal(expected)
    gradients = []
    for function in (compiled, core):
        leaf = X.double().requires_grad_()
        gradients += torch.autograd.grad(function(leaf).square().sum(), leaf)
    torch.testing.assert_close(*gradients)
    if "random_state" in options:
        with pytest.raises(TypeError, match="random_state must be an int where a call is compiled or mapped"):
            torch.func.vmap(lambda x: tsm_fast.tucker(x, 2, init="random", random_state=np.random.RandomState(0)).core)(
                X[None]
            )


def test_second_and_forward_derivatives_are_refused_where_there_are_none() -> None:
    torch._dynamo.reset()
    x = X.clone().requires_grad_()
    loss = torch.compile(tsm_fast.eigencam, backend="eager")(x).square().sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    remedy = r"where it is compiled or mapped by vmap: calls outside of torch.compile and torch.func.vmap have them$"
    with pytest.raises(RuntimeError, match=f"^saliency has no second derivatives {remedy}"):
        gradient.sum().backward()

    def forward(x: Tensor) -> Tensor:
        return torch.func.jvp(tsm_fast.eigencam, (x,), (x,))[1]

    def twice(x: Tensor) -> Tensor:
        return torch.func.grad(lambda y: torch.func.grad(lambda z: tsm_fast.tsm(z).square().sum())(y).sum())(x)

    with pytest.raises(NotImplementedError, match=rf"^saliency has no forward derivatives \(jvp\) {remedy}"):
        torch.func.vmap(forward)(X[None])
    with pytest.raises(RuntimeError, match=f"^saliency has no second derivatives {remedy}"):
        torch.func.vmap(twice)(X[None])
    for function in (forward, twice):  # the compiler's error quotes ours
        torch._dynamo.reset()
        with pytest.raises(RuntimeError, match=f"saliency has no .* {remedy[:-1]}"):
            torch.compile(function, backend="eager", fullgraph=True)(X)
    assert forward(X).shape == (2, 4, 3)
    assert twice(X).shape == X.shape


def test_features_changed_in_place_before_the_backward_pass() -> None:
    """PyTorch's own error, or the right gradient where nothing that it needs was changed."""
    torch._dynamo.reset()
    compiled = torch.compile(tsm_fast.tsm, backend="aot_eager", fullgraph=True)
    leaf = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(tsm_fast.tsm(leaf).square().sum(), leaf)
    features = leaf * 1
    found = tsm_fast.tsm(features)
    features.zero_()
    assert torch.equal(torch.autograd.grad(found.square().sum(), leaf)[0], expected)
    features = leaf * 1
    found = compiled(features)
    features.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.square().sum().backward()


@pytest.mark.slow
def test_another_process_runs_an_exported_program(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Explained(nn.ReLU()), (X,)), tmp_path / "program.pt2")
    torch.save(X, tmp_path / "x.pt")
    script = (
        "import torch, tsm_fast.operators\n"
        "maps = torch.export.load('program.pt2').module()(torch.load('x.pt'))\n"
        "torch.save(maps, 'maps.pt')\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert torch.equal(torch.load(tmp_path / "maps.pt"), tsm_fast.mtsm(X.relu(), size=(4, 3)))


@pytest.mark.skipif(not hasattr(torch.Tag, "cudagraph_unsafe"), reason="this PyTorch has no such tag")
@pytest.mark.parametrize("name", ["saliency", "tucker", "eigh", "saliency_backward"])
def test_operators_run_between_cuda_graphs(name):
    """Within one nobody would see what is wrong with the features."""
    assert torch.Tag.cudagraph_unsafe in getattr(torch.ops.tsm_fast, name).default.tags
