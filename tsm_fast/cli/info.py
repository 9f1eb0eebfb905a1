"""`tsm-fast info`: versions, backends, and what would be chosen."""

from __future__ import annotations

import json
import os
import platform
from typing import Any

import torch
from rich.console import Console

from .._version import versions
from ..methods import METHODS, adds
from ..steps import choice
from .common import errors, table
from .options import AsJson

PACKAGES = ("torch", "numpy", "pillow", "tensorly", "scikit-image", "scikit-learn", "efficientnet-lite-pytorch")


def info(as_json: AsJson = False) -> None:
    """Versions, SIMD level, threads, the backends built, and what `auto` would choose and why."""
    with errors():
        facts = _info()
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    console = Console(highlight=False)
    versions = {"tsm_fast": facts["tsm_fast"], "python": facts["python"], **facts["packages"]}
    rows = [(name, value or "not installed") for name, value in versions.items()]
    rows += [(name, str(facts[name])) for name in ("machine", "simd", "threads", "auto")]
    console.print(table(("", ""), rows))
    rows = [(row["name"], "yes" if row["available"] else "no", row["reason"], row["auto"]) for row in facts["backends"]]
    console.print(table(("backend", "available", "why", "auto"), rows))
    console.print(table(("map", "of"), list(facts["maps"].items())))


def _info() -> dict[str, Any]:
    backends, found = choice.backends(), versions(PACKAGES)
    simd = "none: the compiled backend is not available"
    if backends["cpu"].available:
        from ..steps import cpu

        simd = f"{cpu.simd_level()} (of {', '.join(cpu.simd_levels())})"
    return {
        "tsm_fast": found["tsm_fast"],
        "python": found["python"],
        "packages": {name: found.get(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "simd": simd,
        "threads": torch.get_num_threads(),
        "auto": f"{choice.resolve(None, torch.empty(0)).name} for CPU tensors",
        "maps": {name: adds(name) for name in METHODS},
        "backends": [
            {"name": row.name, "available": row.available, "reason": row.reason, "auto": row.auto}
            for row in backends.values()
        ],
    }
