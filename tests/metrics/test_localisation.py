"""Whether maps lie on the object: by the definitions in loops, by what must hold, and on bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from tsm_fast import metrics

from .conftest import blobs, noise

Metric = Callable[[Tensor, Tensor], Tensor]
ORDER: dict[str, Metric] = {
    "pointing_game": metrics.pointing_game,
    "roc_auc": metrics.roc_auc,
    "shuffled_auc": metrics.shuffled_auc,
    "average_precision": metrics.average_precision,
    "iou_at_mask_area": metrics.iou_at_mask_area,
}
ALL: dict[str, Metric] = {**ORDER, "energy_in_mask": metrics.energy_in_mask, "box_iou": metrics.box_iou}
every_metric = pytest.mark.parametrize("name", ALL)


def pairs(m: np.ndarray, above: np.ndarray, below: np.ndarray) -> float:
    """How often a pixel drawn by `above` has more than one drawn by `below`, half for ties."""
    beats = (m[:, None] > m).astype(float) + 0.5 * (m[:, None] == m)
    return float(above @ beats @ below / above.sum() / below.sum())


def items(maps: Tensor, masks: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    flat = maps.flatten(1).double().numpy(), masks.flatten(1).numpy().astype(float)
    return list(zip(*flat, strict=True))


def test_roc_auc_counts_pairs(maps: Tensor, masks: Tensor) -> None:
    expected = [pairs(m, o, 1 - o) for m, o in items(maps, masks)]
    assert np.allclose(metrics.roc_auc(maps, masks), expected, atol=1e-6)


def test_shuffled_auc_counts_pairs_with_other_objects(maps: Tensor, masks: Tensor) -> None:
    every = items(maps, masks)
    shares = np.stack([o / o.sum() for _, o in every])
    expected = [pairs(m, o, shares.sum(0) - shares[i]) for i, (m, o) in enumerate(every)]
    assert np.allclose(metrics.shuffled_auc(maps, masks), expected, atol=1e-6)
    pooled = metrics.shuffled_auc(maps[:1], masks[:1], masks[1:])
    assert pooled[0] == metrics.shuffled_auc(maps, masks)[0]


def test_shuffled_auc_leaves_out_the_own_group(maps: Tensor, masks: Tensor) -> None:
    groups = ["a", "a", "b", "b", "c", "c"]
    found = metrics.shuffled_auc(maps, masks, groups=groups)
    assert torch.equal(found[:2], metrics.shuffled_auc(maps[:2], masks[:2], masks[2:]))
    named = metrics.shuffled_auc(maps, masks, masks, groups=groups, other_groups=torch.tensor([0] * 6))
    assert torch.equal(named, metrics.shuffled_auc(maps, masks, masks))
    assert metrics.shuffled_auc(maps, masks, groups=["a"] * 6).isnan().all()


def test_average_precision_is_the_mean_over_thresholds(maps: Tensor, masks: Tensor) -> None:
    expected = []
    for m, o in items(maps, masks):
        precision = np.array([o[m >= level].mean() for level in m])
        expected.append((precision * o).sum() / o.sum())
    assert np.allclose(metrics.average_precision(maps, masks), expected, atol=1e-6)


def test_iou_takes_as_many_pixels_as_the_object_has(masks: Tensor) -> None:
    maps = noise(*masks.shape)
    for item, (m, o) in enumerate(items(maps, masks)):
        taken = np.zeros(len(m), bool)
        taken[np.argsort(-m)[: int(o.sum())]] = True
        expected = (taken & (o > 0)).sum() / (taken | (o > 0)).sum()
        assert float(metrics.iou_at_mask_area(maps, masks)[item]) == pytest.approx(expected)


def test_energy_and_pointing(maps: Tensor, masks: Tensor) -> None:
    for item, (m, o) in enumerate(items(maps, masks)):
        assert float(metrics.energy_in_mask(maps, masks)[item]) == pytest.approx((m * o).sum() / m.sum())
        assert float(metrics.pointing_game(maps, masks)[item]) == pytest.approx(o[m == m.max()].mean())


def test_pointing_beside_the_object_counts_within_the_tolerance() -> None:
    maps, masks = torch.zeros(3, 9, 9), torch.zeros(3, 9, 9)
    masks[:, 4, 4] = 1
    maps[0, 4, 6] = maps[1, 5, 5] = maps[2, 6, 6] = 1
    assert metrics.pointing_game(maps, masks).tolist() == [0, 0, 0]
    assert metrics.pointing_game(maps, masks, tolerance=2).tolist() == [1, 1, 0]
    assert metrics.pointing_game(maps, masks, tolerance=3).tolist() == [1, 1, 1]


def largest(flags: np.ndarray) -> np.ndarray:
    """The connected part with the most pixels."""
    found: Any = ndimage.label(flags, np.ones((3, 3)))
    sizes = np.bincount(found[0].reshape(-1))
    sizes[0] = 0
    return found[0] == sizes.argmax()


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_boxes_are_those_of_scipy(threshold: float, masks: Tensor) -> None:
    maps = metrics.smooth_noise(masks.shape, 3, smoothness=1 / 16)
    for item, found in enumerate(metrics.box_iou(maps, masks, threshold)):
        parts = maps[item].numpy() > threshold, masks[item].numpy()
        one, two = ([(side.min(), side.max() + 1) for side in np.nonzero(largest(flags))] for flags in parts)
        common = np.prod([max(0, min(a[1], b[1]) - max(a[0], b[0])) for a, b in zip(one, two, strict=True)])
        union = sum(np.prod([high - low for low, high in box]) for box in (one, two)) - common
        assert float(found) == pytest.approx(common / union)


def test_the_largest_part_may_wind() -> None:
    maps = torch.zeros(1, 16, 16)
    maps[:, ::2] = 1
    maps[:, 1::4, 15] = 1
    maps[:, 3::4, 0] = 1
    assert metrics.box_iou(maps, torch.ones_like(maps)).tolist() == [1]
    maps[:, 7, 0] = 0
    assert metrics.box_iou(maps, torch.ones_like(maps)).tolist() == [8 / 16]


def test_of_equal_parts_the_first_is_taken() -> None:
    maps = torch.tensor([[[1.0, 0, 0], [0, 0, 0], [0, 0, 1]]])
    assert metrics.box_iou(maps, torch.tensor([[[1, 0, 0], [0, 0, 0], [0, 0, 0]]])).tolist() == [1]


def test_several_thresholds_give_columns(maps: Tensor, masks: Tensor) -> None:
    found = metrics.box_iou(maps, masks, [0.2, 0.6])
    assert torch.equal(found[:, 1], metrics.box_iou(maps, masks, 0.6))
    assert found.shape == (6, 2)


@pytest.mark.parametrize("name", ORDER)
def test_only_the_order_is_read(name: str, dtype: torch.dtype, maps: Tensor, masks: Tensor) -> None:
    maps = maps.to(dtype)
    assert torch.equal(ORDER[name](maps, masks), ORDER[name](maps**3, masks))


@every_metric
def test_the_mask_is_first(name: str) -> None:
    masks = blobs(40)
    own = ALL[name](masks.float(), masks)
    assert name == "shuffled_auc" or bool((own == 1).all())
    images, features = noise(40, 3, 24, 24), noise(40, 8, 24, 24)
    controls = {
        "uniform": metrics.uniform(masks.shape),
        "smooth": metrics.smooth_noise(masks.shape),
        "centre": metrics.center_gaussian(masks.shape),
        "edges": metrics.edges(images),
        "mean": metrics.mean_activation(features),
        "energy": metrics.energy(features),
        "other": metrics.another_image(masks.float()),
        "elsewhere": metrics.same_histogram(masks.float()),
    }
    for control, maps in controls.items():
        assert bool((ALL[name](maps, masks) <= own).all()), control


@every_metric
def test_batch_size_does_not_matter(name: str, dtype: torch.dtype, maps: Tensor, masks: Tensor) -> None:
    def call(part: slice) -> Tensor:
        if name == "shuffled_auc":
            return metrics.shuffled_auc(maps[part].to(dtype), masks[part], masks)
        return ALL[name](maps[part].to(dtype), masks[part])

    whole = call(slice(None))
    assert torch.equal(torch.cat([call(slice(0, 1)), call(slice(1, 6))]), whole)
    assert whole.dtype == dtype


@pytest.mark.parametrize("map", [metrics.center_gaussian, metrics.smooth_noise])
def test_a_fixed_map_has_shuffled_auc_one_half(map: Callable[..., Tensor]) -> None:
    masks = blobs(30)
    fixed = map((1, 24, 24)).expand(masks.shape)
    assert float(metrics.shuffled_auc(fixed, masks).mean()) == pytest.approx(0.5, abs=1e-6)
    others, masks = masks[:15], masks[15:]
    apart = metrics.shuffled_auc(metrics.center_gaussian(masks.shape), masks, others)
    assert float(apart.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(metrics.roc_auc(metrics.center_gaussian(masks.shape), masks).mean()) > 0.6


def test_all_at_once_are_bitwise_those_one_by_one(maps: Tensor, masks: Tensor) -> None:
    made = {"one": maps.clone(), "two": maps.flip(2).square()}
    made["one"][1, 0, 0] = torch.nan
    masks = masks.clone()
    masks[2:4] = torch.tensor([0, 1])[:, None, None]
    groups = list(range(len(maps)))
    for others, more in ((None, {}), (masks[:3], {"groups": groups, "other_groups": groups[:3]})):
        found = metrics.localise(made, masks, others, **more)
        for name, values in made.items():
            assert {*found[name]} == {*ALL}
            for metric, got in found[name].items():
                asked = {"others": others, **more} if metric == "shuffled_auc" else {}
                expected = getattr(metrics, metric)(values, masks, **asked)
                assert torch.equal(got.nan_to_num(-1), expected.nan_to_num(-1)), (name, metric)


def test_a_constant_map_is_chance(masks: Tensor) -> None:
    ones, share = metrics.uniform(masks.shape), masks.flatten(1).float().mean(1)
    for name, expected in {
        "roc_auc": torch.full_like(share, 0.5),
        "shuffled_auc": torch.full_like(share, 0.5),
        "average_precision": share,
        "iou_at_mask_area": share / (2 - share),
        "energy_in_mask": share,
        "pointing_game": share,
    }.items():
        assert torch.allclose(ALL[name](ones, masks), expected), name
    assert metrics.energy_in_mask(torch.zeros_like(ones), masks).isnan().all()
    assert metrics.box_iou(torch.zeros_like(ones), masks).isnan().all()


@every_metric
def test_bad_items_are_nan_and_leave_the_others_alone(name: str, maps: Tensor, masks: Tensor) -> None:
    bad_maps, bad_masks = maps.clone(), masks.float()
    bad_maps[0, 3, 3], bad_maps[1, 2, 2] = torch.nan, torch.inf
    bad_masks[2], bad_masks[3], bad_masks[4] = torch.nan, 0, 1
    found = ALL[name](bad_maps, bad_masks)
    full = not found[4].isnan()
    assert found[:4].isnan().all()
    assert full == (name in ("energy_in_mask", "pointing_game", "box_iou", "shuffled_auc"))
    assert metrics.status(bad_maps, bad_masks) == ["not-finite"] * 2 + ["no-mask", "no-object", "all-object", "ok"]
    if name != "shuffled_auc":
        assert found[5] == ALL[name](maps, masks)[5]
    else:
        assert found[5] == metrics.shuffled_auc(maps, masks, torch.cat([masks[:2], masks[:1] | True]))[5]


def test_status_without_masks() -> None:
    assert metrics.status(torch.tensor([[0.0, 0.0], [0.0, 1.0]])) == ["constant", "ok"]
    assert metrics.status(torch.zeros(0, 3, 3)) == []


@every_metric
def test_empty_batches(name: str) -> None:
    assert ALL[name](torch.zeros(0, 4, 4), torch.zeros(0, 4, 4)).shape == (0,)


@every_metric
def test_masks_of_other_shapes_are_refused(name: str, maps: Tensor, masks: Tensor) -> None:
    with pytest.raises(ValueError, match=r"masks must be as large as the maps, \(6, 24, 24\), got \(6, 12, 12\)"):
        ALL[name](maps, masks[:, ::2, ::2])
    with pytest.raises(TypeError, match="maps must be floating-point"):
        ALL[name](maps.long(), masks)
    with pytest.raises(TypeError, match="masks must be a torch tensor, got ndarray"):
        ALL[name](maps, masks.numpy())  # pyright: ignore[reportArgumentType]


def test_wrong_options(maps: Tensor, masks: Tensor) -> None:
    with pytest.raises(ValueError, match="maps must not be negative, got -1: take normalize=True"):
        metrics.energy_in_mask(-torch.ones_like(maps), masks)
    with pytest.raises(ValueError, match=r"threshold must lie in 0..1, 1 excluded, got 1.5"):
        metrics.box_iou(maps, masks, 1.5)
    with pytest.raises(ValueError, match=r"maps must be \[B, H, W\]"):
        metrics.box_iou(maps[:, 0], masks[:, 0])
    with pytest.raises(ValueError, match="tolerance must be 0, or more for maps"):
        metrics.pointing_game(maps, masks, tolerance=-1)
    with pytest.raises(ValueError, match=r"others must be \[N, \*\(24, 24\)\], got \(6, 12, 24\)"):
        metrics.shuffled_auc(maps, masks, masks[:, ::2])
    with pytest.raises(ValueError, match="groups must be one for each of 6, got 2"):
        metrics.shuffled_auc(maps, masks, groups=["a", "b"])
    with pytest.raises(ValueError, match="groups and other_groups must come together"):
        metrics.shuffled_auc(maps, masks, masks, groups=list("abcdef"))
