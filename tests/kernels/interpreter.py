"""Makes Triton's interpreter faster: its device functions, `tl.sum` too, patch the whole language at every call."""

from __future__ import annotations

from triton import language
from triton.runtime import interpreter

_patched: set[int] = set()


def _call(self, *args, **kwargs):
    # The launched kernel has patched `triton.language`; files that see only its core are patched once, for good.
    names = self.fn.__globals__
    if language not in names.values() and id(names) not in _patched:
        interpreter._patch_lang(self.fn)
        _patched.add(id(names))
    return self.rewrite()(*args, **kwargs)


def quicken() -> None:
    interpreter.InterpretedFunction.__call__ = _call
