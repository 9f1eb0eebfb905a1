"""What a run computes: checked when made, and the same in another process."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from tsm_fast.pipeline import Resources, Settings


def test_there_and_back() -> None:
    settings = Settings(
        "photos",
        model="timm:resnet18",
        layers=("layer*", "bn1"),
        methods=("tsm", "eigencam"),
        rank=(8, 4, 4),
        center=False,
        dtype="uint8",
        size=(96, 128),
        limit=7,
    )
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_lists_become_tuples() -> None:
    made: Any = {"layers": ["a"], "methods": ["tsm"], "size": [5, 6], "rank": [1, 1, 1]}
    assert Settings("photos", **made) == Settings(
        "photos", layers=("a",), methods=("tsm",), size=(5, 6), rank=(1, 1, 1)
    )


def test_options_of_a_method() -> None:
    settings = Settings("photos", methods=("eigencam", "mtsm"), rank=3, sign="u")
    assert settings.options("mtsm") == {"rank": 3, "sign": "u"}
    assert settings.options("eigencam") == {"sign": "u"}
    assert settings.options("eigencam", all_of_them=True) == {"center": True, "sign": "u"}
    assert Settings("photos", methods=("mtsm",)).options("mtsm", all_of_them=True) == {
        "rank": None,
        "combine": "signed",
        "sign": "u",
    }


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"source": ""}, ValueError, "source must not be empty"),
        ({"model": 3}, TypeError, "model must be a string, got int"),
        ({"trust_model_code": 1}, TypeError, "trust_model_code must be True or False"),
        ({"layers": "layer4"}, TypeError, "layers must be a tuple of names, got the string 'layer4'"),
        ({"layers": ("a", "a")}, ValueError, "layers must be distinct, got a, a"),
        ({"methods": ()}, ValueError, "methods must name at least one method"),
        ({"methods": ("gradcam",)}, ValueError, "methods must be one of 'eigencam', 'tsm'.*got 'gradcam'"),
        ({"rank": 3, "methods": ("eigencam",)}, ValueError, "rank is an option of tsm, mtsm, got methods eigencam"),
        ({"center": "no", "methods": ("eigencam",)}, TypeError, "center must be True or False"),
        ({"sign": "sum", "methods": ("mtsm",)}, ValueError, "sign must be one of 'u', 'v', got 'sum'"),
        ({"combine": "max", "methods": ("mtsm",)}, ValueError, "combine must be one of 'signed', 'absolute'"),
        ({"precision": "half"}, ValueError, "precision must be one of"),
        ({"dtype": "int8"}, ValueError, "dtype must be one of 'float32', 'float16', 'uint8', got 'int8'"),
        ({"size": (0, 5)}, ValueError, r"size must be at least \(1, 1\)"),
        ({"max_pixels": 10**9}, ValueError, r"max_pixels must be in 1\.\.178956970, got 1000000000"),
        ({"limit": 0}, ValueError, "limit must be at least 1, got 0"),
        ({"shard_size": 0}, ValueError, r"shard_size must be in 1\.\."),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer, got 2.5"),
    ],
)
def test_bad_settings(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Settings(**{"source": "photos", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": ""}, "device must not be empty"),
        ({"decode_threads": 0}, r"decode_threads must be in 1\.\.1024, got 0"),
        ({"torch_threads": 0}, "torch_threads must be in"),
        ({"batch_size": 0}, "batch_size must be in"),
        ({"shard_timeout": 0}, "shard_timeout must be a positive number of seconds, got 0"),
        ({"shard_timeout": float("nan")}, "shard_timeout must be a positive number"),
        ({"max_errors": 2}, r"max_errors must be a share in 0\.\.1, got 2"),
    ],
)
def test_bad_resources(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Resources(**options)
