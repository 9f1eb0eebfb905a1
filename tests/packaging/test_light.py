"""PyTorch and NumPy are all that the package needs, and nothing else is imported before it is used."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tsm_fast._lazy import EXTRAS
from tsm_fast.cli.commands import COMMANDS, command

from .imports import ROOT
from .project import EXTRAS as BROUGHT
from .project import PROJECT

MODULES = {"pillow": "PIL", "pyyaml": "yaml"}  # of distributions, where these have another name
OPTIONAL = set().union(*EXTRAS.values())
HIDING = f"import sys; sys.modules.update(dict.fromkeys({sorted(OPTIONAL)!r}))\n"
MAIN = "from tsm_fast.cli import main; import sys; sys.argv[1:] = [ARGUMENTS]; main()"


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", **environment}
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True)


def loaded(program: str) -> set[str]:
    """The packages that a program imports, of those that any extra brings and the two that are always there."""
    done = python(f"import sys, atexit\natexit.register(lambda: print('loaded', *sys.modules))\n{program}")
    assert done.returncode == 0, done.stderr
    names = {name.partition(".")[0] for name in done.stdout.rpartition("loaded")[2].split()}
    return names & ({"torch", "numpy", "triton", "ray", "scipy", "tensorly", "fsspec", "torchvision"} | OPTIONAL)


@pytest.mark.parametrize(
    ("program", "needed"),
    [
        ("import tsm_fast", set[str]()),
        ("from tsm_fast import *", {"torch", "numpy", "pyarrow", "PIL", "rich"}),
        ("from tsm_fast import SaliencyExtractor, backends, mtsm, tucker; backends()", {"torch", "numpy"}),
        ("import tsm_fast; tsm_fast.metrics.roc_auc", {"torch", "numpy"}),
        ("from tsm_fast import SaliencyDataset", {"torch", "numpy", "pyarrow"}),
        ("from tsm_fast import extract", {"torch", "numpy", "pyarrow", "PIL", "rich"}),
        (MAIN.replace("ARGUMENTS", "'--help'"), {"typer", "rich"}),
        (MAIN.replace("ARGUMENTS", "'--version'"), {"typer", "rich"}),
    ],
    ids=["package", "all", "functions", "metrics", "reader", "extract", "help", "version"],
)
def test_nothing_is_imported_before_it_is_used(program: str, needed: set[str]) -> None:
    assert loaded(program) <= needed


def test_the_functions_need_nothing_else() -> None:
    program = "import torch, tsm_fast; print(tsm_fast.tsm(torch.rand(2, 8, 4, 4)).shape, tsm_fast.SaliencyExtractor)"
    done = python(HIDING + program)
    assert done.stdout.startswith("torch.Size([2, 4, 4])"), done.stderr


@pytest.mark.parametrize("name", ["SaliencyDataset", "extract"])
def test_what_needs_an_extra_names_it(name: str) -> None:
    done = python(f"{HIDING}from tsm_fast import {name}")
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(rf".*Missing\w+: tsm_fast.{name} needs \w+: pip install 'tsm_fast\[datasets\]'", last)


def test_help_and_completion_do_without_what_is_missing() -> None:
    done = python(f"{HIDING}import tsm_fast; print(*dir(tsm_fast)); help(tsm_fast)", PAGER="cat")
    names, _, text = done.stdout.partition("\n")
    assert done.returncode == 0, done.stderr
    assert {"tsm", "tucker", "backends"} <= set(names.split())
    assert not {"SaliencyDataset", "extract"} & set(names.split())
    assert "mtsm(" in text


@pytest.mark.parametrize("arguments", ["", "'--help'", "'extract', 'photos'"])
def test_the_command_says_what_to_install(arguments: str) -> None:
    done = python(HIDING + MAIN.replace("ARGUMENTS", arguments))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "tsm-fast needs typer: pip install 'tsm_fast[cli]'\n"


def test_a_command_says_what_to_install() -> None:
    hiding = "import sys; sys.modules['pyarrow'] = None\n"
    done = python(hiding + MAIN.replace("ARGUMENTS", "'status', 'run'"))
    assert (done.returncode, done.stderr) == (1, "tsm-fast needs pyarrow: pip install 'tsm_fast[cli]'\n")
    assert python(hiding + MAIN.replace("ARGUMENTS", "'--help'")).returncode == 0


def test_an_old_torch_is_refused_in_a_line() -> None:
    done = python("import torch; torch.__version__ = '2.1.0+cpu'\nimport tsm_fast; tsm_fast.tsm")
    oldest = next(need for need in PROJECT["dependencies"] if need.startswith("torch>=")).removeprefix("torch>=")
    assert done.stderr.splitlines()[-1] == f"ImportError: tsm_fast needs torch {oldest} or newer, got 2.1.0+cpu"


def pyright(folder: Path, *arguments: str) -> str:
    """What pyright says, started in `folder` with this Python, by whose environment it finds packages."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    command = [sys.executable, "-m", "pyright", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True).stdout


