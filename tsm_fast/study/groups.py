"""Which pictures are one independent unit."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from ..pipeline.sources.keys import encode_key


def groups_of(groups: str | Path | Mapping[str, str] | None) -> dict[str, str] | None:
    """The group of each key, of a mapping or a CSV, which may say it again."""
    if groups is None:
        return None
    if isinstance(groups, Mapping):
        return {encode_key(str(key)): str(group) for key, group in groups.items()}
    with open(groups, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"key", "group"} <= set(rows[0]):
        there = ", ".join(rows[0]) if rows else "no row"
        raise ValueError(f"groups must be a CSV with the columns key and group, got {there} in {groups}")
    found: dict[str, str] = {}
    for line, row in enumerate(rows, 2):
        key, group = encode_key(row["key"]), row["group"]
        if not group or found.get(key, group) != group:
            got = f"both {found[key]!r} and {group!r}" if group and key in found else "none"
            raise ValueError(
                f"groups must name one group for each key, got {got} for {row['key']!r} in {groups}, line {line}"
            )
        found[key] = group
    return found
