"""Times the GPU backends beside plain PyTorch on the GPU of this machine: `make gpu-bench`.

Writes benchmarks/results/gpu.json (machine, versions, measurements), gpu.md (the table) and gpu.svg (the plot). Every
result is compared with the float64 reference before it is timed, with all new memory filled with NaN. A timing is the
median of several runs of enough calls, by device events, after warming up; calls take turns among input sets that
together are larger than the L2 cache by far. The share of a ceiling counts the bytes and operations that the work needs
at least (each input read once; the Gram matrix with its symmetry used) against ceilings measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cuda_build import ROOT, use_in_place
from tsm_fast import _cusolver, dispatch, reference

RESULTS = ROOT / "benchmarks" / "results"
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
PEER_BATCH = 128  # torch.linalg.eigh takes about a millisecond a matrix
TOLERANCE = {"tsm": 2e-5, "eigencam": 2e-5, "mtsm": 1e-4}
RANK = (16, 4, 4)

DEVICE = "cuda"

Call = Callable[[Tensor], Any]


def features(shape: tuple[int, int, int], batch: int, seed: int = 0) -> Tensor:
    """Made-up feature maps after a ReLU: five objects an item, each with its channels, and noise. [batch, C, H, W]"""
    c, h, w = shape
    g = torch.Generator(DEVICE).manual_seed(seed)
    rows, columns = torch.linspace(-1, 1, h, device=DEVICE)[:, None], torch.linspace(-1, 1, w, device=DEVICE)
    centers = 1.6 * torch.rand(batch, 5, 2, generator=g, device=DEVICE) - 0.8
    distance = (rows - centers[..., :1, None]) ** 2 + (columns - centers[..., 1:, None]) ** 2
    sizes = torch.tensor([3.0, 1.5, 1.0, 0.5, 0.25], device=DEVICE)[:, None, None]
    weights = torch.randn(batch, c, 5, generator=g, device=DEVICE)
    x = weights @ (torch.exp(-distance / 0.2) * sizes).flatten(2)
    x += 0.1 * torch.randn(batch, c, h * w, generator=g, device=DEVICE)
    return x.relu_().view(batch, c, h, w)


def input_sets(shape: tuple[int, int, int], batch: int, l2: int) -> list[Tensor]:
    """As many batches as are four times the L2 cache together, two at least."""
    size = 4 * shape[0] * shape[1] * shape[2] * batch
    return [features(shape, batch, seed) for seed in range(max(2, -(-4 * l2 // size)))]


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


def ceilings() -> dict[str, float]:
    """GB/s of a large copy (bytes read and written), TFLOP/s of a large product in float64."""
    source = torch.randn(2**29, device=DEVICE)
    target = torch.empty_like(source)
    copy = timed(target.copy_, [source], 1.0)["us"] * len(source)
    del source
    a, b = (torch.randn(6144, 6144, dtype=torch.float64, device=DEVICE) for _ in range(2))
    product = timed(lambda x: x @ b, [a], 1.0)["us"] * len(a)
    return {"copy_gb_s": 2 * 4 * 2**29 / copy / 1e3, "float64_tflop_s": 2 * 6144**3 / product / 1e6}


def torch_eigh(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Plain PyTorch at its best: Gram and eigh, the maps from the eigenvectors."""
    f = x.flatten(2)
    by_position = f.shape[2] <= f.shape[1]
    values, vectors = torch.linalg.eigh(f.mT @ f if by_position else f @ f.mT)
    return f, values, vectors


def torch_tsm(x: Tensor) -> Tensor:
    f, values, vectors = torch_eigh(x)
    by_position = f.shape[2] <= f.shape[1]
    leading = vectors[:, :, -1:]
    maps = values[:, -1:, None].clamp(min=0).sqrt() * leading if by_position else f.mT @ leading
    return maps[:, :, 0].abs().view(len(x), *x.shape[2:])


def torch_mtsm(x: Tensor) -> Tensor:
    f, values, v = torch_eigh(x)
    if f.shape[2] > f.shape[1]:
        v = f.mT @ v / values[:, None].clamp(min=1e-30).sqrt()
    u = f @ v
    weights = values * torch.where(u.amax(1) + u.amin(1) < 0, -1.0, 1.0)
    return (v @ weights[:, :, None])[:, :, 0].abs().view(len(x), *x.shape[2:])


def torch_svd(x: Tensor) -> Tensor:
    _, s, vh = torch.linalg.svd(x.flatten(2), full_matrices=False)
    return (s[:, :1] * vh[:, 0]).abs().view(len(x), *x.shape[2:])


def error(result: Tensor, expected: Tensor) -> float:
    return float(((result - expected).abs().flatten(1).amax(1) / expected.abs().flatten(1).amax(1)).max())


