"""The benchmarks run, check their results, and give a report; what they measure is no test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *map(str, arguments)]
    # pytest-benchmark measures nothing in processes of pytest-xdist, and takes those that they start for such.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_quick_run_gives_a_report_and_is_not_recorded(tmp_path: Path) -> None:
    measured = tmp_path / "bench.json"
    options = (
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "python_files=bench_*.py",
        "--quick",
        f"--benchmark-json={measured}",
    )
    cases = "768x7x7 or (mode_gram and 1280x7x7) or (memory and mtsm-32)"
    ran = python("pytest", *options, "-k", cases, "benchmarks")
    assert ran.returncode == 0, ran.stdout[-3000:]

    written = python("benchmarks.report", measured, "--out", tmp_path / "report")
    assert written.returncode == 0, written.stderr
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"cpu.json", "cpu.md", "cpu.svg"}
    run = json.loads((tmp_path / "report" / "cpu.json").read_text())
    assert {record["step"] for record in run["records"]} >= {"tsm", "mtsm", "mode_gram", "memory"}

    refused = python("benchmarks.report", measured)
    assert refused.returncode == 2
    assert "quick" in refused.stderr
