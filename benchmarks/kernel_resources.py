"""What the Triton kernels take on a GPU, found without one, and what that predicts.

`python -m benchmarks.kernel_resources` runs the backend on tensors without memory (device "meta"), keeps every launch
that it would make with its real meta-parameters, compiles them ahead of time, and writes

- benchmarks/results/kernel_resources.json: registers, spills, stack, shared memory and matrix opcodes of every kernel;
- the tables of benchmarks/results/gpu_predictions.md: traffic and arithmetic beside the limits of an H200, and the time
  these predict.

Kernels named on the command line are written alone. Rows of other backends stay as they are: they come from their own
builds.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import compiler as nvidia
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "kernel_resources.json"
TOOLS = Path(nvidia.__file__).parent / "bin"
ARCHITECTURES = (80, 90, 100, 120)
SHAPES = ((2048, 7, 7), (1280, 7, 7), (1024, 14, 14), (512, 28, 28))
BATCH = 128
RANK = (16, 4, 4)

MATRIX = re.compile(r"\b((?:UTC)?[A-Z]*MMA)\b")
LOCAL = re.compile(r"\b(LDL|STL)\b")


class Launch(NamedTuple):
    """A kernel with the arguments of one launch."""

    kernel: JITFunction
    arguments: dict[str, Any]  # by parameter, meta-parameters among them
    options: dict[str, int]  # num_warps, num_stages
    grid: int

    @property
    def name(self) -> str:
        return self.kernel.__name__

    def key(self) -> tuple[Any, ...]:
        """Kernel, meta-parameters and dtypes; one stands for all that differ by what divides strides and sizes."""
        return self.name, *self.meta().items(), *(tensor.dtype for tensor in self.tensors())

    def tensors(self) -> list[torch.Tensor]:
        return [value for value in self.arguments.values() if isinstance(value, torch.Tensor)]

    def meta(self) -> dict[str, Any]:
        return {name: value for name, value in self.arguments.items() if name.isupper()} | self.options


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Launches made inside are kept, and not made; questions to the device are answered with "no item"."""
    launches: list[Launch] = []

    def keep(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in ("num_warps", "num_stages") if name in kwargs}
        arguments = {**dict(zip(self.arg_names, args, strict=False)), **kwargs}
        launches.append(Launch(self, arguments, options, grid[0]))

    with (
        patch.object(JITFunction, "run", keep),
        patch.object(torch.Tensor, "nonzero", lambda self: self.new_empty(0, self.ndim, dtype=torch.int64)),
    ):
        yield launches


def work() -> dict[str, Callable[[Any, torch.Tensor], Any]]:
    """The calls whose kernels are looked at, on features [B, C, H, W]."""
    options: dict[str, Any] = {"combine": "signed", "sign": "u"}
    return {
        "tsm": lambda triton_, x: triton_.saliency(x, "tsm", None, center=False, **options),
        "eigencam": lambda triton_, x: triton_.saliency(x, "eigencam", None, center=True, **options),
        "mtsm": lambda triton_, x: triton_.saliency(x, "mtsm", None, center=False, **options),
        "mtsm, absolute": lambda triton_, x: triton_.saliency(
            x, "mtsm", None, center=False, combine="absolute", sign="u"
        ),
        f"A_1 of tucker, rank {RANK[0]}": lambda _, x: importlib.import_module(
            "tsm_fast.kernels.orthonormalize"
        ).orthonormalize(x.flatten(2)[..., : RANK[0]].double()),
        "finish, 224x224": lambda triton_, x: triton_.finish(x[:, 0].float(), (224, 224), normalize=True),
        f"mtsm, rank {RANK}": lambda triton_, x: triton_.saliency(x, "mtsm", RANK, center=False, **options),
    }


def calls(shape: Sequence[int]) -> list[str]:
    """Those for maps of this shape; sweeps by steps ask the device, which is not there."""
    return [name for name in work() if "mtsm, rank" not in name or shape[1] * shape[2] <= 64]


def launches_of(name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> list[Launch]:
    """The launches of one call for `BATCH` items."""
    backend = importlib.import_module("tsm_fast.kernels")
    x = torch.empty(BATCH, *shape, dtype=dtype, device="meta")
    with recorded() as launches:
        work()[name](backend, x)
    return launches


def _specialized(launch: Launch) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], list[list[Any]]]]:
    """Types, constants and divisibility of the parameters, as a launch on a GPU would find them."""
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(launch.kernel.params):
        value = launch.arguments.get(parameter.name)
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
            continue
        signature[parameter.name] = mangle_type(value)
        if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(i,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


def compiled_binary(launch: Launch, architecture: int) -> Any:
    """What Triton makes of a kernel for an architecture, as for a launch there."""
    signature, constants, attributes = _specialized(launch)
    names = launch.kernel.arg_names
    source = ASTSource(
        fn=launch.kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs=attributes,
    )
    target = GPUTarget("cuda", architecture, 32)
    return triton.compile(source, target=target, options=launch.options)


def compiled(launch: Launch, architecture: int) -> dict[str, Any]:
    """One row: what the kernel takes when it is compiled for an architecture."""
    binary = compiled_binary(launch, architecture)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    return {
        "backend": "triton",
        "kernel": launch.name,
        "meta": launch.meta(),
        "arch": f"sm_{architecture}",
        "registers": int(found[1]),
        "spills": len(LOCAL.findall(code)),
        "stack": int(found[2]),
        "shared": binary.metadata.shared,
        "matrix_opcodes": sorted(set(MATRIX.findall(code))),
    }


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([str(TOOLS / name), *arguments], check=True, capture_output=True, text=True).stdout


def distinct() -> list[tuple[str, Launch]]:
    """Every kernel and set of meta-parameters that the calls above launch, once, with the call that first needed it."""
    seen: dict[tuple[Any, ...], tuple[str, Launch]] = {}
    for shape in SHAPES:
        for name in calls(shape):
            for dtype in (torch.float32, torch.bfloat16) if (name, shape) == ("tsm", SHAPES[0]) else (torch.float32,):
                label = "x".join(map(str, shape)) + ("" if dtype == torch.float32 else " bfloat16")
                for launch in launches_of(name, shape, dtype):
                    again = "" if launch.arguments.get("only") is None else ", second pass"
                    seen.setdefault(launch.key(), (f"{name}, {label}{again}", launch))
    return list(seen.values())


def rows(kernels: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A row for every kernel, or the named ones, and architecture."""
    return [
        {"shape": label, **compiled(launch, architecture)}
        for label, launch in distinct()
        for architecture in ARCHITECTURES
        if not kernels or launch.name in kernels
    ]


def write(kernels: Sequence[str] = ()) -> None:
    """Replace the rows of this backend, or of the named kernels, in the file."""
    own = rows(kernels)
    table: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    table["triton"] = triton.__version__
    others = [row for row in table["rows"] if row["backend"] != "triton" or (kernels and row["kernel"] not in kernels)]
    table["rows"] = own + others
    RESULTS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    write(sys.argv[1:])
