"""Tucker decompositions of a batch against TensorLy's `tucker`, image by image."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import tensorly
import torch
from tensorly.decomposition import tucker

import tsm_fast
from benchmarks import shapes
from benchmarks.conftest import Contender, Target
from tsm_fast.bench import peers

CHECKED = 4  # items that TensorLy decomposes in float64 as the truth


@pytest.mark.parametrize(
    ("shape", "rank", "targets"),
    [
        ("2048x7x7", (32, 4, 4), [Target("TensorLy", 200)]),
        ("1280x7x7 signed", (32, 4, 4), []),
        ("1024x14x14", (32, 4, 4), []),
        ("2048x7x7", (32, 7, 7), []),
    ],
)
def test_hooi(shape: str, rank: tuple[int, int, int], targets: list[Target], compare: Callable[..., dict]) -> None:
    x = shapes.features(shape)
    errors = _errors(x, rank)
    assert errors.pop("sweeps that differ") == 0
    assert errors["sweep errors"] < 1e-5
    assert errors["singular_values"] < 1e-5
    assert errors["projectors"] < 1e-4
    assert errors["float64"] < 1e-9

    few = x[:2].numpy()
    compare(
        "hooi",
        f"{shape}, rank {rank}",
        Contender("tsm_fast", lambda: tsm_fast.tucker(x, rank), len(x)),
        [Contender("TensorLy", lambda: peers.tensorly_tucker(few, rank), len(few), rounds=9)],
        targets,
        errors=errors,
    )


def _errors(x: torch.Tensor, rank: tuple[int, int, int]) -> dict[str, float]:
    """The worst errors of a float32 batch, and of everything with float64, against TensorLy in float64."""
    result = tsm_fast.tucker(x, rank)
    wide = tsm_fast.tucker(x[:CHECKED].double(), rank)
    keys = ("sweeps that differ", "sweep errors", "singular_values", "projectors", "float64")
    errors: dict[str, float] = dict.fromkeys(keys, 0.0)
    for i in range(CHECKED):
        with warnings.catch_warnings():  # TensorLy remarks on a rank that its projections do not have
            warnings.simplefilter("ignore", UserWarning)
            (core, factors), sweeps = tucker(x[i].double().numpy(), rank=result.rank, return_errors=True)
        factors = [torch.from_numpy(f) for f in factors]
        errors["sweeps that differ"] += float(len(sweeps) != int(result.n_sweeps[i]))
        errors["sweep errors"] = max(errors["sweep errors"], abs(sweeps[-1] - float(_last(result.errors[i]))))
        errors["float64"] = max(errors["float64"], abs(sweeps[-1] - float(_last(wide.errors[i]))))
        for mode, exact in enumerate(factors):
            norms = torch.from_numpy(tensorly.unfold(core, mode)).norm(dim=1)
            sigma = norms.sort(descending=True).values
            narrow_error = (result.singular_values[mode][i] - sigma).abs().max() / sigma[0]
            wide_error = (wide.singular_values[mode][i] - sigma).abs().max() / sigma[0]
            errors["singular_values"] = max(errors["singular_values"], float(narrow_error))
            errors["float64"] = max(errors["float64"], float(wide_error))
            if exact.shape[0] > exact.shape[1]:
                projector = exact @ exact.mT
                for key, ours in (("projectors", result.factors[mode][i]), ("float64", wide.factors[mode][i])):
                    error = float((ours.double() @ ours.double().mT - projector).abs().max())
                    errors[key] = max(errors[key], error)
    return errors


def _last(errors: torch.Tensor) -> torch.Tensor:
    return errors[~errors.isnan()][-1]
