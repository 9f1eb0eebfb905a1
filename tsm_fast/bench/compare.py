"""What changed between two runs, beyond their noise."""

from __future__ import annotations

import json
from math import exp, log
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from .cases import Case, case_of
from .machine import BUSY
from .rows import SCHEMA
from .works import OURS

FLOOR = 0.03  # relative: less than that is never a change


class Change(NamedTuple):
    """A contender in both runs."""

    label: str
    name: str
    old: float  # milliseconds an item
    new: float
    factor: float  # new over old, without what all contenders have in common
    noise: float  # the factor up to which that means nothing

    @property
    def changed(self) -> bool:
        return abs(log(self.factor)) > log(self.noise)


class Comparison(NamedTuple):
    """Two runs."""

    drift: float  # new over old of the peers, whose code is the same: what the machine did
    wander: float  # the factor within which 19 of 20 peers of whole batches kept to that
    changes: list[Change]  # of all contenders in both, the largest first
    verdicts: list[str]  # results that became right or wrong
    gone: list[str]
    added: list[str]
    others: tuple[float | None, float | None]  # of the CPUs' time, that other processes used in each

    @property
    def busy(self) -> bool:
        return any(share is not None and share > BUSY for share in self.others)


def read(path: Path) -> dict[str, Any]:
    """A result file.

    Raises:
        ValueError: it is none, or one of another schema.
    """
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        schema = run["schema"]
        whole = schema != SCHEMA or (isinstance(run["machine"], dict) and all(row["work"] for row in run["rows"]))
    except (ValueError, KeyError, TypeError):
        schema, whole = None, False
    if not whole:
        raise ValueError(f"{path} is no result file of `tsm-fast bench`")
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema}, and this version reads {SCHEMA}: measure it again")
    return run


def compare(old: dict[str, Any], new: dict[str, Any]) -> Comparison:
    """The noise of a contender is the spread of both its times, a third of the rounds on either side, or how far
    the peers wandered: rounds of a row follow each other within seconds, and a machine changes over minutes.
    """
    before, after = _measured(old), _measured(new)
    both = [key for key in before if key in after]
    peers = [key for key in both if not key[1].startswith(OURS)]
    steps = {key: log(after[key]["ms"]["p50"] / before[key]["ms"]["p50"]) for key in peers or both}
    drift = exp(median(steps.values())) if steps else 1.0
    wander = {
        few: _wander([steps[key] - log(drift) for key in peers if before[key]["few"] is few]) for few in (False, True)
    }
    changes, verdicts = [], []
    for case, name in both:
        a, b = before[case, name], after[case, name]
        factor = b["ms"]["p50"] / a["ms"]["p50"] / drift
        noise = max(_noise(a, b), wander[a["few"]])
        changes.append(Change(case.label, name, a["ms"]["p50"], b["ms"]["p50"], factor, noise))
        if a.get("verdict") != b.get("verdict"):
            verdicts.append(f"{case.label}, {name}: {a.get('verdict')} before, {b.get('verdict')} now")
    changes.sort(key=lambda change: -abs(log(change.factor)))
    gone, added = ([f"{case.label}, {name}" for case, name in a if (case, name) not in b] for a, b in _pairs(old, new))
    return Comparison(drift, wander[False], changes, verdicts, gone, added, (old.get("others"), new.get("others")))


def _wander(steps: list[float]) -> float:
    """The factor that 19 of 20 logarithms keep to."""
    far = sorted(map(abs, steps))
    return exp(far[len(far) * 19 // 20 - 1]) if len(far) > 1 else 1.0


def _pairs(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[Any, Any]]:
    before, after = _measured(old), _measured(new)
    return [(before, after), (after, before)]


def _measured(run: dict[str, Any]) -> dict[tuple[Case, str], dict[str, Any]]:
    return {
        (case_of(row), name): one
        for row in run["rows"]
        for name, one in row.get("contenders", {}).items()
        if "ms" in one
    }


def _noise(*ones: dict[str, Any]) -> float:
    """As a factor: both spreads, one after the other."""
    spread = sum(
        max(log(one["ms"]["p80"] / one["ms"]["p50"]), log(one["ms"]["p50"] / one["ms"]["p20"])) for one in ones
    )
    return exp(max(spread, log(1 + FLOOR)))
