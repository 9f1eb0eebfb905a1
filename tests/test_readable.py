"""Numbers as people read them."""

from __future__ import annotations

import pytest

from tsm_fast import readable


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (1.0, "1.00"), (12.34, "12.3"), (123.4, "123"), (51234.5, "51,200"), (-1234.0, "-1,230")],
)
def test_digits(value: float, text: str) -> None:
    assert readable.digits(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1234, "1.23 kB"), (5.6e7, "56 MB"), (7.89e9, "7.89 GB"), (3e12, "3 TB")],
)
def test_size(count: float, text: str) -> None:
    assert readable.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.2, "8s"), (457, "7m37s"), (7500, "2h05m"), (3 * 86400 + 4 * 3600, "3d04h")]
)
def test_duration(seconds: float, text: str) -> None:
    assert readable.duration(seconds) == text
