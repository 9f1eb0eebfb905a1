"""Some of a listing: by glob, by a file of keys, a sample, the first ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsm_fast.pipeline.planning.select import select
from tsm_fast.pipeline.settings import Settings
from tsm_fast.pipeline.sources.keys import encode_key
from tsm_fast.pipeline.sources.source import Item, SourceError

KEYS = ["cats/1.jpg", "cats/2.png", "dogs/1.jpg", "dogs/[3].jpg", encode_key("dogs/\udce9.jpg"), "dogs/two\nlines.jpg"]


def chosen(names: list[str], **options: Any) -> list[str]:
    return [item.key for item in select(list(map(Item, names)), Settings("source", **options))]


def test_globs() -> None:
    assert chosen(KEYS) == KEYS
    assert chosen(KEYS, filter=("cats/*",)) == KEYS[:2]
    assert chosen(KEYS, filter=("*.png", "dogs/1*")) == KEYS[1:3]
    assert chosen(KEYS, filter=("dogs/[[]3[]].jpg",)) == KEYS[3:4]
    assert chosen(KEYS, filter=("*.jpg",), limit=2) == [KEYS[0], KEYS[2]]
    with pytest.raises(SourceError, match=r"filter='\*\.gif' leaves none of 6 images, such as 'cats/1\.jpg'"):
        chosen(KEYS, filter=("*.gif",))


def test_a_file_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_bytes(b"\xef\xbb\xbfdogs/1.jpg\r\ncats/1.jpg\ncats/1.jpg\ndogs/\\xe9.jpg\n\n")
    assert chosen(KEYS, keys=str(file)) == [KEYS[0], KEYS[2], KEYS[4]]
    file.write_bytes(os.fsencode("dogs/\udce9.jpg"))  # as the file is called
    assert chosen(KEYS, keys=str(file)) == [KEYS[4]]
    file.write_bytes(b"dogs/two\nlines.jpg\0cats/2.png\0")
    assert chosen(KEYS, keys=str(file)) == [KEYS[1], KEYS[5]]
    assert chosen(KEYS, keys=str(file), filter=("cats/*",)) == [KEYS[1]]
    file.write_bytes(b"dogs/1.jpg\nfish/1.jpg\nfish/2.jpg\n")
    with pytest.raises(
        SourceError, match=r"keys='.*keys\.txt' names 2 keys that the source does not have, such as 'fish/1\.jpg'"
    ):
        chosen(KEYS, keys=str(file))
    file.write_bytes(b"")
    with pytest.raises(SourceError, match=r"keys\.txt' names no key"):
        chosen(KEYS, keys=str(file))
    with pytest.raises(FileNotFoundError):
        chosen(KEYS, keys=str(tmp_path / "none.txt"))


@given(st.sets(st.text("abc/", min_size=1), min_size=1), st.integers(1, 20), st.integers(0, 3))
def test_a_sample_is_some_of_them_and_grows(names: set[str], count: int, seed: int) -> None:
    keys = sorted(names)
    small, large = (chosen(keys, sample=n, seed=seed) for n in (count, count + 1))
    assert small == sorted(set(small))
    assert set(small) <= set(large) <= names
    assert len(small) == min(count, len(keys))


def test_samples_are_the_same_everywhere_and_even() -> None:
    keys = [f"{i:04d}" for i in range(4000)]
    first = chosen(keys, sample=1000)
    assert first[:4] == SAMPLE
    assert first == chosen(keys, sample=1000, seed=0) != chosen(keys, sample=1000, seed=1)
    quarters = [sum(key.startswith(str(n)) for key in first) for n in range(4)]
    assert all(200 < n < 300 for n in quarters)
    assert chosen(keys, sample=1000, limit=4) == SAMPLE


SAMPLE = ["0001", "0002", "0004", "0012"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 0}, "sample must be at least 1"),
        ({"seed": "x"}, "seed must be an integer"),
        ({"filter": "*.jpg"}, "filter must be a tuple"),
        ({"keys": ""}, "keys must not be empty"),
    ],
)
def test_wrong_choices(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Settings("source", **options)
