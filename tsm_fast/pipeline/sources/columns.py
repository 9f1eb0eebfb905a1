"""The columns that a manifest or dataset has beside its pictures: typed, and of kinds that every table can hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import pyarrow as pa

from .source import LeftOut

_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
_NUMBER = re.compile(r"-?(?P<digits>(?:0|[1-9]\d{0,14})(?:\.\d*)?)(?:e[+-]?\d{1,3})?|-?inf|nan", re.IGNORECASE)
_TRUTH = {"true": True, "false": False}


def from_text(values: Sequence[str]) -> pa.Array:
    """Text of a CSV file as integers, numbers or truth values where every field is one, else as text; "" is null.

    Numbers that would not be written the same again, such as 007 or 20 digits, stay text.
    """
    given = [value for value in values if value]
    if not given:
        return pa.nulls(len(values), pa.string())
    if all(map(_INTEGER.fullmatch, given)):
        return pa.array([int(value) if value else None for value in values], pa.int64())
    if all(map(_is_number, given)):
        return pa.array([float(value) if value else None for value in values], pa.float64())
    if all(value.lower() in _TRUTH for value in given):
        return pa.array([_TRUTH[value.lower()] if value else None for value in values])
    return pa.array([valid(value) if value else None for value in values], pa.string())


def _is_number(text: str) -> bool:
    """Whether float64 holds what a text says: its digits, and its magnitude."""
    found = _NUMBER.fullmatch(text)
    if found is None or found["digits"] is None:  # the latter for inf and nan
        return found is not None
    digits = found["digits"].replace(".", "").lstrip("0")
    return len(digits) <= 17 and isfinite(float(text)) and (float(text) != 0 or not digits.strip("0"))


def from_values(values: Sequence[Any]) -> pa.Array:
    """Values of JSON by Arrow's types; where these are mixed, or objects, as JSON text."""
    try:
        made = pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        made = None
    if made is not None and is_plain(made.type):
        return made.cast(pa.string()) if pa.types.is_null(made.type) else made
    texts = [value if isinstance(value, str) or value is None else json.dumps(value) for value in values]
    return pa.array([None if text is None else valid(text) for text in texts], pa.string())


def is_plain(kind: pa.DataType) -> bool:
    """Whether a type is numbers, text, truth values, times, or lists of these."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return is_plain(kind.value_type)
    tests = "boolean", "integer", "floating", "decimal", "string", "large_string", "temporal", "null"
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)


def plain_columns(schema: pa.Schema, others: Iterable[str], left_out: LeftOut) -> list[str]:
    """The names of the columns that can be carried along, without `others`; the rest is counted."""
    names = [name for name in schema.names if name not in set(others)]
    plain = []
    for name in names:
        kind = schema.field(name).type
        if is_plain(kind.value_type if pa.types.is_dictionary(kind) else kind) and names.count(name) == 1:
            plain.append(name)
        else:
            left_out.add("columns of types that are not carried along", name)
    return plain


def plain_table(table: pa.Table) -> pa.Table:
    """The same with dictionaries as their values, and columns of nothing as text."""
    for number, field in enumerate(table.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        kind = pa.string() if pa.types.is_null(kind) else kind
        table = table.set_column(number, field.with_type(kind), table.column(number).cast(kind))
    return table.replace_schema_metadata(None)


def renamed(table: pa.Table, taken: Iterable[str]) -> pa.Table:
    """The same with "source_" before the names that are taken, whatever their case."""
    used = {name.lower() for name in taken}
    names = []
    for name in table.column_names:
        while name.lower() in used:
            name = f"source_{name}"
        used.add(name.lower())
        names.append(name)
    return table.rename_columns(names)


def as_table(columns: Mapping[str, Any] | pa.Table) -> pa.Table:
    """A table of columns that are Arrow arrays, NumPy arrays or lists."""
    if isinstance(columns, pa.Table):
        return plain_table(columns)
    return plain_table(
        pa.table({n: from_values(values) if isinstance(values, list) else values for n, values in columns.items()})
    )


def valid(text: str) -> str:
    r"""Text whose bytes that are not UTF-8 are written as `\xNN`."""
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate of JSON, which is no byte
        data = text.encode("utf-8", "surrogatepass")
    return data.decode("utf-8", "backslashreplace")
