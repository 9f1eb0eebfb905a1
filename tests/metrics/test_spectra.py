"""The singular values behind the maps."""

from __future__ import annotations

import pytest
import torch

import tsm_fast
from tsm_fast import metrics

from .conftest import noise


@pytest.mark.parametrize("center", [False, True])
def test_the_svd_is_that_of_torch(center: bool, dtype: torch.dtype) -> None:
    features = noise(3, 40, 5, 6).to(dtype)
    found = metrics.spectrum(features, center=center)
    matrices = features.double().flatten(2)
    total = matrices.square().sum((1, 2))
    values = torch.linalg.svdvals(matrices - matrices.mean(2, keepdim=True) if center else matrices)
    assert torch.allclose(found.values.double(), values, atol=1e-5)
    assert torch.allclose(found.share.double(), values / values.sum(1, keepdim=True), atol=1e-5)
    expected = values**2 / (values.square().sum(1) if center else total)[:, None]
    assert torch.allclose(found.energy.double(), expected, atol=1e-5)
    assert torch.allclose(found.gap.double(), values[:, 0] / values[:, 1], rtol=1e-4)
    assert found.gap.dtype == dtype


def test_tucker_at_full_rank_has_the_same_values() -> None:
    features = noise(3, 12, 5, 6)
    for mode in (0, 1, -1):
        one, two = metrics.spectrum(features, mode=mode), metrics.spectrum(features, "tucker", mode=mode)
        assert torch.allclose(one.values, two.values, atol=1e-4)
        assert torch.allclose(one.energy, two.energy, atol=1e-5)


def test_truncation_raises_shares_and_not_energy() -> None:
    features = noise(3, 12, 5, 6)
    whole, part = metrics.spectrum(features), metrics.spectrum(features, "tucker", rank=(3, 2, 2))
    expected = tsm_fast.tucker(features, (3, 2, 2)).singular_values[0]
    assert torch.equal(part.values, expected)
    assert bool((part.share[:, 0] > whole.share[:, 0]).all())
    assert bool((part.energy.sum(1) <= 1 + 1e-6).all())
    assert bool((part.energy[:, 0] <= whole.energy[:, 0] + 1e-6).all())


def test_tokens_video_zeros_and_one_value() -> None:
    assert metrics.spectrum(noise(2, 8, 9)).values.shape == (2, 8)
    assert metrics.spectrum(noise(2, 8, 2, 3, 4), "tucker", rank=(2, 2, 2, 2)).values.shape == (2, 2)
    zeros = metrics.spectrum(torch.zeros(1, 8, 3, 3))
    assert zeros.share.isnan().all()
    assert zeros.energy.isnan().all()
    assert zeros.gap.isnan().all()
    assert metrics.spectrum(noise(2, 8, 3, 3), "tucker", rank=1).gap.tolist() == [torch.inf] * 2
    assert metrics.spectrum(torch.zeros(0, 8, 3, 3)).values.shape == (0, 8)


def test_wrong_arguments() -> None:
    features = noise(2, 8, 3, 3)
    with pytest.raises(ValueError, match="decomposition must be one of 'svd', 'tucker', got 'hosvd'"):
        metrics.spectrum(features, "hosvd")
    with pytest.raises(ValueError, match="rank is for decomposition='tucker'"):
        metrics.spectrum(features, rank=2)
    with pytest.raises(ValueError, match=r"mode must lie in 0..2"):
        metrics.spectrum(features, mode=3)
    with pytest.raises(TypeError, match="features must be a float tensor"):
        metrics.spectrum(features.long())
    features[1, 0] = torch.nan
    with pytest.raises(ValueError, match="got NaN or Inf in item 1"):
        metrics.spectrum(features)
