"""A few cases of tests that have many."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest


def spaced(family: Sequence[pytest.Item], most: int) -> Sequence[pytest.Item]:
    """At most so many of the cases of a test, evenly spaced."""
    return family[:: -(-len(family) // most)]


def keep(config: pytest.Config, items: list[pytest.Item], wanted: Callable[[pytest.Item], bool]) -> None:
    """Deselect all others."""
    config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
    items[:] = [item for item in items if wanted(item)]
