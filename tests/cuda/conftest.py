from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tsm_fast.steps import cusolver

from .cusolver_stand_in import StandIn, build


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
