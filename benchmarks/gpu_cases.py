"""What `make gpu-bench` measures, case by case: the work, its inputs, how it is checked and timed, and its peers.

Every result is compared with the float64 reference before it is timed, with all new memory filled with NaN. A timing is
the median of several runs of enough calls, by device events, after warming up; calls take turns among input sets that
together are larger than the L2 cache by far. `bytes` and `flop` are what the work needs at least: each input read once,
the Gram matrix with its symmetry used.
"""

from __future__ import annotations

import hashlib
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from math import prod
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

import tsm_fast
from benchmarks.cuda_build import ROOT, use_in_place
from benchmarks.gpu_rows import Case, Row
from tsm_fast.bench import peers, shapes
from tsm_fast.steps import choice, cusolver, reference

BACKENDS = ("cuda", "triton")
SHAPES = {  # C, H, W, batch
    "2048x7x7": (2048, 7, 7, 4096),
    "1280x7x7": (1280, 7, 7, 4096),
    "768x7x7": (768, 7, 7, 8192),
    "1024x14x14": (1024, 14, 14, 1024),
    "512x14x14": (512, 14, 14, 1024),
    "512x28x28": (512, 28, 28, 256),
    "256x56x56": (256, 56, 56, 128),
}
MATRICES = {49: 65536, 64: 32768, 100: 8192, 128: 4096, 196: 2048, 256: 1024, 512: 512}  # side, batch
ALL_PAIRS = 256  # the largest side for which all pairs are asked of maps
SMALL_BATCHES = (1, 8, 64)
SIDE = 224  # of finished maps
RANK = (16, 4, 4)
HOOI = f"hooi {RANK}"
FINISHED = "tsm, 224x224"  # the public call, with its checks
MAPS = {"tsm": (False, "u", 2e-5), "eigencam": (True, "absmax", 2e-5), "mtsm": (False, "u", 1e-4)}
PEER_BATCH = {"torch svd": 32, "grad-cam": 4, "TensorLy": 2}  # image by image, or nearly
OTHER_PEERS = 128
CHECKED = 8  # items that are compared with the reference

DEVICE = "cuda"

Call = Callable[[Tensor], Any]


def cases() -> Iterator[Case]:
    """All of them, what matters most first, so that a run that is cut short has it."""
    yield Case("copy", "2 GB", "torch", 1)
    yield Case("float64 product", "6144x6144", "torch", 1, "float64")
    for shape, (c, h, w, batch) in SHAPES.items():
        for work in ("mode_gram", *_maps(c, h * w), *((HOOI,) if h * w <= 64 else ())):
            for backend in BACKENDS:
                yield Case(work, shape, backend, batch)
    for backend in (*BACKENDS, "torch"):
        for side in (7, 14):
            yield Case("finish", f"{side}x{side}", backend, 4096)
    for n, batch in MATRICES.items():
        for backend in (*BACKENDS, "cuSOLVER"):
            yield Case("svd auto", f"{n}x{n}", backend, batch, "float64")
            yield Case("svd float32", f"{n}x{n}", backend, batch)
        yield Case("svd float32", f"{n}x{n}", "torch eigh", OTHER_PEERS)
    for shape in ("2048x7x7", "1024x14x14"):
        batch = SHAPES[shape][3]
        for backend in BACKENDS:
            for work in ("tsm", "mtsm"):
                for dtype in ("float16", "bfloat16"):
                    yield Case(work, shape, backend, batch, dtype)
                yield Case(work, shape, backend, batch, "float32", "channels_last")
            yield Case(FINISHED, shape, backend, batch)
            for few in SMALL_BATCHES:
                yield Case("tsm", shape, backend, few)
                yield Case(FINISHED, shape, backend, few)
        yield Case(FINISHED, shape, "torch eigh", OTHER_PEERS)
    for shape, (c, h, w, batch) in SHAPES.items():
        for work in _maps(c, h * w):
            for peer in MAP_PEERS[work]:
                yield Case(work, shape, peer, min(batch, PEER_BATCH.get(peer, OTHER_PEERS)))
        if h * w <= 64:
            yield Case(HOOI, shape, "TensorLy", PEER_BATCH["TensorLy"])
        yield Case("mode_gram", shape, "torch", batch)


def _maps(c: int, s: int) -> list[str]:
    return [work for work in MAPS if work != "mtsm" or min(c, s) <= ALL_PAIRS]


