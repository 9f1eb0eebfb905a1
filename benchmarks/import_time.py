"""What imports cost, by `python -X importtime`: `benchmarks/results/import_time.md`.

python -m benchmarks.import_time
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tsm_fast.bench.machine import processor

from .other_tools import RESULTS

PROGRAMS = {  # what is imported, and after what
    "import torch": ("", "import torch"),
    "import tsm_fast": ("import torch", "import tsm_fast"),
    "tsm_fast.tsm": ("import torch, tsm_fast", "tsm_fast.tsm"),
    "tsm_fast.tucker": ("import torch, tsm_fast", "tsm_fast.tucker"),
    "tsm_fast.SaliencyExtractor": ("import torch, tsm_fast", "tsm_fast.SaliencyExtractor"),
    "tsm_fast.SaliencyDataset": ("import torch, tsm_fast", "tsm_fast.SaliencyDataset"),
    "tsm_fast.extract": ("import torch, tsm_fast", "tsm_fast.extract"),
    "tsm-fast --help": ("", "from tsm_fast.cli import main; import sys; sys.argv[1:] = ['--help']; main()"),
}
LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| (\s*)(\S+)")
BASE = {"torch", "numpy", "tsm_fast"}


class Imports(NamedTuple):
    milliseconds: float
    modules: int
    packages: set[str]  # beside PyTorch, NumPy and what comes with Python


def imports(before: str, program: str) -> Imports:
    """What `program` imports after `before`."""
    whole = f"{before}\nimport sys\nsys.stderr.write('BEGIN\\n')\n{program}"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", whole], capture_output=True, text=True)
    lines = LINE.findall(done.stderr.partition("BEGIN\n")[2])
    roots = {name.partition(".")[0] for *_, name in lines}
    packages = {root for root in roots if not root.startswith("_")} - BASE - sys.stdlib_module_names
    return Imports(sum(int(own) for own, *_ in lines) / 1e3, len(lines), packages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    lines = [
        "# What imports cost",
        "",
        f"`python -X importtime`, least of {given.runs} runs, {processor()}, Python {sys.version.split()[0]}.",
        "",
        "| | after | ms | modules | packages beside PyTorch and NumPy |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, (before, program) in PROGRAMS.items():
        runs = [imports(before, program) for _ in range(given.runs)]
        packages = ", ".join(sorted(runs[0].packages)) if name != "import torch" else ""
        time = min(run.milliseconds for run in runs)
        lines.append(f"| `{name}` | {f'`{before}`' if before else ''} | {time:,.1f} | {runs[0].modules} | {packages} |")
    (given.out / "import_time.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
