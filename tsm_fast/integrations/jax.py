"""JAX: the maps under `jit`, `vmap` and `grad`, as callbacks that run on the CPU.

    maps = jax.jit(tsm_fast.tsm)(features)       ->  from tsm_fast.integrations import jax as tsm_jax
                                                     maps = jax.jit(tsm_jax.tsm)(features)

Outside of these transformations `tsm_fast.tsm` and its like take JAX arrays themselves, without a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..methods import METHODS
from ..steps import checks
from ..steps.arrays import as_tensor
from ._peer import peer

jax: Any = peer("jax", "jax", "0.4.34", "jax")


def eigencam(features: Any, **options: Any) -> Any:
    """`tsm_fast.eigencam` of `[B, C, *positions]`, a JAX array or a tracer, with its options."""
    return _map("eigencam", features, options)


def tsm(features: Any, rank: checks.Rank = None, **options: Any) -> Any:
    """`tsm_fast.tsm` of `[B, C, *positions]`, a JAX array or a tracer, with its options.

    >>> import jax, jax.numpy as jnp
    >>> from tsm_fast.integrations import jax as tsm_jax
    >>> features = jnp.ones((8, 64, 7, 7)).at[:, 0, 3, 3].set(5.0)
    >>> maps = jax.jit(lambda x: tsm_jax.tsm(x, (8, 4, 4), size=(14, 14)))(features)
    >>> maps.shape, float(maps.max())
    ((8, 14, 14), 1.0)
    """
    return _map("tsm", features, {"rank": rank, **options})


def multivec_eigencam(features: Any, **options: Any) -> Any:
    """`tsm_fast.multivec_eigencam` of `[B, C, *positions]`, a JAX array or a tracer, with its options."""
    return _map("multivec_eigencam", features, options)


def mtsm(features: Any, rank: checks.Rank = None, **options: Any) -> Any:
    """`tsm_fast.mtsm` of `[B, C, *positions]`, a JAX array or a tracer, with its options."""
    return _map("mtsm", features, {"rank": rank, **options})


def mean_activation(features: Any, **options: Any) -> Any:
    """`tsm_fast.mean_activation` of `[B, C, *positions]`, a JAX array or a tracer, with its options."""
    return _map("mean_activation", features, options)


def _map(method: str, features: Any, options: dict[str, Any]) -> Any:
    function = partial(METHODS[method].function, **options)
    if not isinstance(features, jax.core.Tracer):
        return function(features)
    checks.features(features)
    if not jax.numpy.issubdtype(features.dtype, jax.numpy.floating):
        raise TypeError(f"features must have a floating-point dtype, got {features.dtype}")
    batch, *sizes = features.shape
    trial = function(torch.ones(0, *sizes))  # wrong options show here, and not inside of compiled code
    dtype = "float64" if trial.dtype == torch.float64 and jax.config.jax_enable_x64 else "float32"
    return _traced(function, jax.ShapeDtypeStruct((batch, *trial.shape[1:]), dtype), len(sizes))(features)


def _traced(function: Callable[[Tensor], Tensor], result: Any, order: int) -> Callable[[Any], Any]:
    """The function of tracers of items of this order, with its gradient; `result` is its shape and dtype.

    `vmap` puts its dimensions before the batch, where they are part of it: items do not know of each other.
    """

    def maps(features: Any) -> Any:
        x, leading = _flat(features, order)
        return _like(function(x), result.dtype).reshape(*leading, *result.shape)

    def pullback(features: Any, weights: Any) -> Any:
        x, leading = _flat(features, order)
        x = x.requires_grad_()
        found = function(x)
        given = torch.from_numpy(np.array(weights)).to(found.dtype).reshape(found.shape)
        (gradient,) = torch.autograd.grad(found, x, given)
        return _like(gradient, features.dtype).reshape(*leading, *features.shape[len(leading) :])

    @jax.custom_vjp
    def traced(features: Any) -> Any:
        return jax.pure_callback(maps, result, features, vmap_method="broadcast_all")

    def forward(features: Any) -> tuple[Any, Any]:
        return traced(features), features

    def backward(features: Any, weights: Any) -> tuple[Any]:
        own = jax.ShapeDtypeStruct(features.shape, features.dtype)
        return (jax.pure_callback(pullback, own, features, weights, vmap_method="broadcast_all"),)

    traced.defvjp(forward, backward)
    return traced


def _flat(features: Any, order: int) -> tuple[Tensor, tuple[int, ...]]:
    """Features [*leading, B, C, *positions] as a batch [n, C, *positions]."""
    x, _ = as_tensor("features", np.array(features))
    return x.flatten(0, -order - 1), tuple(x.shape[: -order - 1])


def _like(tensor: Tensor, dtype: Any) -> np.ndarray:
    return tensor.detach().to(torch.float64).numpy().astype(dtype)
