"""The accuracy table on real features: EfficientNet-lite0 with its ImageNet weights on ten real photos."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import tsm_fast

from ..helpers import DOUBLE_ERROR, MAP_ERROR
from ..needs import NETWORK, PHOTOS, needs
from .definitions import check, decompose, definition, normalized

pytestmark = [pytest.mark.slow, needs(*NETWORK, *PHOTOS), pytest.mark.long("triton")]

LAYERS = {
    "last": "",  # 1280 x 7 x 7 after ReLU6
    "last, before its activation": "_bn1",  # the same, signed
    "stage 7": "_blocks.15",  # 320 x 7 x 7, signed
    "stage 5": "_blocks.10",  # 112 x 14 x 14, signed, fewer channels than positions
}

MAPS = [
    ("eigencam", None, True, "signed", "absmax"),
    ("eigencam", None, False, "signed", "sum"),
    ("tsm", None, False, "signed", "u"),
    ("tsm", (16, 4, 4), False, "signed", "u"),
    ("multivec_eigencam", None, True, "signed", "u"),
    ("multivec_eigencam", None, True, "absolute", "u"),
    ("mtsm", None, False, "signed", "u"),
    ("mtsm", None, False, "absolute", "u"),
    ("mtsm", (8, 4, 3), False, "signed", "u"),
]


@cache
def features() -> dict[str, Tensor]:
    from tsm_fast.models import lite0, lite0_inputs
    from tsm_fast.pictures import load_photos

    network: Any = lite0().get_submodule("features.network")
    found: dict[str, Tensor] = {}
    for name, layer in LAYERS.items():
        if layer:
            module = network.get_submodule(layer)
            module.register_forward_hook(lambda _, __, out, name=name: found.update({name: out.clone()}))
    with torch.no_grad():
        found["last"] = network.extract_features(lite0_inputs([photo.image for photo in load_photos()]))
    return found


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("method", "rank", "center", "combine", "sign"), MAPS)
def test_maps(backend, layer, method, rank, center, combine, sign):
    x = features()[layer]
    options: dict = {} if rank is None else {"rank": rank}
    if method in ("multivec_eigencam", "mtsm"):
        options |= {"combine": combine, "sign": sign}
    elif method == "eigencam":
        options |= {"center": center, "sign": sign}
    exact, ties = zip(*(definition(i, method, rank, center, combine, sign) for i in x.double().numpy()), strict=True)
    exact, untied = normalized(torch.stack([torch.from_numpy(m) for m in exact])), ~torch.tensor(ties)
    for precision, tolerance in (("auto", MAP_ERROR[method]), ("float64", DOUBLE_ERROR)):
        maps = getattr(tsm_fast, method)(x, **options, precision=precision, backend=backend.name)
        assert (maps - exact)[untied].abs().max() <= tolerance, precision
    assert untied.sum() >= 8, "ties are rare"


@pytest.mark.long
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rank", [(16, 4, 4), (8, 4, 3), (32, 7, 7), (4, 2, 3), (1, 1, 1)], ids=str)
def test_hooi(backend, layer, rank):
    x = features()[layer][:4]
    exact = [decompose(item, rank) for item in x]
    for precision in ("auto", "float64"):
        result = backend.hooi(x, rank, n_iter_max=100, tol=1e-4, sign="u", precision=precision)
        check(result, exact, double=precision == "float64")
