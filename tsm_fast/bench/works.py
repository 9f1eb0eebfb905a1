"""What is called in a row: our function, its peers, and how a result of theirs is judged against float64."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import tsm_fast

from ..models import lite0
from ..steps import choice, cusolver, reference
from . import peers
from .cases import ALL_VECTORS, FINISHED, MAPS, Case
from .found import PEERS
from .shapes import LITE0, crops, filled

OURS = "tsm_fast"
WRONG = 1e-2  # an error above which a result is another one, in units of the largest value
SPIN = 0.1  # seconds that threads of OpenBLAS spin after a call

Arrays = tuple[Any, ...]
Errors = dict[str, float]


def _same(*arrays: Any) -> Arrays:
    return arrays


def _numpy(*tensors: Tensor) -> Arrays:
    return tuple((t.float() if t.dtype in (torch.float16, torch.bfloat16) else t).numpy() for t in tensors)


class Contender(NamedTuple):
    """Somebody's way; `run` takes what `prepare` makes of a batch, and `shown` makes what is judged of its result."""

    name: str
    run: Callable[..., Any]
    prepare: Callable[..., Arrays] = _same
    shown: Callable[[Any], Any] = lambda result: result
    each: bool = False  # works item by item: a few are enough
    spins: bool = False  # leaves threads behind that wait
    judged: bool = True
    instead_of: str | None = None  # worth a row only where this one misses our accuracy
    rounds: int = 10**6

    @property
    def ours(self) -> bool:
        return self.name.startswith(OURS)


def inputs_of_features(case: Case) -> tuple[Arrays, str]:
    x, origin = filled(case)
    return (x,), origin


class Work(NamedTuple):
    """Something that can be measured; the first argument of each function is the case."""

    what: str
    ours: Callable[[Case, str | None, dict[str, Any]], Contender]
    others: Callable[[Case], list[Contender]]
    truth: Callable[[Case, Arrays], Any]  # of a batch, in float64
    errors: Callable[[Case, Any, Any, Arrays, bool], Errors]  # of what is shown; the last says whether it is ours
    allowed: Callable[[Case], Errors]
    inputs: Callable[[Case], tuple[Arrays, str]] = inputs_of_features
    needs: tuple[str, ...] = ()
    precise: bool = False  # has an option `precision`, and a promise for "float64"


def at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def worst(result: Any, exact: Tensor, clear: Tensor | None = None) -> float:
    """The largest difference over the largest value of its item; `clear` says which items count."""
    got = result if isinstance(result, Tensor) else torch.from_numpy(np.array(result))
    got = got.to(exact.device).double()
    if got.shape != exact.shape:
        raise ValueError(f"gave a result of shape {tuple(got.shape)}, not {tuple(exact.shape)}")
    difference = (got - exact).abs().flatten(1).amax(1)
    difference = difference / exact.abs().flatten(1).amax(1).clamp(min=torch.finfo(torch.float64).tiny)
    difference = torch.where(difference.isnan(), torch.inf, difference)
    return float(difference[slice(None) if clear is None else clear].amax()) if len(difference) else 0.0


# ---- maps ----


