"""A testbed that needs no hub: composites of known content, and small networks that are trained on them.

tsm_fast.study.testbed.run("testbed")  # about half an hour on two cores
"""

from __future__ import annotations

from .running import run

__all__ = ["run"]
