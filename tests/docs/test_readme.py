"""The documentation: its Python blocks run, its links and make targets exist, its numbers are those recorded."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from tsm_fast import __version__
from tsm_fast.bench.operators import declare_operators
from tsm_fast.models.preprocessing import Resize
from tsm_fast.pictures import load_photos

if importlib.util.find_spec("torchvision"):
    library = declare_operators()

ROOT = Path(__file__).resolve().parents[2]
AT_THE_TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = [*(ROOT / name for name in AT_THE_TOP), *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
# Their blocks read what their commands wrote: tests/pipeline/test_docs.py runs both.
WITH_COMMANDS = ("exports.md", "first-dataset.md", "format.md", "interrupted.md", "several-machines.md", "study.md")
# `make test-integrations` and Python 3.11 have what these need, but for FiftyOne, which needs a database.
NEEDS = {
    "detectors.md": "torchvision",
    "fiftyone.md": "fiftyone",
    "grad-cam.md": "pytorch_grad_cam",
    "jax.md": "jax",
    "quantus.md": "quantus",
    "torch-cam.md": "torchcam",
    "vision-transformers.md": "timm",
}
LEFT_OUT = {*WITH_COMMANDS, *(name for name, module in NEEDS.items() if importlib.util.find_spec(module) is None)}
WITH_CODE = [page for page in PAGES if BLOCK.search(page.read_text()) and page.name not in LEFT_OUT]


def load(place: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(place).stem, ROOT / place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small_resnet() -> nn.Module:
    """What the pages read of a ResNet-50, where there is no torchvision."""
    layers = [nn.Conv2d(3, 64, 7, 16), nn.ReLU(), nn.Conv2d(64, 2048, 2, 2), nn.ReLU()]
    named = {
        "layer3": nn.Sequential(*layers[:2]),
        "layer4": nn.Sequential(*layers[2:]),
        "pool": nn.AdaptiveAvgPool2d(1),
    }
    return nn.Sequential(OrderedDict(named))


@pytest.fixture
def no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's ResNet-50 with random weights; where it cannot be had, a small network under its name."""
    if importlib.util.find_spec("torchvision"):
        models: Any = importlib.import_module("torchvision.models")
        make = models.resnet50
        monkeypatch.setattr(models, "resnet50", lambda weights: make(weights=None))
        return
    models = ModuleType("torchvision.models")
    transforms = SimpleNamespace(transforms=lambda: Resize((224, 224)))
    vars(models).update(resnet50=lambda weights: small_resnet(), ResNet50_Weights=SimpleNamespace(DEFAULT=transforms))
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


@pytest.mark.usefixtures("no_downloads")
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    load_photos()[1].image.save("cat.jpg")
    load_photos()[2].image.save("coffee.jpg")
    torch.manual_seed(0)
    text = page.read_text()
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in BLOCK.finditer(text):
        lines = "\n" * text.count("\n", 0, block.start(1))  # so that a traceback shows the line of the page
        exec(compile(lines + block.group(1), str(page), "exec"), namespace)


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = json.loads(path.read_text())
    monkeypatch.chdir(tmp_path)
    made = load("docs/site/notebooks.py").executed(stored)
    texts, pictures = zip(*map(shown, (stored, made)), strict=True)
    assert texts[0] == texts[1]
    assert len(pictures[0]) == len(pictures[1]) > 1
    for sizes in zip(*pictures, strict=True):
        assert sizes[0] == sizes[1]
    assert path.stat().st_size < 300_000


def shown(notebook: dict[str, Any]) -> tuple[list[str], list[tuple[int, int]]]:
    """What the cells of a notebook print, and the sizes of the pictures that they show."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    texts = ["".join(output["text"]) for output in outputs if output["output_type"] == "stream"]
    files = [output["data"]["image/jpeg"] for output in outputs if output["output_type"] != "stream"]
    return texts, [Image.open(io.BytesIO(base64.b64decode(file))).size for file in files]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named <= targets


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (__version__, "BSD-3-Clause")
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_files_named_for_contributors_exist() -> None:
    named = re.findall(r"`((?:csrc|docs|tests|tsm_fast)/[\w./]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 10
    assert not [name for name in named if "NAME" not in name and not (ROOT / name).exists()]


def test_what_is_stable_is_as_recorded() -> None:
    stability = load("benchmarks/stability.py")
    result, page = json.loads(stability.RESULT.read_text()), stability.PAGE.read_text()
    assert stability.with_tables(page, result) == page


def test_what_is_shown_of_the_benchmarks_is_of_the_recorded_run() -> None:
    report = load("benchmarks/report.py")
    run = json.loads(report.RECORDED.read_text())
    assert run["complete"]
    assert not run["quick"]
    made = report.files(run)
    names = {"README.md", "index.md", "accuracy.md", "benchmarks.md", "cpu.md", "cpu.html"}
    assert {page.name for page in made} == names
    assert [page.name for page, text in made.items() if page.read_text() != text] == []
