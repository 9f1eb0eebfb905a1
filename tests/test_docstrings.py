"""Every public function teaches: its docstring has an example, and the example runs."""

from __future__ import annotations

import doctest
import inspect

import pytest

import tsm_fast

PUBLIC = [name for name in tsm_fast.__all__ if name != "BackendInfo"]


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_runs(name):
    thing = getattr(tsm_fast, name)
    examples = doctest.DocTestFinder(recurse=False).find(thing, name)[0]
    assert examples.examples, f"{name} has no example"
    results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(examples)
    assert results.failed == 0


@pytest.mark.parametrize("name", [name for name in PUBLIC if inspect.isfunction(getattr(tsm_fast, name))])
def test_every_parameter_is_described(name):
    function = getattr(tsm_fast, name)
    text = inspect.getdoc(function) or ""
    for parameter in inspect.signature(function).parameters:
        assert parameter in text, f"{name} does not describe {parameter}"
