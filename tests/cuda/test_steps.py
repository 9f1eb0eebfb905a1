"""The tests of the six steps once more, on the GPU backends: executed on the CPU, or on a GPU (see conftest.py).

These are the very functions of tests/test_<step>.py; the fixture `backend` of this folder takes the place of theirs.
"""

from __future__ import annotations

import inspect
from importlib import import_module

for _step in (
    "core_contraction",
    "finish",
    "hooi",
    "leading_pair",
    "mode_gram",
    "network_features",
    "orthonormality",
    "saliency",
    "truncated_svd",
):
    for _name, _test in vars(import_module(f"..test_{_step}", __package__)).copy().items():
        if _name.startswith("test_") and "backend" in inspect.signature(_test).parameters:
            globals()[f"test_{_step}_{_name.removeprefix('test_')}"] = _test