def brought(extra: str) -> set[str]:
    """The modules of an extra and of those that it takes up."""
    found = set[str]()
    for need in BROUGHT[extra]:
        if inner := re.fullmatch(r"tsm_fast\[(.+)\]", need):
            found |= brought(inner[1])
        else:
            name = re.split(r"[<>=;~! ]", need)[0]
            found.add(MODULES.get(name, name))
    return found


def test_the_extras_are_those_of_the_project() -> None:
    assert {extra: set(modules) for extra, modules in EXTRAS.items()} == {extra: brought(extra) for extra in EXTRAS}
    assert {re.split("[<>=]", need)[0] for need in PROJECT["dependencies"]} == {"torch", "numpy"}
    assert brought("cli") <= brought("demo") & brought("dev") & brought("bench")


def test_every_import_at_the_top_of_a_module_is_of_a_package_that_is_needed() -> None:
    """Beside those of the tools in `integrations`, each imported by one module alone."""
    known = {"torch", "numpy", "tsm_fast", *sys.stdlib_module_names, *OPTIONAL}
    for path in (ROOT / "tsm_fast").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if path.parent.name != "integrations":
                assert {name.partition(".")[0] for name in names} <= known, path


def test_the_list_of_commands_says_what_they_say_themselves() -> None:
    for name, (_, said) in COMMANDS.items():
        assert said == (inspect.getdoc(command(name).callback) or "").partition("\n\n")[0].replace("\n", " ")


@pytest.mark.slow
def test_types_are_complete(tmp_path: Path) -> None:
    """What type checkers know of the package without reading function bodies."""
    told = pyright(tmp_path, "--verifytypes", "tsm_fast", "--ignoreexternal")
    score = re.search(r"Type completeness score: ([\d.]+)%", told)
    assert score, told
    assert float(score[1]) >= 99, told


@pytest.mark.slow
def test_the_kind_of_array_that_goes_in_comes_out(tmp_path: Path) -> None:
    (tmp_path / "calls.py").write_text("""
import numpy, torch, tsm_fast
tensor, array = torch.rand(2, 3, 4, 4), numpy.zeros((2, 3, 4, 4), numpy.float16)
reveal_type(tsm_fast.tsm(tensor))
reveal_type(tsm_fast.mtsm(array, rank=2, size=(8, 8)))
reveal_type(tsm_fast.tucker(tensor, 2).factors)
reveal_type(tsm_fast.hosvd(tensor)[0])
reveal_type(tsm_fast.truncated_svd(torch.nn.Parameter(tensor[0]), 2))
reveal_type(tsm_fast.mode_dot(tensor, array[0, 0], 1))
reveal_type(tsm_fast.unfold(array, 0))
""")
    found = re.findall(r"is \"(.*)\"", pyright(tmp_path, "calls.py"))
    array = "ndarray[tuple[Any, ...], dtype[Any]]"
    pair, three = "tuple[Tensor, list[Tensor]]", "tuple[Tensor, Tensor, Tensor]"
    assert found == ["Tensor", array, "list[Tensor]", pair, three, "Tensor", array]
