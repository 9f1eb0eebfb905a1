"""Imports run one way, down from floor to floor, without circles; readers of a run load no model code."""

from __future__ import annotations

import subprocess
import sys

from .imports import ROOT, circles, floors, graph

# From the ground up. A room imports itself and the floors below it; rooms of one floor do not know each other.
FLOORS = (
    ("_cpu", "_cuda", "_lazy", "_version", "layers", "readable"),
    ("_arrays", "dispatch", "plan"),
    ("_cusolver", "native", "reference"),
    ("kernels", "native_cuda"),
    ("decomposition",),
    ("saliency",),
    ("extractor",),
    ("models", "pictures"),
    ("pipeline.errors", "pipeline.settings", "pipeline.sources"),
    ("pipeline.files",),
    ("pipeline.planning", "pipeline.results", "pipeline.worker"),
    ("pipeline.engines",),
    ("pipeline",),  # the names that it hands on
    ("timings",),
    ("demo",),
    ("cli",),
    ("__main__", ""),  # "" is the package itself, which hands names on
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str:
    """The longest name of `FLOORS` that a module has."""
    name = module.removeprefix("tsm_fast").removeprefix(".")
    while name not in FLOOR:
        name = name.rpartition(".")[0]
        assert name, f"{module} has no floor"
    return name


def test_nothing_is_imported_upwards() -> None:
    arrows = [(room_of(module), room_of(other)) for module, names in graph().items() for other in names]
    assert not [(room, other) for room, other in arrows if room != other and FLOOR[other] >= FLOOR[room]]


def test_no_circles() -> None:
    assert not circles(graph())


def test_kernels_are_leaves() -> None:
    for module in (name for name in graph() if name.startswith("tsm_fast.kernels")):
        assert {room_of(other) for other in graph()[module]} <= {"kernels", "_arrays", "_cusolver", "dispatch"}


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
