"""Every Triton kernel compiled ahead of time, beside what is committed; the counted predictions are up to date."""

from __future__ import annotations

import json
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest

from ..needs import needs
from .names import kernel_names

pytestmark = [pytest.mark.static, needs("triton", extra="gpu")]  # which is for Linux
if find_spec("triton") is not None:
    import triton

    from benchmarks import gpu_predictions
    from benchmarks.kernel_resources import ARCHITECTURES, RESULTS, compiled, distinct

# What kernels may keep in local memory, in bytes a thread; no kernel of the one-read paths may. On sm_120 float64
# products have no matrix units, and their tiles do not all fit the registers.
MOST_STACK = {"sm_80": 512, "sm_90": 512, "sm_100": 512, "sm_120": 2048}
NO_STACK = {"gram_kernel", "extremes_kernel", "absolute_kernel", "jacobi_kernel", "bisect_kernel"}
MATRIX_KERNELS = {
    "gram_kernel", "leading_kernel", "contraction_kernel", "extremes_kernel", "absolute_kernel", "sweeps_kernel",
    "lanczos_kernel",
}  # fmt: skip
MOST_SHARED = 96 * 1024  # sm_120 has 99 kB a block


@cache
def committed() -> dict[str, Any]:
    return json.loads(RESULTS.read_text())


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["shape"], row["kernel"], json.dumps(row["meta"], sort_keys=True), row["arch"]


def triton_rows() -> list[dict[str, Any]]:
    return [row for row in committed()["rows"] if row["backend"] == "triton"]


def test_the_table_holds_every_kernel_for_every_architecture():
    assert len({key(row) for row in triton_rows()}) == len(triton_rows()) == len(distinct()) * len(ARCHITECTURES)
    assert {row["kernel"] for row in triton_rows()} == kernel_names()


def test_committed_resources_are_within_the_bounds():
    for row in triton_rows():
        on_chip = row["kernel"] in NO_STACK and row["arch"] != "sm_120"
        assert row["stack"] <= (0 if on_chip else MOST_STACK[row["arch"]]), row
        assert row["shared"] <= MOST_SHARED, row
        assert row["registers"] <= 255, row
        assert row["matrix_opcodes"] == opcodes(row), row


def opcodes(row: dict[str, Any]) -> list[str]:
    """The matrix instructions that belong to a kernel: float64 has none on sm_120."""
    if row["kernel"] not in MATRIX_KERNELS:
        return []
    if row["meta"].get("WIDE", True):
        return [] if row["arch"] == "sm_120" else ["DMMA"]
    return {"sm_80": ["HMMA"], "sm_90": ["HGMMA"], "sm_100": ["UTCHMMA"], "sm_120": ["HMMA"]}[row["arch"]]


def test_compiled_again_they_take_no_more():
    """All for sm_90, and the first for the others: the full set takes minutes."""
    assert committed()["triton"] == triton.__version__, "write the table anew: python -m benchmarks.kernel_resources"
    ceilings = {key(row): row for row in triton_rows()}
    for i, (label, launch) in enumerate(distinct()):
        for architecture in ARCHITECTURES if i == 0 else (90,):
            row = {"shape": label, **compiled(launch, architecture)}
            ceiling = ceilings[key(row)]
            for name in ("registers", "stack", "spills", "shared"):
                assert row[name] <= ceiling[name], (row, ceiling)
            assert row["matrix_opcodes"] == ceiling["matrix_opcodes"]


def test_the_predictions_in_the_docs_are_those_of_the_code():
    pages = {gpu_predictions.PAGE: gpu_predictions.page(), gpu_predictions.SHORT: gpu_predictions.short()}
    for page, made in pages.items():
        assert page.read_text() == made
        assert "GPU speed is unmeasured" in made
