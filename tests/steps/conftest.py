"""The fixture `backend`: a test that has it runs on all four, or on those that its mark `backends` names.

"cpu" runs at the best SIMD level of the machine, and a few evenly spaced cases of each test (MOST) at the others. So
do the kernels of "cuda", executed on the CPU, and those of "triton" in its interpreter, but for tests whose mark `long`
names the backend. With TSM_FAST_TEST_DEVICE=cuda (`make gpu-test`) these two run all their cases on the GPU, and the
others none. Tests hand over CPU tensors always.
"""

from __future__ import annotations

from collections import defaultdict
from typing import cast

import pytest

from tsm_fast.steps.backend import Backend
from tsm_fast.steps.choice import load

from ..cuda.counting import Counting, mark
from ..cuda.on_gpu import ON_GPU, elsewhere, stand_in
from ..helpers import BACKENDS
from ..kernels.interpreter import INTERPRETED
from ..sampling import keep, spaced
from .levels import at_level, other_levels

GPU = ["cuda", "triton"]
LEVELS = {f"cpu-{level}": level for level in other_levels()}
MOST = {"cuda": 16, "triton": 1, **dict.fromkeys(LEVELS, 8)}  # cases of a test
NAMES = GPU if ON_GPU else [*BACKENDS, *LEVELS, "cuda", *(["triton"] if INTERPRETED else [])]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="fail where few tests of the steps passed on a GPU backend")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--whole", False) and not hasattr(config, "workerinput"):  # not in processes of pytest-xdist
        config.pluginmanager.register(Counting())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("backends")
        names = [name for name in NAMES if only is None or name.partition("-")[0] in only.args]
        metafunc.parametrize("backend", names, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    name = request.param
    mark(request, name)
    if name == "triton" and not ON_GPU:
        request.getfixturevalue("interpreted")
    if name in LEVELS:
        stand_in("cpu", module := at_level(LEVELS[name]), monkeypatch)
        return cast(Backend, module)
    return elsewhere(name, monkeypatch) if name == "cuda" or ON_GPU else load(name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    families, left_out = defaultdict(list), set[pytest.Item]()
    for item in items:
        if item.path.parent != config.rootpath / "tests" / "steps" or not isinstance(item, pytest.Function):
            continue
        name = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
        if ON_GPU:
            left_out |= {item} if name is None else set()
        elif name in MOST and any(name in (mark.args or GPU) for mark in item.iter_markers("long")):
            left_out.add(item)
        elif name in MOST:
            families[name, item.path, item.originalname].append(item)
    for (name, *_), family in families.items():
        left_out |= {*family} - {*spaced(family, MOST[name])}
    keep(config, items, lambda item: item not in left_out)
