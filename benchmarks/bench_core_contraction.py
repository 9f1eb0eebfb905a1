"""`X x_1 A_1^T x_2 A_2^T x_3 A_3^T` against plain PyTorch and TensorLy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tensorly.tenalg.core_tenalg import multi_mode_dot

import tsm_fast
from benchmarks import shapes
from benchmarks.conftest import Contender
from tsm_fast.steps import choice


@pytest.mark.parametrize("shape", ["2048x7x7", "1024x14x14"])
def test_core_contraction(shape: str, compare: Callable[..., dict]) -> None:
    x = shapes.features(shape)
    factors = tsm_fast.hosvd(x, (16, 4, 4)).factors
    backend = choice.resolve(None, x)
    exact = torch.einsum("bchw,bcr,bhs,bwt->brst", x.double(), *(a.double() for a in factors))
    core = backend.core_contraction(x, factors, (0, 1, 2))
    error = float(((core - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).max())
    assert error < 1e-5

    def plain() -> torch.Tensor:
        """The channels first: one batched matrix product over the whole input, then two small ones."""
        a, b, c = factors
        y = (a.mT @ x.flatten(2)).unflatten(2, x.shape[2:])  # [B, R_1, H, W]
        y = y @ c[:, None]
        return b.mT[:, None] @ y

    few, arrays = 8, [a.numpy() for a in factors]

    def by_tensorly() -> list[np.ndarray]:
        return [multi_mode_dot(x[i].numpy(), [a[i] for a in arrays], transpose=True) for i in range(few)]

    assert torch.allclose(plain(), exact.float(), rtol=1e-3, atol=1e-3 * float(exact.abs().max()))
    compare(
        "core_contraction",
        f"{shape}, rank (16, 4, 4)",
        Contender("tsm_fast", lambda: backend.core_contraction(x, factors, (0, 1, 2)), len(x)),
        [Contender("torch", plain, len(x)), Contender("TensorLy", by_tensorly, few)],
        errors={"core": error},
    )
