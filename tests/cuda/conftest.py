from __future__ import annotations

import sys
from collections import defaultdict
from types import ModuleType

import pytest

from tsm_fast import dispatch

from .emulation.load import emulated


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Instead of the built backends: the CUDA kernels, executed on the CPU; also what `backend="cuda"` names."""
    module = emulated()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = dispatch._ENTRIES["cuda"]._replace(module=module.__name__, needs=(module.__name__,), device="cpu")
    monkeypatch.setitem(dispatch._ENTRIES, "cuda", entry)
    return module


MOST = 36  # cases of one test that are executed on the CPU; `make gpu-test` runs all of them on a GPU


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of tests with many cases, evenly spaced ones."""
    cases = defaultdict(list)
    for item in items:
        if item.path.name == "test_emulated_steps.py":
            cases[item.name.partition("[")[0]].append(item)
    left_out = {id(item) for family in cases.values() for i, item in enumerate(family) if i % (-(-len(family) // MOST))}
    config.hook.pytest_deselected(items=[item for item in items if id(item) in left_out])
    items[:] = [item for item in items if id(item) not in left_out]
