"""The tests of the six steps once more, on the GPU backends: executed on the CPU, or on a GPU (see conftest.py).

These are the very functions of tests/test_<step>.py; the fixture `backend` of this folder takes the place of theirs.
"""

from __future__ import annotations

import inspect

from .. import (
    test_core_contraction,
    test_finishing,
    test_hooi,
    test_leading_pair,
    test_mode_gram,
    test_network_features,
    test_saliency,
    test_truncated_svd,
)

for _module in (
    test_core_contraction,
    test_finishing,
    test_hooi,
    test_leading_pair,
    test_mode_gram,
    test_network_features,
    test_saliency,
    test_truncated_svd,
):
    _step = _module.__name__.rpartition(".test_")[2]
    for _name, _test in vars(_module).copy().items():
        if _name.startswith("test_") and "backend" in inspect.signature(_test).parameters:
            globals()[f"test_{_step}_{_name.removeprefix('test_')}"] = _test
