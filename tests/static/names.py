"""The kernels that the backend launches, by their sources."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent.parent / "kernels"


def kernel_names() -> set[str]:
    return {name for path in FOLDER.glob("*.py") for name in re.findall(r"^def (\w+_kernel)\(", path.read_text(), re.M)}
