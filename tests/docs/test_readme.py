"""The documentation: its Python blocks run, its links and make targets exist, its numbers are those recorded."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tsm_fast import __version__

ROOT = Path(__file__).resolve().parents[2]
AT_THE_TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = [*(ROOT / name for name in AT_THE_TOP), *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
# Their blocks read what their commands wrote: tests/pipeline/test_docs.py runs both.
WITH_COMMANDS = ("exports.md", "first-dataset.md", "format.md", "interrupted.md", "several-machines.md")
# `make test-integrations` and Python 3.11 have what these need, but for FiftyOne, which needs a database.
NEEDS = {
    "fiftyone.md": "fiftyone",
    "grad-cam.md": "pytorch_grad_cam",
    "jax.md": "jax",
    "quantus.md": "quantus",
    "torch-cam.md": "torchcam",
}
LEFT_OUT = {*WITH_COMMANDS, *(name for name, module in NEEDS.items() if importlib.util.find_spec(module) is None)}
WITH_CODE = [page for page in PAGES if BLOCK.search(page.read_text()) and page.name not in LEFT_OUT]


def load_report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_report", ROOT / "benchmarks" / "report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in BLOCK.finditer(text):
        lines = "\n" * text.count("\n", 0, block.start(1))  # so that a traceback shows the line of the page
        exec(compile(lines + block.group(1), str(page), "exec"), namespace)


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


def test_the_table_is_that_of_the_recorded_run() -> None:
    report = load_report()
    run = json.loads((report.RESULTS / "cpu.json").read_text())
    readme = (ROOT / "README.md").read_text()
    assert report.with_table(readme, report.short_table(run)) == readme
    assert report.full_report(run) == (report.RESULTS / "cpu.md").read_text()
