"""What the CUDA kernels take on a GPU, found without one.

`python -m benchmarks.cuda_resources` compiles csrc/cuda for every architecture with nvcc (from the Python environment,
or else the one on PATH), reads registers, stack and spills from ptxas and matrix instructions from the machine code,
and replaces the rows of the backend "cuda" in benchmarks/results/kernel_resources.json. `shape` is the work whose
launch has the `shared` bytes; null where no such launch was looked at.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from .cuda_build import ROOT, SOURCES, compile_kernels, nvcc
from .emulation import emulated

RESULTS = ROOT / "benchmarks" / "results" / "kernel_resources.json"
ARCHITECTURES = (80, 90, 120)

# Kernels that multiply on the float64 matrix units.
MATRIX = (
    "gram_kernel",
    "gram_columns_kernel",
    "gram16",
    "gram_tile_kernel",
    "contraction_kernel",
    "extremes",
    "project_absolute_kernel",
    "hooi",
    "back",
)

_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers.*?(?:, (\d+) bytes cumulative stack size)?(?:, (\d+) bytes smem)?(?:,|$)")
_SASS = re.compile(r"^\s*Function : (\w+)|\b(DMMA|HMMA|IMMA)\b", re.MULTILINE)


def disassembler() -> Path:
    """cuobjdump, which Triton's package carries."""
    import triton.backends.nvidia as nvidia

    return Path(str(nvidia.__file__)).parent / "bin" / "cuobjdump"


def compiled(source: Path, architecture: int, folder: Path) -> list[dict[str, Any]]:
    """One row for each kernel of a source file."""
    binary = folder / f"{source.stem}.{architecture}.o"
    report = compile_kernels(source, f"{architecture}", binary)
    opcodes = _matrix_opcodes(binary)
    return [
        {
            "backend": "cuda",
            "kernel": name,
            "meta": {},
            "arch": f"sm_{architecture}",
            **usage,
            "matrix_opcodes": sorted(opcodes.get(mangled, ())),
        }
        for mangled, name, usage in _usage(report)
    ]


def _usage(report: str) -> list[tuple[str, str, dict[str, int]]]:
    """Mangled name, name, and resources of every kernel in a report of ptxas."""
    found = []
    for part in report.split("Compiling entry function")[1:]:
        entry = _ENTRY.search("Compiling entry function" + part)
        used = _USED.search(part)
        assert entry, part
        assert used, part
        frames = [tuple(map(int, frame)) for frame in _STACK.findall(part)]
        stack = max([frame[0] for frame in frames] + [int(used[2] or 0)])
        spills = sum(frame[1] + frame[2] for frame in frames)
        found.append((entry[1], {"registers": int(used[1]), "spills": spills, "stack": stack}))
    names = _demangled([mangled for mangled, _ in found])
    return [(mangled, name, usage) for (mangled, usage), name in zip(found, names, strict=True)]


def _demangled(names: Sequence[str]) -> list[str]:
    text = subprocess.run(["c++filt", "-p", *names], check=True, capture_output=True, text=True).stdout
    return [re.sub(r"\(\w+\)(?=\d)|.*::(?=\w+_kernel)", "", line) for line in text.splitlines()]


def _matrix_opcodes(binary: Path) -> dict[str, set[str]]:
    listing = subprocess.run([str(disassembler()), "-sass", str(binary)], check=True, capture_output=True, text=True)
    opcodes: dict[str, set[str]] = {}
    current = ""
    for match in _SASS.finditer(listing.stdout):
        if match[1]:
            current = match[1]
        else:
            opcodes.setdefault(current, set()).add(match[2])
    return opcodes


def launches(backend: Any) -> dict[str, tuple[str, int]]:
    """For each kernel the shape and the shared memory of its largest launch among the benchmarks', taken from
    the emulation, which runs the same launching code.
    """
    compiled = backend._cuda
    compiled.launches()
    options: dict[str, Any] = {"center": True, "sign": "u", "precision": "auto"}
    found: dict[str, tuple[str, int]] = {}

    def keep(label: str) -> None:
        for name, _, shared in compiled.launches():
            if shared >= found.get(name, ("", -1))[1]:
                found[name] = (label, shared)

    for c, h, w in ((64, 7, 7), (64, 8, 8), (32, 5, 5), (200, 14, 14), (70, 10, 10)):
        for dtype in (torch.float32, torch.float64, torch.float16):
            x = torch.rand(1, c, h, w).to(dtype)
            for features, layout in ((x.contiguous(memory_format=torch.channels_last), ", channels_last"), (x, "")):
                backend.saliency(features, "eigencam", None, combine="signed", **options)
                keep(f"eigencam, {h}x{w} {str(dtype).removeprefix('torch.')}{layout}")
                if dtype == torch.float16:
                    backend.saliency(features, "tsm", None, combine="signed", **options)
                    keep(f"tsm, {h}x{w} float16{layout}")
            if dtype == torch.float32:
                backend.saliency(x, "mtsm", None, combine="signed", **options)
                keep(f"mtsm, {h}x{w}")
    x = torch.rand(1, 64, 7, 7)
    backend.saliency(x, "mtsm", (16, 4, 4), combine="signed", **options)
    keep("hooi (16, 4, 4), 7x7")
    backend.core_contraction(x, [torch.rand(1, 64, 16)], [0])
    keep("core_contraction, 64 to 16")
    backend.saliency(torch.rand(1, 9, 13, 7), "mtsm", None, combine="absolute", **options)
    keep("mtsm absolute, 9x13x7")
    for dtype in (torch.float32, torch.float64):
        backend.finish(torch.rand(1, 7, 7, dtype=dtype), (224, 224), normalize=True)
        keep("finish, 7x7 to 224x224")
    for wide in ("float32", "float64"):
        for n in (49, 100, 150):
            backend.truncated_svd(torch.eye(n)[None], n, precision=wide)
            keep(f"{n}x{n}")
    return found


def rows(
    backend: Any, folder: Path, architectures: Sequence[int] = ARCHITECTURES, workers: int = 2
) -> list[dict[str, Any]]:
    """A row for each kernel and architecture; the objects stay in `folder`, named <source>.<architecture>.o."""
    shared = launches(backend)
    with ThreadPoolExecutor(workers) as pool:
        # The files that take longest come first.
        jobs = [(s, a) for s in sorted(SOURCES, key=lambda s: -s.stat().st_size) for a in architectures]
        parts = pool.map(lambda job: compiled(job[0], job[1], folder), jobs)
        found = [row for part in parts for row in part]
    for row in found:
        label, size = shared.get(row["kernel"], (None, None))
        row |= {"shape": label, "shared": size}
    return sorted(found, key=lambda row: (row["kernel"], int(row["arch"][3:])))


def write() -> None:
    table: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    table["nvcc"] = (
        subprocess.run([str(nvcc()), "--version"], check=True, capture_output=True, text=True)
        .stdout.split("release ")[1]
        .split(",")[0]
    )
    with tempfile.TemporaryDirectory() as folder:
        own = rows(emulated(), Path(folder))
    table["rows"] = [row for row in table["rows"] if row["backend"] != "cuda"] + own
    RESULTS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    write()
