"""What the pages show of the recorded run of `make bench`: `python -m benchmarks.report`.

From `benchmarks/results/cpu.json` it writes `cpu.md` (every row), `cpu.html` (the charts), and the tables between the
markers in the README, docs/index.md, docs/accuracy.md and docs/benchmarks.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tsm_fast.bench import page, tables
from tsm_fast.bench.cases import case_of
from tsm_fast.bench.compare import read
from tsm_fast.bench.works import OURS
from tsm_fast.readable import digits

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
RECORDED = RESULTS / "cpu.json"
README, DOCS = ROOT / "README.md", ROOT / "docs"
COMMAND = "make bench"

# What the contract on accuracy (docs/accuracy.md) allows, and which errors of which works show it.
MAPS, ALL_VECTORS = ("tsm", "eigencam"), ("mtsm", "multivec_eigencam")
PROMISES = [
    ("`tsm`, `eigencam` maps", 2e-5, MAPS, ("map",), "errors"),
    ("`mtsm`, `multivec_eigencam` maps", 1e-4, ALL_VECTORS, ("map",), "errors"),
    ("`singular_values / sigma_1`", 1e-5, ("tucker", "hosvd", "truncated_svd"), ("singular_values",), "errors"),
    ("errors of decompositions, reported and true", 1e-5, ("tucker", "hosvd"), ("reported", "fit"), "errors"),
    ("factors, as projectors", 1e-4, ("tucker", "hosvd"), ("projectors",), "errors"),
    ("singular vectors and eigenvectors, orthonormal", 1e-5, ("truncated_svd", "eigh"), ("orthogonality",), "errors"),
    ('maps and `tucker` with `precision="float64"`', 1e-9, (*MAPS, *ALL_VECTORS, "tucker"), (), "errors64"),
]
# The rows of the README: those that people compare, by the beginning of their labels.
SHOWN = [
    "tsm 2048x7x7, batch 128",
    "tsm 2048x7x7, batch 1",
    "tsm 1024x14x14, batch 64",
    "mtsm 2048x7x7, batch 128",
    "mtsm 1024x14x14, batch 64",
    "eigencam 2048x7x7, batch 128",
    "eigencam call 1280x7x7, batch 8",
    "tucker 2048x7x7, rank 32, 4, 4, batch 128",
    "tensorly tucker 64x32x32, rank 8, 8, 8, batch 1, float64",
    "truncated_svd 2048x49, rank 8, batch 32",
    "eigh 49x49, batch 512",
]
HOME = [
    ("tsm 2048x7x7, batch 128", "`tsm`", "tensorly"),
    ("eigencam 2048x7x7, batch 128", "`eigencam`", "grad-cam"),
    ("tucker 2048x7x7, rank 32, 4, 4, batch 128", "`tucker`, rank (32, 4, 4)", "tensorly"),
]

CLAIM = re.compile(r"[\d.]+ to [\d.]+ times as fast as PyTorch's batched SVD")

Run = dict[str, Any]
Row = dict[str, Any]


def main() -> None:
    run = read(RECORDED)
    if run["quick"] or not run["complete"]:
        raise SystemExit(f"{RECORDED} is of a quick or interrupted run, which is not shown: {COMMAND}")
    for path, made in files(run).items():
        path.write_text(made)
    print("\n".join(tables.summary(run)))


def files(run: Run) -> dict[Path, str]:
    """Everything that is made from the run."""
    texts = {
        README: short_table(run),
        DOCS / "index.md": home_table(run),
        DOCS / "accuracy.md": promise_table(run),
        DOCS / "benchmarks.md": behind_table(run),
    }
    shown = {path: with_table(path.read_text(), text) for path, text in texts.items()}
    shown[README] = CLAIM.sub(claim(run), shown[README])
    return {RESULTS / "cpu.md": tables.markdown(run), RESULTS / "cpu.html": page.html(run), **shown}


def with_table(text: str, table: str) -> str:
    """A page with the part between its markers replaced."""
    begin, end = "<!-- benchmarks: begin -->\n", "<!-- benchmarks: end -->\n"
    head, rest = text.split(begin)
    return head + begin + "\n" + table + "\n" + end + rest.split(end)[1]


def rows_of(run: Run, works: Iterable[str]) -> list[Row]:
    return [row for row in run["rows"] if row["work"] in works]


def named(run: Run, label: str) -> Row | None:
    return next((row for row in run["rows"] if tables.label(row) == label), None)


def short_table(run: Run) -> str:
    """Of the README: milliseconds an item, and how many times as long the others take."""
    cells = []
    for label in SHOWN:
        row = named(run, label)
        ours = None if row is None else tables.ours_of(row)
        if row is None or ours is None:
            continue
        others = [
            f"{name} {tables.times(one['ratio']['p50'])}{mark(one)}"
            for name, one in row["contenders"].items()
            if "ratio" in one and name not in ("torch", "torch-split")
        ]
        plain = [ratio_of(row, name) for name in ("torch", "torch-split")]
        what = case_of(row).label.removeprefix(row["work"]).strip()
        cells.append([f"`{row['work']}`, {what}", digits(ours["ms"]["p50"]), *plain, "; ".join(others)])
    head = ["", "tsm_fast, ms an item", "plain PyTorch", "on all cores", "others"]
    return tables.table(head, cells) + f"\n{tables.machine(run)} Regenerate with `{COMMAND}`.\n"


def claim(run: Run) -> str:
    """Maps of batches beside `torch.linalg.svd`, the least and the most."""
    peers = [row["contenders"].get("torch-svd", {}) for row in rows_of(run, (*MAPS, *ALL_VECTORS)) if row["batch"] > 1]
    ratios = [peer["ratio"]["p50"] for peer in peers if "ratio" in peer]
    return f"{digits(min(ratios))} to {digits(max(ratios))} times as fast as PyTorch's batched SVD"


def mark(one: Row) -> str:
    return {"less": " (less accurate)", "wrong": " (wrong)"}.get(one.get("verdict", ""), "")


def ratio_of(row: Row, name: str) -> str:
    one = row["contenders"].get(name, {})
    return tables.times(one["ratio"]["p50"]) + mark(one) if "ratio" in one else ""


def home_table(run: Run) -> str:
    """Of the first page: ours, plain PyTorch and what people call today, in milliseconds and as a ratio."""
    cells = []
    for label, name, peer in HOME:
        row = named(run, label)
        if row is None:
            continue
        peer = peer if peer in row["contenders"] else f"{peer}-steps"
        shown = {each: cell(row, each) for each in (OURS, "torch", peer)}
        cells.append([name, shown[OURS], shown["torch"], f"{peer}: {shown[peer]}"])
    head = ["", "tsm_fast", "plain PyTorch", "what is called today"]
    return tables.table(head, cells) + f"\n{tables.machine(run)}\n"


def cell(row: Row, name: str) -> str:
    one = row["contenders"].get(name, {})
    if "ms" not in one:
        return ""
    ratio = f" ({tables.times(one['ratio']['p50'])})" if "ratio" in one else ""
    return f"{digits(one['ms']['p50'])} ms{ratio}"


def promise_table(run: Run) -> str:
    """What was promised, and the worst that this run met."""
    cells = []
    for what, allowed, works, kinds, field in PROMISES:
        found = [error for row in rows_of(run, works) for error in errors_of(row, kinds, field)]
        if found:
            cells.append([what, f"{allowed:.0e}", f"{max(found):.1e}", f"{len(found)}"])
    plain = ", ".join(
        f"`{work}` {max(row['contenders']['torch']['error'] for row in rows_of(run, [work]) if judged(row)):.1e}"
        for work in (*MAPS, *ALL_VECTORS)
        if any(map(judged, rows_of(run, [work])))
    )
    head = ["result", "allowed", "worst", "inputs"]
    return tables.table(head, cells) + f"\nFor comparison, maps of plain PyTorch in float32, worst: {plain}.\n"


def judged(row: Row) -> bool:
    return "error" in row.get("contenders", {}).get("torch", {})


def errors_of(row: Row, kinds: tuple[str, ...], field: str) -> list[float]:
    """Ours, of some kinds or of all."""
    holder = row if field == "errors64" else tables.ours_of(row) or {}
    return [error for name, error in holder.get(field, {}).items() if name in kinds or not kinds]


def behind_table(run: Run) -> str:
    """Where a peer of our accuracy is quicker."""
    slower = tables.behind(run["rows"])
    if not slower:
        return "In no row is a peer of the same accuracy quicker.\n"
    cells = [[tables.label(row), name, tables.times(ratio), tables.share(row)] for row, name, ratio in slower]
    return tables.table(["row", "quicker", "its time beside ours", "of the machine's limit"], cells)


if __name__ == "__main__":
    main()
