"""The workflows on GitHub call what there is, and install the oldest versions that are asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from .imports import ROOT
from .project import EXTRAS, PROJECT, PYPROJECT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_commands_name_what_there_is(path: Path) -> None:
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    commands = "\n".join(step.get("run", "") for job in jobs for step in job["steps"])
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z-]+)", commands)) <= set(targets)
    assert set(re.findall(r"--group (\w+)", commands)) <= set(PYPROJECT["dependency-groups"])
    assert set(re.findall(r"\.\[(\w+)\]", commands)) <= set(EXTRAS)
    assert all((ROOT / file).is_file() for file in re.findall(r"pip install -c (\S+)", commands))


def test_the_oldest_versions_are_those_of_the_ranges() -> None:
    lines = (ROOT / "tests" / "packaging" / "oldest.txt").read_text().splitlines()
    oldest = dict(line.split("==") for line in lines if "==" in line)
    needs = [*PROJECT["dependencies"], *EXTRAS["pictures"], *EXTRAS["datasets"], *EXTRAS["cli"]]
    asked = dict(
        re.split("[>,]=", need)[:2] for need in [*needs, *PYPROJECT["dependency-groups"]["light"]] if "]" not in need
    )
    pinned = {name: version for name, version in asked.items() if name in oldest}
    assert set(oldest) == set(pinned) >= {re.split("[>,]=", need)[0] for need in needs if "]" not in need}
    assert all(f"{oldest[name]}.".startswith(f"{version.split(',')[0]}.") for name, version in pinned.items())
