"""The maps under JAX's transformations, each case in its own process: its threads do not go with forks."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("jax") is None, reason="needs jax: pip install 'tsm_fast[jax]'")

SETUP = """
import warnings
import jax, jax.numpy as jnp, numpy as np, torch, tsm_fast
from tsm_fast.integrations import jax as tsm_jax
warnings.simplefilter("error")
x = np.random.default_rng(0).random((3, 30, 6, 7), dtype=np.float32)
NAMES = ("eigencam", "tsm", "multivec_eigencam", "mtsm", "mean_activation")

def raises(kind, text, call):
    try:
        call()
    except kind as error:
        assert text in str(error), error
    else:
        raise AssertionError("no error")
"""

CASES = {
    "the maps themselves": """
        for name in NAMES:
            expected, function = getattr(tsm_fast, name), getattr(tsm_jax, name)
            for options in ({}, {"size": (12, 9)}, {"normalize": False, "precision": "float64"}):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # float64 is narrowed
                    eager = function(jnp.asarray(x), **options)
                compiled = jax.jit(lambda y: function(y, **options))(x)
                assert eager.dtype == compiled.dtype == jnp.float32
                want = expected(x, **options).astype("float32")
                assert np.array_equal(compiled, want) and np.array_equal(eager, want)
        for rank in ((4, 3, 3), 2):
            assert np.array_equal(jax.jit(lambda y: tsm_jax.tsm(y, rank))(x), tsm_fast.tsm(x, rank))
    """,
    "vmap is a larger batch": """
        many = np.stack([x, x[::-1], 2 * x])
        for name in NAMES:
            function = getattr(tsm_jax, name)
            maps = jax.vmap(function)(many)
            assert np.array_equal(maps, jnp.stack([getattr(tsm_fast, name)(one) for one in many]))
            inner = jax.jit(jax.vmap(jax.vmap(function)))(many[None])
            assert np.array_equal(inner[0], maps)
    """,
    "one and three position modes": """
        for y in (x[..., 0], x.reshape(3, 5, 6, 6, 7)):
            for name in NAMES:
                function, expected = getattr(tsm_jax, name), getattr(tsm_fast, name)(y)
                assert np.array_equal(jax.jit(function)(y), expected)
                assert np.array_equal(jax.vmap(jax.jit(function))(y[None])[0], expected)
                assert jax.grad(lambda z: function(z).sum())(y).shape == y.shape
    """,
    "gradients": """
        for name in NAMES:
            weights = np.random.default_rng(1).random((3, 6, 7), dtype=np.float32)
            function = getattr(tsm_jax, name)
            loss = lambda y: (weights * function(y, normalize=False)).sum()
            t = torch.from_numpy(x).requires_grad_()
            (torch.from_numpy(weights) * getattr(tsm_fast, name)(t, normalize=False)).sum().backward()
            for gradient in (jax.grad(loss)(x), jax.jit(jax.grad(loss))(x)):
                assert np.allclose(gradient, t.grad, rtol=1e-5, atol=1e-6)
            one = jax.vmap(jax.grad(lambda y: function(y[None], normalize=False)[0, 2, 3]))(x)
            assert one.shape == x.shape and np.isfinite(one).all()
    """,
    "dtypes": """
        for dtype in (jnp.bfloat16, jnp.float16):
            y = jnp.asarray(x, dtype)
            maps = jax.jit(tsm_jax.tsm)(y)
            assert maps.dtype == jnp.float32 and np.array_equal(maps, tsm_fast.tsm(y))
            gradient = jax.grad(lambda z: tsm_jax.tsm(z).sum())(y)
            assert gradient.dtype == dtype
        jax.config.update("jax_enable_x64", True)
        maps = jax.jit(lambda y: tsm_jax.mtsm(y, precision="float64"))(x.astype("float64"))
        expected = tsm_fast.mtsm(x.astype("float64"), precision="float64")
        assert maps.dtype == jnp.float64 and np.array_equal(maps, expected)
    """,
    "errors come at the call": """
        need = "features must be [B, C, *positions] with 1 to 3 position modes, got shape (6, 7)"
        raises(ValueError, need, lambda: jax.jit(tsm_jax.tsm)(x[0, 0]))
        jitted = jax.jit(tsm_jax.tsm)
        raises(TypeError, "features must have a floating-point dtype, got int32", lambda: jitted(x.astype("int32")))
        misspelt = jax.jit(lambda y: tsm_jax.tsm(y, centre=True))
        raises(TypeError, "unexpected keyword argument 'centre'", lambda: misspelt(x))
        raises(ValueError, "rank must", lambda: jax.jit(lambda y: tsm_jax.tsm(y, (31, 3, 3)))(x))
        bad = x.copy(); bad[1, 0, 0, 0] = np.nan
        raises(Exception, "features must be finite", lambda: jax.block_until_ready(jax.jit(tsm_jax.tsm)(bad)))
        zero = jax.jit(lambda y: tsm_jax.tsm(y, nan="zero"))(bad)
        assert np.array_equal(zero, tsm_fast.tsm(bad, nan="zero"))
        way_out = "tsm_fast.integrations.jax has the maps under jit, vmap and grad"
        raises(TypeError, way_out, lambda: jax.jit(tsm_fast.tsm)(x))
    """,
}


@pytest.mark.parametrize("case", CASES)
def test_jax(case: str) -> None:
    code = SETUP + textwrap.dedent(CASES[case])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
