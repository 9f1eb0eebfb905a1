"""The pages about whole datasets, from their first line to their last: commands and Python blocks in turn, for real."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import struct
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from benchmarks import fashion_mnist as benchmark
from benchmarks import listing
from tsm_fast.cli import app
from tsm_fast.cli.commands import COMMANDS, VERBS, command
from tsm_fast.pictures import load_photos
from tsm_fast.pipeline.results.check import status, verify

from .small_run import finished

pytestmark = pytest.mark.slow

__all__ = ["finished"]  # a fixture

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = ("first-dataset", "interrupted", "several-machines", "format", "exports", "study")
ALL = (*PAGES, "overnight")


def blocks(page: str) -> list[tuple[str, str, int]]:
    """Language, text and line of every block."""
    text = (DOCS / f"{page}.md").read_text()
    return [(found[1], found[2], text.count("\n", 0, found.start(2))) for found in BLOCK.finditer(text)]


def run_commands(commands: str) -> None:
    """A block of commands: in this process where they are plain ones of `tsm-fast`, else in a shell."""
    lines = commands.splitlines()
    if all(re.fullmatch(r"tsm-fast [^|&;<>$]*", line) for line in lines):
        for line in lines:
            result = CliRunner().invoke(app, shlex.split(line)[1:])
            assert result.exit_code == 0, f"{line}\n{result.output}"
        return
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        env={**os.environ, "PATH": tools},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES)
def test_the_page_works(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": page}
    ran = {"console": 0, "python": 0}
    for language, text, line in blocks(page):
        if language == "console":
            run_commands(text)
        elif language == "python":
            exec(compile("\n" * line + text, str(DOCS / f"{page}.md"), "exec"), namespace)
        ran[language] = ran.get(language, 0) + 1
    assert ran["console"]
    assert ran["python"]


def test_pages_share_no_folder() -> None:
    """One may be followed after another, in one folder."""
    writes = re.compile(r"--out ([\w-]+)|tsm-fast export [\w-]+ ([\w.-]+)|Path\(\"([\w-]+)[\w/]*\"\)\.mkdir")
    made = {page: {name for found in writes.findall(blocks_of(page)) for name in found if name} for page in PAGES}
    assert all(made.values())
    shared = [(a, b, made[a] & made[b]) for a, b in combinations(PAGES, 2) if made[a] & made[b]]
    assert not shared


def blocks_of(page: str) -> str:
    return "".join(text for language, text, _ in blocks(page) if language in ("console", "python"))


@pytest.mark.parametrize("page", ALL)
def test_scripts_for_other_machines_are_well_formed(page: str) -> None:
    for language, text, _ in blocks(page):
        if language == "bash":
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        elif language == "yaml":
            assert yaml.safe_load(text)["spec"]["completionMode"] == "Indexed"


@pytest.mark.parametrize("page", ALL)
def test_options_that_are_named_exist(page: str) -> None:
    """Every option of `tsm-fast` on the page is one of the commands."""
    known = {"--help"}
    for name in COMMANDS:
        for verb in ("", *VERBS.get(name, ())):
            options = command(name, verb).params
            known |= {name for parameter in options for name in (*parameter.opts, *parameter.secondary_opts)}
    text = (DOCS / f"{page}.md").read_text()
    slurm = "signal job-name array cpus-per-task gres time requeue ntasks nodes"
    foreign = {f"--{option}" for option in slurm.split()}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) - foreign - {"--work"}
    assert named <= known


def test_the_arithmetic_is_that_of_the_recorded_run() -> None:
    recorded = benchmark.RESULTS / "fashion_mnist.json"
    result, page = json.loads(recorded.read_text()), benchmark.PAGE.read_text()
    assert benchmark.with_arithmetic(page, result) == page
    assert benchmark.table(result) == recorded.with_suffix(".md").read_text()


def test_the_costs_of_listings_are_those_recorded() -> None:
    result, page = json.loads((benchmark.RESULTS / "listing.json").read_text()), listing.PAGE.read_text()
    assert listing.with_table(page, result) == page


def test_what_the_benchmark_makes_of_a_run(finished: Path, tmp_path: Path) -> None:
    samples = [benchmark.Sample(2.0 * i, 100 * i, 1000.0 + min(i, 20), 900.0) for i in range(1, 200)]
    found, checked = status(finished).to_json(), verify(finished).to_json()
    result = benchmark.summary(found, checked, samples, {"extract": 398.0, "verify": 1.0}, None)
    assert json.loads(benchmark.to_json(result))["images"] == result["images"] == found["images"]
    ratio = found["seconds"]["decomposition"] / found["seconds"]["forward"]
    assert f"decompositions / forward pass: {ratio:.1%}" in benchmark.table(result)
    assert "grows by +0.0 MB" in benchmark.table(result)
    rate = result["images"] / 398
    assert f"= {1_281_167 / rate / 3600:.1f} hours" in benchmark.with_arithmetic(benchmark.PAGE.read_text(), result)
    benchmark.plot(result, tmp_path / "plot.svg")
    assert "</svg>" in (tmp_path / "plot.svg").read_text()


def test_the_benchmark_writes_the_pictures_once(tmp_path: Path) -> None:
    photo = np.asarray(load_photos()[5].image.convert("L").resize((28, 56)))
    pixels = photo.reshape(2, 28, 28)
    for file in benchmark.PARTS.values():
        with gzip.open(tmp_path / file, "wb") as idx:
            idx.write(struct.pack(">4i", 0x803, 2, 28, 28) + pixels.tobytes())
    folder = benchmark.write_pictures(tmp_path, tmp_path / "pictures")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert names == ["test/00000.png", "test/00001.png", "train/00000.png", "train/00001.png"]
    assert np.array_equal(np.asarray(Image.open(folder / "train" / "00001.png")), pixels[1])
    (folder / names[0]).unlink()
    assert benchmark.write_pictures(tmp_path, tmp_path / "pictures") == folder
    assert not (folder / names[0]).exists()
