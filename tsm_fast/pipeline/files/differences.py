"""What differs between two records, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def differences(there: Mapping[str, Any], here: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """What differs in two nested mappings, in words."""
    for key in {**there, **here}:
        name, old, new = above + key, there.get(key, _ABSENT), here.get(key, _ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{name}.")
        elif old is _ABSENT or new is _ABSENT:
            yield f"{name} is {'new' if old is _ABSENT else 'there and not asked for now'}"
        elif old != new:
            yield f"{name} is {_plain(old)} there and {_plain(new)} now"


def _plain(value: Any) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)


_ABSENT = object()
