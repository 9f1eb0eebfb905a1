"""pyproject.toml, read."""

from __future__ import annotations

import sys
from importlib import import_module

from .imports import ROOT

_toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")  # which pytest brings
PYPROJECT = _toml.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
