"""Batched eigenproblems of Gram matrices, and singular value decompositions, against `torch.linalg`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import tsm_fast
from benchmarks import shapes
from benchmarks.conftest import Contender, Target
from tsm_fast.bench import peers
from tsm_fast.steps import choice


@pytest.mark.parametrize(
    ("shape", "batch", "rank", "targets"),
    [
        ("2048x7x7", 512, 49, [Target("torch", 5)]),
        ("2048x7x7", 512, 1, []),
        ("1024x14x14", 64, 196, []),
        ("1024x14x14", 64, 8, []),
    ],
)
def test_eigenpairs(shape: str, batch: int, rank: int, targets: list[Target], compare: Callable[..., dict]) -> None:
    x = shapes.features(shape, batch).flatten(2)
    gram = x.mT @ x
    n = gram.shape[1]
    backend = choice.resolve(None, gram)
    values, vectors = backend.truncated_svd(gram, rank)
    exact = torch.linalg.eigvalsh(gram.double()).flip(1)[:, :rank].clamp(min=0).sqrt()
    wide = vectors.double()
    residual = gram.double() @ wide - wide * values.double()[:, None] ** 2
    errors = {
        "singular_values": float(((values - exact).abs() / exact[:, :1]).max()),
        "residual": float((residual.abs().amax((1, 2)) / exact[:, 0] ** 2).max()),
        "orthogonality": float((wide.mT @ wide - torch.eye(rank)).abs().max()),
    }
    assert errors["singular_values"] < 1e-5
    assert max(errors["residual"], errors["orthogonality"]) < 1e-5

    compare(
        "truncated_svd",
        f"{n}x{n}, {'all' if rank == n else rank} eigenpairs",
        Contender("tsm_fast", lambda: backend.truncated_svd(gram, rank), batch),
        [
            Contender("torch", lambda: torch.linalg.eigh(gram), batch),
            Contender("torch, split", lambda: peers.eigh_split(gram), batch),
        ],
        targets,
        errors=errors,
    )


def test_singular_triplets(compare: Callable[..., dict]) -> None:
    m = shapes.features("2048x7x7").flatten(2)  # [B, 2048, 49]
    u, s, vh = tsm_fast.truncated_svd(m)
    exact = torch.linalg.svdvals(m.double())
    back = (u * s[:, None]) @ vh
    errors = {
        "singular_values": float(((s - exact).abs() / exact[:, :1]).max()),
        "reconstruction": float((torch.linalg.matrix_norm(back - m) / torch.linalg.matrix_norm(m)).max()),
    }
    assert errors["singular_values"] < 1e-5
    assert errors["reconstruction"] < 1e-5
    compare(
        "truncated_svd",
        "2048x49, all triplets",
        Contender("tsm_fast", lambda: tsm_fast.truncated_svd(m), len(m)),
        [Contender("torch.linalg.svd", lambda: torch.linalg.svd(m, full_matrices=False), len(m), rounds=5)],
        errors=errors,
    )
