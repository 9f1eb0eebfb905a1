"""Evidence for or against the maps of a model: every metric of every map and of the controls, image by image.

study = tsm_fast.study.run("photos", "study", model="lite0", masks="masks")
study.values("roc_auc", "tsm")  # [rows] float64, NaN where there is none
tsm_fast.study.compare({"supervised": "sup", "untrained": "untrained"}, "paper")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

__all__ = ["Comparison", "Study", "compare", "report", "run"]

if TYPE_CHECKING:
    from .comparing import Comparison, compare
    from .reporting import report
    from .rows import Study
    from .running import run
else:
    _HOMES = {
        **dict.fromkeys(("Comparison", "compare"), ".comparing"),
        "report": ".reporting",
        "Study": ".rows",
        "run": ".running",
    }
    __getattr__, __dir__ = lazy(__name__, _HOMES, extras=dict.fromkeys(_HOMES, "datasets"))
