"""What a network makes of inputs as one number each: the scores that metrics of faithfulness are about.

A score is any function from inputs `[B, C, H, W]` to `[B]`. Some need the untouched inputs too (which class, which
embedding?): those have a method `against(inputs)`, and every metric calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..extractor import SaliencyExtractor, alone
from ..layers import describe, first_tensor
from ._items import inputs_of, named_items


class ScoreError(ValueError):
    """A score that no metric can use; `items` are those of the batch that are NaN or infinite."""

    def __init__(self, message: str, items: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.items = items


class Against:
    """The score of changed inputs, in the order of the untouched ones, whose own is `untouched` [B]."""

    def __init__(self, function: Callable[[Tensor], Tensor], untouched: Tensor) -> None:
        self._function = function
        self.untouched: Tensor = checked(untouched, len(untouched))

    def __call__(self, inputs: Tensor) -> Tensor:  # [B, C, H, W] -> [B]
        with torch.no_grad():
            return checked(self._function(inputs), len(self.untouched))


class Relative(Protocol):
    """A score that needs to know the untouched inputs."""

    def against(self, inputs: Tensor) -> Against: ...


Score = Callable[[Tensor], Tensor] | Relative | Against


def against(score: Score, inputs: Tensor) -> Against:  # [B, C, H, W]
    """The score of changed versions of these inputs: metrics that take it do not run the untouched ones again.

    Args:
        score: a function from inputs `[B, C, H, W]` to `[B]`, `class_score`, `embedding_score`, or what came of this.
        inputs: the untouched inputs.

    Returns:
        A function of changed inputs, with the score of the untouched ones as `untouched` [B].

    Raises:
        TypeError, ScoreError: the score is no function, or does not give finite numbers `[B]`.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> inputs, maps = torch.rand(2, 3, 8, 8), torch.ones(2, 8, 8)
    >>> score = metrics.against(lambda inputs: inputs.mean((1, 2, 3)), inputs)
    >>> metrics.average_drop(score, inputs, maps), score.untouched.shape
    (tensor([0., 0.]), torch.Size([2]))
    """
    inputs_of(inputs)
    if isinstance(score, Against):
        if len(score.untouched) != len(inputs):
            raise ValueError(f"score is against {len(score.untouched)} inputs, got {len(inputs)}")
        return score
    relative: Any = getattr(score, "against", None)
    if relative is not None:
        return relative(inputs)
    if not callable(score):
        raise TypeError(f"score must be a function from inputs [B, C, H, W] to [B], got {type(score).__name__}")
    with torch.no_grad():
        return Against(score, checked(score(inputs), len(inputs)))


def checked(values: Any, batch: int) -> Tensor:
    """Scores [B], detached; ScoreError for what is none."""
    if not isinstance(values, Tensor) or values.shape != (batch,) or not values.is_floating_point():
        raise ScoreError(f"score must give a float tensor [{batch}], one number an input, got {describe(values)}")
    values = values.detach()
    bad = (~values.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise ScoreError(f"score must be finite, got NaN or Inf for {named_items(bad)}", tuple(bad))
    return values


def check_score(score: Score, inputs: Tensor) -> None:  # [B, C, H, W]
    """ScoreError for a score that tells nothing: not `[B]`, not finite, or the same for inputs and for their means.

    Args:
        score: as in `against`.
        inputs: a few inputs `[B, C, H, W]` that are not constant.

    Raises:
        TypeError, ScoreError: as said.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.check_score(lambda inputs: inputs.std((1, 2, 3)), torch.rand(2, 3, 8, 8))
    >>> metrics.check_score(lambda inputs: inputs.new_ones(len(inputs)), torch.rand(2, 3, 8, 8))
    Traceback (most recent call last):
    tsm_fast.metrics.scores.ScoreError: score must depend on the inputs, got 1 for all of them and for their means
    """
    fixed = against(score, inputs)
    positions = tuple(range(2, inputs.ndim))
    blank = fixed(inputs.mean(positions, keepdim=True).expand_as(inputs).contiguous())
    both = torch.cat([fixed.untouched, blank])
    if len(both) and bool((both == both[0]).all()):
        raise ScoreError(
            f"score must depend on the inputs, got {float(both[0]):.6g} for all of them and for their means"
        )


class ClassScore:
    """The probability of a class; see `class_score`."""

    def __init__(self, model: Callable[[Tensor], Any], target: int | Tensor | None) -> None:
        self._model, self._target = model, target

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.against(inputs).untouched

    def against(self, inputs: Tensor) -> Against:
        """The score of changed versions of these inputs, for the classes that they have themselves."""
        found = self._probabilities(inputs)
        classes = found.shape[1]
        if self._target is None:
            target = found.argmax(1)
        else:
            target = torch.as_tensor(self._target, device=found.device).expand(len(found))
            if target.is_floating_point() or bool(((target < 0) | (target >= classes)).any()):
                raise ValueError(f"target must lie in 0..{classes - 1}, got {target.tolist()}")
        column = target.long()[:, None]

        def score(changed: Tensor) -> Tensor:
            return self._probabilities(changed).gather(1, column)[:, 0]

        return Against(score, checked(found.gather(1, column)[:, 0], len(inputs)))

    def _probabilities(self, inputs: Tensor) -> Tensor:  # [B, K]
        output = _run(self._model, inputs)
        logits = first_tensor(getattr(output, "logits", output))
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
            raise ValueError(
                f"model must give class scores [B, K], K at least 2, got {describe(output)}: no class score"
            )
        return logits.float().softmax(1) if logits.dtype != torch.float64 else logits.softmax(1)


def class_score(
    model: nn.Module | Callable[[Tensor], Any],
    target: int | Tensor | None = None,  # [B]
) -> ClassScore:
    """The softmax probability of the class that the model predicts on the untouched input, or of a given one.

    Args:
        model: from inputs `[B, C, H, W]` to logits `[B, K]`, or an output of transformers that has them. A module
            runs in eval mode, and is left as it was.
        target: None, one class for all, or one an input `[B]`, which metrics then must get in that order.

    Returns:
        A score for every metric; called with inputs it gives their own `[B]`.

    Raises:
        ValueError: at the call, the model gives no `[B, K]`, or there is no such class.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 10))
    >>> metrics.class_score(model)(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2])
    """
    if not callable(model):
        raise TypeError(f"model must be a function of inputs, got {type(model).__name__}")
    return ClassScore(model, target)


class EmbeddingScore:
    """How near an embedding stays; see `embedding_score`."""

    def __init__(self, features: Callable[[Tensor], Any], center: Tensor | None) -> None:
        self._features, self._center = features, center

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.against(inputs).untouched

    def embeddings(self, inputs: Tensor) -> Tensor:  # [B, C, H, W] -> [B, D]
        """The features, averaged over their positions; the mean of them over the data is the `center`."""
        with torch.no_grad():
            found = self._features(inputs)
        if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(inputs):
            raise ValueError(f"features must be [B, D] or [B, D, *positions], got {describe(found)}")
        found = found.detach() if found.dtype == torch.float64 else found.detach().float()
        return found.flatten(2).mean(2) if found.ndim > 2 else found

    def against(self, inputs: Tensor) -> Against:
        """The score of changed versions of these inputs."""
        untouched = self._directions(inputs)

        def score(changed: Tensor) -> Tensor:
            return (self._directions(changed) * untouched).sum(1)

        return Against(score, checked((untouched * untouched).sum(1), len(inputs)))

    def _directions(self, inputs: Tensor) -> Tensor:  # [B, D] of length 1
        found = self.embeddings(inputs)
        if self._center is not None:
            center = torch.as_tensor(self._center, device=found.device, dtype=found.dtype)
            if center.shape != found.shape[1:]:
                raise ValueError(f"center must be [{found.shape[1]}], as the embeddings, got {tuple(center.shape)}")
            found = found - center
        return found / torch.linalg.vector_norm(found, dim=1, keepdim=True)


def embedding_score(
    features: nn.Module | SaliencyExtractor | Callable[[Tensor], Tensor],
    layer: str | nn.Module | None = None,
    *,
    center: Tensor | None = None,  # [D]
) -> EmbeddingScore:
    """How near the embedding stays to that of the untouched input: `cos(z(x') - center, z(x) - center)`.

    For networks without classes. `z` is a layer's features, averaged over positions. Without `center` all cosines after
    a ReLU are near 1: it is the mean of `z` over the data, `embedding_score(model, layer).embeddings(inputs).mean(0)`.

    Args:
        features: a model, of which `layer` is read as by `SaliencyExtractor`; such an extractor of one layer; or a
            function from inputs to `[B, D]` or `[B, D, *positions]`.
        layer: the model's layer by name or module; None chooses it.
        center: `[D]`, subtracted from every embedding.

    Returns:
        A score for every metric, 1 for the untouched input, in -1..1.

    Raises:
        TypeError, ValueError: wrong types; at the call, several layers, or a center of another size.
        ScoreError: at the call, an embedding that is the center itself, or not finite.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    >>> inputs = torch.rand(4, 3, 8, 8)
    >>> center = metrics.embedding_score(model, "1").embeddings(inputs).mean(0)
    >>> score = metrics.embedding_score(model, "1", center=center)
    >>> metrics.average_drop(score, inputs, torch.ones(4, 8, 8)).amax() < 1e-6
    tensor(True)
    """
    if isinstance(features, nn.Module):
        features = SaliencyExtractor(features, layer)
    elif layer is not None:
        raise ValueError("layer needs a model: an extractor and a function name theirs themselves")
    if isinstance(features, SaliencyExtractor):
        extractor = features

        def only(inputs: Tensor) -> Tensor:
            found = extractor.features(inputs)
            if len(found) != 1:
                raise ValueError(f"features must be of one layer, got {', '.join(found)}")
            return next(iter(found.values()))

        return EmbeddingScore(only, center)
    if not callable(features):
        raise TypeError(f"features must be a model, an extractor or a function, got {type(features).__name__}")
    return EmbeddingScore(features, center)


def _run(model: Callable[[Tensor], Any], inputs: Tensor) -> Any:
    with torch.no_grad():
        if not isinstance(model, nn.Module):
            return model(inputs)
        with alone(model):
            return model(inputs)
