"""What a network makes of inputs as one number each."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tsm_fast
from tsm_fast import metrics


def test_the_class_is_that_of_the_untouched_input(model: nn.Module, inputs: Tensor) -> None:
    with torch.no_grad():
        before, after = model(inputs).softmax(1), model(-inputs).softmax(1)
    label = before.argmax(1)
    score = metrics.class_score(model)
    fixed = score.against(inputs)
    assert torch.equal(score(inputs), before.amax(1))
    assert torch.equal(fixed.untouched, before.amax(1))
    assert torch.equal(fixed(-inputs), after[range(6), label])
    assert torch.equal(metrics.class_score(model, 3)(inputs), before[:, 3])
    target = torch.tensor([0, 1, 2, 3, 4, 0])
    assert torch.equal(metrics.class_score(model, target).against(inputs)(-inputs), after[range(6), target])
    with pytest.raises(ValueError, match=r"target must lie in 0..4, got \[5, 5, 5, 5, 5, 5\]"):
        metrics.class_score(model, 5)(inputs)


def test_a_model_runs_in_eval_mode_and_is_left_as_it_was(inputs: Tensor) -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(3 * 24 * 24, 4)).train()
    score = metrics.class_score(model)
    first = score(inputs)
    assert torch.equal(first, score(inputs))
    assert not first.requires_grad
    assert model[0].training


def test_outputs_of_transformers_are_taken_by_their_logits(model: nn.Module, inputs: Tensor) -> None:
    def wrapped(x: Tensor) -> Any:
        return SimpleNamespace(logits=model(x))

    assert torch.equal(metrics.class_score(wrapped)(inputs), metrics.class_score(model)(inputs))


@pytest.mark.parametrize("model", [nn.Conv2d(3, 4, 3), nn.Sequential(nn.Flatten(), nn.Linear(1728, 1))])
def test_a_model_without_classes_is_refused(model: nn.Module, inputs: Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"model must give class scores \[B, K\], K at least 2, got .*: no class score"
    ):
        metrics.class_score(model)(inputs)


def test_embeddings_are_centred_cosines(model: nn.Module, inputs: Tensor) -> None:
    with torch.no_grad():
        before, after = (model[:2](x).mean((2, 3)) for x in (inputs, inputs**2))  # pyright: ignore[reportIndexIssue]
    center = before.mean(0)
    expected = torch.cosine_similarity(before - center, after - center)
    with tsm_fast.SaliencyExtractor(model, "1") as extractor:
        for score in (
            metrics.embedding_score(model, "1", center=center),
            metrics.embedding_score(extractor, center=center),
            metrics.embedding_score(model[:2], center=center, layer="1"),  # pyright: ignore[reportIndexIssue]
            metrics.embedding_score(lambda x: model[:2](x), center=center),  # pyright: ignore[reportIndexIssue]
        ):
            assert torch.allclose(score.embeddings(inputs), before)
            assert torch.allclose(score(inputs), torch.ones(6))
            assert torch.allclose(score.against(inputs)(inputs**2), expected, atol=1e-5)
    uncentred = metrics.embedding_score(model, "1").against(inputs)(inputs**2)
    assert bool((uncentred > expected).all())


def test_bad_embeddings_are_refused(model: nn.Module, inputs: Tensor) -> None:
    with pytest.raises(ValueError, match=r"center must be \[32\], as the embeddings, got \(5,\)"):
        metrics.embedding_score(model, "1", center=torch.zeros(5))(inputs)
    with pytest.raises(ValueError, match="features must be of one layer, got 0, 1"):
        metrics.embedding_score(tsm_fast.SaliencyExtractor(model, ["0", "1"]))(inputs)
    with pytest.raises(ValueError, match="layer needs a model"):
        metrics.embedding_score(lambda x: x, "1")
    with pytest.raises(ValueError, match=r"features must be \[B, D\]"):
        metrics.embedding_score(lambda x: x[0])(inputs)
    own = metrics.embedding_score(lambda x: x.mean((2, 3)), center=inputs[1].mean((1, 2)))
    with pytest.raises(metrics.ScoreError, match="got NaN or Inf for item 1"):
        own(inputs)


def test_a_score_that_tells_nothing_is_refused(model: nn.Module, inputs: Tensor) -> None:
    metrics.check_score(metrics.class_score(model), inputs)
    metrics.check_score(metrics.embedding_score(model, "1"), inputs)
    with pytest.raises(metrics.ScoreError, match=r"score must depend on the inputs, got 0.5 for all of them"):
        metrics.check_score(lambda x: x.new_full((len(x),), 0.5), inputs)
    nothing: Any = "logits"
    with pytest.raises(TypeError, match="score must be a function"):
        metrics.check_score(nothing, inputs)


def test_errors_name_the_first_items(inputs: Tensor) -> None:
    with pytest.raises(metrics.ScoreError, match="items 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more") as raised:
        metrics.against(lambda x: x.new_full((len(x),), torch.nan), torch.cat([inputs, inputs]))
    assert raised.value.items == tuple(range(12))
