"""Tables and a plot from one run of the benchmarks: `python -m benchmarks.report build/bench.json`.

Writes `benchmarks/results/cpu.json` (machine and measurements), `cpu.md` (every table), `cpu.svg` (the plot), and the
tables between the markers in the README and in docs/index.md and docs/accuracy.md. `--out FOLDER` writes elsewhere and
leaves these alone.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
HOME, PROMISE = ROOT / "docs" / "index.md", ROOT / "docs" / "accuracy.md"
MARKERS = ("<!-- benchmarks: begin -->\n", "<!-- benchmarks: end -->\n")
COMMAND = "make bench"
SPLIT = "torch, split"

# What the contract on accuracy (docs/accuracy.md) allows, and where the benchmarks measure it.
ACCURACY = [
    ("`tsm`, `eigencam` maps", 2e-5, ("tsm", "eigencam"), ("maps",)),
    ("`mtsm`, `multivec_eigencam` maps", 1e-4, ("mtsm", "multivec_eigencam"), ("maps",)),
    ("`singular_values / sigma_1`", 1e-5, ("hooi", "truncated_svd"), ("singular_values",)),
    ("errors of the sweeps", 1e-5, ("hooi",), ("sweep errors",)),
    ("factors, as projectors", 1e-4, ("hooi",), ("projectors",)),
    (
        'all of these with `precision="float64"`',
        1e-9,
        ("tsm", "eigencam", "mtsm", "multivec_eigencam", "hooi"),
        ("float64",),
    ),
]
COLORS = ("#9aa5b1", "#c0392b")  # the others, tsm_fast
MAPS = ("tsm", "mtsm", "eigencam", "multivec_eigencam")

Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurements", type=Path, help="the file that pytest --benchmark-json wrote")
    parser.add_argument("--out", type=Path, help="write here instead, and leave the README alone")
    arguments = parser.parse_args()
    run = slim(json.loads(arguments.measurements.read_text()))
    out = arguments.out or RESULTS
    if run["machine"]["quick"] and out == RESULTS:
        parser.error("these are quick measurements, which are not recorded: give --out")

    out.mkdir(parents=True, exist_ok=True)
    (out / "cpu.json").write_text(json.dumps(run, indent=1) + "\n")
    tables = full_report(run)
    (out / "cpu.md").write_text(tables)
    plot(run, out / "cpu.svg")
    if out == RESULTS:
        for page, made in pages(run).items():
            page.write_text(made)
    print(tables)


def slim(run: dict) -> dict:
    """Machine, versions and measurements, without what pytest-benchmark adds."""
    return {
        "machine": run["machine_info"],
        "commit": run["commit_info"]["id"],
        "date": run["datetime"][:10],
        "records": [b["extra_info"] for b in run["benchmarks"] if "step" in b["extra_info"]],
    }


def pages(run: dict) -> dict[Path, str]:
    """The pages that show some of the measurements, with their tables made anew."""
    made = {ROOT / "README.md": short_table(run), HOME: home_table(run)}
    texts = {page: with_table(page.read_text(), table) for page, table in made.items()}
    accuracy_markers = ("<!-- accuracy: begin -->\n", "<!-- accuracy: end -->\n")
    return {**texts, PROMISE: with_table(PROMISE.read_text(), promise_table(run), accuracy_markers)}


def with_table(page: str, table: str, markers: tuple[str, str] = MARKERS) -> str:
    """A page with the table between its markers replaced."""
    begin, end = markers
    head, rest = page.split(begin)
    return head + begin + table + end + rest.split(end)[1]


def home_table(run: dict) -> str:
    """Three rows: ours, plain PyTorch and what people call today, in milliseconds and as a ratio."""
    rows = []
    for step, shape, name, peer in (
        ("tsm", "2048x7x7", "`tsm`", "TensorLy, rank (49, 7, 7)"),
        ("eigencam", "2048x7x7", "`eigencam`", "pytorch-grad-cam"),
        ("hooi", "2048x7x7, rank (32, 4, 4)", "`tucker`, rank (32, 4, 4)", "TensorLy"),
    ):
        record = next(record for record in records(run, step) if record["shape"] == shape)
        cells = [
            f"{milliseconds(record['ms'][each])} ms ({times(record['ratio'][each])})" if each in record["ms"] else ""
            for each in (SPLIT, peer)
        ]
        rows.append([name, f"{milliseconds(record['ms']['tsm_fast'])} ms", cells[0], f"{peer}: {cells[1]}"])
    header = ["", "tsm_fast", "plain PyTorch, on all cores", "what is called today"]
    return "\n" + table(header, rows) + f"\n{machine(run)}\n\n"


def short_table(run: dict) -> str:
    """The table of the README: milliseconds per image, and how many times longer the others take."""
    rows = []
    for record in records(run, *MAPS, "hooi", "truncated_svd"):
        if not record["targets"]:
            continue
        others = [
            f"{name}: {times(ratio)}"
            for name, ratio in record["ratio"].items()
            if not name.startswith("torch") or name == "torch.linalg.svd"
        ]
        rows.append(
            [
                f"`{record['step']}`, {record['shape']}",
                milliseconds(record["ms"]["tsm_fast"]),
                *(times(record["ratio"][p]) if p in record["ratio"] else "" for p in ("torch", SPLIT)),
                "; ".join(others),
            ]
        )
    header = ["one item of a batch", "tsm_fast, ms", "Gram + `eigh`", "the same, split", "others"]
    return table(header, rows) + f"\n{machine(run)} Regenerate with `{COMMAND}`.\n"


def full_report(run: dict) -> str:
    parts = ["# Measurements on a CPU\n", machine(run) + "\n", targets(run), accuracy(run), gram(run)]
    parts += [steps(run), by_batch(run), memory(run), data(run)]
    return "\n".join(part for part in parts if part)


def machine(run: dict) -> str:
    m = run["machine"]
    return (
        f"{m['cpu']}, {m['cores']} cores, {m['threads']} threads, {m['backend']}; Python {m['python']}, "
        f"torch {m['torch']}, NumPy {m['numpy']}, TensorLy {m['tensorly']}; {run['date']}. "
        f"Other processes used {m['others']:.1%} of the CPUs' time."
    )


def targets(run: dict) -> str:
    rows = []
    for record in records(run, *MAPS, "hooi", "truncated_svd"):
        for target in record["targets"]:
            ratio = record["ratio"][target["peer"]]
            stretch = f" (stretch {target['stretch']:g}x)" if target["stretch"] else ""
            reached = "yes" if ratio["p50"] >= target["ratio"] else "**no**"
            split = record["ratio"].get(SPLIT) if target["peer"] == "torch" else None
            rows.append(
                [
                    f"{record['step']}, {record['shape']}",
                    target["peer"],
                    f"{target['ratio']:,g}x{stretch}",
                    f"{times(ratio)} ({ratio['p20']:,.3g} to {ratio['p80']:,.3g})",
                    times(split) if split else "",
                    reached,
                ]
            )
    header = ["", "against", "target", "measured (20 % to 80 %)", "against `torch, split`", "reached"]
    return section("Targets", table(header, rows))


def promise_table(run: dict) -> str:
    plain = {f"`{s}`": max(r["errors"]["torch"] for r in records(run, s)) for s in MAPS}
    text = ", ".join(f"{name} {error:.1e}" for name, error in plain.items())
    return f"\n{accuracy_table(run)}\nFor comparison, maps of plain PyTorch in float32, worst: {text}.\n\n"


def accuracy_table(run: dict) -> str:
    rows = []
    for what, allowed, steps_, keys in ACCURACY:
        errors = [r["errors"][k] for r in records(run, *steps_) for k in keys if k in r["errors"]]
        if errors:
            rows.append([what, f"{allowed:.0e}", f"{max(errors):.1e}", f"{len(errors)}"])
    return table(["result", "allowed", "worst", "inputs"], rows)


def accuracy(run: dict) -> str:
    apart = sum(r["errors"].get("ties", 0) for r in records(run, *MAPS))
    plain = {s: max(r["errors"]["torch"] for r in records(run, s)) for s in MAPS if list(records(run, s))}
    text = (
        "Largest difference from float64 (singular value decompositions of the unfoldings, TensorLy for HOOI) over all "
        f"benchmarked inputs. Items with a tie in the sign of a vector, left out: {apart}. "
        "For comparison, the maps of plain PyTorch in float32 (Gram + `eigh`): "
        + ", ".join(f"{s} {error:.1e}" for s, error in plain.items())
        + ".\n"
    )
    return section("Accuracy", text + "\n" + accuracy_table(run))


def gram(run: dict) -> str:
    rows = []
    for record in records(run, "mode_gram"):
        rates = record["flops"]
        share = f"{rates['useful'] / rates['peak']:.0%}"
        rows.append([record["shape"], *(f"{rates[key] / 1e9:.0f}" for key in ("useful", "peak", "sgemm")), share])
    text = (
        "Useful work is one triangle of the Gram matrix, `C S (S + 1)` operations; the peak is that of independent "
        "float32 multiply-adds in registers on all threads, and `torch.mm` one product of 1024x1024 matrices, both "
        "measured in between. GFLOP/s.\n\n"
    )
    header = ["shape", "useful", "peak", "`torch.mm`", "useful / peak"]
    return section("Gram matrix and the machine's peak", text + table(header, rows)) if rows else ""


def steps(run: dict) -> str:
    rows = []
    for record in records(run, "mode_gram", "truncated_svd", "core_contraction", "hooi", *MAPS, "finish"):
        for name, quantiles in record["ms"].items():
            ours = name == "tsm_fast"
            rows.append(
                [
                    f"{record['step']}, {record['shape']}" if ours else "",
                    name,
                    *(f"{quantiles[q]:.4g}" for q in ("p20", "p50", "p80")),
                    "" if ours else times(record["ratio"][name]),
                ]
            )
    text = (
        "Milliseconds per item, 20 %, 50 % and 80 % quantiles; contenders take turns round by round, and the ratio is "
        "the median over rounds of theirs to ours.\n\n"
    )
    return section("Every step", text + table(["", "", "20 %", "median", "80 %", "ratio"], rows))


def by_batch(run: dict) -> str:
    rows = [
        [f"{r['items']}", *(f"{r['ms'][n]['p50']:.4g}" for n in ("tsm_fast", "torch")), times(r["ratio"]["torch"])]
        for r in records(run, "tsm, by batch size")
    ]
    header = ["batch", "tsm_fast, ms per image", "torch, ms per image", "ratio"]
    return section("Time against the batch size: TSM, 2048x7x7", table(header, rows)) if rows else ""


def memory(run: dict) -> str:
    rows = [
        [r["method"], f"{r['items']}", *(f"{r['megabytes'][who]:.1f}" for who in ("tsm_fast", "torch"))]
        for r in records(run, "memory")
    ]
    header = ["method", "batch", "tsm_fast, MB", "torch, MB"]
    text = "Peak beyond input and output, 2048x7x7, each in a process of its own.\n\n"
    return section("Extra memory", text + table(header, rows)) if rows else ""


def data(run: dict) -> str:
    kept = {r["shape"]: r for r in records(run, *MAPS)}
    rows = [
        [
            shape,
            r["origin"],
            f"{r['data']['zeros']:.0%}",
            f"{r['data']['minimum']:.3g} to {r['data']['maximum']:.3g}",
            f"{r['data']['sigma_2 / sigma_1']:.2f}",
            f"{r['data']['sigma_2 / sigma_1 centred']:.2f}",
            f"{r['data']['sigma_last / sigma_1']:.1e}",
        ]
        for shape, r in kept.items()
    ]
    header = ["shape", "origin", "zeros", "range", "s2/s1", "s2/s1 centred", "last s/s1"]
    return section("Data", table(header, rows))


def records(run: dict, *steps_: str) -> Iterable[Record]:
    """The records of some steps, in that order."""
    return (record for step in steps_ for record in run["records"] if record["step"] == step)


def section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def times(ratio: dict[str, float]) -> str:
    return f"{float(format(ratio['p50'], '.3g')):,.10g}x"


def milliseconds(quantiles: dict[str, float]) -> str:
    return f"{quantiles['p50']:.3g}"


def plot(run: dict, path: Path) -> None:
    """Time per item on a logarithmic scale; time and memory against the batch size."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "tsm_fast", "font.size": 9})
    matplotlib.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(11, 9), layout="constrained")
    panels = figure.subplot_mosaic([["bars", "time"], ["bars", "memory"]], width_ratios=(3, 2))
    bars(panels["bars"], [r for r in records(run, "tsm", "mtsm", "eigencam", "hooi") if r["targets"]])
    scaling = [(r["items"], r["ms"]) for r in records(run, "tsm, by batch size")]
    panels["time"].loglog()
    lines(panels["time"], [(b, {who: ms[who]["p50"] * b for who in ("torch", "tsm_fast")}) for b, ms in scaling])
    panels["time"].set(title="TSM, 2048x7x7", ylabel="milliseconds per call (median)")
    lines(panels["memory"], [(r["items"], r["megabytes"]) for r in records(run, "memory") if r["method"] == "mtsm"])
    panels["memory"].set(title="MTSM, 2048x7x7", ylabel="extra memory, MB")
    figure.savefig(path, metadata={"Date": None})
    path.write_text(re.sub(r"[ \t]+$", "", path.read_text(), flags=re.MULTILINE))


