"""Compiles every Triton kernel ahead of time, as all kinds of calls would launch it, for every GPU it is offered for.

`python -m benchmarks.triton_compiles` does that with the Triton that is installed, or with the one on PYTHONPATH, in as
many processes as there are CPUs; it prints what does not compile, and exits with 1 then. Versions and GPUs that do not
go together (see `choice.oldest_triton`) are left out. `--sample` takes a few launches, of the kind that has failed.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib import import_module
from multiprocessing import get_context
from typing import Any

import torch
import triton
from torch import Tensor

from benchmarks.kernel_resources import Launch, compiled_binary, recorded
from tsm_fast.steps.choice import oldest_triton

ARCHITECTURES = (75, 80, 90, 100, 120)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# By position and by channel, problems on chip and above, tiles of every size, more than one tile a side.
SHAPES = ((2048, 7, 7), (20, 4, 8), (40, 3, 4), (12, 5, 6), (1024, 14, 14), (70, 9, 10), (512, 28, 28))
SAMPLE = ((40, 7, 7), (12, 5, 6))


def calls(x: Tensor) -> Iterator[Callable[[], Any]]:
    """Every kind of call on features [B, C, H, W]; those that ask the device for what is left find nothing."""
    backend = import_module("tsm_fast.kernels")
    for center, sign, precision in itertools.product((False, True), ("u", "v", "sum"), ("auto", "float64")):
        options = {"center": center, "sign": sign, "precision": precision}
        yield lambda o=options: backend.saliency(x, "eigencam", None, combine="signed", **o)
    for center, (combine, sign) in itertools.product(
        (False, True), (("absolute", "u"), ("signed", "u"), ("signed", "v"))
    ):
        options = {"center": center, "combine": combine, "sign": sign}
        yield lambda o=options: backend.saliency(x, "multivec_eigencam", None, **o)
    rank = tuple(min(r, n) for r, n in zip((16, 4, 4), x.shape[1:], strict=True))
    if x.shape[2] * x.shape[3] <= 64:  # all sweeps on chip
        yield lambda: backend.saliency(x, "mtsm", rank, center=False, combine="signed", sign="u")
    for mode, center, precision in itertools.product(range(3), (False, True), ("float32", "float64")):
        yield lambda m=mode, c=center, p=precision: backend.mode_gram(x, m, center=c, precision=p)
    factors = [x.new_empty(len(x), n, r, dtype=torch.float64) for n, r in zip(x.shape[1:], rank, strict=True)]
    for precision in ("float32", "float64"):
        yield lambda p=precision: backend.core_contraction(x, factors, (0, 1, 2), precision=p)
    orthonormalize = import_module("tsm_fast.kernels.orthonormalize").orthonormalize
    yield lambda: orthonormalize(x.flatten(2)[..., : rank[0]].double())
    maps = x[:, 0].to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    for size, normalize in itertools.product((None, (224, 224)), (False, True)):
        yield lambda s=size, n=normalize: backend.finish(maps, s, normalize=n)


@cache
def launches(sample: bool) -> list[Launch]:
    """One of each kernel, set of meta-parameters, and kinds of arguments; a sample has 16-bit features in float64."""
    found: dict[Any, Launch] = {}
    for shape, dtype in itertools.product(*((SAMPLE, (torch.bfloat16,)) if sample else (SHAPES, DTYPES))):
        x = torch.empty(128, *shape, dtype=dtype, device="meta")
        for call in calls(x):
            with recorded() as made:
                call()
            for launch in made:
                there = [name for name, value in launch.arguments.items() if value is not None]
                found.setdefault((launch.key(), *there), launch)
    if not sample:
        return list(found.values())
    wide = [launch for launch in found.values() if launch.meta().get("WIDE", True)]
    narrow = [launch for launch in wide if any(tensor.dtype == torch.bfloat16 for tensor in launch.tensors())]
    return list({(launch.name, launch.meta().get("CENTER_TILE")): launch for launch in narrow}.values())


def failure(index: int, architecture: int, sample: bool) -> str | None:
    """What a launch says that does not compile."""
    launch = launches(sample)[index]
    try:
        compiled_binary(launch, architecture)
    except Exception as error:  # of any pass of the compiler
        dtypes = ", ".join(str(t.dtype).removeprefix("torch.") for t in launch.tensors())
        text = str(error).split("\n")[0][:200]
        return f"sm_{architecture} {launch.name} ({dtypes}) {launch.meta()}: {type(error).__name__}: {text}"
    return None


def failures(architectures: tuple[int, ...], sample: bool) -> Iterator[str]:
    """Of every launch and architecture."""
    pairs = list(itertools.product(range(len(launches(sample))), architectures))
    indices, each = zip(*pairs, strict=True)
    # Forked, with the launches that were collected.
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(pairs)), get_context("fork")) as pool:
        for found in pool.map(failure, indices, each, [sample] * len(pairs), chunksize=1 if sample else 8):
            if found:
                yield found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", action="store_true", help="a few launches for sm_90")
    sample = parser.parse_args().sample
    version = tuple(map(int, triton.__version__.split(".")[:2]))
    offered = tuple(a for a in ARCHITECTURES if version >= oldest_triton(divmod(a, 10)))
    if sample:
        offered = (90,)
    count = 0
    for text in failures(offered, sample):
        print(text, flush=True)
        count += 1
    names = " ".join(f"sm_{a}" for a in offered)
    print(f"Triton {triton.__version__}: {len(launches(sample))} launches for {names}, {count} do not compile")
    return min(count, 1)


if __name__ == "__main__":
    raise SystemExit(main())
