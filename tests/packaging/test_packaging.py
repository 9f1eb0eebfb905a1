"""What is in the sdist and the wheels, and whether they work where nothing else of this repository is."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"tsm_fast": ROOT / "tsm_fast", "tsm_fast/kernels": ROOT / "kernels"}
COMPILERS = ("c++", "g++", "clang++", "cc", "gcc", "clang")

CHECK = """
import torch, tsm_fast
print(tsm_fast.__file__)
print(tsm_fast.backends()["cpu"].available)
features = torch.arange(2 * 64 * 7 * 7).reshape(2, 64, 7, 7).remainder(11).float()
difference = (tsm_fast.tsm(features) - tsm_fast.tsm(features, backend="reference")).abs().max()
print(float(difference))
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel built from it: what `python -m build` does."""
    out = tmp_path_factory.mktemp("dist")
    jobs = str(os.cpu_count())
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    run(*command, cwd=out, CMAKE_BUILD_PARALLEL_LEVEL=jobs, CMAKE_ARGS="")
    return out


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    return next(dist.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    return next(dist.glob("*.whl"))


def package_files() -> set[str]:
    """Every file of the packages that belongs into a wheel, by its path there."""
    found = set()
    for name, folder in PACKAGES.items():
        for path in folder.rglob("*"):
            if path.suffix in (".py", ".pyi", ".typed", ".html", ".c"):
                found.add(f"{name}/{path.relative_to(folder).as_posix()}")
    return found


def install(archive: Path, target: Path, **environment: str) -> None:
    """Install one archive, and nothing that it needs, into an empty folder."""
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--target", target)
    run(sys.executable, "-m", "pip", "install", *options, archive, cwd=target.parent, **environment)


def check(target: Path) -> tuple[bool, float]:
    """Run the package in `target`: whether the compiled backend is there, and its difference from the reference.

    Without `site`, an editable install of this repository is not seen; torch is.
    """
    path = os.pathsep.join([str(target), sysconfig.get_path("purelib")])
    out = run(sys.executable, "-S", "-c", CHECK, cwd=target.parent, PYTHONPATH=path, TSM_FAST_BACKEND="")
    location, available, difference = out.splitlines()
    assert Path(location).is_relative_to(target)
    return available == "True", float(difference)


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    """Nor the CUDA backend, which has to be asked for, also where a compiler for it is found."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    rest = {name for name in names if ".dist-info/" not in name} - package_files()
    assert package_files() <= names
    assert len(rest) == 1
    assert next(iter(rest)).startswith("tsm_fast/_cpu.")


def test_wheel_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = next(name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name)
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        entry_points, names = archive.read(f"{info}/entry_points.txt").decode(), archive.namelist()
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert f"{info}/licenses/LICENSE" in names
    assert "tsm-fast = tsm_fast.cli:main" in entry_points
    needed = [line.split(";")[0] for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not any("==" in line for line in needed)
    assert {line.split(">")[0] for line in needed} == {"torch", "numpy"}
    assert {"cli", "datasets", "demo", "pictures"} <= set(metadata.get_all("Provides-Extra", []))


def test_sdist_holds_the_sources_and_no_build(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith("csrc/")} == sources
    assert {
        "setup.py",
        "pyproject.toml",
        "CMakeLists.txt",
        "README.md",
        "LICENSE",
        "constraints.txt",
        "Makefile",
    } <= names
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert tests | {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")} <= names
    assert {name for name in package_files() if not name.startswith("tsm_fast/kernels/")} <= names
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc")) or name.startswith((".", "build/"))]


def test_wheel_from_the_sdist_works_on_its_own(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install(wheel, target)
    available, difference = check(target)
    assert available
    assert 0 <= difference < 2e-5  # the contract on TSM maps; two SVDs in different arithmetic


@pytest.fixture
def tools(tmp_path: Path) -> str:
    """A PATH without compilers."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("cmake", "make", "ninja", "uname"):
        found = shutil.which(tool)
        if found:
            (folder / tool).symlink_to(found)
    assert not [name for name in COMPILERS if shutil.which(name, path=str(folder))]
    return str(folder)


@pytest.mark.parametrize("switch", ["", "-DTSM_FAST_CPU=OFF"])
def test_pure_torch_install_needs_no_compiler(sdist: Path, tmp_path: Path, tools: str, switch: str) -> None:
    target = tmp_path / "site"
    install(sdist, target, PATH=tools, CC="", CXX="", CMAKE_ARGS=switch)
    assert not list(target.rglob("*.so"))
    assert check(target) == (False, 0.0)


@pytest.mark.parametrize(
    ("switches", "code", "said"),
    [
        ((), 0, ": this is the pure-torch package, which computes the same, slower"),
        (("-DTSM_FAST_CPU=ON",), 1, "; -DTSM_FAST_CPU=OFF builds the pure-torch package"),
        (("-DTSM_FAST_CUDA=ON",), 1, "; -DTSM_FAST_CPU=OFF builds the pure-torch package"),
    ],
)
def test_what_is_said_without_a_compiler(
    tmp_path: Path, tools: str, switches: tuple[str, ...], code: int, said: str
) -> None:
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), *switches]
    env = {**os.environ, "PATH": tools, "CC": "", "CXX": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == code
    needed = "tsm_fast's CPU backend needs GCC or Clang (vector extensions), found no compiler"
    assert needed + said in " ".join(done.stderr.split())
