"""The GPU benchmark without a GPU: its cases on the emulation with made-up clocks, its tables and its plot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import gpu_bench, gpu_cases
from benchmarks.gpu_cases import FINISHED, HOOI, MAP_PEERS, GpuBench, cases, features, quick
from benchmarks.gpu_rows import Case, Process, Record, case_of, measured

from .emulation.load import emulated
from .on_gpu import ON_GPU, OnGpu, elsewhere

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ON_GPU, reason="the benchmark itself runs on a GPU, by `make gpu-bench`"),
]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> OnGpu:
    return elsewhere("cuda", monkeypatch)


@pytest.fixture
def bench(backend, library, monkeypatch) -> GpuBench:
    """The emulation, or what the public functions take it for, on tiny inputs; calls are made and not timed."""
    monkeypatch.setattr(gpu_cases, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_cases, "RANK", (4, 3, 3))
    monkeypatch.setattr(gpu_cases, "CHECKED", 2)

    def timed(call: Any, inputs: list[torch.Tensor], seconds: float) -> dict[str, float]:
        assert len(inputs) >= 2
        call(inputs[-1])
        return {"us": 0.5, "p20": 0.4, "p80": 0.6}

    monkeypatch.setattr(gpu_cases, "timed", timed)
    monkeypatch.setattr(gpu_cases, "profiled", lambda call, x: {"gram_kernel": 0.25, "copy": 0.125})
    return GpuBench({"cuda": backend}, 1000)


def tiny(case: Case) -> Case:
    """The same work on small inputs."""
    sides = [int(side) for side in case.shape.split("x")]
    if case.work.startswith("svd"):
        sides = [17, 17] if sides[0] <= 64 else [66, 66]
    elif len(sides) == 3:
        sides = [30, 5, 5] if sides[1] == 7 else [10, 9, 8]
    return case._replace(shape="x".join(map(str, sides)), batch=2)


WORK = sorted({tiny(case) for case in cases() if case.batch > 1 and case.backend != "triton"})


def test_every_kind_of_case_is_there():
    found = list(cases())
    assert len(set(found)) == len(found)
    assert {case.backend for case in found} == {
        "cuda", "triton", "torch", "torch eigh", "torch power", "torch svd", "cuSOLVER", "grad-cam", "TensorLy"
    }  # fmt: skip
    assert {case.work for case in found} == {
        "copy", "float64 product", "mode_gram", "tsm", "eigencam", "mtsm", HOOI, "finish", FINISHED, "svd auto",
        "svd float32",
    }  # fmt: skip
    assert {case.dtype for case in found if case.work == "tsm"} == {"float32", "float16", "bfloat16"}
    assert any(case.layout == "channels_last" for case in found)
    assert {1, 8, 64} <= {case.batch for case in found if case.work == FINISHED}
    assert all(quick(case).batch == max(1, case.batch // 8) for case in found)


@pytest.mark.parametrize("case", WORK, ids=lambda case: "-".join(map(str, case)))
def test_a_case_is_checked_and_timed(bench, case):
    row = bench.row(case)
    # Peers are not checked: float32 eigenproblems lose digits. They do what ours do all the same.
    assert row["error"] <= {"mtsm": 2e-2, "svd float32": 1e-2}.get(case.work, 2e-4)
    assert row["us"] == 0.5
    if case.backend == "cuda":
        assert row["kernels"] == {
            "gram_kernel": {"us": 0.25, "predicted": None},
            "copy": {"us": 0.125, "predicted": None},
        }


def test_power_iteration_is_a_fair_peer(monkeypatch):
    """It reaches the accuracy that is asked of ours."""
    monkeypatch.setattr(gpu_cases, "DEVICE", "cpu")
    x = features((256, 7, 7), 64)
    for work in ("tsm", "eigencam"):
        exact = MAP_PEERS[work]["torch eigh"](x.double())
        assert gpu_cases.error(MAP_PEERS[work]["torch power"](x), exact) <= gpu_cases.MAPS[work][2]


def test_an_error_that_is_too_large_is_raised(bench, backend):
    wrong = SimpleNamespace(saliency=lambda x, *a, **o: (1.001 * backend.saliency(x, *a, **o)[0], None))
    with pytest.raises(AssertionError, match=r"an error of 0\.001, where 2e-05 is allowed"):
        GpuBench({"cuda": wrong}, 1000).row(Case("tsm", "30x5x5", "cuda", 2))
    nothing = SimpleNamespace(saliency=lambda x, *a, **o: (torch.full((2, 5, 5), torch.nan), None))
    with pytest.raises(AssertionError, match="an error of nan"):
        GpuBench({"cuda": nothing}, 1000).row(Case("tsm", "30x5x5", "cuda", 2))


def test_inputs_exceed_the_cache(monkeypatch):
    monkeypatch.setattr(gpu_cases, "DEVICE", "cpu")
    for batch, l2 in ((1, 10_000), (3, 10_000), (700, 1000)):
        case = Case("tsm", "20x5x5", "cuda", batch)
        inputs = gpu_cases.input_sets(case, l2)
        assert len(inputs) == max(2, -(-4 * l2 // (4 * 20 * 25 * batch)))
        assert all(x.shape == (batch, 20, 5, 5) for x in inputs)
        assert not inputs[0].equal(inputs[-1])


def test_predictions_stand_beside_the_kernels(bench, monkeypatch):
    case = Case("mtsm", "2048x7x7", "cuda", 4096)
    counted = gpu_cases.predicted(case)
    pairs = {"reduce_kernel", "tridiagonal_kernel", "back_kernel"}
    assert set(counted) == {"gram_kernel", *pairs, "extremes_small_kernel", "combine_positions_kernel"}
    both = gpu_cases.predicted(Case(FINISHED, "2048x7x7", "cuda", 4096))
    assert set(both) == {"gram_kernel", "finish_kernel"}
    assert set(gpu_cases.predicted(Case("svd auto", "196x196", "cuda", 9, "float64"))) == pairs
    assert gpu_cases.predicted(Case("tsm", "2048x7x7", "cuda", 4096, "float16")) == {}
    last = Case("tsm", "2048x7x7", "cuda", 4096, "float32", "channels_last")
    assert set(gpu_cases.predicted(last)) == {"gram_columns_kernel"}
    assert gpu_cases.predicted(last._replace(backend="triton")) == {}
    monkeypatch.setattr(GpuBench, "facts", lambda self: {"gpu": "NVIDIA H200"})
    kernels = bench.kernels(case, None, None)
    assert kernels["gram_kernel"] == {"us": 0.25, "predicted": counted["gram_kernel"]}
    assert kernels["back_kernel"] == {"us": None, "predicted": counted["back_kernel"]}
    assert kernels["copy"] == {"us": 0.125, "predicted": None}


def test_predictions_for_triton():
    """In a process of its own: here the kernels may be interpreted, and are not compiled then."""
    program = "from benchmarks.gpu_cases import *; print(*predicted(Case('tsm', '2048x7x7', 'triton', 4096)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=gpu_cases.ROOT, capture_output=True, text=True)
    assert "leading_kernel" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("signature", "name"),
    [
        ("void tsm::cuda::(anonymous namespace)::gram_kernel<7, float>(tsm::Rows, double*)", "gram_kernel"),
        ("void tsm::(anonymous namespace)::svd_small_kernel<double>(tsm::Plan)", "svd_small_kernel"),
        ("leading_kernel", "leading_kernel"),
        ("void at::native::reduce_kernel<512>(Op)", "void at::native::reduce_kernel<512>(Op)"),
        ("Memcpy DtoD (Device -> Device)", "Memcpy DtoD (Device -> Device)"),
    ],
)
def test_the_names_of_kernels(signature, name):
    assert gpu_cases.kernel_name(signature) == name


def test_tables_and_plot_hold_every_row(bench, tmp_path):
    rows = [bench.row(case) | case._asdict() for case in WORK if case.work in ("tsm", "finish")]
    rows.append(Case("copy", "2 GB", "torch", 1)._asdict() | {"us": 4e3, "p20": 4e3, "p80": 4e3, "bytes": 1.6e7})
    rows.append(Case("mtsm", "30x5x5", "cuda", 2)._asdict() | {"failed": "RuntimeError: PassManager::run | failed"})
    record = Record(tmp_path / "gpu.json", {"machine": bench.facts(), "quick": False})
    assert gpu_bench.run(record, rows, tmp_path) == 1
    text = (tmp_path / "gpu.md").read_text()
    for row in rows:
        assert f"| {row['work']} | {row['shape']} |" in text
    assert "| tsm | 30x5x5 | float32 | 2 | cuda | 0.500 (0.400 to 0.600) | 2.000 | 1.0 | 150% |" in text
    assert "| RuntimeError: PassManager::run / failed |" in text
    assert "| tsm | 30x5x5 | float32, contiguous | 2 | cuda | gram_kernel | 0.2500 |  |" in text
    run = json.loads((tmp_path / "gpu.json").read_text())
    assert [case_of(row) for row in run["rows"]] == [case_of(row) for row in rows]
    gpu_bench.plot(run, tmp_path / "gpu.svg")
    assert "million items a second" in (tmp_path / "gpu.svg").read_text()
    gpu_bench.plot({**run, "rows": []}, tmp_path / "nothing.svg")
    assert not (tmp_path / "nothing.svg").exists()


def on_the_emulation() -> GpuBench:
    """What `on_this_gpu` is in the process that measures; the clock is made up, and breaks for bfloat16."""

    def timed(call: Any, inputs: list[torch.Tensor], seconds: float) -> dict[str, float]:
        if inputs[0].dtype == torch.bfloat16:
            os._exit(3)
        return {"us": 0.5, "p20": 0.4, "p80": 0.6}

    gpu_cases.DEVICE, gpu_cases.timed, gpu_cases.profiled = "cpu", timed, lambda call, x: {}
    return GpuBench({"cuda": emulated()}, 1000)


def test_a_whole_run_in_processes(tmp_path):
    wanted = [Case("tsm", "30x5x5", "cuda", 2, dtype) for dtype in ("float16", "bfloat16", "float32")]
    wanted.append(Case("tsm", "30x5x5", "triton", 2))  # which the process does not have
    process = Process(on_the_emulation)
    record = Record(tmp_path / "gpu.json", {"machine": process.facts, "quick": True})
    rows = measured(gpu_bench.until(float("inf"), wanted), on_the_emulation, process)
    assert gpu_bench.run(record, rows, tmp_path) == 2
    half, lost, single, absent = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert half["us"] == single["us"] == 0.5
    assert half["error"] <= 2e-5
    assert lost["failed"] == "the process ended with exit status 3"
    assert absent["failed"] == "KeyError: 'triton'"
    again = Record(tmp_path / "gpu.json", {"machine": process.facts, "quick": True})
    again.take_over()
    assert [again.lacks(case) for case in wanted] == [False, True, False, True]


def test_no_case_is_begun_after_the_deadline(capsys):
    given = [Case(work, "", "", 1) for work in "abc"]
    assert list(gpu_bench.until(float("inf"), given)) == given
    assert list(gpu_bench.until(-1.0, given)) == []
    assert "no time for 3 cases: --resume goes on with them" in capsys.readouterr().out


def test_it_measures_what_it_says(monkeypatch, tmp_path):
    """A change of the kernels or of the benchmark makes earlier rows those of another program."""
    before = gpu_cases.sources()
    assert before == gpu_cases.sources()
    for part in ("csrc/cuda/hooi.cu", "kernels/hooi.py", "tsm_fast/steps/cuda.py", "benchmarks/gpu_cases.py"):
        changed = gpu_cases.ROOT / part
        read = Path.read_bytes
        monkeypatch.setattr(Path, "read_bytes", lambda path, c=changed, r=read: r(path) + (b" " if path == c else b""))
        assert gpu_cases.sources() != before
        monkeypatch.undo()
