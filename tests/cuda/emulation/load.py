"""The emulation for tests: without it they are skipped, and fail where everything compiled is required."""

from __future__ import annotations

import os
from types import ModuleType

import pytest

from benchmarks import emulation


def emulated() -> ModuleType:
    try:
        return emulation.emulated()
    except FileNotFoundError as missing:
        if os.environ.get("TSM_FAST_REQUIRE_NATIVE") == "1":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
