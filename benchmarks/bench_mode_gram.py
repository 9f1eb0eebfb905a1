"""The position Gram matrix `F^T F` against `torch.bmm`, and the share of the machine's own peak that it reaches."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from benchmarks import shapes
from benchmarks.conftest import Contender
from benchmarks.peak import fma_peak
from tsm_fast.steps import choice


@pytest.mark.parametrize("shape", ["2048x7x7", "1280x7x7", "1024x14x14", "512x14x14"])
def test_mode_gram(shape: str, compare: Callable[..., dict]) -> None:
    x = shapes.features(shape).flatten(2)  # [B, C, S]
    backend = choice.resolve(None, x)
    exact = x.double().mT @ x.double()
    error = float(((backend.mode_gram(x, 1).double() - exact).abs().amax((1, 2)) / exact.amax((1, 2))).max())
    assert error < 1e-5  # 2048 float32 products, each rounded to 6e-8 of the running sum

    rates: dict[str, list[float]] = {"peak": [], "sgemm": []}
    square = torch.rand(1024, 1024)

    def peak() -> None:
        rates["peak"].append(fma_peak(0.02, torch.get_num_threads()))

    def sgemm() -> None:
        start = time.perf_counter()
        torch.mm(square, square)
        rates["sgemm"].append(2 * 1024**3 / (time.perf_counter() - start))

    record = compare(
        "mode_gram",
        shape,
        Contender("tsm_fast", lambda: backend.mode_gram(x, 1), len(x)),
        [
            Contender("torch", lambda: torch.bmm(x.mT, x), len(x)),
            Contender("peak", peak, 1),
            Contender("sgemm", sgemm, 1),
        ],
        errors={"gram": error},
    )
    for key in rates:
        del record["ms"][key], record["ratio"][key]
    c, s = x.shape[1:]
    flop = c * s * (s + 1)  # a multiplication and an addition for each entry of one triangle
    record["flops"] = {key: float(np.median(values)) for key, values in rates.items()}
    record["flops"]["useful"] = flop / (record["ms"]["tsm_fast"]["p50"] * 1e-3)
