"""Whole calls: the first of a process, a compiled one, a network's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import saliency
from ...extractor import SaliencyExtractor
from ...models import lite0
from ...steps import reference
from .. import peers
from ..cases import FINISHED, Case
from ..shapes import LITE0, crops
from .contender import (
    OURS,
    Arrays,
    Contender,
    Errors,
    Work,
    worst,
)
from .maps import MAP, gradcam


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
    return Contender(OURS, _Compiled(lambda x: 2 * saliency.tsm(x + 0, backend=backend) / 2))


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
    extract = SaliencyExtractor(model, "features", "eigencam", size="input", backend=backend)
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


WORKS = {
    "compiled tsm": Work("tsm within torch.compile", _our_compiled, _compiled_peers, **MAP),
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
