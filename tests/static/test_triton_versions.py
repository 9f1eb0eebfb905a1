"""The oldest Triton that the backend is offered for compiles its kernels, as the installed one does.

A few launches of the kind that older versions refuse; `make static` compiles all of them for every GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tsm_fast.steps import choice

from ..needs import needs

pytestmark = [pytest.mark.slow, needs("triton", extra="gpu")]

ROOT = Path(__file__).resolve().parents[2]
OLDEST = "{}.{}.0".format(*choice._OLDEST_TRITON)
FOLDER = ROOT / "build" / f"triton-{OLDEST}"  # `make test` puts it there
# Without what widening.py does for versions before 3.9.
NOT_HIDDEN = """
import sys
import triton.language as tl
from tsm_fast.kernels import widening
from benchmarks import triton_compiles
widening.HIDDEN = tl.constexpr(False)
sys.exit(triton_compiles.main())
"""


@pytest.fixture
def oldest() -> dict[str, str]:
    """The environment in which it is imported."""
    if not FOLDER.exists():
        if os.environ.get("TSM_FAST_REQUIRE_NATIVE") == "1":
            pytest.fail(f"{FOLDER} is missing: make {FOLDER.relative_to(ROOT)}/.done")
        pytest.skip(f"needs Triton {OLDEST}: make {FOLDER.relative_to(ROOT)}/.done")
    return {"PYTHONPATH": f"{FOLDER}{os.pathsep}{ROOT}"}


def compiled(environment: dict[str, str], *command: str) -> tuple[int, str]:
    """Exit status and last line of a run that finds nothing compiled before."""
    done = subprocess.run(
        [sys.executable, *command, "--sample"],
        cwd=ROOT,
        env={**os.environ, "TRITON_ALWAYS_COMPILE": "1", "TRITON_INTERPRET": "0", **environment},
        capture_output=True,
        text=True,
    )
    return done.returncode, (done.stdout.splitlines() or [done.stderr[-2000:]])[-1]


def test_the_oldest_version_compiles_the_kernels(oldest):
    found = compiled(oldest, "-m", "benchmarks.triton_compiles")
    assert found == (0, f"Triton {OLDEST}: 5 launches for sm_90, 0 do not compile")


def test_what_does_not_compile_is_found(oldest):
    found = compiled(oldest, "-c", NOT_HIDDEN)
    assert found == (1, f"Triton {OLDEST}: 5 launches for sm_90, 5 do not compile")


def test_the_installed_version_compiles_the_kernels():
    code, line = compiled({}, "-m", "benchmarks.triton_compiles")
    assert code == 0
    assert line.endswith(": 5 launches for sm_90, 0 do not compile")
