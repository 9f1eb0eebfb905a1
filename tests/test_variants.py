"""Methods with options as one text: there and back, and what a run makes of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsm_fast.methods import METHODS
from tsm_fast.pipeline import Settings
from tsm_fast.variants import Variant, variant

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "rank": st.one_of(st.integers(1, 999), st.lists(st.integers(1, 99), min_size=2, max_size=4).map(tuple)),
    "center": st.booleans(),
    "combine": st.sampled_from(["signed", "absolute"]),
    "sign": st.sampled_from(["u", "v"]),
}


@st.composite
def variants(draw: Any) -> Variant:
    method = draw(st.sampled_from(sorted(METHODS)))
    chosen = {name for name in sorted(METHODS[method].options) if draw(st.booleans())}
    return Variant(method, {name: draw(VALUES[name]) for name in chosen})


@given(made=variants())
def test_there_and_back(made: Variant) -> None:
    found = variant(made.name)
    assert (found.method, found.options, found.name) == (made.method, made.options, made.name)
    assert made.title.startswith(METHODS[made.method].title)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gradcam", "methods must be one of 'eigencam'.*got 'gradcam'$"),
        ("mtsn", r"methods must be one of 'eigencam'.*got 'mtsn'; did you mean 'mtsm'\?$"),
        ("mtsm:", "mtsm takes rank=, combine=, sign= after its colon, got '' in 'mtsm:'"),
        ("mtsm:center=true", "mtsm takes rank=, combine=, sign= after its colon, got 'center=true'"),
        ("mtsm:rank=4,rank=5", "names rank twice"),
        ("mtsm:rank=16x4x", "rank must be a number, or one for each mode as in 16x4x4, got '16x4x'"),
        ("mtsm:rank=-1", "rank must be a number"),
        ("eigencam:center=1", "center must be one of 'true', 'false', got '1'"),
    ],
)
def test_bad_texts(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        variant(text)


def test_settings_give_each_its_options() -> None:
    settings = Settings("photos", methods=("mtsm", "mtsm:rank=16x4x4, combine=absolute", "tsm"), rank=8)
    assert settings.methods == ("mtsm", "mtsm:combine=absolute,rank=16x4x4", "tsm")
    assert settings.options("mtsm") == {"rank": 8}
    assert settings.options(settings.methods[1]) == {"rank": (16, 4, 4), "combine": "absolute"}
    assert settings.options("tsm", all_of_them=True) == {"rank": 8}


@pytest.mark.parametrize(
    ("methods", "more", "message"),
    [
        (("mtsm:sign=sum",), {}, "sign must be one of 'u', 'v', got 'sum'"),
        (("mtsm", "mtsm:combine=signed"), {}, "got mtsm and mtsm:combine=signed, which are the same maps"),
        (("mtsm:rank=4,sign=u", "mtsm:sign=u,rank=4"), {}, "methods must be distinct"),
        (("mtsm:rank=4",), {"rank": 5}, "rank is an option of tsm, mtsm, got methods mtsm:rank=4"),
    ],
)
def test_bad_methods(methods: tuple[str, ...], more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings("photos", methods=methods, **more)
