"""Builds the CUDA backend with nothing but nvcc, g++ and a Python that has torch: for machines without network.

`python -m benchmarks.cuda_build` puts tsm_fast/_cuda*.so in place, for the GPU of this machine (or for the compute
capability given as argument, `90`). pybind11's headers come from its package or else from torch, which carries them.
Everywhere else CMake builds it: `make build CUDA=ON`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "csrc" / "cuda").rglob("*.cu"))
BINDINGS = ROOT / "csrc" / "bindings" / "cuda.cpp"


def nvcc() -> Path | None:
    """The compiler: that of the Python environment, or else the one on PATH."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvcc") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    own = [Path(str(f.locate())) for f in files if f.name == "nvcc" and f.parent.name == "bin"]
    found = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    return own[0] if own else Path(found) if found else None


def run(*command: str | Path) -> str:
    """The messages of a command; RuntimeError with them where it fails."""
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stderr


def compile_kernels(source: Path, architecture: str, out: Path) -> str:
    """An object file with the machine code of one architecture ("90"); returns what ptxas says about the kernels."""
    compiler = nvcc()
    if compiler is None:
        raise RuntimeError("nvcc is needed to compile the CUDA kernels: it is in the extra `dev`, or install CUDA")
    target = f"arch=compute_{architecture},code=sm_{architecture}"
    options = ("-O3", "-std=c++17", "-c", "-gencode", target, "-I", ROOT / "csrc", "-Xcompiler", "-fPIC")
    return run(compiler, *options, "-Xptxas", "-v", "-o", out, source)


def link(objects: list[Path], out: Path) -> None:
    """The module from the objects of the kernels: bindings compiled, the CUDA runtime linked in statically."""
    compiler = nvcc()
    assert compiler is not None
    bindings = out.with_suffix(".bindings.o")
    includes = [f"-I{path}" for path in (ROOT / "csrc", sysconfig.get_paths()["include"], pybind11_headers())]
    run("g++", "-O2", "-std=c++17", "-fPIC", "-fvisibility=hidden", *includes, "-c", "-o", bindings, BINDINGS)
    libraries = [f"-L{path}" for path in compiler.resolve().parents[1].glob("lib*")]
    run(compiler, "-shared", "-cudart", "static", *libraries, "-o", out, bindings, *objects)
    bindings.unlink()


def pybind11_headers() -> Path:
    for package in ("pybind11", "torch"):
        spec = importlib.util.find_spec(package)
        folder = Path(str(spec.origin)).parent / "include" if spec else None
        if folder and (folder / "pybind11").is_dir():
            return folder
    raise RuntimeError("pybind11's headers are needed: pip install pybind11")


def build(architecture: str) -> Path:
    """tsm_fast/_cuda*.so, replaced at once when it is whole."""
    target = ROOT / "tsm_fast" / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    with tempfile.TemporaryDirectory(dir=ROOT) as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [Path(folder) / f"{source.stem}.o" for source in SOURCES]
        list(pool.map(lambda pair: compile_kernels(pair[0], architecture, pair[1]), zip(SOURCES, objects, strict=True)))
        link(objects, Path(folder) / target.name)
        os.replace(Path(folder) / target.name, target)
    return target


def use_in_place() -> None:
    """Makes `tsm_fast.kernels` importable where the package is not installed: its folder lies beside tsm_fast."""
    if importlib.util.find_spec("tsm_fast.kernels") is None:
        import tsm_fast

        tsm_fast.__path__.append(str(ROOT))


def main() -> None:
    if len(sys.argv) > 1:
        architecture = sys.argv[1]
    else:
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("no GPU here: say for which compute capability to build, such as 90")
        architecture = "".join(map(str, torch.cuda.get_device_capability()))
    print(build(architecture))


if __name__ == "__main__":
    main()
