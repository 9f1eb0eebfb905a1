"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Sequence


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few of some names.

    >>> some(["a", "b", "c", "d"], 2)
    "'a', 'b' and 2 more"
    """
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def counted(count: int, what: str) -> str:
    """
    >>> counted(1, "picture"), counted(1200, "picture")
    ('1 picture', '1,200 pictures')
    """
    return f"{count:,} {what}{'s' * (count != 1)}"


def digits(value: float) -> str:
    """Three digits, without an exponent above 1: 0.0123, 1.00, 51,200."""
    if abs(value) >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:#.3g}"


def size(count: float) -> str:
    """Bytes in a unit that fits: 999 bytes, 1.23 MB."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.3g} {unit}"
    return f"{count / 1000:.3g} TB"


def duration(seconds: float) -> str:
    """Seconds as people say them: 8s, 7m37s, 2h05m, 3d04h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"
