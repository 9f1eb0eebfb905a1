"""Map methods with options of their own, as one text: `mtsm:combine=absolute,rank=16x4x4`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .methods import METHODS
from .steps import checks

DEFAULT = "tsm"  # of all that computes maps: steady under small changes of a picture, and the cheapest
_RANK = re.compile(r"[0-9]{1,9}(x[0-9]{1,9})*")
_TRUTH = {"true": True, "false": False}


class Variant(NamedTuple):
    """A method and those of its options that are named with it."""

    method: str
    options: Mapping[str, Any]

    @property
    def function(self) -> Callable[..., Any]:
        """That of the method, without the options."""
        return METHODS[self.method].function

    @property
    def name(self) -> str:
        """The text that stands for it, always the same for equal options.

        >>> variant("mtsm:rank=16x4x4,combine=absolute").name
        'mtsm:combine=absolute,rank=16x4x4'
        """
        named = ",".join(f"{option}={_text(value)}" for option, value in sorted(self.options.items()))
        return f"{self.method}:{named}" if named else self.method

    @property
    def title(self) -> str:
        """For people.

        >>> variant("mtsm:rank=16x4x4,combine=absolute").title
        'MTSM, combine absolute, rank 16x4x4'
        """
        named = [f"{option} {_text(value)}" for option, value in sorted(self.options.items())]
        return ", ".join([METHODS[self.method].title, *named])


def variant(text: str) -> Variant:
    """The method and options of a text `METHOD` or `METHOD:OPTION=VALUE,...`; a rank is `8` or `16x4x4`.

    Raises:
        ValueError: an unknown method, or an option or value that it does not have.

    >>> variant("eigencam:center=false")
    Variant(method='eigencam', options={'center': False})
    """
    method, colon, rest = text.partition(":")
    checks.choice("methods", method, METHODS)
    options: dict[str, Any] = {}
    for part in rest.split(",") if colon else ():
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in METHODS[method].options:
            has = ", ".join(f"{option}=" for option in METHODS[method].options) or "no option"
            raise ValueError(f"methods: {method} takes {has} after its colon, got {part!r} in {text!r}")
        if name in options:
            raise ValueError(f"methods: {text!r} names {name} twice")
        options[name] = _value(name, value, METHODS[method].options[name])
    return Variant(method, options)


def title(text: str) -> str:
    """That of a variant; its text where the method is not there, as that of a package may be."""
    return variant(text).title if text.partition(":")[0] in METHODS else text


def _value(name: str, text: str, default: Any) -> Any:
    if name == "rank":
        if not _RANK.fullmatch(text):
            raise ValueError(f"rank must be a number, or one for each mode as in 16x4x4, got {text!r}")
        numbers = [int(part) for part in text.split("x")]
        return tuple(numbers) if len(numbers) > 1 else numbers[0]
    if isinstance(default, bool):
        checks.choice(name, text, _TRUTH)
        return _TRUTH[text]
    if isinstance(default, int | float):
        try:
            return type(default)(text)
        except ValueError:
            raise ValueError(f"{name} must be a number as {default} is, got {text!r}") from None
    return text


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
