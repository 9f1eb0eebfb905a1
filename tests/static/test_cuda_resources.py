"""The CUDA kernels compiled by nvcc, and held against the table of what they may take: all for three architectures by
`make static`, those of one file for one architecture always.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cuda_build import ROOT, link, nvcc
from benchmarks.cuda_resources import MATRIX, RESULTS, compiled, launches, rows

from ..cuda.emulation.load import emulated

ARCHITECTURES = (80, 90, 120)  # the oldest, the newest data centre one of the plan's machines, the newest
# Bytes of spills, stores and loads: HOOI's index arithmetic between its products, the widest Gram kernel on sm_120,
# sums of 16 bits before they are added up on sm_80, and what Lanczos keeps from one read of the features to the next.
MOST_SPILLED = {"hooi_kernel<true>": 176, "gram16_kernel<8>": 460, "gram16_columns_kernel<7>": 192}
MOST_SPILLED |= {"leading_large_kernel<float>": 148, "leading_large_kernel<unsigned short>": 148}
MOST_SPILLED_ELSEWHERE = 128

NO_DRIVER = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import _cuda
x, gram = torch.rand(1, 4, 5), torch.empty(1, 5, 5)
try:
    array = x.data_ptr(), _cuda.dtypes["float32"], tuple(x.shape), x.stride()
    _cuda.mode_gram(array, 1, center=False, out=gram.data_ptr(), wide=False, skip=0, stream=0)
except RuntimeError as error:
    print(error)
"""


Row = dict[str, Any]


def committed() -> dict[tuple[str, str], Row]:
    table = json.loads(RESULTS.read_text())["rows"]
    return {(row["kernel"], row["arch"]): row for row in table if row["backend"] == "cuda"}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="module")
def compiler() -> None:
    if nvcc() is None:
        if os.environ.get("TSM_FAST_REQUIRE_NATIVE") == "1":
            pytest.fail("no nvcc: it is in the extra `dev`")
        pytest.skip("needs nvcc, which is in the extra `dev`")


@pytest.fixture(scope="module")
def measured(compiler: None, objects: Path) -> list[Row]:
    return rows(emulated(), objects, ARCHITECTURES)


def test_the_kernels_of_one_file_take_no_more_than_the_table_says(compiler: None, tmp_path: Path) -> None:
    found = compiled(ROOT / "csrc" / "cuda" / "finish.cu", 90, tmp_path)
    assert found
    for row in found:
        hold(row, committed()[row["kernel"], row["arch"]])


def hold(row: Row, ceiling: Row) -> None:
    for resource in ("registers", "spills", "stack"):
        assert row[resource] <= ceiling[resource], (row, ceiling)


@pytest.mark.static
def test_the_table_has_every_kernel(measured):
    known = committed()
    assert {(row["kernel"], row["arch"]) for row in measured} <= set(known)
    assert {name for name, _ in known} == {row["kernel"] for row in measured}


@pytest.mark.static
def test_no_kernel_takes_more_than_the_table_says(measured):
    known = committed()
    for row in measured:
        hold(row, known[row["kernel"], row["arch"]])


@pytest.mark.static
def test_spills_stay_below_the_bound(measured):
    for row in measured:
        assert row["spills"] <= MOST_SPILLED.get(row["kernel"], MOST_SPILLED_ELSEWHERE), row


@pytest.mark.static
def test_products_are_made_by_the_matrix_units(measured):
    for row in measured:
        in_16_bits = ["HMMA"] if row["kernel"].startswith("gram16") else []
        assert row["matrix_opcodes"] == (["DMMA", *in_16_bits] if row["kernel"].startswith(MATRIX) else []), row


def test_shared_memory_is_what_the_table_says_and_fits_every_gpu():
    known = {name: (row["shape"], row["shared"]) for (name, _), row in committed().items() if row["shape"]}
    assert launches(emulated()) == known
    assert max(shared for _, shared in known.values()) <= 99 * 1024  # compute capabilities 8.6, 8.9 and 12.0


@pytest.mark.static
def test_the_module_loads_without_a_driver_and_its_launches_say_what_is_wrong(measured, objects):
    link(sorted(objects.glob("*.90.o")), objects / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", NO_DRIVER, str(objects)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("gram_kernel<4, float>: ")
    assert "CUDA" in done.stdout
