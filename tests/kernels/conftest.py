"""What only the Triton backend has, in Triton's interpreter: needs no GPU and runs nowhere else."""

from __future__ import annotations

import pytest

from .interpreter import INTERPRETED


@pytest.fixture(autouse=True)
def _interpreted(request: pytest.FixtureRequest) -> None:
    if not INTERPRETED:
        pytest.skip("needs Triton, which is for Linux, and its interpreter, which a run on a GPU does without")
    request.getfixturevalue("interpreted")
