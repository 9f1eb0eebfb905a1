"""The networks of the paper (arXiv 2410.23072), and those that are compared with them, ready for a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..models import published
from .comparing import Comparison, compare
from .running import run


class Entry(NamedTuple):
    """How a network of a preset goes into `run`."""

    title: str
    model: str
    layer: str
    score: str


PRESETS: Mapping[str, Mapping[str, Entry]] = {
    "paper": {
        name: Entry(found.title, f"published:{name}", found.layer, "class" if found.labels else "embedding")
        for name, found in published.PUBLISHED.items()
    }
}


def chosen(preset: str, networks: Sequence[str] | None = None) -> dict[str, Entry]:
    """Some networks of a preset, or all, by name."""
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    entries = PRESETS[preset]
    if unknown := [name for name in networks or () if name not in entries]:
        raise ValueError(f"network must be one of {', '.join(entries)}, got {unknown[0]!r}")
    return {name: entries[name] for name in networks or entries}


def study(
    preset: str,
    pictures: Any,
    out: str | Path,
    *,
    networks: Sequence[str] | None = None,
    say: Callable[[str], object] = print,
    **options: Any,
) -> Comparison:
    """A study of each network of a preset, in `out/NETWORK`, and their comparison in `out`.

    Args:
        preset: "paper": ResNet-50 supervised, MoCo v2, SwAV, DINO, Barlow Twins, VICReg and VICRegL, and ConvNeXt
            VICRegL, with the weights that their authors have published.
        pictures, **options: as `run` takes them.
        out: a folder.
        networks: some of them; None for all.
        say: takes lines on the progress.

    Raises:
        ValueError: there is no such preset or network.
        ConnectionError: weights are neither here nor in reach; the message says where to put which file.
    """
    entries = chosen(preset, networks)
    names = list(entries)
    for name in names:
        published.fetched(entries[name].model.partition(":")[2])  # all of them before the first is studied
    folder, studies = Path(out), {}
    for name in names:
        entry = entries[name]
        say(f"study of {entry.title}")
        own = {"model": entry.model, "layers": [entry.layer], "score": entry.score, "title": entry.title}
        studies[name] = run(pictures, folder / name, **{**own, **options})
    if len(studies) == 1:
        return Comparison(folder, studies, {})
    first = names[0]
    return compare(studies, folder, contrasts=[(name, first) for name in names[1:]])
