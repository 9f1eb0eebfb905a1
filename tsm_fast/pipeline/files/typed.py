"""Frozen dataclasses from JSON: every value has the type that its field names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false", dict: "a mapping"}


def parse(data: bytes) -> Any:
    """JSON as its standard has it, without NaN; ValueError for anything else."""
    try:
        return json.loads(data, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def made(kind: Any, value: Any, name: str) -> Any:
    """`value`, from JSON, as a dataclass, `tuple[...]`, `dict[str, ...]`, `... | None`, str, int, float, bool or Any.

    Raises:
        ValueError: it, or something in it, has another type; the message names it, beginning with `name`.

    >>> made(tuple[int, ...], [1, 2], "shape")
    (1, 2)
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return None if value is None else made(next(part for part in inner if part is not NoneType), value, name)
    if is_dataclass(kind):
        found = _typed(dict, value, name)
        hints, make = _hints(kind), cast(Any, kind)
        missing = [field.name for field in fields(kind) if field.name not in found and field.default is MISSING]
        if missing:
            raise ValueError(f"{name} has no {missing[0]!r}")
        return make(**{key: made(hint, found[key], f"{name}.{key}") for key, hint in hints.items() if key in found})
    if origin is dict:
        return {key: made(inner[1], entry, f"{name}.{key}") for key, entry in _typed(dict, value, name).items()}
    if origin is tuple:
        several = inner[-1] is Ellipsis
        if not isinstance(value, list) or (not several and len(value) != len(inner)):
            raise ValueError(f"{name} must be a list{'' if several else f' of {len(inner)}'}, got {_short(value)}")
        kinds = inner[:1] * len(value) if several else inner
        return tuple(made(kinds[i], entry, f"{name}[{i}]") for i, entry in enumerate(value))
    return _typed(kind, value, name)


@cache
def _hints(kind: Any) -> Mapping[str, Any]:
    known = get_type_hints(kind)
    return {field.name: known[field.name] for field in fields(kind)}


def _typed(kind: type, value: Any, name: str) -> Any:
    if kind is float and type(value) is int:
        return value
    if type(value) is not kind or (kind is float and not isfinite(value)):
        raise ValueError(f"{name} must be {_NAMES[kind]}, got {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")
