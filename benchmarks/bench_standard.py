"""The standard set of `tsm-fast bench`, our calls alone, for pytest-benchmark: its storing, comparing and histograms.

    pytest benchmarks/bench_standard.py --benchmark-autosave
    pytest benchmarks/bench_standard.py --benchmark-compare --benchmark-group-by=param:case

Peers, errors and limits are those of the command; here a result is judged once, before it is timed.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from tsm_fast.bench import sets
from tsm_fast.bench.cases import Case
from tsm_fast.bench.rows import first
from tsm_fast.bench.works import WORKS

CHECKED = 2  # items that are compared with float64
CASES = {case.label: case for case in sets.standard()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_ours(case: Case, benchmark: Any) -> None:
    work = WORKS[case.work]
    for module in work.needs:
        if find_spec(module) is None:
            pytest.skip(f"needs {module}")
    inputs, _ = work.inputs(case)
    ours = work.ours(case, None, {})
    few = first(inputs, CHECKED)
    if ours.judged:
        errors = work.errors(case, ours.shown(ours.run(*ours.prepare(*few))), work.truth(case, few), few, True)
        allowed = work.allowed(case)
        assert all(errors[name] <= most for name, most in allowed.items() if name in errors), (errors, allowed)
    benchmark.extra_info["items"] = case.batch
    benchmark(ours.run, *ours.prepare(*inputs))