def _our_map(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    given = {"rank": case.rank} if case.rank else {}
    return Contender(OURS, partial(getattr(tsm_fast, case.work), backend=backend, **given, **options))


def _map_peers(case: Case) -> list[Contender]:
    name = case.work
    if name == "mean_activation":
        return [
            Contender("torch", lambda x: peers.normalized(at_least_float32(x).mean(1))),
            Contender("numpy", lambda x: _scaled(x.mean(1)), _numpy, spins=True),
        ]
    feasible = _feasible(case.sides)
    rank = case.rank or feasible
    if case.rank:
        return [*_tensorly_maps(name, rank)] if name in ("tsm", "mtsm") else []

    def of(eigh: peers.Eigh, dtype: torch.dtype | None = None) -> Callable[[Tensor], Tensor]:
        return lambda x: peers.torch_maps(name, x.to(dtype) if dtype else at_least_float32(x), eigh)

    found = [
        Contender("torch", of(torch.linalg.eigh)),
        Contender("torch-split", of(peers.eigh_split)),
        Contender("torch-float64", of(torch.linalg.eigh, torch.float64), instead_of="torch"),
        Contender("torch-svd", lambda x: peers.normalized(peers.svd_maps(name, at_least_float32(x)))),
        Contender("jax", peers.jax_maps(name) if _is_there("jax") else _same, _jax),
        Contender("cusolver", of(cusolver.eigh)),
    ]
    if name not in ALL_VECTORS:
        found.append(Contender("torch-power", of(peers.leading_by_power)))
    if name == "tsm":
        found.append(Contender("numpy", partial(_by_leading, peers.numpy_leading), _numpy, spins=True))
        found.append(Contender("scipy", partial(_by_leading, peers.scipy_leading), _numpy, each=True, spins=True))
        if _is_there("cupy"):
            found.append(Contender("cupy", _cupy_tsm))
    if name in ("tsm", "mtsm"):
        found += _tensorly_maps(name, rank)
    if name == "eigencam" and len(case.sides) == 3:
        options: dict[str, Any] = {"prepare": _numpy, "shown": _both_signs, "each": True, "spins": True}
        found.append(Contender("grad-cam-steps", peers.gradcam_projection, **options))
        found.append(Contender("grad-cam", _gradcam_projection, **options))
    return found


def _feasible(sides: Sequence[int]) -> tuple[int, ...]:
    """The full rank, without singular vectors that do not exist."""
    size = prod(sides)
    return tuple(min(side, size // side) for side in sides)


def _tensorly_maps(name: str, rank: tuple[int, ...]) -> list[Contender]:
    def run(x: np.ndarray, rank: tuple[int, ...] = rank) -> np.ndarray:
        found = zip(x, peers.tensorly_tucker(x, rank), strict=True)
        return _scaled(np.stack([peers.tensorly_maps(item, core, factors)[name] for item, (core, factors) in found]))

    return [Contender("tensorly", run, _numpy, each=True, spins=True)]


def tensorly_full(case: Case) -> Contender:
    """What published code of TSM calls, which takes seconds an image."""
    (slow,) = _tensorly_maps(case.work, case.sides)
    return slow._replace(name="tensorly-full", rounds=1)


def _by_leading(leading: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    return _scaled(np.abs(leading(x.reshape(*x.shape[:2], -1))).reshape(len(x), *x.shape[2:]))


def _cupy_tsm(x: Tensor) -> Tensor:
    cupy = import_module("cupy")

    def eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = cupy.linalg.eigh(cupy.from_dlpack(gram))
        return torch.from_dlpack(values), torch.from_dlpack(vectors)

    return peers.torch_maps("tsm", x, eigh)


def _scaled(maps: np.ndarray) -> np.ndarray:
    return peers.normalized(torch.from_numpy(maps)).numpy()


def _both_signs(projection: np.ndarray) -> tuple[Tensor, Tensor]:
    """The map of a projection of either sign."""
    raw = torch.from_numpy(projection)
    return peers.normalized(raw.clamp(min=0)), peers.normalized((-raw).clamp(min=0))


def _gradcam_projection(x: np.ndarray) -> np.ndarray:
    return gradcam().utils.svd_on_activations.get_2d_projection(x)


def gradcam() -> Any:
    """pytorch-grad-cam, also beside a torchvision whose operators do not load."""
    try:
        return import_module("pytorch_grad_cam")
    except RuntimeError as error:
        if "torchvision" not in str(error):
            raise
    from .operators import declare_operators

    globals().setdefault("_OPERATORS", declare_operators())
    return import_module("pytorch_grad_cam")


def _map_truth(case: Case, inputs: Arrays) -> tuple[Tensor, Tensor]:
    """Normalised maps, and the items without a tie in the sign of a vector."""
    x = inputs[0].double()
    clear = torch.ones(len(x), dtype=torch.bool, device=x.device)
    if case.rank:
        return getattr(tsm_fast, case.work)(x, rank=case.rank, precision="float64", backend="reference"), clear
    if case.work == "mean_activation":
        return peers.normalized(x.mean(1)), clear
    if case.work in ALL_VECTORS:
        f = x - x.flatten(2).mean(2).reshape(*x.shape[:2], *(1,) * (x.ndim - 2)) if "eigencam" in case.work else x
        low, high = torch.aminmax(torch.linalg.svd(f.flatten(2), full_matrices=False)[0], dim=1)
        clear = ((high + low).abs() > 1e-5).all(1)
    return peers.normalized(peers.svd_maps(_map_of(case), x)), clear


def _map_of(case: Case) -> str:
    return case.work if case.work in MAPS else "tsm"


def _map_errors(case: Case, shown: Any, truth: Any, inputs: Arrays, ours: bool) -> Errors:
    maps, clear = truth
    if isinstance(shown, tuple):  # of either sign, item by item
        return {"map": max(min(worst(one[[i]], maps[[i]]) for one in shown) for i in range(len(maps)))}
    return {"map": worst(shown, maps, clear)}


def _map_allowed(case: Case) -> Errors:
    return {"map": 1e-4 if case.work in ALL_VECTORS else 2e-5}


# ---- a call: one image in a program, the first of a process, a compiled one, a network's ----


class _Compiled:
    """`torch.compile` of a function, at the first call."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function, self.compiled = function, None

    def __call__(self, x: Tensor) -> Tensor:
        if self.compiled is None:
            torch.compiler.reset()
            self.compiled = torch.compile(self.function)
        return self.compiled(x)


def _our_compiled(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    return Contender(OURS, _Compiled(lambda x: 2 * tsm_fast.tsm(x + 0, backend=backend) / 2))


def _compiled_peers(case: Case) -> list[Contender]:
    return [Contender("torch", _Compiled(lambda x: 2 * peers.torch_maps("tsm", x + 0) / 2))]


_FIRST = """
import torch
torch.set_num_threads({threads})
{imports}
x = torch.rand({shape}, generator=torch.Generator().manual_seed(0))
maps = {call}
"""
_JUDGED = """
f = x.flatten(2).double()
u, s, v = torch.linalg.svd(f, full_matrices=False)
exact = (s[:, :1] * v[:, 0]).abs()
low, high = exact.amin(1, keepdim=True), exact.amax(1, keepdim=True)
print(float((maps.flatten(1) - (exact - low) / (high - low)).abs().max()))
"""


class _First:
    """A process that imports and calls once."""

    def __init__(self, imports: str, call: str, x: Tensor) -> None:
        shape = ", ".join(map(str, x.shape))
        self.program = _FIRST.format(threads=torch.get_num_threads(), imports=imports, call=call, shape=shape)

    def __call__(self, more: str = "") -> str:
        done = subprocess.run([sys.executable, "-c", self.program + more], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        return done.stdout


def _first(name: str, imports: str, call: str) -> Contender:
    return Contender(
        name,
        lambda process: (process(), process)[1],
        lambda x: (_First(imports, call, x),),
        lambda process: float(process(_JUDGED)),
        rounds=3,
    )


def _our_first(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    return _first(OURS, "import tsm_fast", f"tsm_fast.tsm(x, backend={backend!r})")


def _first_peers(case: Case) -> list[Contender]:
    plain = (
        "def call(x):\n    f = x.flatten(2)\n    values, vectors = torch.linalg.eigh(f.mT @ f)\n"
        "    m = (vectors[:, :, -1] * values[:, -1:].sqrt()).abs()\n    low = m.amin(1, keepdim=True)\n"
        "    return (m - low) / (m.amax(1, keepdim=True) - low)"
    )
    return [_first("torch", plain, "call(x)")]


def _first_errors(case: Case, shown: float, truth: Any, inputs: Arrays, ours: bool) -> Errors:
    return {"map": shown}


def _our_call(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    model = lite0()
    extract = tsm_fast.SaliencyExtractor(model, "features", "eigencam", size="input", backend=backend)
    return Contender(OURS, extract)


def _call_peers(case: Case) -> list[Contender]:
    model = lite0()

    def steps(images: Tensor) -> Tensor:
        with torch.no_grad():
            raw = torch.from_numpy(peers.gradcam_projection(model[0](images).numpy()))
        return torch.stack([_finished(raw), _finished(-raw)], 1)

    def itself(images: Tensor) -> np.ndarray:
        package = gradcam()
        if not hasattr(itself, "cam"):
            itself.cam = package.EigenCAM(model, [model[0]])  # pyright: ignore[reportFunctionMemberAccess]
        return itself.cam(images, [0] * len(images))  # pyright: ignore[reportFunctionMemberAccess]

    def forward(images: Tensor) -> Tensor:
        with torch.no_grad():
            return model[0](images)

    return [
        Contender("grad-cam-steps", steps, shown=lambda maps: (maps[:, 0], maps[:, 1]), spins=True),
        Contender("grad-cam", itself, spins=True),
        Contender("forward pass alone", forward, judged=False),
    ]


def _finished(raw: Tensor) -> Tensor:
    return reference.finish(raw.clamp(min=0), (FINISHED, FINISHED), normalize=True)


def _call_inputs(case: Case) -> tuple[Arrays, str]:
    return (crops()[: case.batch].clone(),), "photos of scikit-image and scikit-learn, through EfficientNet-lite0"


def _call_truth(case: Case, inputs: Arrays) -> tuple[Tensor, Tensor, Tensor]:
    """Maps of either sign."""
    model = lite0()
    with torch.no_grad():
        f = model[0](inputs[0]).double()
    f = f - f.mean((2, 3), keepdim=True)
    _, s, vh = torch.linalg.svd(f.flatten(2), full_matrices=False)
    raw = peers.most_positive(s[:, :1] * vh[:, 0]).unflatten(1, f.shape[2:])
    return _finished(raw), _finished(-raw), raw


def _call_errors(case: Case, shown: Any, truth: Any, inputs: Arrays, ours: bool) -> Errors:
    if ours:
        return {"map": worst(shown, truth[0])}
    every = shown if isinstance(shown, tuple) else (torch.as_tensor(shown),)
    pairs = ((one, exact) for one in every for exact in truth[:2])
    worsts = [[worst(one[[i]], exact[[i]]) for i in range(len(exact))] for one, exact in pairs]
    return {"map": max(map(min, zip(*worsts, strict=True)))}


# ---- matrices ----


def _our_eigh(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    return Contender(OURS, partial(tsm_fast.eigh, backend=backend, **options))


def _eigh_peers(case: Case) -> list[Contender]:
    n = case.sides[0]
    found = [
        Contender("torch", lambda a: torch.linalg.eigh(at_least_float32(a))),
        Contender("torch-split", lambda a: peers.eigh_split(at_least_float32(a))),
        Contender("torch-float64", lambda a: torch.linalg.eigh(a.double()), instead_of="torch"),
        Contender("numpy", np.linalg.eigh, _numpy, spins=True),
        Contender("scipy", partial(peers.scipy_eigenpairs, rank=(case.rank or (n,))[0]), _numpy, each=True, spins=True),
        Contender("jax", _jax_eigh, _jax, lambda pairs: [torch.from_numpy(np.array(p)) for p in pairs]),
        Contender("cusolver", cusolver.eigh),
    ]
    if _is_there("cupy"):
        cupy = import_module("cupy")
        found.append(Contender("cupy", lambda a: cupy.linalg.eigh(cupy.from_dlpack(a)), shown=_from_dlpack))
    return found


def _from_dlpack(arrays: Sequence[Any]) -> list[Tensor]:
    return [torch.from_dlpack(array) for array in arrays]


def _jax(*tensors: Tensor) -> Arrays:
    jnp = import_module("jax.numpy")
    return tuple(jnp.asarray(array) for array in _numpy(*tensors))


def _jax_eigh(a: Any) -> Any:
    values, vectors = _jax_compiled()(a)
    return values, vectors.block_until_ready()


_JITTED: list[Any] = []


def _jax_compiled() -> Any:
    if not _JITTED:
        _JITTED.append(import_module("jax").jit(import_module("jax.numpy").linalg.eigh))
    return _JITTED[0]


def _our_eigenpairs(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    rank = (case.rank or case.sides)[0]

    def run(gram: Tensor) -> tuple[Tensor, Tensor]:
        return choice.resolve(backend, gram).truncated_svd(gram, rank, **options)

    return Contender(OURS, run, shown=lambda pairs: (pairs[0].double() ** 2, pairs[1]))


def _pairs_truth(case: Case, inputs: Arrays) -> Tensor:
    return torch.linalg.eigvalsh(inputs[0].double())


def _pairs_errors(case: Case, shown: Any, truth: Tensor, inputs: Arrays, ours: bool) -> Errors:
    values, vectors = (torch.as_tensor(part).to(truth.device).double() for part in shown)
    a, rank = inputs[0].double(), (case.rank or case.sides)[0]
    if values.shape[1] > 1 and bool((values[:, 0] > values[:, -1]).all()):
        values, vectors = values.flip(1), vectors.flip(2)  # ascending, as LAPACK has them
    values, vectors, exact = values[:, -rank:], vectors[:, :, -rank:], truth[:, -rank:]
    largest = exact.abs().amax(1).clamp(min=torch.finfo(torch.float64).tiny)
    identity = torch.eye(rank, dtype=torch.float64, device=a.device)
    residual = a @ vectors - vectors * values[:, None]
    return _finite(
        eigenvalues=((values - exact).abs().amax(1) / largest).amax(),
        residual=(residual.abs().amax((1, 2)) / largest).amax(),
        orthogonality=(vectors.mT @ vectors - identity).abs().amax(),
    )


def _finite(**errors: Tensor) -> Errors:
    return {name: float("inf") if bool(error.isnan()) else float(error) for name, error in errors.items()}


def _pairs_allowed(case: Case) -> Errors:
    allowed = 1e-9 if case.dtype == "float64" else 1e-5
    return dict.fromkeys(("eigenvalues", "residual", "orthogonality"), allowed)


def _our_svd(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    return Contender(OURS, partial(tsm_fast.truncated_svd, rank=_svd_rank(case), backend=backend, **options))


def _svd_rank(case: Case) -> int:
    return case.rank[0] if case.rank else min(case.sides)


def _svd_peers(case: Case) -> list[Contender]:
    rank = _svd_rank(case)
    full = rank == min(case.sides)

    def by_torch(m: Tensor) -> list[Tensor]:
        u, s, vh = torch.linalg.svd(at_least_float32(m), full_matrices=False)
        return [u[:, :, :rank], s[:, :rank], vh[:, :rank]]

    def by_numpy(m: np.ndarray) -> list[np.ndarray]:
        u, s, vh = np.linalg.svd(m, full_matrices=False)
        return [u[:, :, :rank], s[:, :rank], vh[:, :rank]]

    def by_lowrank(m: Tensor) -> list[Tensor]:
        u, s, v = torch.svd_lowrank(m, q=min(rank + 6, *m.shape[1:]), niter=2)
        return [u[:, :, :rank], s[:, :rank], v[:, :, :rank].mT]

    def by_sklearn(m: np.ndarray) -> list[np.ndarray]:
        svd = import_module("sklearn.utils.extmath").randomized_svd
        found = [svd(item, n_components=rank, random_state=0) for item in m]
        return [np.stack(parts) for parts in zip(*found, strict=True)]

    def by_jax(m: Any) -> Any:
        jnp = import_module("jax.numpy")
        return [part.block_until_ready() for part in jnp.linalg.svd(m, full_matrices=False)]

    found = [
        Contender("torch-svd", by_torch),
        Contender("torch", lambda m: peers.gram_svd(at_least_float32(m), rank)),
        Contender("torch-float64", lambda m: peers.gram_svd(m.double(), rank), instead_of="torch"),
        Contender("numpy", by_numpy, _numpy, each=True, spins=True),
    ]
    if full:
        found.append(Contender("jax", by_jax, _jax, lambda parts: [torch.from_numpy(np.array(p)) for p in parts]))
    else:
        found.append(Contender("torch-lowrank", by_lowrank))
        found.append(Contender("scikit-learn", by_sklearn, _numpy, each=True, spins=True))
    return found


def _svd_truth(case: Case, inputs: Arrays) -> Tensor:
    return torch.linalg.svdvals(inputs[0].double())


def _svd_errors(case: Case, shown: Any, truth: Tensor, inputs: Arrays, ours: bool) -> Errors:
    u, s, vh = (torch.as_tensor(part).to(truth.device).double() for part in shown)
    m, rank = inputs[0].double(), s.shape[1]
    size = truth.norm(dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    left = torch.linalg.matrix_norm(m - (u * s[:, None]) @ vh) / size
    identity = torch.eye(rank, dtype=torch.float64, device=m.device)
    return _finite(
        singular_values=((s - truth[:, :rank]).abs().amax(1) / truth[:, 0]).amax(),
        reconstruction=(left - truth[:, rank:].norm(dim=1) / size).clamp(min=0).amax(),
        orthogonality=torch.maximum(
            (u.mT @ u - identity).abs().amax(),
            (vh @ vh.mT - identity).abs().amax(),
        ),
    )


def _svd_allowed(case: Case) -> Errors:
    allowed = 1e-9 if case.dtype == "float64" else 1e-5
    return dict.fromkeys(("singular_values", "reconstruction", "orthogonality"), allowed)


# ---- Tucker ----


def _our_tucker(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    function = getattr(tsm_fast, case.work)
    return Contender(OURS, partial(function, rank=case.rank, backend=backend, **options), shown=_decomposed)


class Decomposed(NamedTuple):
    """Of a batch."""

    core: Tensor
    factors: list[Tensor]
    values: list[Tensor]
    error: Tensor


def _decomposed(result: Any) -> Decomposed:
    return Decomposed(result.core, result.factors, result.singular_values, result.error)


def _tucker_peers(case: Case) -> list[Contender]:
    rank = case.rank or case.sides
    plain = peers.torch_tucker if case.work == "tucker" else peers.torch_hosvd
    found = [
        Contender("torch", lambda x: plain(at_least_float32(x), rank)),
        Contender("torch-float64", lambda x: plain(x.double(), rank), instead_of="torch"),
    ]
    if case.work == "tucker":
        run = partial(peers.tensorly_tucker, rank=rank)
        found.append(Contender("tensorly", run, _numpy, _stacked, each=True, spins=True))
        found.append(Contender("tensorly-torch", lambda x: run(at_least_float32(x)), shown=_stacked, each=True))
    return found


def _stacked(found: Sequence[Any]) -> tuple[Tensor, list[Tensor]]:
    cores = torch.stack([torch.as_tensor(core) for core, _ in found])
    modes = range(len(found[0][1]))
    return cores, [torch.stack([torch.as_tensor(factors[mode]) for _, factors in found]) for mode in modes]


class _Exact(NamedTuple):
    """The decomposition in float64, and its relative errors [B]."""

    errors: Tensor
    factors: list[Tensor]
    values: list[Tensor]


def _tucker_truth(case: Case, inputs: Arrays) -> _Exact:
    """By plain PyTorch, which tests hold to TensorLy."""
    function = tsm_fast.hosvd if case.work == "hosvd" else tsm_fast.tucker
    result = function(inputs[0].double(), case.rank, backend="reference")
    return _Exact(_left_over(inputs[0], result.core, result.factors), result.factors, result.singular_values)


def _left_over(x: Tensor, core: Tensor, factors: Sequence[Tensor], modes: Sequence[int] | None = None) -> Tensor:
    """The relative error [B] of a decomposition, from the tensor that it stands for."""
    x, made = x.double(), core.double()
    for mode, a in zip(range(len(factors)) if modes is None else modes, factors, strict=True):
        made = peers.mode_product(made, a.double().mT, mode)
    return (x - made).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)


def _tucker_errors(case: Case, shown: Any, truth: _Exact, inputs: Arrays, ours: bool) -> Errors:
    core, factors = shown[:2]
    x = inputs[0]
    errors = {"fit": (_left_over(x, core.to(x.device), factors) - truth.errors).clamp(min=0).amax()}
    if ours:
        pairs = zip(shown.values, truth.values, strict=True)
        errors["singular_values"] = torch.stack([((s - t).abs() / t[:, :1]).amax() for s, t in pairs]).amax()
        errors["reported"] = (shown.error - truth.errors).abs().amax()
        errors["projectors"] = _projectors(x.double(), shown.factors, truth.factors)
    return _finite(**errors)


def _projectors(x: Tensor, factors: Sequence[Tensor], exact: Sequence[Tensor]) -> Tensor:
    """The largest difference of `A A^T`, where the gap at the cut is over 1e-3."""
    differences = [x.new_zeros(())]
    for mode, (a, t) in enumerate(zip(factors, exact, strict=True)):
        if t.shape[1] <= t.shape[2]:
            continue
        partly = peers.contracted(x, exact, skip=mode).movedim(mode + 1, 1).flatten(2)
        s = torch.linalg.svdvals(partly)
        s = torch.nn.functional.pad(s, (0, 1))
        apart = (s[:, t.shape[2] - 1] - s[:, t.shape[2]]) / s[:, 0] > 1e-3
        difference = (a.double() @ a.double().mT - t @ t.mT).abs().amax((1, 2))
        differences.append(torch.where(apart, difference, 0.0).amax())
    return torch.stack(differences).amax()


def _tucker_allowed(case: Case) -> Errors:
    if case.dtype == "float64":
        return dict.fromkeys(("fit", "singular_values", "reported", "projectors"), 1e-9)
    return {"fit": 1e-5, "singular_values": 1e-5, "reported": 1e-5, "projectors": 1e-4}


def _one_modes(case: Case) -> list[int]:
    order = len(case.sides)
    return list(range(order - len(case.rank or case.sides), order))


def _one(function: Callable[..., Any], case: Case) -> Callable[[np.ndarray], list[Any]]:
    if case.work == "tensorly tucker":
        return lambda x: [tuple(function(item, rank=case.rank)) for item in x]
    return lambda x: [function(item, rank=case.rank, modes=_one_modes(case))[0] for item in x]


def _our_one(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    from ..integrations import tensorly

    function = getattr(tensorly, case.work.split()[1])
    return Contender(OURS, _one(function, case), _numpy, _stacked)


def _one_peers(case: Case) -> list[Contender]:
    function = getattr(import_module("tensorly.decomposition"), case.work.split()[1])
    return [
        Contender("tensorly", _one(function, case), _numpy, _stacked, spins=True),
        Contender("tensorly-torch", partial(_on_torch, _one(function, case)), shown=_stacked),
    ]


def _on_torch(run: Callable[[Any], Any], x: Tensor) -> Any:
    with import_module("tensorly").backend_context("pytorch", local_threadsafe=True):
        return run(x)


def _one_truth(case: Case, inputs: Arrays) -> Tensor:
    function = getattr(import_module("tensorly.decomposition"), case.work.split()[1])
    core, factors = _stacked(_one(function, case)(inputs[0].double().numpy()))
    return _left_over(inputs[0], core, factors, _one_modes(case))


def _one_errors(case: Case, shown: Any, truth: Tensor, inputs: Arrays, ours: bool) -> Errors:
    core, factors = shown
    left = _left_over(inputs[0], core, factors, _one_modes(case))
    return _finite(fit=(left - truth).clamp(min=0).amax())


# ---- steps ----


def _our_gram(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    return Contender(OURS, lambda x: choice.resolve(backend, x).mode_gram(x.flatten(2), _gram_mode(case)))


def _gram_mode(case: Case) -> int:
    """The positions where these are fewer, else the channels."""
    return int(case.sides[0] >= prod(case.sides[1:]))


def _gram_peers(case: Case) -> list[Contender]:
    def gram(x: Any) -> Any:
        f = x.reshape(*x.shape[:2], -1)
        return f.mT @ f if _gram_mode(case) else f @ f.mT

    return [
        Contender("torch", lambda x: gram(at_least_float32(x))),
        Contender("numpy", gram, _numpy, spins=True),
    ]


def _gram_truth(case: Case, inputs: Arrays) -> Tensor:
    return _gram_peers(case)[0].run(inputs[0].double())


def _step_errors(case: Case, shown: Any, truth: Tensor, inputs: Arrays, ours: bool) -> Errors:
    return {"largest": worst(shown, truth)}


def _core_inputs(case: Case) -> tuple[Arrays, str]:
    x, origin = filled(case)
    factors = tsm_fast.hosvd(x, case.rank).factors
    return (x, *factors), origin


def _our_core(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    if case.work == "multi_mode_dot":
        return Contender(OURS, lambda x, *a: tsm_fast.multi_mode_dot(x, a, transpose=True, backend=backend))
    modes = tuple(range(len(case.sides)))
    return Contender(OURS, lambda x, *a: choice.resolve(backend, x).core_contraction(x, a, modes))


def _core_peers(case: Case) -> list[Contender]:
    letters = "".join(chr(ord("c") + n) for n in range(len(case.sides)))
    made = letters.upper()
    terms = ",".join([f"b{letters}", *(f"b{low}{high}" for low, high in zip(letters, made, strict=True))])

    def by_tensorly(x: np.ndarray, *factors: np.ndarray) -> np.ndarray:
        dot = import_module("tensorly.tenalg.core_tenalg").multi_mode_dot
        return np.stack([dot(item, [a[i] for a in factors], transpose=True) for i, item in enumerate(x)])

    return [
        Contender("torch", lambda x, *a: _channels_first(at_least_float32(x), *map(at_least_float32, a))),
        Contender("torch-einsum", lambda x, *a: torch.einsum(f"{terms}->b{made}", x, *a)),
        Contender("tensorly", by_tensorly, _numpy, each=True, spins=True),
    ]


def _channels_first(x: Tensor, *factors: Tensor) -> Tensor:
    """One batched product over the whole input, then small ones."""
    y = (factors[0].mT @ x.flatten(2)).unflatten(2, x.shape[2:])
    for mode, a in enumerate(factors[1:], 1):
        y = peers.mode_product(y, a, mode)
    return y


def _core_truth(case: Case, inputs: Arrays) -> Tensor:
    return peers.contracted(inputs[0].double(), [a.double() for a in inputs[1:]])


def _finish_inputs(case: Case) -> tuple[Arrays, str]:
    x, origin = filled(case)
    return (tsm_fast.tsm(x, normalize=False),), origin


def _our_finish(case: Case, backend: str | None, options: dict[str, Any]) -> Contender:
    return Contender(
        OURS, lambda maps: choice.resolve(backend, maps).finish(maps, (FINISHED, FINISHED), normalize=True)
    )


def _finish_peers(case: Case) -> list[Contender]:
    def plain(maps: Tensor) -> Tensor:
        large = torch.nn.functional.interpolate(
            maps[:, None], (FINISHED, FINISHED), mode="bilinear", align_corners=False
        )
        return peers.normalized(large[:, 0])

    return [Contender("torch", plain)]


def _finish_truth(case: Case, inputs: Arrays) -> Tensor:
    return reference.finish(inputs[0].double(), (FINISHED, FINISHED), normalize=True)


def _is_there(peer: str) -> bool:
    from importlib.util import find_spec

    return find_spec(PEERS[peer].module) is not None


_STEP = {"truth": _gram_truth, "errors": _step_errors, "allowed": lambda case: {"largest": 1e-5}}
_CORE = Work("", _our_core, _core_peers, _core_truth, _step_errors, lambda case: {"largest": 1e-5}, inputs=_core_inputs)
_PAIRS = {"truth": _pairs_truth, "errors": _pairs_errors, "allowed": _pairs_allowed}
_TUCKER = {"truth": _tucker_truth, "errors": _tucker_errors, "allowed": _tucker_allowed}
_ONE = {
    "truth": _one_truth,
    "errors": _one_errors,
    "allowed": lambda case: {"fit": 1e-7 if case.dtype == "float64" else 1e-5},
}
_MAP = {"truth": _map_truth, "errors": _map_errors, "allowed": _map_allowed}

WORKS: dict[str, Work] = {
    **{name: Work(f"the map {name}", _our_map, _map_peers, **_MAP, precise=name in MAPS[:4]) for name in MAPS},
    "tucker": Work("HOOI", _our_tucker, _tucker_peers, **_TUCKER, precise=True),
    "hosvd": Work("the HOSVD", _our_tucker, _tucker_peers, **_TUCKER),
    "truncated_svd": Work(
        "singular triplets of matrices",
        _our_svd,
        _svd_peers,
        _svd_truth,
        _svd_errors,
        _svd_allowed,
    ),
    "eigh": Work("all eigenpairs of symmetric matrices", _our_eigh, _eigh_peers, **_PAIRS),
    "eigenpairs": Work("the first eigenpairs, a step", _our_eigenpairs, _eigh_peers, **_PAIRS),
    "mode_gram": Work("the Gram matrix, a step", _our_gram, _gram_peers, **_STEP),
    "core_contraction": _CORE._replace(what="the core of a decomposition, a step"),
    "multi_mode_dot": _CORE._replace(what="the same as a public call"),
    "finish": Work(
        f"a map resized to {FINISHED} x {FINISHED} and normalised, a step",
        _our_finish,
        _finish_peers,
        _finish_truth,
        _step_errors,
        lambda case: {"largest": 1e-6},
        inputs=_finish_inputs,
    ),
    "tensorly tucker": Work(
        "one tensor through TensorLy's signature", _our_one, _one_peers, **_ONE, needs=("tensorly",)
    ),
    "tensorly partial_tucker": Work("the same of some modes", _our_one, _one_peers, **_ONE, needs=("tensorly",)),
    "compiled tsm": Work("tsm within torch.compile", _our_compiled, _compiled_peers, **_MAP),
    "first call": Work(
        "imports and the first tsm of a process",
        _our_first,
        _first_peers,
        lambda case, inputs: None,
        _first_errors,
        lambda case: {"map": 2e-5},
    ),
    "eigencam call": Work(
        "EigenCAM of photos, the network included",
        _our_call,
        _call_peers,
        _call_truth,
        _call_errors,
        lambda case: {"map": 1e-3},
        inputs=_call_inputs,
        needs=LITE0,
    ),
}


def contenders(case: Case, backends: Sequence[str | None], wanted: set[str], absent: Sequence[str]) -> list[Contender]:
    """Ours first, once for each backend, then the peers that are wanted and there."""
    work = WORKS[case.work]
    found = []
    for backend in backends:
        one = work.ours(case, backend, {})
        found.append(one._replace(name=f"{OURS} ({backend})") if backend is not None else one)
    others = [peer for peer in work.others(case) if _plain(peer.name) in wanted or not peer.judged]
    return found + [peer for peer in others if _plain(peer.name) not in absent]


def _plain(name: str) -> str:
    """The peer that a contender belongs to: torch-einsum is plain PyTorch too."""
    return "torch" if name == "torch-einsum" else name


def precise(case: Case) -> Contender | None:
    """Ours with `precision="float64"`, where something is promised for that."""
    work = WORKS[case.work]
    if not work.precise or case.dtype != "float32":
        return None
    return work.ours(case, None, {"precision": "float64"})
