"""The Triton kernels in Triton's interpreter, on CPU tensors, in this process.

Whether Triton interprets is decided where it and the kernels are imported: here, before anything else does. Afterwards
TRITON_INTERPRET is for the tests to set, as the choice of a backend reads it at every call.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import find_spec

from ..cuda.on_gpu import ON_GPU

INTERPRETED = find_spec("triton") is not None and not ON_GPU  # it is for Linux


def _quicken() -> None:
    """Its device functions, `tl.sum` too, patch the whole language at every call."""
    from triton import language
    from triton.runtime import interpreter

    patched: set[int] = set()

    def call(self, *args, **kwargs):
        # The launched kernel has patched `triton.language`; files that see only its core are patched once, for good.
        names = self.fn.__globals__
        if language not in names.values() and id(names) not in patched:
            interpreter._patch_lang(self.fn)
            patched.add(id(names))
        return self.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call


if INTERPRETED:
    assert "triton" not in sys.modules, "Triton was imported before"
    os.environ["TRITON_INTERPRET"] = "1"
    import_module("tsm_fast.kernels")
    _quicken()
    del os.environ["TRITON_INTERPRET"]
