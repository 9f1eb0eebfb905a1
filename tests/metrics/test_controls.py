"""Maps that no method made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tsm_fast
from tsm_fast import metrics

from .conftest import noise


def test_noise_is_smooth_and_goes_over_the_whole_image() -> None:
    maps = metrics.smooth_noise((200, 24, 32), 7)
    assert maps.shape == (200, 24, 32)
    assert maps.amin((1, 2)).tolist() == [0] * 200
    assert maps.amax((1, 2)).tolist() == [1] * 200
    steps = maps.diff(dim=1).abs().mean() / maps.std()
    assert 0.05 < steps < 0.3
    places = maps.mean(0)
    assert float(places.std() / maps.std()) < 0.15  # no corner and no middle is favoured


def test_a_seed_for_each_item_makes_the_batch_play_no_role() -> None:
    maps = metrics.smooth_noise((4, 16, 16), [3, 1, 4, 1])
    assert torch.equal(maps[1], maps[3])
    assert torch.equal(maps[2:], metrics.smooth_noise((2, 16, 16), torch.tensor([4, 1]).tolist()))
    assert torch.equal(metrics.smooth_noise((2, 16, 16)), metrics.smooth_noise((2, 16, 16), 0))
    generator = torch.Generator().manual_seed(0)
    first, second = (metrics.smooth_noise((2, 16, 16), generator) for _ in range(2))
    assert not torch.equal(first, second)
    same = metrics.same_histogram(maps, [1, 2, 3, 4])
    assert torch.allclose(same[1:2], metrics.same_histogram(maps[1:2], [2]))


def test_edges_are_where_brightness_changes() -> None:
    inputs = torch.zeros(1, 3, 9, 9)
    inputs[:, :, :, 5:] = 1
    found = metrics.edges(inputs)
    assert found[0, 4].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert torch.equal(metrics.edges(inputs.mT)[0], found[0].T)
    assert metrics.edges(torch.ones(1, 3, 9, 9)).tolist() == torch.zeros(1, 9, 9).tolist()


def test_energy_is_a_sum_of_squares() -> None:
    features = noise(2, 8, 5, 6) - 0.5
    squares = features.square().sum(1)
    low, high = squares.amin((1, 2), keepdim=True), squares.amax((1, 2), keepdim=True)
    assert torch.allclose(metrics.energy(features), (squares - low) / (high - low), atol=1e-6)
    assert metrics.energy(features.half(), (10, 12)).dtype == torch.float32
    assert metrics.mean_activation is tsm_fast.mean_activation


def test_another_image_is_of_another_group() -> None:
    maps = torch.arange(4.0)[:, None]
    assert metrics.another_image(maps).flatten().tolist() == [1, 2, 3, 0]
    assert metrics.another_image(maps, ["a", "a", "b", "b"]).flatten().tolist() == [2, 2, 0, 0]
    assert metrics.another_image(maps, torch.zeros(4)).isnan().all()
    assert metrics.another_image(maps[:1]).isnan().all()


def test_the_histogram_stays_and_the_places_do_not(maps: Tensor) -> None:
    found = metrics.same_histogram(maps)
    assert torch.equal(found.flatten(1).sort(1).values, maps.flatten(1).sort(1).values)
    assert torch.equal(found, metrics.same_histogram(maps))
    assert not torch.equal(found, metrics.same_histogram(maps, 1))
    likeness = metrics.stability(found, metrics.smooth_noise(maps.shape)).spearman
    assert bool((likeness[[0, 2, 3, 4, 5]] > 0.99).all())


def test_one_histogram_has_ranks_alone(dtype: torch.dtype, maps: Tensor) -> None:
    maps = maps.to(dtype)
    found = metrics.one_histogram(maps)
    assert torch.equal(found, metrics.one_histogram(maps**3))
    assert torch.allclose(found.mean((1, 2)), torch.tensor(1 / 3 - 1 / (12 * 576**2), dtype=dtype))
    assert torch.allclose(found[0].flatten().sort().values, found[3].flatten().sort().values)
    assert torch.allclose(metrics.stability(found, maps).spearman, torch.ones(6, dtype=dtype))
    assert torch.allclose(metrics.one_histogram(metrics.uniform((1, 24, 24))), torch.tensor(1 / 3), atol=1e-6)
    assert metrics.one_histogram(torch.tensor([[0.0, torch.nan], [0.0, 1.0]])).isnan().any(1).tolist() == [True, False]


def test_wrong_arguments(maps: Tensor) -> None:
    with pytest.raises(ValueError, match="generator must have a seed for each of 6 items, got 2"):
        metrics.same_histogram(maps, [1, 2])
    with pytest.raises(ValueError, match=r"shape must be \(B, H, W\), got \(2, 3\)"):
        metrics.smooth_noise((2, 3))
    with pytest.raises(ValueError, match="smoothness must be above 0"):
        metrics.smooth_noise((2, 3, 3), smoothness=0)
    with pytest.raises(ValueError, match=r"shape must be \(B, H, W\) and sigma above 0"):
        metrics.center_gaussian((2, 3, 3), 0)
    with pytest.raises(ValueError, match=r"shape must be \(B, \*positions\)"):
        metrics.uniform((3,))
    with pytest.raises(ValueError, match="groups must be one for each of 6 maps, got 1"):
        metrics.another_image(maps, ["a"])
    for function in (metrics.edges, metrics.energy):
        wrong: Any = [1]
        with pytest.raises(TypeError, match=r"must be a float tensor \[B, C, H, W\]"):
            function(wrong)
        with pytest.raises(ValueError, match=r"must be \[B, C, H, W\], got \(6, 24, 24\)"):
            function(maps)
