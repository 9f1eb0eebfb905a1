"""`tsm-fast bench`, as a process where that matters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import tsm_fast
from tsm_fast import cli
from tsm_fast.bench import limits, rows, shapes

pytestmark = pytest.mark.slow

ROOT = Path(tsm_fast.__file__).parents[1]
SMALL = ("bench", "tsm", "--shape", "32x5x5", "--quick", "--peer", "torch")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.02)
    monkeypatch.setattr(limits, "LARGE", 2**22)


def bench(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).invoke(cli.app, list(map(str, arguments)))


def test_a_run_is_shown_written_and_read_again(tmp_path: Path) -> None:
    files = [tmp_path / f"a.{kind}" for kind in ("json", "md", "html")]
    outs = [word for path in files for word in ("--out", str(path))]
    done = bench(*SMALL, "--batch", "1,4", "--dtype", "float32,float16", *outs)
    assert done.exit_code == 0, done.stderr
    assert "tsm 32x5x5, batch 4, float16:" in done.stdout
    assert "GFLOP/s" in done.stdout
    assert "4/4 tsm 32x5x5, batch 4, float16" in done.stderr
    run = json.loads(files[0].read_text())
    assert run["schema"] == rows.SCHEMA
    assert run["complete"]
    assert run["quick"]
    assert run["machine"]["versions"]["torch"] == torch.__version__
    assert len(run["rows"]) == 4
    assert run["limits"]["0"]["flops"] > 0
    assert files[1].read_text().startswith("# Measurements")
    assert "<svg" in files[2].read_text()

    shown = bench("bench", "--show", files[0], "--out", tmp_path / "b.md")
    assert shown.exit_code == 0
    assert (tmp_path / "b.md").read_text() == files[1].read_text()
    compared = bench("bench", "--compare", files[0], files[0])
    assert compared.exit_code == 0
    assert "0 of 8 times changed beyond the noise" in compared.stdout


def test_as_json_and_growing() -> None:
    done = bench("bench", "tsm", "--scaling", "batch", "--shape", "16x4x4", "--quick", "--peer", "none", "--json")
    assert done.exit_code == 0, done.stderr
    run = json.loads(done.stdout)
    assert [row["batch"] for row in run["rows"]] == [1, 4, 16, 64, 256]
    assert all(list(row["contenders"]) == ["tsm_fast"] for row in run["rows"])
    done = bench("bench", "eigenpairs", "--scaling", "rank", "--shape", "16x16", "--quick", "--peer", "none")
    assert done.exit_code == 0, done.stderr
    assert "grows as rank^" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--shape", "resnet51"], "got 'resnet51'; did you mean resnet50?"),
        (["--shape", "7x0x7"], "shape must be sides such as 2048x7x7"),
        (["svd"], "WORK must be one of tsm, mtsm"),
        (["--peer", "lapack"], "peer must be none, or one of torch"),
        (["--device", "tpu"], "device must be cpu, cuda or cuda:NUMBER, got 'tpu'"),
        (["--device", "cuda:99"], "device cuda:99 is not there: torch finds"),
        (["--dtype", "int8"], "must be one of float32, float64, float16, bfloat16, got 'int8'"),
        (["--backend", "gpu"], "must be one of auto, reference, cpu, cuda, triton, got 'gpu'"),
        (["--batch", "0"], "must be numbers above 0, joined by commas, got '0'"),
        (["--out", "a.txt"], "must end with one of .json, .md, .html, got 'a.txt'"),
        (["--out", "nowhere/a.json"], "the folder 'nowhere' does not exist"),
        (["tucker", "--shape", "8x4x4", "--rank", "9x4x4"], "rank of tucker must be 3 numbers, at most 8x4x4"),
        (["eigh", "--scaling", "rank"], "eigh does not grow with rank"),
        (["--rank", "8"], "--rank needs WORK or --shape: the standard set has its own"),
        (["tsm", "--scaling", "S", "--dtype", "float64"], "--dtype does not go with --scaling"),
        (["--compare", "old.json", "new.json", "--out", "page.html"], "--out does not go with --compare"),
        (["tsm", "--shape", "8x2x2", "--threads", "1000000"], "must lie in 1..1024, got '1000000'"),
        (["--scaling", "H"], "must be one of C, S, batch, rank, threads, got 'H'"),
    ],
)
def test_usage_errors(arguments: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = bench("bench", *arguments)
    assert done.exit_code == 2
    assert text in " ".join(done.stderr.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_results_are_told(tmp_path: Path) -> None:
    for text in ("{}", '{"schema": 1, "machine": {}, "rows": [{}]}', '{"schema": 1, "machine": null, "rows": []}'):
        (tmp_path / "a.json").write_text(text)
        done = bench("bench", "--compare", tmp_path / "a.json", tmp_path / "a.json")
        assert done.exit_code == 1
        assert "is no result file of `tsm-fast bench`" in done.stderr
    assert bench("bench", "--compare", tmp_path / "a.json", tmp_path / "none.json").exit_code == 1


def test_a_row_that_fails_leaves_the_others_and_is_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsm_fast.bench.memory.available", lambda: 4 * 32 * 25 * 3 * 8.0)
    done = bench(*SMALL, "--batch", "4,64")
    assert done.exit_code == 1
    assert "tsm 32x5x5, batch 64: failed: MemoryError: a batch of 64 of 32x5x5 needs about" in done.stdout
    assert "against torch" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("tsm-fast: tsm 32x5x5, batch 64: MemoryError")


def test_an_interrupted_run_keeps_its_rows(tmp_path: Path) -> None:
    out, page = tmp_path / "a.json", tmp_path / "a.html"
    batches = ",".join(map(str, range(1, 200)))
    arguments = (
        "bench",
        "tsm",
        "--shape",
        "32x5x5",
        "--batch",
        batches,
        "--peer",
        "torch",
        "--out",
        out,
        "--out",
        page,
    )
    command = [sys.executable, "-m", "tsm_fast", *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not out.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "tsm-fast: interrupted after" in errors.splitlines()[-1]
    run = json.loads(out.read_text())
    assert not run["complete"]
    assert 1 <= len(run["rows"]) < 199
    assert "was interrupted" in page.read_text()
    shown = bench("bench", "--show", out)
    assert "this run was interrupted: rows are missing" in shown.stdout


def test_the_help_names_works_sets_and_peers() -> None:
    text = " ".join(bench("bench", "--help").stdout.replace("│", " ").split())
    for word in (
        "partial_tucker",
        *shapes.SETS,
        "grad-cam",
        "--compare",
        "channels_last",
        "tsm-fast bench tsm --scaling S",
    ):
        assert word in text, word


def test_pytest_benchmark_runs_the_same_rows(tmp_path: Path) -> None:
    stored = tmp_path / "bench.json"
    options = ["-p", "no:xdist", "-k", "8x2x2 or 512x7x7", f"--benchmark-json={stored}", "--benchmark-max-time=0.01"]
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks/bench_standard.py", *options]
    # It times nothing where it believes itself to be a worker of xdist, which the environment of this test may say.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=alone)
    assert done.returncode == 0, done.stdout[-2000:]
    timed = json.loads(stored.read_text())["benchmarks"]
    assert sorted(one["name"] for one in timed) == ["test_ours[tsm 512x7x7, batch 1]", "test_ours[tsm 8x2x2, batch 1]"]
    assert all(one["extra_info"] == {"items": 1} for one in timed)