def quick(case: Case) -> Case:
    return case._replace(batch=max(1, case.batch // 8))


# ---- what is called ----


def library_eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    if cusolver.library(gram.device) is None:
        raise RuntimeError("no XsyevBatched here")
    return cusolver.eigh(gram)


MAP_PEERS: dict[str, dict[str, Call]] = {
    work: {
        "torch eigh": peers.PYTORCH[work],
        "cuSOLVER": partial(peers.PYTORCH[work], eigh=library_eigh),
        **({"torch power": partial(peers.PYTORCH[work], eigh=peers.leading_by_power)} if work != "mtsm" else {}),
        **({"torch svd": partial(peers.svd_maps, work)} if work == "tsm" else {}),
        **({"grad-cam": peers.gradcam_eigencam_on_device} if work == "eigencam" else {}),
    }
    for work in MAPS
}


def maps_of(module: Any, work: str) -> Call:
    center, sign, _ = MAPS[work]
    return lambda x: module.saliency(x, work, None, center=center, combine="signed", sign=sign)[0]


def hooi_of(module: Any) -> Call:
    return lambda x: module.hooi(x, RANK, n_iter_max=100, tol=1e-4, sign="u").singular_values[0]


def tensorly_values(x: Tensor) -> Tensor:
    """The mode-1 singular values [B, R]."""
    cores = torch.stack([core for core, _ in peers.tensorly_tucker(x, RANK)])
    return torch.linalg.vector_norm(cores.flatten(2), dim=2)


def finish_of(module: Any) -> Call:
    return lambda maps: module.finish(maps, (SIDE, SIDE), normalize=True)


def gram_of(module: Any) -> Call:
    """That of the positions, as the maps of these shapes need it, or of the channels where these are fewer."""
    return lambda x: module.mode_gram(x.flatten(2), int(x.shape[1] >= x.shape[2] * x.shape[3]))


def torch_gram(x: Tensor) -> Tensor:
    f = x.flatten(2)
    return f.mT @ f if f.shape[1] >= f.shape[2] else f @ f.mT


def values_of(module: Any, precision: str) -> Call:
    """The singular values; the vectors are made too."""
    return lambda gram: module.truncated_svd(gram, gram.shape[1], precision=precision)[0]


def roots_of(eigh: peers.Eigh) -> Call:
    """Singular values in descending order, from eigenpairs in ascending order."""
    return lambda gram: eigh(gram)[0].flip(-1).clamp(min=0).sqrt()


def finished(x: Tensor) -> Tensor:
    return reference.finish(peers.tsm(x), (SIDE, SIDE), normalize=True)


# ---- what it is called on ----


def features(shape: tuple[int, int, int], batch: int, seed: int = 0) -> Tensor:  # [batch, C, H, W]
    return shapes.made_up(shape, batch, seed, DEVICE)


def made(case: Case, batch: int, seed: int) -> Tensor:
    """A batch of what the case's work takes."""
    sides = [int(side) for side in case.shape.split("x")]
    dtype = getattr(torch, case.dtype)
    if case.work.startswith("svd"):
        f = features((sides[0] + 15, sides[0], 1), batch, seed).flatten(2).double()
        return (f.mT @ f).to(dtype)
    if case.work == "finish":
        return torch.rand(batch, *sides, generator=torch.Generator(DEVICE).manual_seed(seed), device=DEVICE)
    x = features((sides[0], sides[1], sides[2]), batch, seed).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if case.layout == "channels_last" else x


def input_sets(case: Case, l2: int) -> list[Tensor]:
    """As many batches as are four times the L2 cache together, two at least."""
    inputs = list(made(case, case.batch, 0).split(case.batch))
    count = max(2, -(-4 * l2 // (inputs[0].numel() * inputs[0].element_size())))
    at_once = max(1, 512 // case.batch)
    while len(inputs) < count:
        more = min(at_once, count - len(inputs))
        inputs += made(case, case.batch * more, len(inputs)).split(case.batch)
    return inputs


# ---- how it is checked and timed ----


def error(result: Tensor, expected: Tensor) -> float:
    """The largest difference, in units of the largest entry of its item."""
    difference = (result.double() - expected.double()).abs().flatten(1).amax(1)
    return float((difference / expected.double().abs().flatten(1).amax(1)).max())


def poisoned(call: Callable[[], Tensor]) -> Tensor:
    """A result made where new memory is full of NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        return call()
    finally:
        torch.use_deterministic_algorithms(False)


def timed(call: Call, inputs: list[Tensor], seconds: float) -> dict[str, float]:
    """Microseconds an item: median, and the 20 and 80 percent marks of the runs."""
    for x in inputs[:2]:
        call(x)
    torch.cuda.synchronize()
    once = time.perf_counter()
    call(inputs[0])
    torch.cuda.synchronize()
    once = time.perf_counter() - once
    calls = max(1, min(200, int(seconds / 12 / once)))
    runs, at = [], 0
    for _ in range(3 if once > seconds / 4 else 10):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            call(inputs[at % len(inputs)])
            at += 1
        stop.record()
        stop.synchronize()
        runs.append(1e3 * start.elapsed_time(stop) / calls / len(inputs[0]))
    marks = statistics.quantiles(runs, n=5)
    return {"us": statistics.median(runs), "p20": marks[0], "p80": marks[-1]}


def profiled(call: Call, x: Tensor) -> dict[str, float]:
    """Microseconds an item of every kernel of a call, those of a name together."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call(x)
        torch.cuda.synchronize()
    found: dict[str, float] = {}
    for event in profile.key_averages():
        name = kernel_name(event.key)
        found[name] = found.get(name, 0.0) + event.device_time_total / len(x)
    return {name: us for name, us in found.items() if us > 0}


def kernel_name(signature: str) -> str:
    """`gram_kernel` of `void tsm::(anonymous namespace)::gram_kernel<7, float>(tsm::Rows, ...)`."""
    ours = re.match(r"(?:void )?(?:tsm::.*?)?\b(\w+_kernel)\b", signature)
    return ours[1] if ours else signature.replace("(anonymous namespace)::", "")[:60]


@lru_cache
def predicted(case: Case) -> dict[str, float]:
    """Microseconds an item of every kernel of ours, as counted for an H200; empty where nothing was counted."""
    if case.dtype not in ("float32", "float64"):
        return {}
    from benchmarks import cuda_predictions, gpu_predictions, kernel_resources

    finish = f"finish, {SIDE}x{SIDE}"
    works = {"finish": [finish], FINISHED: ["tsm", finish], "svd auto": ["all eigenpairs"]}.get(case.work, [case.work])
    if case.layout != "contiguous":
        works = [f"{work}, {case.layout}" for work in works]
    sides = [int(side) for side in case.shape.split("x")]
    if case.work.startswith("svd"):
        sides = [2048, sides[0], 1]
    c, h, w = sides if len(sides) == 3 else (2048, *sides)
    found: dict[str, float] = {}
    for work in works:
        if case.backend == "cuda":
            costs = cuda_predictions.launches(c, h * w).get(work, [])
        else:
            known = work in kernel_resources.calls((c, h, w))
            launches = kernel_resources.launches_of(work, (c, h, w)) if known else []
            costs = [(launch.name, gpu_predictions.cost(launch)) for launch in launches]
        for kernel, cost in costs:
            found[kernel] = found.get(kernel, 0.0) + 1e6 * cost.limit()[1]
    return found


class Prepared(NamedTuple):
    """A case ready to be checked and timed."""

    call: Call
    truth: Call  # what it should return, in float64
    allowed: float  # the largest error
    least: dict[str, float]  # bytes and operations an item needs


class GpuBench:
    """Measures cases on the GPU of this machine, with the backends that are built."""

    def __init__(self, backends: dict[str, Any], l2: int, seconds: float = 1.0) -> None:
        self.backends, self.l2, self.seconds = backends, l2, seconds
        self._truths: dict[Any, Tensor] = {}

    def facts(self) -> dict[str, Any]:
        gpu = torch.cuda.get_device_name() if DEVICE == "cuda" else "none"
        versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
        own = {"triton": _triton(), "backends": list(self.backends), "l2": self.l2, "sources": sources()}
        return {"gpu": gpu, **versions, **own}

    def synchronize(self) -> None:
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    def row(self, case: Case) -> Row:
        if DEVICE == "cuda":
            torch.cuda.empty_cache()  # of the rows before
        if case.work in ("copy", "float64 product"):
            return self.ceiling(case)
        prepared = self.prepared(case)
        few = made(case, CHECKED, 10**6)
        begun = time.perf_counter()
        result = poisoned(lambda: prepared.call(few))
        self.synchronize()
        first_s, worst = time.perf_counter() - begun, error(result, self.truth(case, prepared, few))
        ours = case.backend in BACKENDS
        if ours and not worst <= prepared.allowed:
            raise AssertionError(f"an error of {worst:.3g}, where {prepared.allowed:.3g} is allowed")
        inputs = input_sets(case, self.l2)
        row: Row = {**timed(prepared.call, inputs, self.seconds), "first_s": first_s, "error": worst, **prepared.least}
        if ours:
            row["kernels"] = self.kernels(case, prepared.call, inputs[0])
        return row

    def kernels(self, case: Case, call: Call, x: Tensor) -> dict[str, dict[str, float | None]]:
        """Microseconds an item, and what was predicted."""
        counted = predicted(case) if "H200" in self.facts()["gpu"] else {}
        found = profiled(call, x)
        return {name: {"us": found.get(name), "predicted": counted.get(name)} for name in {**found, **counted}}

    def truth(self, case: Case, prepared: Prepared, few: Tensor) -> Tensor:
        """Of the reference, once for all contenders."""
        key = case.work, case.shape, case.dtype
        if key not in self._truths:
            self._truths[key] = prepared.truth(few)
        return self._truths[key]

    def ceiling(self, case: Case) -> Row:
        """A large copy (bytes read and written), and a large product in float64."""
        if case.work == "copy":
            source = torch.randn(2**29, device=DEVICE)[None]
            return timed(torch.empty_like(source).copy_, [source], self.seconds) | {"bytes": 2 * 4 * 2**29}
        a, b = (torch.randn(1, 6144, 6144, dtype=torch.float64, device=DEVICE) for _ in range(2))
        return timed(lambda x: x @ b, [a], self.seconds) | {"flop": 2 * 6144**3}

    def prepared(self, case: Case) -> Prepared:
        if case.work in MAPS:
            return self._of_maps(case)
        if case.work == FINISHED:
            return self._of_public(case)
        sides = [int(side) for side in case.shape.split("x")]
        if case.work == HOOI:
            call = self._call(case, hooi_of, {"TensorLy": tensorly_values})
            return Prepared(call, hooi_of(reference), 1e-5, {})
        if case.work == "mode_gram":
            call = self._call(case, gram_of, {"torch": torch_gram})
            return Prepared(call, gram_of(reference), 1e-5, _least_of_gram(case))
        if case.work == "finish":
            call = self._call(case, finish_of, {"torch": finish_of(reference)})
            return Prepared(call, finish_of(reference), 1e-5, {"bytes": 4 * (prod(sides) + SIDE**2)})
        precision = case.work.removeprefix("svd ")
        solvers = {"torch eigh": roots_of(torch.linalg.eigh), "cuSOLVER": roots_of(library_eigh)}
        call = self._call(case, partial(values_of, precision=precision), solvers)
        return Prepared(call, values_of(reference, "float64"), 1e-5 if precision == "auto" else 1e-2, {})

    def _of_maps(self, case: Case) -> Prepared:
        call = self._call(case, partial(maps_of, work=case.work), MAP_PEERS[case.work])
        return Prepared(call, maps_of(reference, case.work), MAPS[case.work][2], _least_of_gram(case))

    def _of_public(self, case: Case) -> Prepared:
        size = {"size": (SIDE, SIDE)}
        ours = {name: partial(tsm_fast.tsm, backend=name, **size) for name in BACKENDS}
        call = {**ours, "torch eigh": finished}[case.backend]
        return Prepared(call, partial(tsm_fast.tsm, backend="reference", **size), MAPS["tsm"][2], {})

    def _call(self, case: Case, ours: Callable[[Any], Call], others: dict[str, Call]) -> Call:
        return ours(self.backends[case.backend]) if case.backend in BACKENDS else others[case.backend]


def _least_of_gram(case: Case) -> dict[str, float]:
    c, h, w = (int(side) for side in case.shape.split("x"))
    size = torch.empty(0, dtype=getattr(torch, case.dtype)).element_size()
    return {"bytes": size * c * h * w, "flop": c * h * w * (min(c, h * w) + 1)}


def _triton() -> str | None:
    try:
        return __import__("triton").__version__
    except ImportError:
        return None


def sources() -> str:
    """A digest of what is measured and what measures it."""
    python = ("kernels", "tsm_fast", "tsm_fast/bench", "tsm_fast/steps")
    native = ("csrc/*.h", "csrc/bindings/*", "csrc/cuda/**/*.*")
    parts = (*native, *(f"{folder}/*.py" for folder in python), "benchmarks/gpu_*.py")
    files = sorted(path for part in parts for path in ROOT.glob(part))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def on_this_gpu(seconds: float) -> GpuBench:
    """In the process that measures."""
    use_in_place()
    found: dict[str, ModuleType] = {}
    for name in BACKENDS:
        try:
            found[name] = choice.load(name)  # pyright: ignore[reportArgumentType]
        except RuntimeError as reason:
            print(f"without {name}: {reason}", flush=True)
    return GpuBench(found, torch.cuda.get_device_properties(0).L2_cache_size, seconds)
