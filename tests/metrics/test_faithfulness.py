"""Whether maps show what a score rests on: by the formulas, by what must hold, and on bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tsm_fast import metrics

from .conftest import noise

METRICS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "average_drop": metrics.average_drop,
    "average_increase": metrics.average_increase,
    "kept_score": metrics.kept_score,
    "insertion": lambda *args: metrics.insertion_deletion(*args, steps=5).insertion,
    "deletion": lambda *args: metrics.insertion_deletion(*args, steps=5, baseline="mean").deletion,
    "road": lambda *args: metrics.road(*args, shares=(0.2, 0.6)),
}
every_metric = pytest.mark.parametrize("name", METRICS)


def brightness(inputs: Tensor) -> Tensor:
    return inputs.mean((1, 2, 3))


def test_drop_and_increase_by_their_formulas(model: nn.Module, inputs: Tensor, maps: Tensor) -> None:
    with torch.no_grad():
        untouched = model(inputs).softmax(1)
        label = untouched.argmax(1)
        y, o = (p[range(6), label] for p in (untouched, model(inputs * maps[:, None]).softmax(1)))
    score = metrics.class_score(model)
    assert torch.allclose(metrics.average_drop(score, inputs, maps), (y - o).clamp(min=0) / y)
    assert torch.equal(metrics.average_increase(score, inputs, maps), (o > y).float())
    assert torch.allclose(metrics.kept_score(score, inputs, maps), o)


@pytest.mark.parametrize("kind", ["class", "embedding", "function"])
def test_uniform_has_no_drop(kind: str, dtype: torch.dtype, model: nn.Module, inputs: Tensor) -> None:
    model, inputs = model.to(dtype), inputs.to(dtype)
    scores: dict[str, Any] = {
        "class": metrics.class_score(model),
        "embedding": metrics.embedding_score(model, "1"),
        "function": brightness,
    }
    ones = metrics.uniform((6, 24, 24), dtype=dtype)
    assert metrics.average_drop(scores[kind], inputs, ones).tolist() == [0] * 6
    assert metrics.average_increase(scores[kind], inputs, ones).tolist() == [0] * 6


@pytest.mark.parametrize("name", ["insertion", "deletion", "road"])
def test_only_the_order_is_read(name: str, dtype: torch.dtype, model: nn.Module, inputs: Tensor, maps: Tensor) -> None:
    score, maps = metrics.class_score(model), maps.to(dtype)
    assert torch.equal(METRICS[name](score, inputs, maps), METRICS[name](score, inputs, maps**3))


def test_of_one_histogram_only_the_order_is_left(model: nn.Module, inputs: Tensor, maps: Tensor) -> None:
    score = metrics.class_score(model)
    one, two = (metrics.one_histogram(m) for m in (maps, maps**3))
    assert torch.equal(metrics.average_drop(score, inputs, one), metrics.average_drop(score, inputs, two))


@every_metric
def test_batch_size_does_not_matter(name: str, model: nn.Module, inputs: Tensor, maps: Tensor) -> None:
    score = metrics.class_score(model)
    whole = METRICS[name](score, inputs, maps)
    parts = [METRICS[name](score, inputs[part], maps[part]) for part in (slice(0, 1), slice(1, 6))]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


def test_curves_put_the_highest_pixels_first(inputs: Tensor) -> None:
    maps = noise(6, 24, 24, seed=5)
    found = metrics.insertion_deletion(brightness, inputs, maps, steps=4, baseline=torch.zeros(1))
    order = maps.flatten(1).argsort(1, descending=True)
    bright = inputs.mean(1).flatten(1).gather(1, order)
    inserted = torch.stack([bright[:, : 144 * step].sum(1) / 576 for step in range(5)], 1)
    assert torch.allclose(found.insertion_curve, inserted, atol=1e-6)
    assert torch.allclose(found.deletion_curve, inserted[:, -1:] - inserted, atol=1e-6)
    assert torch.allclose(found.insertion, torch.trapezoid(inserted, dim=1) / 4, atol=1e-6)
    assert torch.equal(found.insertion_curve[:, -1], brightness(inputs))
    assert torch.equal(found.deletion_curve[:, 0], brightness(inputs))


def test_pixels_that_tie_come_together() -> None:
    inputs = torch.arange(16.0).view(1, 1, 4, 4)
    found = metrics.insertion_deletion(brightness, inputs, torch.ones(1, 4, 4), steps=4, baseline=torch.zeros(1))
    assert torch.allclose(found.insertion_curve, torch.linspace(0, 7.5, 5)[None])
    assert found.insertion == found.deletion


def test_the_baseline_is_where_curves_begin_and_end(inputs: Tensor, maps: Tensor) -> None:
    grounds: dict[str, Tensor] = {"blur": metrics.blurred(inputs), "mean": inputs.mean((2, 3), keepdim=True)}
    for name, ground in grounds.items():
        baseline: Any = name
        found = metrics.insertion_deletion(lambda x: x[:, 0, 3, 3], inputs, maps, 2, baseline)
        start = ground.expand_as(inputs)[:, 0, 3, 3]
        assert torch.equal(found.insertion_curve[:, 0], start)
        assert torch.equal(found.deletion_curve[:, -1], start)


def test_a_blur_keeps_what_is_constant(inputs: Tensor) -> None:
    assert torch.allclose(metrics.blurred(torch.full((1, 2, 9, 30), 0.3)), torch.tensor(0.3))
    assert bool((metrics.blurred(inputs).var((2, 3)) < inputs.var((2, 3)) / 4).all())
    turned = metrics.blurred(inputs.mT, 2).mT
    assert torch.allclose(metrics.blurred(inputs, 2), turned, atol=1e-6)


def test_road_tells_the_right_map_from_the_wrong_one(inputs: Tensor) -> None:
    pattern = metrics.center_gaussian((1, 24, 24), 0.1)[:, None]
    images = 0.1 * inputs + pattern

    def score(changed: Tensor) -> Tensor:
        return (changed * pattern).sum((1, 2, 3))

    right = metrics.center_gaussian((6, 24, 24), 0.1)
    assert bool((metrics.road(score, images, right) > 0).all())
    untied = noise(6, 24, 24)
    assert torch.allclose(
        metrics.road(score, images, untied, noise=0), -metrics.road(score, images, -untied, noise=0), atol=1e-4
    )
    flat = metrics.road(score, images, metrics.uniform((6, 24, 24))).abs()
    assert bool((flat < metrics.road(score, images, right)).all())


def test_what_is_known_is_not_computed_again(model: nn.Module, inputs: Tensor, maps: Tensor) -> None:
    calls: list[int] = []

    def counted(changed: Tensor) -> Tensor:
        calls.append(len(changed))
        return model(changed)

    score = metrics.class_score(counted).against(inputs)
    drop, increase = metrics.average_drop(score, inputs, maps), metrics.average_increase(score, inputs, maps)
    assert len(calls) == 3
    fresh = metrics.class_score(model)
    assert torch.equal(drop, metrics.average_drop(fresh, inputs, maps))
    assert torch.equal(increase, metrics.average_increase(fresh, inputs, maps))
    with pytest.raises(ValueError, match="score is against 6 inputs, got 2"):
        metrics.average_drop(score, inputs[:2], maps[:2])


@every_metric
def test_maps_that_are_not_finite_are_nan_and_leave_the_others_alone(
    name: str, model: nn.Module, inputs: Tensor, maps: Tensor
) -> None:
    bad = maps.clone()
    bad[0, 2, 2], bad[3] = torch.nan, torch.inf
    found, whole = (METRICS[name](metrics.class_score(model), inputs, m) for m in (bad, maps))
    assert found.isnan().tolist() == [True, False, False, True, False, False]
    kept = [1, 2, 4, 5]
    assert torch.allclose(found[kept], whole[kept], atol=1e-6)


def test_scores_that_are_not_above_zero_have_no_drop() -> None:
    y, o = torch.tensor([0.5, 0.0, -1.0, torch.nan]), torch.tensor([0.6, 0.0, -2.0, 1.0])
    assert metrics.drop(y, o).isnan().tolist() == [False, True, True, True]
    assert metrics.increase(y, o)[:3].tolist() == [1, 0, 0]
    assert metrics.increase(y, o)[3].isnan()


@every_metric
@pytest.mark.parametrize("bad", ["shape", "nan", "kind", "no tensor"])
def test_bad_scores_are_refused(name: str, bad: str, inputs: Tensor, maps: Tensor) -> None:
    def score(changed: Tensor) -> Any:
        values = brightness(changed)
        if bad == "nan":
            values[2] = torch.nan
        return {"shape": values[:, None], "kind": values.long(), "no tensor": values.tolist()}.get(bad, values)

    message = "got NaN or Inf for item 2" if bad == "nan" else r"score must give a float tensor \[6\]"
    with pytest.raises(metrics.ScoreError, match=message) as raised:
        METRICS[name](score, inputs, maps)
    assert raised.value.items == ((2,) if bad == "nan" else ())


def test_wrong_maps_and_options(inputs: Tensor, maps: Tensor) -> None:
    with pytest.raises(ValueError, match=r"maps must be \(6, 24, 24\) as the inputs, got \(6, 12, 12\): take size="):
        metrics.average_drop(brightness, inputs, maps[:, ::2, ::2])
    with pytest.raises(ValueError, match=r"maps must lie in 0..1, got 1 to 2"):
        metrics.average_drop(brightness, inputs, maps + 1)
    with pytest.raises(TypeError, match="inputs must be a float tensor"):
        metrics.average_drop(brightness, inputs.long(), maps)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        metrics.insertion_deletion(brightness, inputs, maps, 0)
    bad: Any = "black"
    with pytest.raises(ValueError, match="baseline must be one of 'blur', 'mean', got 'black'"):
        metrics.insertion_deletion(brightness, inputs, maps, baseline=bad)
    with pytest.raises(ValueError, match="baseline must broadcast to the inputs"):
        metrics.insertion_deletion(brightness, inputs, maps, baseline=torch.zeros(5))
    with pytest.raises(ValueError, match="shares must lie between 0 and 1"):
        metrics.road(brightness, inputs, maps, shares=[1.0])
    with pytest.raises(ValueError, match="sigma must be above 0"):
        metrics.blurred(inputs, 0)


def test_adcc_is_a_harmonic_mean() -> None:
    parts = torch.tensor([0.9, 0.5, 1.0, 0.0, torch.nan]), torch.full((5,), 0.2), torch.tensor([0.1, 0, 1, 0, 0])
    found = metrics.adcc(*parts)
    assert float(found[0]) == pytest.approx(3 / (1 / 0.9 + 1 / 0.8 + 1 / 0.9))
    assert found[2:4].tolist() == [0, 0]
    assert found[4].isnan()


def test_likeness_of_two_maps(maps: Tensor) -> None:
    other = 2 * maps**3 + 1
    found = metrics.stability(maps, other)
    assert torch.allclose(found.spearman, torch.ones(6))
    assert bool((found.correlation < 1).all())
    assert torch.allclose(metrics.stability(maps, -maps).correlation, -torch.ones(6))
    assert torch.allclose(metrics.coherency(maps, -maps), torch.zeros(6), atol=1e-6)
    assert torch.allclose(metrics.coherency(maps, 0.5 * maps), torch.ones(6))
    expected = [torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] for a, b in zip(maps, other, strict=True)]
    assert torch.allclose(found.correlation, torch.stack(expected), atol=1e-6)


def test_constant_maps_are_like_nothing(maps: Tensor) -> None:
    flat = maps.clone()
    flat[0], flat[1, 0, 0] = 0.3, torch.nan
    for one, two in ((flat, maps), (maps, flat)):
        sane = metrics.sanity_similarity(one, two)
        for values in (*metrics.stability(one, two), metrics.coherency(one, two), sane.spearman, sane.ssim):
            assert values.isnan().tolist() == [True, True, False, False, False, False]


def test_maps_of_equal_bits_are_equal(maps: Tensor) -> None:
    other = maps.clone()
    other[3, 5, 5] += 1e-6
    found = metrics.sanity_similarity(maps, other)
    assert found.equal.tolist() == [True, True, True, False, True, True]
    assert torch.allclose(found.ssim, torch.ones(6))
    assert bool((metrics.sanity_similarity(maps, noise(6, 24, 24, seed=9)).ssim < 0.5).all())


def test_ssim_is_that_of_scikit_image(maps: Tensor) -> None:
    structural: Any = pytest.importorskip("skimage.metrics").structural_similarity
    other = (maps + 0.3 * noise(6, 24, 24, seed=9)).clamp(0, 1)
    for item, found in enumerate(metrics.sanity_similarity(maps, other).ssim):
        pair = (m[item].double().numpy() for m in (maps, other))
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
        assert float(found) == pytest.approx(structural(*pair, full=True, **options)[1].mean(), abs=1e-6)


def test_complexity(maps: Tensor) -> None:
    assert torch.allclose(metrics.complexity(maps), maps.mean((1, 2)))
    assert metrics.complexity(torch.tensor([[torch.nan, 1.0]])).isnan().all()
    with pytest.raises(ValueError, match=r"maps must lie in 0..1, got 1 to 2"):
        metrics.complexity(maps + 1)
    with pytest.raises(ValueError, match=r"changed_maps must be as large as maps, \(6, 24, 24\), got \(6, 24, 12\)"):
        metrics.stability(maps, maps[..., ::2])
