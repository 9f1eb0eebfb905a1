"""Feature maps of one and three position modes: the same maps as those of two, by the definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorly
import torch
import torch.nn.functional as F
from tensorly.decomposition import tucker as tensorly_tucker
from torch import Tensor

import tsm_fast

from ..helpers import DOUBLE_ERROR, MAP_ERROR, feature_maps, randn
from .definitions import normalized, signs_of

FULL_RANK = ["eigencam", "tsm", "multivec_eigencam", "mtsm", "mean_activation"]
TOKENS = feature_maps(3, 40, 5, 9, relu=False).flatten(2)  # [3, 40, 45]
FEW_CHANNELS = feature_maps(3, 7, 5, 9, relu=False).flatten(2)
VIDEO = feature_maps(3, 40, 12, 5, relu=False).unflatten(2, (3, 4))  # [3, 40, 3, 4, 5]
FEATURES = {"tokens": TOKENS, "few channels": FEW_CHANNELS, "video": VIDEO}
RANKS = {"tokens": [(5, 5), (1, 1)], "few channels": [(4, 4)], "video": [(6, 2, 3, 2), (40, 3, 4, 5)]}

every_features = pytest.mark.parametrize("name", FEATURES)


@every_features
@pytest.mark.parametrize("method", FULL_RANK)
def test_at_full_rank_an_item_is_one_matrix(backend, name, method):
    x = FEATURES[name]
    function, how = getattr(tsm_fast, method), {"backend": backend.name}
    maps = function(x, **how)
    assert maps.shape == (len(x), *x.shape[2:])
    assert torch.equal(maps.flatten(1), function(x.flatten(2)[:, :, None], **how).flatten(1))
    assert torch.equal(function(x[:0], **how), maps[:0])


def definition(x: Tensor, rank: tuple[int, ...], method: str, combine: str, sign: str) -> Tensor:
    """The normalised maps from TensorLy's decompositions."""
    maps = []
    for item in x.double().numpy():
        core, (a, *_) = tensorly_tucker(item, rank, n_iter_max=100, tol=1e-4)
        responses, values = item.reshape(len(item), -1).T @ a, np.linalg.norm(tensorly.unfold(core, 0), axis=1)
        if method == "tsm":
            made = responses[:, 0]
        elif combine == "absolute":
            made = np.abs(responses) @ values
        else:
            made = responses * signs_of(a if sign == "u" else responses) @ values
        maps.append(np.abs(made).reshape(item.shape[1:]))
    return normalized(torch.from_numpy(np.stack(maps)).flatten(1)[:, None])[:, 0].view(len(x), *x.shape[2:])


HOW: list[tuple[str, dict[str, Any]]] = [
    ("tsm", {}),
    ("mtsm", {}),
    ("mtsm", {"sign": "v"}),
    ("mtsm", {"combine": "absolute"}),
]


@pytest.mark.long("cuda", "triton")
@pytest.mark.parametrize(("name", "rank"), [(name, rank) for name, ranks in RANKS.items() for rank in ranks])
@pytest.mark.parametrize(("method", "how"), HOW)
def test_at_a_rank_by_the_decomposition_of_tensorly(backend, name, rank, method, how):
    x = FEATURES[name]
    exact = definition(x, rank, method, how.get("combine", "signed"), how.get("sign", "u"))
    for precision, error in (("auto", MAP_ERROR[method]), ("float64", DOUBLE_ERROR)):
        maps = getattr(tsm_fast, method)(x, rank, **how, precision=precision, backend=backend.name)
        assert maps.dtype == (torch.float64 if precision == "float64" else torch.float32)
        assert (maps - exact).abs().max() <= error


@pytest.mark.backends("cpu", "cuda")
@pytest.mark.parametrize("method", ["tsm", "mtsm"])
@pytest.mark.parametrize("exponent", [-1000, 1000])
def test_at_a_rank_of_any_scale_and_sign(backend, method, exponent):
    x = TOKENS.double() * 2.0**exponent
    function, how = getattr(tsm_fast, method), {"precision": "float64", "rank": (5, 5)}
    assert (function(x, **how) - function(TOKENS.double(), **how)).abs().max() <= 1e-12
    signed = function(TOKENS, relu=False, normalize=False, backend=backend.name, **how)
    expected = function(TOKENS, relu=False, normalize=False, backend="reference", **how)
    torch.testing.assert_close(signed, expected, rtol=1e-9, atol=1e-9)
    spoiled = TOKENS.clone()
    spoiled[1, 3, 2] = torch.nan
    with pytest.raises(ValueError, match="got NaN or Inf in item 1;"):
        function(spoiled, rank=(5, 5), backend=backend.name)
    maps = function(spoiled, rank=(5, 5), nan="propagate", backend=backend.name)
    assert maps[1].isnan().all()
    assert torch.equal(maps[[0, 2]], function(TOKENS, rank=(5, 5), backend=backend.name)[[0, 2]])


@pytest.mark.parametrize(
    ("name", "size"), [("tokens", (100,)), ("tokens", (7,)), ("video", (7, 9, 3)), ("video", (1, 4, 5))]
)
def test_resized_in_every_position_mode(backend, name, size):
    x, mode = FEATURES[name], {1: "linear", 3: "trilinear"}[len(size)]
    how = {"precision": "float64", "backend": backend.name}
    raw = tsm_fast.eigencam(x, normalize=False, **how)
    expected = F.interpolate(raw[:, None], size, mode=mode, align_corners=False)[:, 0]
    found = tsm_fast.eigencam(x, normalize=False, size=size, **how)
    assert (found - expected).abs().max() <= 1e-12 * raw.max()
    lowest, highest = (part.view(-1, *(1,) * len(size)) for part in expected.flatten(1).aminmax(dim=1))
    maps = tsm_fast.eigencam(x, size=size, **how)
    assert (maps - (expected - lowest) / (highest - lowest)).abs().max() <= 1e-12


def test_gradients_at_a_rank():
    x = randn(1, 4, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tsm_fast.mtsm(x, (2, 2), normalize=False, precision="float64"), (x,))
    x = randn(1, 4, 2, 2, 2, seed=2).requires_grad_()
    tsm_fast.tsm(x, (2, 1, 2, 2), size=(3, 3, 3)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_sizes_have_one_number_per_position_mode():
    for x, need in ((TOKENS, r"\(n,\)"), (VIDEO, r"\(t, h, w\)")):
        with pytest.raises(ValueError, match=f"^size must be {need}, got 2 numbers$"):
            tsm_fast.tsm(x, size=(4, 4))
    with pytest.raises(ValueError, match=r"^rank must have one number for each of the 2 modes of an item, got 3$"):
        tsm_fast.tsm(TOKENS, rank=(2, 2, 2))