def roots(pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Singular values in descending order, from eigenpairs in ascending order."""
    return pairs[0].flip(-1).clamp(min=0).sqrt()


def maps_of(module: Any, method: str, center: bool, sign: str) -> Call:
    return lambda x: module.saliency(x, method, None, center=center, combine="signed", sign=sign)[0]


def hooi_of(module: Any) -> Call:
    return lambda x: module.hooi(x, RANK, n_iter_max=100, tol=1e-4, sign="u")


def finish_of(module: Any) -> Call:
    return lambda maps: module.finish(maps, (224, 224), normalize=True)


def checked(call: Callable[[], Any], measure: Callable[[Any], float], allowed: float) -> float:
    """The error of a result made where new memory is full of NaN; AssertionError where it is too large."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        result = call()
    finally:
        torch.use_deterministic_algorithms(False)
    worst = measure(result)
    assert worst <= allowed, f"an error of {worst:.3g}, where {allowed:.3g} is allowed"
    return worst


class Bench:
    """Rows of one run."""

    def __init__(self, quick: bool, backends: dict[str, Any], l2: int) -> None:
        self.quick, self.backends, self.l2 = quick, backends, l2
        self.reference = reference
        self.rows: list[dict[str, Any]] = []

    def add(self, work: str, shape: str, backend: str, call: Call, inputs: list[Tensor], **facts: Any) -> None:
        seconds = 0.3 if self.quick else 1.0
        row = {"work": work, "shape": shape, "backend": backend, "batch": len(inputs[0])}
        try:
            row |= timed(call, inputs, seconds) | facts
        except torch.OutOfMemoryError:
            row |= {"us": None, "why": "out of memory"}
        self.rows.append(row)
        per_second = f"{1 / row['us']:10.3f} M/s" if row["us"] else row["why"]
        print(f"{work:12} {shape:12} {backend:12} {per_second}", flush=True)

    def maps(self, name: str, shape: tuple[int, int, int], inputs: list[Tensor]) -> None:
        c, s = shape[0], shape[1] * shape[2]
        n = min(c, s)
        least = {"bytes": 4 * c * s, "flop": c * s * (n + 1)}
        few = inputs[0][:16]
        for method, center, sign in (("tsm", False, "u"), ("eigencam", True, "absmax"), ("mtsm", False, "u")):
            if method == "mtsm" and n > 256:
                continue
            expected = maps_of(self.reference, method, center, sign)(few)
            for backend, module in self.backends.items():
                call = maps_of(module, method, center, sign)
                worst = checked(partial(call, few), lambda maps, e=expected: error(maps, e), TOLERANCE[method])
                self.add(method, name, backend, call, inputs, error=worst, **least)
        peers = [x[:PEER_BATCH] for x in inputs]
        self.add("tsm", name, "torch eigh", torch_tsm, peers)
        if n <= 256:
            self.add("mtsm", name, "torch eigh", torch_mtsm, peers)
            self.add("tsm", name, "torch svd", torch_svd, [x[:32] for x in peers])

    def hooi(self, name: str, inputs: list[Tensor]) -> None:
        few = inputs[0][:8]
        expected = hooi_of(self.reference)(few).singular_values[0]
        for backend, module in self.backends.items():
            call = hooi_of(module)
            worst = checked(partial(call, few), lambda r: error(r.singular_values[0], expected), 1e-5)
            self.add(f"hooi {RANK}", name, backend, call, inputs, error=worst)

    def finish(self, side: int, batch: int) -> None:
        inputs = [torch.rand(batch, side, side, device=DEVICE) for _ in range(2)]
        few = inputs[0][:16]
        expected = finish_of(self.reference)(few)
        for backend, module in [*self.backends.items(), ("torch", self.reference)]:
            call = finish_of(module)
            worst = checked(partial(call, few), lambda maps: error(maps, expected), 1e-5)
            size = 4 * (side**2 + 224**2)
            self.add("finish", f"{side}x{side} to 224x224", backend, call, inputs, error=worst, bytes=size)

    def eigenpairs(self, n: int, batch: int) -> None:
        grams = [(f.mT @ f).float() for f in (features((n + 15, n, 1), batch, k).flatten(2).double() for k in (0, 1))]
        few = grams[0][:16]
        expected = self.reference.truncated_svd(few, n)[0]
        for backend, module in self.backends.items():
            for precision, allowed in (("auto", 1e-5), ("float32", 1e-2)):
                call = partial(module.truncated_svd, rank=n, precision=precision)
                worst = checked(partial(call, few), lambda pairs: error(pairs[0], expected), allowed)
                self.add(f"svd {precision}", f"{n}x{n}", backend, call, grams, error=worst)
        self.add("svd float32", f"{n}x{n}", "torch eigh", torch.linalg.eigh, [g[:PEER_BATCH] for g in grams])
        if _cusolver.library(few.device) is None:
            return
        for work, dtype, allowed in (("svd auto", torch.float64, 1e-5), ("svd float32", torch.float32, 1e-2)):
            inputs = [gram.to(dtype) for gram in grams]
            call = partial(_cusolver.eigh, inputs[0][:16])
            worst = checked(call, lambda pairs: error(roots(pairs), expected), allowed)
            self.add(work, f"{n}x{n}", "cuSOLVER", _cusolver.eigh, inputs, error=worst)

    def run(self) -> None:
        for name, (c, h, w, batch) in SHAPES.items():
            inputs = input_sets((c, h, w), batch // 8 if self.quick else batch, self.l2)
            self.maps(name, (c, h, w), inputs)
            if h * w <= 64:
                self.hooi(name, inputs)
            del inputs
            torch.cuda.empty_cache()
        for side in (7, 14):
            self.finish(side, 512 if self.quick else 4096)
        for n, batch in ((49, 65536), (64, 32768), (128, 4096), (196, 2048), (256, 1024), (512, 512)):
            self.eigenpairs(n, batch // 8 if self.quick else batch)


def table(run: dict[str, Any]) -> str:
    """The rows as Markdown, each beside the fastest plain PyTorch of the same work and shape."""
    machine, rows = run["machine"], run["rows"]
    peers: dict[tuple[str, str], float] = {}
    for row in rows:
        if row["backend"].startswith("torch") and row["us"]:
            key = row["work"].split()[0], row["shape"]
            peers[key] = min(peers.get(key, row["us"]), row["us"])
    lines = [
        f"{machine['gpu']}, torch {machine['torch']}, CUDA {machine['cuda']}; copy {machine['copy_gb_s']:.0f} GB/s, "
        f"float64 products {machine['float64_tflop_s']:.1f} TFLOP/s. Written by `make gpu-bench`.",
        "",
        "| work | shape | backend | µs an item (20 % to 80 %) | M items/s | x PyTorch | of copying | of products |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if not row["us"]:
            lines.append(f"| {row['work']} | {row['shape']} | {row['backend']} | {row['why']} | | | | |")
            continue
        peer = peers.get((row["work"].split()[0], row["shape"]))
        ratio = f"{peer / row['us']:.1f}" if peer else ""
        bandwidth = f"{row['bytes'] / row['us'] / 1e3 / machine['copy_gb_s']:.0%}" if "bytes" in row else ""
        rate = f"{row['flop'] / row['us'] / 1e6 / machine['float64_tflop_s']:.0%}" if "flop" in row else ""
        lines.append(
            f"| {row['work']} | {row['shape']} | {row['backend']} | {row['us']:.3f} ({row['p20']:.3f} to "
            f"{row['p80']:.3f}) | {1 / row['us']:.3f} | {ratio} | {bandwidth} | {rate} |"
        )
    return "\n".join(lines) + "\n"


def plot(run: dict[str, Any], path: Path) -> None:
    """Items a second of every backend, one panel a work."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    works = [work for work in ("tsm", "mtsm", "eigencam", "svd float32") if any(r["work"] == work for r in run["rows"])]
    figure, axes = pyplot.subplots(len(works), 1, figsize=(9, 3 * len(works)), squeeze=False, layout="constrained")
    for axis, work in zip(axes[:, 0], works, strict=True):
        rows = [row for row in run["rows"] if row["work"] == work and row["us"]]
        labels = [f"{row['shape']}, {row['backend']}" for row in rows]
        colors = ["#9aa5b1" if row["backend"].startswith(("torch", "cuSOLVER")) else "#c0392b" for row in rows]
        axis.barh(labels, [1 / row["us"] for row in rows], color=colors)
        axis.set(xscale="log", xlabel="million items a second", title=f"{work}, {run['machine']['gpu']}")
        axis.invert_yaxis()
    figure.savefig(path)


def built() -> dict[str, Any]:
    """The backends that run here."""
    found = {}
    for name in BACKENDS:
        try:
            found[name] = dispatch.load(name)
        except RuntimeError as reason:
            print(f"without {name}: {reason}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small batches, a few seconds; needs --out")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.quick and arguments.out == RESULTS:
        parser.error("quick measurements are not recorded: give --out")
    if not torch.cuda.is_available():
        parser.error("needs an NVIDIA GPU, and torch finds none")
    use_in_place()
    bench = Bench(arguments.quick, built(), torch.cuda.get_device_properties(0).L2_cache_size)
    machine = {
        "gpu": torch.cuda.get_device_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "l2": bench.l2,
        **ceilings(),
    }
    bench.run()
    run = {"machine": machine, "quick": arguments.quick, "rows": bench.rows}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "gpu.json").write_text(json.dumps(run, indent=1) + "\n")
    (arguments.out / "gpu.md").write_text(table(run))
    try:
        plot(run, arguments.out / "gpu.svg")
    except ImportError:
        print("no plot: matplotlib is not installed")
    print(table(run))


if __name__ == "__main__":
    main()
