"""What only the Triton backend has, in Triton's interpreter: needs no GPU and runs nowhere else."""

from __future__ import annotations

import pytest

from .interpreter import INTERPRETED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "kernels":
            item.add_marker(pytest.mark.usefixtures("fresh_memory_is_nan"))
            item.add_marker(pytest.mark.skipif(not INTERPRETED, reason="needs Triton, which is for Linux"))


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
