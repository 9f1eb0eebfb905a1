"""The GPU benchmark without a GPU: its checks, its table and its plot, on the emulation with made-up clocks."""

from __future__ import annotations

import pytest

from benchmarks import gpu_bench

from .conftest import ON_GPU
from .emulation.load import emulated

pytestmark = pytest.mark.skipif(ON_GPU, reason="the benchmark itself runs on a GPU, by `make gpu-bench`")


def test_the_benchmark_checks_and_reports(cusolver, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_bench, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_bench, "RANK", (4, 3, 3))
    called = []

    def timed(call, inputs, seconds):
        called.append(call(inputs[0][:1]))
        return {"us": 0.5, "p20": 0.4, "p80": 0.6}

    monkeypatch.setattr(gpu_bench, "timed", timed)
    bench = gpu_bench.Bench(True, {"cuda": emulated()}, 1000)
    for shape in ((30, 7, 7), (8, 9, 8)):
        inputs = gpu_bench.input_sets(shape, 3, 1000)
        bench.maps("x".join(map(str, shape)), shape, inputs)
    bench.hooi("30x7x7", gpu_bench.input_sets((30, 7, 7), 2, 1000))
    bench.finish(7, 2)
    bench.eigenpairs(17, 2)
    assert {row["work"] for row in bench.rows} == {
        "tsm",
        "eigencam",
        "mtsm",
        "hooi (4, 3, 3)",
        "finish",
        "svd auto",
        "svd float32",
    }
    assert all(row["error"] < 1e-2 for row in bench.rows if row["backend"] in ("cuda", "cuSOLVER"))
    assert [row["work"] for row in bench.rows if row["backend"] == "cuSOLVER"] == ["svd auto", "svd float32"]
    assert cusolver.calls == 4
    machine = {"gpu": "none", "torch": "0", "cuda": "0", "copy_gb_s": 1.0, "float64_tflop_s": 1.0}
    run = {"machine": machine, "rows": bench.rows}
    text = gpu_bench.table(run)
    assert text.count("\n") == len(bench.rows) + 4
    assert "| tsm | 30x7x7 | cuda | 0.500 (0.400 to 0.600) | 2.000 | 1.0 |" in text
    gpu_bench.plot(run, tmp_path / "plot.svg")
    assert "million items a second" in (tmp_path / "plot.svg").read_text()


def test_an_error_that_is_too_large_ends_the_benchmark():
    with pytest.raises(AssertionError, match=r"where 0\.1 is allowed"):
        gpu_bench.checked(lambda: 0.5, lambda result: result, 0.1)
