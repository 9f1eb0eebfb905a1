"""The position Gram matrix `F^T F` against `torch.bmm`, and the share of the machine's own peak that it reaches."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import pytest
import torch

from benchmarks import shapes
from benchmarks.conftest import Contender
from tsm_fast import dispatch


@pytest.mark.parametrize("shape", ["2048x7x7", "1280x7x7", "1024x14x14", "512x14x14"])
def test_mode_gram(shape: str, compare: Callable[..., dict]) -> None:
    x = shapes.features(shape).flatten(2)  # [B, C, S]
    backend = dispatch.resolve(None, x)
    exact = x.double().mT @ x.double()
    error = float(((backend.mode_gram(x, 1).double() - exact).abs().amax((1, 2)) / exact.amax((1, 2))).max())
    assert error < 1e-5  # 2048 float32 products, each rounded to 6e-8 of the running sum

    peaks: list[float] = []

    def ours() -> None:
        backend.mode_gram(x, 1)

    def peak() -> None:
        native = importlib.import_module("tsm_fast._cpu")
        peaks.append(native.fma_peak(0.02, torch.get_num_threads()))

    peers = [Contender("torch", lambda: torch.bmm(x.mT, x), len(x))]
    if dispatch.backends()["cpu"].available:
        peers.append(Contender("peak", peak, len(x)))
    record = compare("mode_gram", shape, Contender("tsm_fast", ours, len(x)), peers, errors={"gram": error})
    if peaks:
        del record["ms"]["peak"], record["ratio"]["peak"]
        c, s = x.shape[1:]
        flop = c * s * (s + 1)  # a multiplication and an addition for each entry of one triangle
        rate = flop / (record["ms"]["tsm_fast"]["p50"] * 1e-3)
        record["gram_flops"] = {
            "useful": rate,
            "peak": float(np.median(peaks)),
            "share": rate / float(np.median(peaks)),
        }
