"""Whole calls of other tools beside ours, through the adapters of `tsm_fast.integrations`, on one thread of the CPU.

    make build/integrations/.done && PYTHONPATH=build/integrations .venv/bin/python -m benchmarks.other_tools

pytorch-grad-cam's EigenCAM with networks of timm (random weights, which cost the same), forward pass included; and
TensorLy's `tucker` and `partial_tucker` of one tensor; `eigh` of PyTorch and of NumPy. Each pair first gives the same
result, then takes turns. The results go into `benchmarks/results/other_tools.json`, where `--parts` leaves the other
parts as they are, and the tables of it into `other_tools.md`.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before torch and NumPy

import argparse
import json
import warnings
from collections.abc import Callable
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorly
import torch
from tensorly import datasets
from tensorly import decomposition as theirs

import tsm_fast
from tsm_fast.bench import clock
from tsm_fast.bench.machine import processor
from tsm_fast.bench.operators import declare_operators
from tsm_fast.integrations import tensorly as ours

RESULTS = Path(__file__).resolve().parent / "results"
NETWORKS = (("resnet50", "layer4", 224, 2), ("convnext_tiny", "stages", 224, 2), ("resnet18", "layer4", 96, 2))
SHAPES: tuple[tuple[tuple[int, ...], Any, dict[str, Any]], ...] = (
    ((2048, 7, 7), (16, 4, 4), {}),
    ((512, 14, 14), (16, 4, 4), {}),
    ((64, 32, 32), (8, 8, 8), {}),
    ((145, 145, 200), (10, 10, 10), {}),
    ((8, 7, 6), (3, 3, 3), {}),
    ((9, 8, 7, 6), (3, 3, 3, 3), {}),
    ((64, 32, 32), (8, 8), {"modes": [1, 2]}),
    ((64, 32, 32), (8, 8, 8), {"init": "random", "random_state": 0}),
    ((64, 8, 8), (64, 2, 2), {"random_state": 0}),
    ((2048, 7, 7), (4, 4), {"modes": [1, 2]}),
    ((2048, 7, 7), (16, 4, 4), {"init": "random", "random_state": 0}),
    ((2048, 7, 7), (32, 2, 2), {"random_state": 0}),
    ((8, 7, 6), (3, 3), {"modes": [0, 2]}),
    ((8, 7, 6), (3, 3, 3), {"init": "random", "random_state": 0}),
    ((8, 7, 6), (8, 2, 2), {"random_state": 0}),
)
SIDES = (4, 8, 16, 32, 49, 64, 128, 196, 256)  # of symmetric matrices


def timed(runs: dict[str, Callable[[], Any]], seconds: float) -> dict[str, dict[str, float]]:
    """The median and the outer fifths of the times in ms of calls that take turns, five turns or more."""
    times = clock.take_turns([clock.Turn(run, pause=0, warm=False) for run in runs.values()], seconds, (5, 10**6))
    found = zip(runs, times, strict=True)
    return {name: clock.quantiles([1e3 * each for each in row]) for name, row in found}


def grad_cam_rows(seconds: float) -> list[dict[str, Any]]:
    _library = declare_operators()
    import pytorch_grad_cam as stock  # pyright: ignore[reportMissingImports]
    import timm  # pyright: ignore[reportMissingImports]

    from tsm_fast.integrations import grad_cam

    projection = stock.utils.svd_on_activations.get_2d_projection
    rows = []
    for name, layer, size, batch in NETWORKS:
        torch.manual_seed(0)
        model = timm.create_model(name).eval()
        images = torch.rand(batch, 3, size, size)
        layers, targets = [model.get_submodule(layer)], [0] * batch  # its default needs the output's classes
        their, mine = stock.EigenCAM(model, layers), grad_cam.EigenCAM(model, layers)
        their(images, targets)
        mine(images)
        features = mine.activations_and_grads.activations[0]
        array = features.numpy()
        with grad_cam.patch(compare=0):
            patched_projection = stock.utils.svd_on_activations.get_2d_projection
            signed = patched_projection(array)
        exact = projection(array)
        turn = np.sign((signed * exact).sum(axis=(1, 2), keepdims=True))
        difference = float(np.abs(exact - turn * signed).max() / np.abs(exact).max())
        assert difference < 1e-5, difference

        def forward(model: torch.nn.Module = model, images: torch.Tensor = images) -> None:
            with torch.no_grad():
                model(images)

        def patched(run: Any = their, given: Any = (images, targets), ours: Any = patched_projection) -> None:
            stock.eigen_cam.get_2d_projection = ours  # as within `patch()`, which scripts enter once
            run(*given)
            stock.eigen_cam.get_2d_projection = projection

        whole = {"theirs": partial(their, images, targets), "ours": partial(mine, images), "patched": patched}
        alone = {"theirs": partial(projection, array), "ours": partial(patched_projection, array)}
        rows.append(
            {
                "network": name,
                "size": size,
                "batch": batch,
                "features": list(features.shape[1:]),
                "difference": difference,
                "whole call": timed({**whole, "forward": forward}, seconds),
                "projection": timed(alone, seconds),
            }
        )
    return rows


def tensorly_rows(seconds: float) -> list[dict[str, Any]]:
    rows = []
    for shape, rank, options in SHAPES:
        if shape == (145, 145, 200):
            x = np.asarray(datasets.load_indian_pines().tensor, dtype=np.float64)
        else:
            x = np.random.default_rng(0).random(shape)
        for backend in ("numpy", "pytorch"):
            with tensorly.backend_context(backend), warnings.catch_warnings():  # pyright: ignore[reportAttributeAccessIssue]
                warnings.simplefilter("ignore")  # padded ranks
                tensor = tensorly.tensor(x)
                runs = {
                    "theirs": partial(theirs.partial_tucker, tensor, rank, **options),
                    "ours": partial(ours.partial_tucker, tensor, rank, **options),
                }
                before = ours.counts.accelerated
                (_, errors), (_, said) = runs["theirs"](), runs["ours"]()
                assert ours.counts.accelerated == before + 1
                assert len(errors) == len(said)
                assert abs(float(errors[-1]) - float(said[-1])) < 1e-7
                row = {"shape": shape, "rank": rank, "options": options, "backend": backend, "sweeps": len(said)}
                rows.append({**row, "call": timed(runs, seconds)})
    return rows


def eigh_rows(seconds: float) -> list[dict[str, Any]]:
    """All eigenpairs of a batch of matrices, and of one."""
    rows = []
    for n in SIDES:
        for dtype in (torch.float32, torch.float64):
            many = max(1, min(1024, 2**20 // n**2))
            m = torch.randn(many, 2 * n, n, generator=torch.Generator().manual_seed(n), dtype=dtype)
            whole = m.mT @ m
            for batch in (many, 1):
                a = whole[:batch]
                values, vectors = tsm_fast.eigh(a)
                exact = torch.linalg.eigvalsh(a.double())
                assert float((values - exact).abs().max() / exact.max()) < (1e-6 if dtype == torch.float32 else 1e-13)
                error = float((a @ vectors - vectors * values[:, None]).abs().max() / exact.max())
                assert error < (1e-5 if dtype == torch.float32 else 1e-12), error
                runs = {
                    "ours": partial(tsm_fast.eigh, a),
                    "torch": partial(torch.linalg.eigh, a),
                    "numpy": partial(np.linalg.eigh, a.numpy()),
                }
                times = timed(runs, seconds)
                rows.append({"n": n, "dtype": str(dtype).removeprefix("torch."), "batch": batch, "call": times})
    return rows


def markdown(run: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())

    def measured(part: str) -> str:
        return f"Measured {run[part]['date']}, at load averages of {run[part]['load']}."

    lines = [
        "# Other tools' calls beside ours",
        "",
        f"{run['machine']}, one thread; {versions}. Milliseconds: median (p20..p80) of calls that take turns.",
        "",
        "## pytorch-grad-cam: EigenCAM of two images, the whole call",
        "",
        measured("grad_cam"),
        "",
        "| network | features | pytorch-grad-cam | ours | ratio | with `patch()` | ratio | forward pass |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in run["grad_cam"]["rows"]:
        whole, name = row["whole call"], f"{row['network']}, {row['size']} x {row['size']}"
        shape = " x ".join(map(str, row["features"]))
        beside = f"{_beside(whole, 'ours')} | {_beside(whole, 'patched')}"
        lines.append(f"| {name} | {shape} | {_ms(whole['theirs'])} | {beside} | {_ms(whole['forward'])} |")
    lines += ["", "The projection alone:", "", "| network | pytorch-grad-cam | ours | ratio | difference up to sign |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for row in run["grad_cam"]["rows"]:
        alone = row["projection"]
        times = f"{_ms(alone['theirs'])} | {_beside(alone, 'ours')}"
        lines.append(f"| {row['network']} | {times} | {row['difference']:.0e} |")
    lines += ["", "## TensorLy: one tensor, float64", "", measured("tensorly"), ""]
    lines.append("| shape | rank | options | backend | sweeps | TensorLy | ours | ratio |")
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in run["tensorly"]["rows"]:
        shape, rank = " x ".join(map(str, row["shape"])), ", ".join(map(str, row["rank"]))
        options = ", ".join(f"{name}={value!r}" for name, value in row["options"].items())
        times = f"{_ms(row['call']['theirs'])} | {_beside(row['call'], 'ours')}"
        lines.append(f"| {shape} | {rank} | {options} | {row['backend']} | {row['sweeps']} | {times} |")
    lines += ["", "## eigh: all eigenpairs of batches of symmetric matrices", "", measured("eigh"), ""]
    lines.append("| n | batch | dtype | torch.linalg.eigh | numpy.linalg.eigh | ours | ratio to torch | to NumPy |")
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in run["eigh"]["rows"]:
        call = row["call"]
        ratios = " | ".join(f"{call[name]['p50'] / call['ours']['p50']:,.1f}x" for name in ("torch", "numpy"))
        times = " | ".join(_ms(call[name]) for name in ("torch", "numpy", "ours"))
        lines.append(f"| {row['n']} | {row['batch']} | {row['dtype']} | {times} | {ratios} |")
    return "\n".join(lines) + "\n"


def _ms(time: dict[str, float]) -> str:
    return f"{time['p50']:,.2f} ({time['p20']:,.2f}..{time['p80']:,.2f})"


def _beside(times: dict[str, dict[str, float]], name: str) -> str:
    """Two cells: a time, and how many times theirs is that."""
    return f"{_ms(times[name])} | {times['theirs']['p50'] / times[name]['p50']:,.1f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of measuring, for each pair")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    kept = given.out / "other_tools.json"
    run: dict[str, Any] = json.loads(kept.read_text()) if len(given.parts) < len(PARTS) else {"versions": {}}
    run["machine"] = processor()
    for part in given.parts:
        load = "{:.1f}, {:.1f}, {:.1f}".format(*os.getloadavg())
        make, packages = PARTS[part]
        run["versions"] |= {name: version(name) for name in packages}
        run[part] = {"date": date.today().isoformat(), "load": load, "rows": make(given.seconds)}
    given.out.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(run, indent=1) + "\n")
    (given.out / "other_tools.md").write_text(markdown(run))


PARTS = {
    "grad_cam": (grad_cam_rows, ("torch", "numpy", "grad-cam", "timm")),
    "tensorly": (tensorly_rows, ("torch", "numpy", "tensorly")),
    "eigh": (eigh_rows, ("torch", "numpy")),
}


if __name__ == "__main__":
    main()
