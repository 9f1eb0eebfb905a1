"""The imputation of ROAD, by its equations in SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import spsolve
from torch import Tensor

from tsm_fast import metrics

from .conftest import noise


def solved(image: np.ndarray, missing: np.ndarray) -> np.ndarray:  # [C, H, W], [H, W]
    height, width = missing.shape
    numbers = np.full(missing.shape, -1)
    numbers[missing] = np.arange(missing.sum())
    left = sparse.lil_matrix((missing.sum(), missing.sum()))
    right = np.zeros((missing.sum(), len(image)))
    for (row, column), number in np.ndenumerate(numbers):
        if number < 0:
            continue
        for down, across in np.ndindex(3, 3):
            r, c = row + down - 1, column + across - 1
            weight = {0: 0, 1: 1 / 6, 2: 1 / 12}[abs(down - 1) + abs(across - 1)]
            if weight and 0 <= r < height and 0 <= c < width:
                left[number, number] += weight
                if missing[r, c]:
                    left[number, numbers[r, c]] -= weight
                else:
                    right[number] += weight * image[:, r, c]
    made = image.copy()
    found: Any = spsolve(left.tocsc(), right)
    made[:, missing] = found.reshape(right.shape).T
    return made


@pytest.mark.parametrize("shape", [(24, 24), (23, 37), (3, 50), (1, 9)])
@pytest.mark.parametrize("kind", ["smooth", "scattered"])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_it_solves_the_equations(shape: tuple[int, int], kind: str, share: float, dtype: torch.dtype) -> None:
    inputs = noise(3, 2, *shape).to(dtype)
    heights = noise(3, *shape, seed=3) if kind == "scattered" else metrics.smooth_noise((3, *shape), 3)
    missing = heights < heights.flatten(1).quantile(share, dim=1)[:, None, None]
    found = metrics.imputed(inputs, missing)
    for item in range(3):
        expected = solved(inputs[item].double().numpy(), missing[item].numpy())
        assert np.allclose(found[item], expected, atol=1e-3)
    assert found.dtype == dtype
    assert torch.equal(found[~missing[:, None].expand_as(found)], inputs[~missing[:, None].expand_as(inputs)])


def test_large_holes_take_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsm_fast.metrics._imputation._MOST", 15)
    inputs = metrics.smooth_noise((2, 160, 160))[:, None]
    missing = torch.ones(2, 160, 160, dtype=torch.bool)
    missing[0, :2], missing[1, 80, 80] = False, False
    found, wide = metrics.imputed(inputs, missing), metrics.imputed(inputs.double(), missing)
    assert torch.allclose(found, wide.float(), atol=2e-3)
    assert torch.allclose(wide[1], inputs[1, :, 80, 80].double().view(1, 1, 1), atol=1e-3)


def test_items_do_not_see_each_other() -> None:
    inputs, missing = noise(3, 2, 20, 20), noise(3, 20, 20, seed=4) < 0.7
    alone = [metrics.imputed(inputs[i : i + 1], missing[i : i + 1]) for i in range(3)]
    assert torch.allclose(metrics.imputed(inputs, missing), torch.cat(alone), atol=1e-5)
    inputs[1, 0, 0, 0] = torch.nan
    missing[1, 0, 0] = False
    again = metrics.imputed(inputs, missing)
    assert torch.allclose(again[[0, 2]], torch.cat([alone[0], alone[2]]), atol=1e-5)
    assert again[1, 0][missing[1]].isnan().all()
    assert again[1, 1].isfinite().all()


def test_bad_input() -> None:
    inputs: Tensor = noise(2, 3, 8, 8)
    with pytest.raises(ValueError, match="missing must leave some pixel of each item"):
        metrics.imputed(inputs, torch.ones(2, 8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"missing must be bool \[B, H, W\] .* got torch.float32"):
        metrics.imputed(inputs, torch.ones(2, 8, 8))
