"""Every public function teaches: its docstring has an example (which `pytest --doctest-modules tsm_fast` runs)."""

from __future__ import annotations

import doctest
import inspect
import re
from importlib.metadata import version

import pytest

import tsm_fast
from tsm_fast import metrics
from tsm_fast.methods import BUILT_IN

PUBLIC = {name: getattr(tsm_fast, name) for name in tsm_fast.__all__ if name != "BackendInfo"}
METRICS = {f"metrics.{name}": getattr(metrics, name) for name in metrics.__all__}
FUNCTIONS = {name: found for name, found in {**PUBLIC, **METRICS}.items() if inspect.isfunction(found)}


@pytest.mark.parametrize("name", {**PUBLIC, **FUNCTIONS})
def test_there_is_an_example(name):
    examples = doctest.DocTestFinder(recurse=False).find({**PUBLIC, **FUNCTIONS}[name], name)[0]
    assert examples.examples


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_is_described(name):
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    for parameter in inspect.signature(FUNCTIONS[name]).parameters:
        assert parameter in text, f"{name} does not describe {parameter}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_raised_stands_before_a_colon(name):
    raised = re.search(r"^Raises:\n((?: .*\n?)+)", inspect.getdoc(FUNCTIONS[name]) or "", re.MULTILINE)
    for entry in re.findall(r"^ {4}(\S.*)", raised[1] if raised else "", re.MULTILINE):
        assert re.match(r"\w+(, \w+)*: ", entry), entry


def test_the_package_of_metrics_names_them_all():
    for name in metrics.__all__:
        kind = getattr(metrics, name)
        result = isinstance(kind, type) and not issubclass(kind, Exception)
        assert result or re.search(rf"\b{name}\b", metrics.__doc__ or ""), name


@pytest.mark.parametrize("name", tsm_fast.__all__)
def test_signatures_have_types_and_no_quotes(name):
    signature = inspect.signature(getattr(tsm_fast, name))
    annotations = [parameter.annotation for parameter in signature.parameters.values()]
    assert not [kind for kind in (*annotations, signature.return_annotation) if isinstance(kind, str)]
    assert inspect.Parameter.empty not in annotations


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_map_says_what_its_own_options_are(name):
    text = inspect.getdoc(BUILT_IN[name].function) or ""
    for option in inspect.signature(BUILT_IN[name].function).parameters:
        assert re.search(rf"^    {option}: ", text, re.MULTILINE), option


def test_only_public_names_are_offered():
    assert [name for name in dir(tsm_fast) if not name.startswith("__")] == sorted(tsm_fast.__all__)
    for name in tsm_fast.__all__:
        assert re.search(rf"\b{name}\b", tsm_fast.__doc__ or ""), name


def test_the_version_is_that_of_the_package():
    assert tsm_fast.__version__ == version("tsm_fast")
