"""What stands between the tests and a GPU, without one: every step of the protocol goes through it."""

from __future__ import annotations

import inspect
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tsm_fast.steps.backend import HooiResult

from ..helpers import STEPS, beyond_the_protocol, views
from .emulation.load import emulated
from .on_gpu import OnGpu


def test_every_step_of_the_protocol_goes_through():
    assert beyond_the_protocol(OnGpu(emulated(), "cpu")) == beyond_the_protocol(emulated())


@pytest.mark.parametrize("step", STEPS)
def test_every_step_has_tests_that_go_through(step):
    names = vars(import_module(f"..steps.test_{step}", __package__))
    tests = [test for name, test in names.items() if name.startswith("test_")]
    assert any("backend" in inspect.signature(test).parameters for test in tests)


@pytest.mark.parametrize("missing", STEPS)
def test_a_backend_that_lacks_a_step_is_noticed_at_once(missing):
    lacking = SimpleNamespace(name="lacking", **{step: print for step in STEPS if step != missing})
    with pytest.raises(AttributeError, match=missing):
        OnGpu(lacking, "cpu")


def test_tensors_go_to_the_device_as_they_are_and_results_come_back():
    """Wherever they stand among the arguments, in any strides, and in results of any make."""
    seen: list[Any] = []

    def step(*arguments: Any, **options: Any) -> Any:
        seen.append((arguments, options))
        x = torch.ones(2)
        return HooiResult(x, [x, x], [x], x, x, x, x) if options else (x, [x])

    through = OnGpu(SimpleNamespace(name="any", **dict.fromkeys(STEPS, step)), "meta")
    x = torch.rand(3, 4, 5, 6)
    for view in (x, *views(x).values(), x[:0]):
        assert type(through.core_contraction(view, [view, view], (1, 2))) is tuple
        assert type(through.hooi(view, (2, 2, 2), tol=view)) is HooiResult
        (first, factors, modes), _ = seen[-2]
        assert modes == (1, 2)
        for tensor in (first, *factors, seen[-1][0][0], seen[-1][1]["tol"]):
            assert tensor.device.type == "meta"
            assert (tensor.shape, tensor.stride()) == (view.shape, view.stride())
            assert tensor.storage_offset() == view.storage_offset()


def test_the_values_are_those_that_were_given():
    x = torch.rand(3, 4, 5, 6)
    through = OnGpu(SimpleNamespace(name="any", **dict.fromkeys(STEPS, Tensor.double)), "cpu")
    for view in views(x).values():
        assert through.mode_gram(view).equal(x.double())
