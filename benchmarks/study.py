# ruff: noqa: E501 (the page has longer lines)
"""The evidence: from the folder of `tsm-fast study --testbed` to the rows that are kept and the page that is written.

python -m benchmarks.study testbed    # benchmarks/results/study.*, and docs/evidence.md from them
python -m benchmarks.study            # the page alone
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tsm_fast import metrics
from tsm_fast.metrics import Paired
from tsm_fast.metrics.statistics import LEAST_UNITS
from tsm_fast.study import Study, factorial
from tsm_fast.study.names import CONTROLS, MAPS
from tsm_fast.variants import title

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "evidence.md"

# Of every map and control; "@ranked" is the metric at one common histogram.
KEPT = (
    "shuffled_auc",
    "roc_auc",
    "energy_in_mask",
    "pointing_game",
    "drop",
    "drop@ranked",
    "insertion",
    "deletion",
    "road",
    "jpeg",
    "shift",
    "noise",
    "rescale",
)
ARMS = (*MAPS, *CONTROLS)
SAID = ("better", "worse", "no difference seen")  # by an interval
OBJECTS = ("supervised", "self-supervised", "lite0")  # networks that learned objects


def collect(testbed: Path) -> None:
    """Keep of a testbed what the page rests on."""
    told = json.loads((testbed / "compare.json").read_text())
    parts, studies = [], {}
    for name in told["studies"]:
        study = Study.open(testbed / "studies" / name)
        parts.append(_rows(name, study))
        studies[name] = {key: study.about[key] for key in ("package", "images", "faithful_images", "score")}
    write = {"compression": "zstd", "compression_level": 19, "use_byte_stream_split": [*KEPT, "gap"]}
    write["use_dictionary"] = ["network", "key", "group", "map"]
    pq.write_table(pa.concat_tables(parts), RESULTS / "study.parquet", **write)
    pq.write_table(
        pq.read_table(testbed / "factorial.parquet"),
        RESULTS / "study_factorial.parquet",
        **{
            **write,
            "use_byte_stream_split": list(factorial.METRICS),
            "use_dictionary": ["network", "key", "group", "setting"],
        },
    )
    shutil.copy(testbed / "index.html", RESULTS / "study.html")
    training = json.loads((testbed / "training.json").read_text())
    composites = len((testbed / "groups.csv").read_text().splitlines()) - 1
    about = {"composites": composites, "studies": studies, "training": training}
    (RESULTS / "study.json").write_text(json.dumps(about, indent=1) + "\n")


def _rows(name: str, study: Study) -> pa.Table:
    """A row an image and map, [images * maps]; float32 of four digits."""
    arms = [arm for arm in ARMS if arm in study.maps]
    groups = study.groups
    assert groups is not None
    count = len(study.keys)

    def column(arm: str, metric: str) -> np.ndarray:
        of, form = (part for part in (*metric.split("@"), "")[:2])
        named = f"{arm}@{form}" if form else arm
        return study.values(of, named) if study.has(of, named) else np.full(count, np.nan)

    gap = study.column(f"{study.layers[0]}:gap")
    numbers = {metric: np.concatenate([column(arm, metric) for arm in arms]) for metric in KEPT}
    numbers["gap"] = np.concatenate([gap if arm == arms[0] else np.full(count, np.nan) for arm in arms])
    texts = {
        "network": [name] * count * len(arms),
        "key": study.keys * len(arms),
        "group": groups.tolist() * len(arms),
        "map": [arm for arm in arms for _ in range(count)],
    }
    shown = {
        metric: pa.array(np.round(values, 4).astype(np.float32), from_pandas=True) for metric, values in numbers.items()
    }
    return pa.table({**texts, **shown})


class Evidence:
    """The kept rows, and questions to them."""

    def __init__(self, folder: Path = RESULTS) -> None:
        self.rows = pq.read_table(folder / "study.parquet")
        self.factorial_rows = pq.read_table(folder / "study_factorial.parquet")
        self.about: Mapping[str, Any] = json.loads((folder / "study.json").read_text())
        self._columns: dict[tuple[str, str], pa.Table] = {}

    @cached_property
    def networks(self) -> list[str]:
        return list(self.about["studies"])

    def part(self, network: str, map: str) -> pa.Table:
        if (network, map) not in self._columns:
            where = (pc.field("network") == network) & (pc.field("map") == map)
            self._columns[network, map] = self.rows.filter(where).sort_by("key")
        return self._columns[network, map]

    def values(self, network: str, metric: str, map: str) -> np.ndarray:
        return self.part(network, map)[metric].to_numpy().astype(np.float64)

    def groups(self, network: str) -> list[str]:
        return self.part(network, MAPS[0])["group"].to_pylist()

    def mean(self, network: str, metric: str, map: str) -> float:
        values = self.values(network, metric, map)
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else float("nan")

    def paired(self, network: str, metric: str, one: str, other: str) -> Paired:
        a, b = self.values(network, metric, one), self.values(network, metric, other)
        return metrics.paired(a, b, self.groups(network))

    def contrast(self, one: str, other: str, metric: str, map: str) -> Paired:
        return metrics.paired(self.values(one, metric, map), self.values(other, metric, map), self.groups(one))

    def trained(self, network: str) -> Mapping[str, Any]:
        return next(facts for facts in self.about["training"] if facts["network"] == network)

    def factorial(self) -> list[factorial.Rows]:
        found = []
        for network in dict.fromkeys(self.factorial_rows["network"].to_pylist()):
            part = self.factorial_rows.filter(pc.field("network") == network)
            count = len(part) // len(factorial.SETTINGS)
            values = {
                metric: part[metric].to_numpy().astype(np.float64).reshape(-1, count) for metric in factorial.METRICS
            }
            keys, groups = (part[name].to_pylist()[:count] for name in ("key", "group"))
            found.append(factorial.Rows(network, keys, groups, values))
        return found


def number(value: float, signed: bool = False) -> str:
    if value != value:
        return "-"
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def difference(found: Paired) -> str:
    """`+.012 (+.003 to +.021)`."""
    if found.units < LEAST_UNITS:
        return "-"
    return f"{number(found.mean, True)} ({number(found.low, True)} to {number(found.high, True)})"


def says(found: Paired, high: bool = True) -> str:
    """Better, worse or no difference seen, by the interval."""
    if found.units < LEAST_UNITS:
        return "not measured"
    if not (found.low > 0 or found.high < 0):
        return "no difference seen"
    return "better" if (found.low > 0) == high else "worse"


def told(found: Paired, high: bool = True) -> str:
    said = says(found, high)
    return f"{difference(found)}, {said}" if said in SAID else said


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def differences(evidence: Evidence, one: str, other: str, asked: Mapping[str, tuple[str, bool]]) -> str:
    """A row a network, a column a metric: the paired difference, and what it says."""
    rows = []
    for network in evidence.networks:
        cells = []
        for metric, (_, high) in asked.items():
            found = evidence.paired(network, metric, one, other)
            cells.append(told(found, high))
        rows.append([network, *cells])
    return table(["network", *(heading for heading, _ in asked.values())], rows)


def of_cells(evidence: Evidence, one: str, other: str, asked: Mapping[str, tuple[str, bool]]) -> dict[str, int]:
    """How many cells of object-trained networks say what."""
    said = [
        says(evidence.paired(network, metric, one, other), high)
        for network in OBJECTS
        if network in evidence.networks
        for metric, (_, high) in asked.items()
    ]
    return {word: said.count(word) for word in SAID}


Section = Callable[[Evidence], str]

LOOKS = {  # metrics that area and sharpness do not reach, and whether more is better
    "shuffled_auc": ("shuffled AUC", True),
    "drop@ranked": ("drop at one histogram", False),
    "insertion": ("insertion", True),
    "deletion": ("deletion", False),
    "road": ("ROAD", True),
}

BESIDE_MEAN = {**LOOKS, "jpeg": ("JPEG 75", True)}


def page(evidence: Evidence) -> str:
    sections: Sequence[Section] = (
        _head,
        _short,
        _gain,
        _activation,
        _multivec,
        _contrast,
        _stability,
        _options,
        _untested,
    )
    return "\n\n".join(section(evidence).strip() for section in sections) + "\n"


def _head(evidence: Evidence) -> str:
    about = evidence.about["studies"]
    one = next(iter(about.values()))
    trained = {network: evidence.trained(network) for network in evidence.networks if network != "lite0"}
    rows = []
    for network, facts in trained.items():
        accuracy = f"{100 * facts['accuracy']:.0f} %" if "accuracy" in facts else ""
        near = facts["nearest"]
        rows.append(
            [
                network,
                str(facts["recipe"]["steps"]),
                accuracy,
                f"{100 * near['object']:.0f} %",
                f"{100 * near['ground']:.0f} %",
                str(about[network]["faithful_images"]),
            ]
        )
    if "lite0" in about:
        rows.append(["lite0", "ImageNet", "", "", "", str(about["lite0"]["faithful_images"])])
    units = len(set(evidence.groups(evidence.networks[0])))
    seeds = 1 + max(facts["seed"] for facts in evidence.about["training"])
    every = evidence.about["composites"]
    part = ""
    if one["images"] < every:
        part = f"\n\n**A part of the run**: {one['images']} of the {every} composites, drawn at random (`--sample`); a whole run has them all."
    head = ["network", "steps", "right answers", "nearest has its object", "its ground", "costly metrics on"]
    blind = [
        name
        for name, facts in trained.items()
        if name in OBJECTS and facts["nearest"]["ground"] > facts["nearest"]["object"]
    ]
    seen = (
        f"; more often than its object also in {' and '.join(blind)}: a small network is not blind to grounds"
        * bool(blind)
    )
    return f"""# What the evidence says

