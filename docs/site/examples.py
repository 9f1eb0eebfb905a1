"""Examples of docstrings as code: a run of lines from `>>>` to the next empty line is a block."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^( *)(>>> (?:.+\n?)+)", re.MULTILINE)


class Examples(Extension):
    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(r"\1```pycon\n\1\2\n\1```\n", obj.docstring.value)
