"""Everything stays on the device of what goes in, and in its dtype."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tsm_fast import metrics

from .conftest import blobs, noise


def score(inputs: Tensor) -> Tensor:
    return inputs.mean((1, 2, 3))


def embedding(inputs: Tensor) -> Tensor:
    return inputs[..., ::3, ::3].flatten(1)


# From inputs [B, 3, 24, 24], maps and masks [B, 24, 24] to what has the batch first.
CALLS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "energy_in_mask": lambda x, m, o: metrics.energy_in_mask(m, o),
    "pointing_game": lambda x, m, o: metrics.pointing_game(m, o, tolerance=2),
    "roc_auc": lambda x, m, o: metrics.roc_auc(m, o),
    "shuffled_auc": lambda x, m, o: metrics.shuffled_auc(m, o, groups=list(range(len(m)))),
    "average_precision": lambda x, m, o: metrics.average_precision(m, o),
    "iou_at_mask_area": lambda x, m, o: metrics.iou_at_mask_area(m, o),
    "box_iou": lambda x, m, o: metrics.box_iou(m, o, [0.2, 0.5]),
    "average_drop": lambda x, m, o: metrics.average_drop(score, x, m),
    "average_increase": lambda x, m, o: metrics.average_increase(score, x, m),
    "embedding_score": lambda x, m, o: metrics.average_drop(metrics.embedding_score(embedding), x, m),
    "class_score": lambda x, m, o: metrics.average_drop(metrics.class_score(embedding, 3), x, m),
    "insertion": lambda x, m, o: metrics.insertion_deletion(score, x, m, 4).insertion,
    "road": lambda x, m, o: metrics.road(score, x, m, shares=[0.3]),
    "coherency": lambda x, m, o: metrics.coherency(m, m**2),
    "complexity": lambda x, m, o: metrics.complexity(m),
    "stability": lambda x, m, o: metrics.stability(m, m**2).spearman,
    "sanity": lambda x, m, o: metrics.sanity_similarity(m, m**2).ssim,
    "uniform": lambda x, m, o: metrics.uniform(m.shape, dtype=m.dtype, device=m.device),
    "smooth_noise": lambda x, m, o: metrics.smooth_noise(m.shape, dtype=m.dtype, device=m.device),
    "center_gaussian": lambda x, m, o: metrics.center_gaussian(m.shape, dtype=m.dtype, device=m.device),
    "edges": lambda x, m, o: metrics.edges(x, (7, 7)),
    "energy": lambda x, m, o: metrics.energy(x, (7, 7)),
    "another_image": lambda x, m, o: metrics.another_image(m),
    "same_histogram": lambda x, m, o: metrics.same_histogram(m, list(range(len(m)))),
    "one_histogram": lambda x, m, o: metrics.one_histogram(m),
    "spectrum": lambda x, m, o: metrics.spectrum(x).share,
}
every_call = pytest.mark.parametrize("name", CALLS)


@every_call
def test_nothing_is_made_elsewhere(name: str, dtype: torch.dtype) -> None:
    """The default device is another one meanwhile, whose tensors do not go together with those of the CPU."""
    arguments = noise(3, 3, 24, 24).to(dtype), noise(3, 24, 24, seed=1).to(dtype), blobs(3)
    expected = CALLS[name](*arguments)
    with torch.device("meta"):
        found = CALLS[name](*arguments)
    assert found.device.type == "cpu"
    assert found.dtype == dtype
    assert torch.equal(found, expected)


@every_call
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same(name: str) -> None:
    arguments = noise(3, 3, 24, 24).double(), noise(3, 24, 24, seed=1).double(), blobs(3)
    found = CALLS[name](*(argument.cuda() for argument in arguments))
    assert found.is_cuda
    assert torch.allclose(found.cpu(), CALLS[name](*arguments), atol=1e-6)


@every_call
def test_narrow_floats_go_in(name: str) -> None:
    arguments = noise(3, 3, 24, 24).bfloat16(), noise(3, 24, 24, seed=1).bfloat16(), blobs(3)
    found = CALLS[name](*arguments)
    assert found.float().isfinite().all()
