"""The six steps of the maps and decompositions: what they are, who computes them, and who is chosen."""

import torch

from .._version import release

_OLDEST = "2.5"  # of the dependencies in pyproject.toml
if release(torch.__version__) < release(_OLDEST):
    raise ImportError(f"tsm_fast needs torch {_OLDEST} or newer, got {torch.__version__}")