def plain(value: float, _position: int) -> str:
    """A tick label without an exponent."""
    return f"{value:g}"


def bars(panel: Any, shown: list[Record]) -> None:
    y, ticks = 0, {}
    for record in shown:
        panel.text(0, y, f" {record['step']}, {record['shape']}", transform=panel.get_yaxis_transform(), weight="bold")
        for who, quantiles in record["ms"].items():
            y += 1
            panel.barh(y, quantiles["p50"], color=COLORS[who == "tsm_fast"])
            panel.text(quantiles["p50"] * 1.15, y, f"{quantiles['p50']:.3g}", va="center")
            ticks[y] = who
        y += 2
    panel.set(xscale="log", xlabel="milliseconds per item (median)", yticks=list(ticks), yticklabels=ticks.values())
    panel.set(ylim=(y - 0.5, -1), xlim=(None, panel.get_xlim()[1] * 4))
    panel.xaxis.set_major_formatter(plain)


def lines(panel: Any, points: list[tuple[int, dict[str, float]]]) -> None:
    for who in points[0][1] if points else ():
        panel.plot(
            [b for b, _ in points], [v[who] for _, v in points], "o-", color=COLORS[who == "tsm_fast"], label=who
        )
        panel.legend(frameon=False)
    panel.set(xlabel="batch size")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(plain)


if __name__ == "__main__":
    main()
