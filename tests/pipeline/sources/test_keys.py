"""Keys keep every file name."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tsm_fast.pipeline.sources.keys import decode_key, encode_key

names = st.binary(min_size=1).filter(lambda name: b"\0" not in name)


@given(names)
@example(b"\\xff")
@example(b"\\\\xff\xff\\")
@example("é\n <b>\\x41".encode())
@example(b"\xed\xa0\x80")
def test_any_bytes_come_back(name: bytes) -> None:
    key = encode_key(os.fsdecode(name))
    assert key.encode().decode() == key
    assert os.fsencode(decode_key(key)) == name


@given(st.lists(names, min_size=2, max_size=2, unique=True))
@example([b"\xff", b"\\xff"])
@example([b"\\\xff", b"\\\\xff"])
def test_two_names_are_two_keys(pair: list[bytes]) -> None:
    first, second = (encode_key(os.fsdecode(name)) for name in pair)
    assert first != second


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])).filter(lambda text: "\\x" not in text))
def test_text_stays_as_it_is(text: str) -> None:
    assert encode_key(text) == text


def test_what_is_no_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lone surrogate U\+D800"):
        encode_key("a\ud800")
