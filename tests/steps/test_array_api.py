"""Arrays of other libraries come back on their device, in the dtype they can hold: the array API standard, and JAX."""

from __future__ import annotations

import subprocess
import sys
import warnings
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch

import tsm_fast

from ..helpers import feature_maps
from ..needs import needs

pytestmark = needs("array_api_strict", extra="dev")

array_api_strict: Any = import_module("array_api_strict") if find_spec("array_api_strict") else None
FEATURES = feature_maps(3, 30, 6, 7)
DEVICES = (
    {str(device): device for device in array_api_strict.__array_namespace_info__().devices()}
    if array_api_strict
    else {}
)
STRICT = {name: array_api_strict.asarray(FEATURES.numpy(), device=device) for name, device in DEVICES.items()}


def results(x) -> dict[str, Any]:
    """What the public functions return for [B, C, H, W], by name."""
    tucker, hosvd = tsm_fast.tucker(x, (4, 3, 3)), tsm_fast.hosvd(x, (4, 3, 3))
    fields = ("core", "factors", "singular_values", "errors", "n_sweeps", "converged")
    found = {
        f"{name} {field}": getattr(r, field) for name, r in (("tucker", tucker), ("hosvd", hosvd)) for field in fields
    }
    found |= {"truncated_svd": list(tsm_fast.truncated_svd(x[:, :, 0, :])), "tsm": tsm_fast.tsm(x)}
    found |= {"unfold": tsm_fast.unfold(x, 1), "reconstruct": tucker.reconstruct()}
    found["mode_dot"] = tsm_fast.mode_dot(x, tucker.factors[0], 0, True)
    return {
        f"{name} {i}": array
        for name, arrays in found.items()
        for i, array in enumerate(arrays if isinstance(arrays, list) else [arrays])
    }


@pytest.mark.parametrize("device", DEVICES)
def test_results_lie_on_the_device_of_the_input(device):
    x, expected = STRICT[device], results(FEATURES)
    for name, array in results(x).items():
        assert type(array) is type(x)
        assert array.device == x.device
        assert torch.equal(torch.from_dlpack(array), expected[name].to(torch.from_dlpack(array).dtype)), name


@pytest.mark.parametrize("name", ["no_float64", "no_x64"])
def test_what_a_device_cannot_hold_is_narrowed(name):
    """Errors are float64 for any input and say nothing that float32 does not; what is asked for in float64 does."""
    x = STRICT[f"array_api_strict.Device({name!r})"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = tsm_fast.tucker(x, (4, 3, 3))
    assert result.errors.dtype == array_api_strict.float32
    assert result.n_sweeps.dtype == (array_api_strict.int32 if name == "no_x64" else array_api_strict.int64)
    message = rf"^array_api_strict has no float64 on .*{name}.*: the result is rounded to float32$"
    product = partial(tsm_fast.mode_dot, matrix=x[:, 0, :, :], mode=2)
    for call in (tsm_fast.tsm, tsm_fast.tucker, tsm_fast.hosvd, product):
        with pytest.warns(UserWarning, match=message) as caught:
            call(x, precision="float64")
        assert {warning.filename for warning in caught} == {__file__}


def test_what_a_device_can_hold_is_kept():
    x = STRICT["array_api_strict.Device('device1')"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tsm_fast.tucker(x, (4, 3, 3), precision="float64").core.dtype == array_api_strict.float64


JAX = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import warnings
import jax, numpy, torch, tsm_fast

warnings.simplefilter("error")
features = numpy.random.default_rng(0).random((3, 30, 6, 7), dtype=numpy.float32)
expected = tsm_fast.tucker(features, (4, 3, 3), precision="float64")

for device in jax.devices():
    x = jax.device_put(features, device)
    result = tsm_fast.tucker(x, (4, 3, 3))
    assert {array.device for array in (result.core, *result.factors, result.errors)} == {device}
    assert result.errors.dtype == jax.numpy.float32 and result.n_sweeps.dtype == jax.numpy.int32
    assert tsm_fast.tsm(x).device == device

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert tsm_fast.tucker(x, (4, 3, 3), precision="float64").core.dtype == jax.numpy.float32
assert "jax.numpy has no float64" in str(caught[0].message), caught

for transform in (jax.jit, jax.vmap, lambda f: jax.grad(lambda y: f(y).sum())):
    try:
        transform(tsm_fast.tsm)(x)
    except TypeError as error:
        assert "features must be readable through DLPack, got " in str(error), error
        assert "tsm_fast.integrations.jax" in str(error), error
    else:
        raise AssertionError("traced")
shape = jax.ShapeDtypeStruct((3, 6, 7), jax.numpy.float32)
traced = jax.jit(lambda y: jax.pure_callback(tsm_fast.tsm, shape, y))(x)
assert numpy.array_equal(traced, tsm_fast.tsm(x))

jax.config.update("jax_enable_x64", True)
result = tsm_fast.tucker(x, (4, 3, 3), precision="float64")
assert numpy.array_equal(result.core, expected.core)
assert result.errors.dtype == jax.numpy.float64 and result.n_sweeps.dtype == jax.numpy.int64
"""


@pytest.mark.skipif(find_spec("jax") is None, reason="needs jax, 370 MB that nothing else here needs")
def test_jax():
    """In a process of its own: its threads do not go with the tests that fork."""
    done = subprocess.run([sys.executable, "-c", JAX], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