This page is written by `python -m benchmarks.study` from the rows of one run of

```console
tsm-fast study --testbed --out testbed
```

and a test holds it to them. The command needs no model hub: it puts photographs of objects (Debian's `tuxpaint-stamps-default`) on grounds
(`mate-backgrounds`, textures of scikit-image), 64 x 64 pixels, with exact masks; trains a ResNet of 0.22 million weights three times, to name
the object (supervised), to tell two views of one object on different grounds from others (self-supervised, SimCLR), and to name the ground
(scene); and measures these, an untrained one, and EfficientNet-lite0 with its ImageNet weights, on {one["images"]} composites of grounds that
none has seen; half of them show objects that none has seen. It took half an hour on two cores.{part}

[All tables and figures of that run](../benchmarks/results/study.html), the networks side by side.

{table(head, rows)}

Right answers are of known objects on new grounds, or of known grounds. Nearest is the composite with the most similar pooled features: how
often it has the same object, and how often the same ground{seen}. Costly metrics are drop, insertion and deletion, on so many
composites; ROAD is on a fifth of them.

Differences are the first map less the second, paired by image; intervals are 95 %, by bootstrap over the {units} objects; "no difference seen"
means that the interval holds 0. No correction is made for the number of cells of a table: of twenty without a difference one shows one by
chance. There {"was one seed" if seeds == 1 else f"were {seeds} seeds"} of training: what another network of the same kind would do is not in the intervals.
[Metrics](metrics.md) says what each metric tells."""


def _short(evidence: Evidence) -> str:
    networks = [network for network in OBJECTS if network in evidence.networks]
    drop, ranked, auc = (
        of_cells(evidence, "tsm", "eigencam", {metric: ("", high)})
        for metric, high in (("drop", False), ("drop@ranked", False), ("shuffled_auc", True))
    )
    multi, mtsm = (of_cells(evidence, *pair, LOOKS) for pair in (("multivec_eigencam", "eigencam"), ("mtsm", "tsm")))
    mean = of_cells(evidence, "tsm", "mean_activation", BESIDE_MEAN)

    def turned(map: str) -> str:
        values = [evidence.values(network, "jpeg", map) for network in evidence.networks]
        shares = [100 * float(np.mean(each[~np.isnan(each)] < 0)) for each in values]
        edges = dict.fromkeys(f"{share:.0f}" for share in (min(shares), max(shares)))
        return f"{' to '.join(edges)} %"

    return f"""## In short

Of the {len(networks)} networks that learned objects ({", ".join(networks)}):

- TSM against EigenCAM: less average drop in {drop["better"]}; in {ranked["better"]} also where both maps take as much of the picture. On the object itself (shuffled
  AUC) TSM is worse in {auc["worse"]} and better in {auc["better"]}.
- The multivector maps, signed as published: of {sum(multi.values())} comparisons of where they look Multivec-EigenCAM is better than EigenCAM in
  {multi["better"]} and worse in {multi["worse"]}, MTSM better than TSM in {mtsm["better"]} and worse in {mtsm["worse"]}.
- The mean activation, without any decomposition: of {sum(mean.values())} comparisons TSM is better in {mean["better"]} and worse in {mean["worse"]}.
- Maps that turn over when the picture is saved as JPEG 75, by network, also the other two: {turned("eigencam")} of EigenCAM's,
  {turned("multivec_eigencam")} of Multivec-EigenCAM's, {turned("mtsm")} of MTSM's; {turned("tsm")} of TSM's and {turned("mtsm:combine=absolute")} of MTSM's with `combine="absolute"`.
- A rule fixed beforehand was to settle [the options](#which-options). {factorial.sentence(factorial.decide(evidence.factorial()))}"""


def _gain(evidence: Evidence) -> str:
    rows, said = [], []
    for network in evidence.networks:
        eigencam, tsm = (evidence.mean(network, "drop", map) for map in ("eigencam", "tsm"))
        plain = evidence.paired(network, "drop", "tsm", "eigencam")
        ranked = evidence.paired(network, "drop@ranked", "tsm", "eigencam")
        control = evidence.mean(network, "drop", "smooth")
        cells = [
            number(eigencam),
            number(tsm),
            number(evidence.mean(network, "drop", "mean_activation")),
            number(control),
        ]
        rows.append([network, *cells, difference(plain), told(ranked, high=False)])
        if network in OBJECTS and plain.units >= LEAST_UNITS:
            gain = -100 * plain.mean / eigencam
            verdict = f"{network}: {gain:.0f} % less average drop, and at one histogram "
            verdict += "no difference" if says(ranked) == "no difference seen" else f"{number(ranked.mean, True)}"
            said.append(verdict)
    head = ["network", "EigenCAM", "TSM", "mean activation", "smooth random map", "TSM - EigenCAM", "at one histogram"]
    return f"""## "TSM is about 50 % better than EigenCAM"

By the average drop (less is better), TSM against EigenCAM: {"; ".join(said)}. The average drop is fooled by area: a map that takes more of
the picture loses less, whatever it shows, and a map of ones loses nothing. With the values of every map replaced by the same ones, in the
map's own order, what is left of a gain is that of where the map looks.

{table(head, rows)}

Where TSM looks beside EigenCAM (as pytorch-grad-cam has it, centred), by metrics that area does not reach, and the object itself first:

{differences(evidence, "tsm", "eigencam", LOOKS)}"""


def _activation(evidence: Evidence) -> str:
    count = of_cells(evidence, "tsm", "mean_activation", BESIDE_MEAN)
    return f"""## The mean activation

LaFAM (arXiv 2407.06059) takes the mean over channels, with no decomposition at all. Of {sum(count.values())} comparisons on networks that
learned objects, TSM is better in {count["better"]}, worse in {count["worse"]}, and in {count["no difference seen"]} no difference is seen:

{differences(evidence, "tsm", "mean_activation", BESIDE_MEAN)}"""


def _multivec(evidence: Evidence) -> str:
    blocks = []
    for one, other in (
        ("multivec_eigencam", "eigencam"),
        ("mtsm", "tsm"),
        ("mtsm:combine=absolute", "tsm"),
        ("mtsm:combine=absolute", "mtsm"),
    ):
        count = of_cells(evidence, one, other, LOOKS)
        blocks.append(
            f"**{title(one)} against {title(other)}**: on networks that learned objects better in {count['better']} of "
            f"{sum(count.values())} comparisons, worse in {count['worse']}.\n\n{differences(evidence, one, other, LOOKS)}"
        )
    return '## "The multivector maps are best on self-supervised networks, MTSM best of all"\n\n' + "\n\n".join(blocks)


def _contrast(evidence: Evidence) -> str:
    arms = [*MAPS, "mean_activation", "energy"]
    rows = [
        [
            title(arm) if arm not in CONTROLS else CONTROLS[arm],
            *(
                f"{difference(found)}, {'above' if found.low > 0 else 'below' if found.high < 0 else 'no difference seen'}"
                for found in (
                    evidence.contrast(one, other, "shuffled_auc", arm)
                    for one, other in (
                        ("supervised", "scene"),
                        ("self-supervised", "scene"),
                        ("supervised", "untrained"),
                    )
                )
            ),
        ]
        for arm in arms
    ]
    head = ["map", "supervised - scene", "self-supervised - scene", "supervised - untrained"]
    return f"""## Model contrast

The one test whose right answer segmentation cannot know (BAM, arXiv 1907.09701): on the same pictures, a map of a network that learned
objects should lie on the object more than that of one that learned grounds. Differences of the shuffled AUC, which a map that only follows
edges or the middle of the picture has near 0:

{table(head, rows)}"""


def _stability(evidence: Evidence) -> str:
    rows, turned = [], []
    for network in evidence.networks:
        cells = []
        for arm in (*MAPS, "mean_activation"):
            values = evidence.values(network, "jpeg", arm)
            share = 100 * float(np.mean(values[~np.isnan(values)] < 0))
            cells.append(
                f"{number(float(np.nanmin(values)), True)}, {number(float(np.nanmedian(values)))}, {share:.0f} %"
            )
        rows.append([network, *cells])
        gap = evidence.values(network, "gap", MAPS[0])  # of the first map's rows
        steady = evidence.values(network, "jpeg", "eigencam")
        there = np.isfinite(gap) & np.isfinite(steady)
        ranks = np.argsort(np.argsort([gap[there], steady[there]]))
        related: Any = np.corrcoef(ranks)
        turned.append(f"{network} {number(float(related[0, 1]), True)}")
    arms = ("eigencam", "tsm", "mtsm", "mtsm:combine=absolute")
    shifted = [
        [network, *(number(evidence.mean(network, "shift", arm)) for arm in arms)] for network in evidence.networks
    ]
    return f"""## How far a map moves when the picture hardly changes

Correlation of a map with that of the same picture saved as JPEG 75: the least, the median, and in how many pictures the map turned over
(below 0).

{table(["network", *(title(arm) for arm in (*MAPS, "mean_activation"))], rows)}

Rank correlation of these values of EigenCAM with the gap of the first two singular values, which would be positive if a small gap were what
turns maps over: {", ".join(turned)}.

The same for a shift by a fiftieth of a side, the map moved back: the mean.

{table(["network", "EigenCAM", "TSM", "MTSM", "MTSM, combine absolute"], shifted)}"""


def _options(evidence: Evidence) -> str:
    rows = evidence.factorial()
    verdicts = factorial.decide(rows)
    cells = len(verdicts[0].cells)
    return f"""## Which options

Centred or not, the first vector or all, and what becomes of signs: negative parts cut off (EigenCAM), the sum of absolute values, or the
absolute value of the signed sum (as published); of one vector the last two are the same. The rule was fixed before: a setting is recommended
if its difference to EigenCAM is above -.005 in each of {cells} cells, and above 0 in more than half of them after Holm. Bold differences hold
after Holm.

**{factorial.sentence(verdicts)}** The defaults of the package are those that were published.

{factorial.table(verdicts)}

{factorial.note(rows)} So their means are not those of the tables above."""


def _untested(evidence: Evidence) -> str:
    lite0 = evidence.values("lite0", "drop", "tsm")
    few = np.count_nonzero(np.isfinite(lite0))
    measured = (
        f"Drop, insertion and deletion of lite0 are of {few} pictures, and ROAD of too few for intervals"
        if few
        else "Drop, insertion, deletion and ROAD of lite0 were not measured"
    )
    return f"""## What was not tested

- The networks of the paper (ResNet-50 supervised, MoCo v2, SwAV, DINO, Barlow Twins, VICReg, VICRegL) and its data, ImageNet and Pascal VOC:
  `tsm-fast study photos --masks masks --preset paper --out paper` does that for who has the pictures and a way to the weights.
- Networks of usual size that learned without labels; lite0 is the only network here that learned from photographs as they are.
- Photographs with several objects, or objects that belong to their ground: composites have one object on a ground it has nothing to do with.
- Vision transformers, other layers than the last, and other seeds of the training.
- {measured}; insertion and deletion are those with blurred pictures. Whether people find a map helpful was not asked."""


def main() -> None:
    if len(sys.argv) > 1:
        collect(Path(sys.argv[1]))
    PAGE.write_text(page(Evidence()))
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
