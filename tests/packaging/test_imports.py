"""Imports run one way, down from floor to floor, without circles; readers of a run load no model code."""

from __future__ import annotations

import re
import subprocess
import sys

from .imports import ROOT, circles, floors, graph, room_of, upwards


def test_nothing_is_imported_upwards() -> None:
    assert not upwards(graph())


def test_no_circles() -> None:
    assert not circles(graph())


def test_kernels_are_leaves() -> None:
    for module in (name for name in graph() if name.startswith("tsm_fast.kernels")):
        assert {room_of(other) for other in graph()[module]} <= {
            "kernels",
            "steps.backend",
            "steps.capture",
            "steps.cusolver",
            "steps.scaling",
        }


def test_benchmarks_import_nothing_of_the_tests() -> None:
    """Tests import benchmarks."""
    for path in (ROOT / "benchmarks").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) tests\b", path.read_text(), re.MULTILINE), path


def test_the_picture_sees_circles_and_floors() -> None:
    edges = {"a": frozenset("b"), "b": frozenset("cd"), "c": frozenset("b"), "d": frozenset[str]()}
    assert circles(edges) == [["b", "c"]]
    assert floors(edges) == {"a": 2, "b": 1, "c": 1, "d": 0}


def test_readers_of_a_run_load_no_model_code() -> None:
    program = "import sys; from tsm_fast import SaliencyDataset; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name for name in run.stdout.split() if name.split(".")[0] == "tsm_fast"}
    assert "tsm_fast.pipeline.results.reader" in loaded
    rooms = {room_of(name) for name in loaded}
    assert not rooms & {"extractor", "layers", "models", "pictures", "pipeline.planning", "pipeline.worker"}


def test_the_kernels_have_one_name():
    """`import kernels` at the root of the repository would load a second copy of them."""
    done = subprocess.run([sys.executable, "-c", "import kernels"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "this folder is the package tsm_fast.kernels" in done.stderr
