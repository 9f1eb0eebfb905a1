"""What keeps the tests honest: nothing hides a whole file of them, and it is ours that are imported."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[1]
# Also conftest.py and the helpers: a skip raised while any of them is imported takes all tests along that import it.
FILES = sorted(HERE.rglob("*.py"))


def skips_at_import(source: str) -> list[int]:
    """The lines on which a module skips itself, wherever outside of functions they stand."""
    left: list[ast.AST] = [ast.parse(source)]
    found: list[int] = []
    while left:
        node = left.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("pytest.importorskip", "pytest.skip"):
            found.append(node.lineno)
        left.extend(ast.iter_child_nodes(node))
    return sorted(found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HERE)))
def test_no_file_is_skipped_as_a_whole(path):
    assert not skips_at_import(path.read_text())


def test_such_skips_are_found():
    source = """
for package in ("one", "two"):
    pytest.importorskip(package)
if not there:
    pytest.skip("why", allow_module_level=True)
torch = pytest.importorskip("torch")
def fine():
    pytest.importorskip("three")
"""
    assert skips_at_import(source) == [3, 5, 6]


def test_other_packages_of_our_names_do_not_take_their_place(tmp_path):
    """Installed ones named `tests` and `benchmarks`, as some machines have them."""
    for name in ("tests", "benchmarks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    command = [sys.executable, "-c", "import tests, benchmarks; print(*tests.__path__, *benchmarks.__path__)"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(HERE), str(HERE.parent / "benchmarks")]
