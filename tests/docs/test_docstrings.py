"""Every public function teaches: its docstring has an example (which `pytest --doctest-modules tsm_fast` runs)."""

from __future__ import annotations

import doctest
import inspect
from importlib.metadata import version

import pytest

import tsm_fast

PUBLIC = [name for name in tsm_fast.__all__ if name != "BackendInfo"]


@pytest.mark.parametrize("name", PUBLIC)
def test_there_is_an_example(name):
    examples = doctest.DocTestFinder(recurse=False).find(getattr(tsm_fast, name), name)[0]
    assert examples.examples


@pytest.mark.parametrize("name", [name for name in PUBLIC if inspect.isfunction(getattr(tsm_fast, name))])
def test_every_parameter_is_described(name):
    function = getattr(tsm_fast, name)
    text = inspect.getdoc(function) or ""
    for parameter in inspect.signature(function).parameters:
        assert parameter in text, f"{name} does not describe {parameter}"


def test_the_version_is_that_of_the_package():
    assert tsm_fast.__version__ == version("tsm_fast")
