"""The fixture `backend` of this folder: the GPU backends, on whatever there is to run them.

By default the CUDA kernels are executed on the CPU. With TSM_FAST_TEST_DEVICE=cuda (`make gpu-test`) the built backends
"cuda" and "triton" run on the GPU: tests keep handing over CPU tensors, which are moved there and back.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from benchmarks.cuda_build import use_in_place
from tsm_fast.steps import choice, cusolver

from .counting import BACKENDS, Counting, mark
from .cusolver_stand_in import StandIn, build
from .emulation.load import emulated
from .on_gpu import OnGpu, require_gpu

ON_GPU = os.environ.get("TSM_FAST_TEST_DEVICE") == "cuda"
if ON_GPU:
    use_in_place()

# Executed on the CPU: so many cases of one test, and none of those that take minutes there. On a GPU all run.
MOST = 16
ONLY_ON_GPU = ("test_network_features_hooi", "test_leading_pair_many_items_of_sparse_noise")


@pytest.fixture(params=BACKENDS if ON_GPU else ["cuda"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> OnGpu:
    """Instead of the built backends; also what its name means to the public functions."""
    name = request.param
    mark(request, name)
    if ON_GPU:
        require_gpu()
        module = OnGpu(choice.load(name))
    else:
        module = OnGpu(emulated(), "cpu")
    monkeypatch.setitem(sys.modules, f"tests.{name}_backend", module)  # pyright: ignore[reportArgumentType]
    entry = choice._ENTRIES[name]._replace(module=f"tests.{name}_backend", needs=(), device="cpu")
    monkeypatch.setitem(choice._ENTRIES, name, entry)
    return module


@pytest.fixture(scope="session")
def _stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("cusolver") / "stand_in.so")


@pytest.fixture
def library(_stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Takes the place of cuSOLVER, for CPU tensors; each test loads a copy, with counters of its own."""
    stand_in = StandIn(Path(shutil.copy(_stand_in, tmp_path / "own.so")))
    solver = cusolver.Solver(stand_in.functions)
    monkeypatch.setattr(cusolver, "library", lambda device: solver)
    return stand_in


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="fail where few tests of the steps passed on a GPU backend")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--whole", False) and not hasattr(config, "workerinput"):  # not in processes of pytest-xdist
        config.pluginmanager.register(Counting())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of tests with many cases, evenly spaced ones."""
    if ON_GPU:
        return
    cases = defaultdict(list)
    for item in items:
        if item.path.parent.name == "cuda" and item.path.name == "test_steps.py":
            cases[item.name.partition("[")[0]].append(item)
    left_out = {id(item) for family in cases.values() for i, item in enumerate(family) if i % -(-len(family) // MOST)}
    config.hook.pytest_deselected(items=[item for item in items if id(item) in left_out])
    items[:] = [item for item in items if id(item) not in left_out]
