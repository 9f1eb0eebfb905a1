from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator

# Before torch: on a busy machine its threads otherwise spin for others that have no core, 10 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # TensorLy decomposes small matrices in NumPy

import pytest
import torch
from hypothesis import settings

from .sampling import keep, spaced

pytest.register_assert_rewrite("tests.steps.definitions")
# Transformers looks for a package of this name, and would find the folder of ours, which is tsm_fast.kernels.
sys.modules.setdefault("kernels", None)  # pyright: ignore[reportArgumentType]


settings.register_profile("no deadline", deadline=None)  # tests measure no time
settings.load_profile("no deadline")

FEW = 2  # cases of a test, evenly spaced


def pytest_configure() -> None:
    """`make asan` tests another build than the one in place: by accident it would test that."""
    if tested := os.environ.get("TSM_FAST_TESTED"):
        from tsm_fast import _cpu

        assert str(_cpu.__file__).startswith(tested), f"{_cpu.__file__} is not in {tested}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--few", action="store_true", help=f"at most {FEW} cases of a test, and no test marked `slow`")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--few"):
        return
    families, kept = defaultdict(list), set[pytest.Item]()
    for item in items:
        if item.get_closest_marker("slow") is None:
            families[item.nodeid.partition("[")[0]].append(item)
    for family in families.values():
        kept.update(spaced(family, FEW))
    keep(config, items, kept.__contains__)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def fresh_memory_is_nan() -> Iterator[None]:
    """Or the largest integer."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    assert torch.rand(2).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch, fresh_memory_is_nan: None) -> None:
    """Triton's kernels run in its interpreter (`kernels.interpreter`)."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
