"""Functions of the user's own by name: of modules, of the current folder's too, and of files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tsm_fast.factory import call, is_factory

FILE = """
from dataclasses import dataclass
import beside_it_for_a_test

@dataclass
class Net:
    x: int = beside_it_for_a_test.X

def make():
    return Net()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module that imports another of the same folder; the current one is empty."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "my_nets_for_a_test.py").write_text(FILE)
    (tmp_path / "code" / "beside_it_for_a_test.py").write_text("X = 5\n")
    (tmp_path / "code" / "broken_for_a_test.py").write_text("import no_such_module_at_all\n")
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_files(here: Path) -> None:
    made = call("code/my_nets_for_a_test.py:make", "model")
    assert made.x == 5
    assert type(call(f"{here}/code/my_nets_for_a_test.py:make", "model")) is type(made)
    assert not any(name.startswith("my_nets") for name in sys.modules)


def test_the_current_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no module 'my_nets_for_a_test' here or in PYTHONPATH"):
        call("my_nets_for_a_test:make", "model")
    monkeypatch.chdir("code")
    assert call("my_nets_for_a_test:make", "model").x == 5
    assert sys.path[-1] == str(here / "code")


def test_the_current_folder_hides_no_package(here: Path) -> None:
    (here / "json.py").write_text("1/0")
    (here / "torch.py").write_text("1/0")
    assert call("torch.nn:Identity", "model") is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("code/none.py:make", r"model 'code/none\.py:make': there is no file 'code/none\.py'"),
        ("code/my_nets_for_a_test.py:male", r"has no function 'male'; did you mean 'make'\?"),
        ("code/my_nets_for_a_test.py:unlike", "has no function 'unlike'$"),
    ],
)
def test_what_is_not_there(text: str, message: str, here: Path) -> None:
    with pytest.raises(ValueError, match=message):
        call(text, "model")


def test_what_a_file_raises_is_shown_whole(here: Path) -> None:
    for text in ("code/broken_for_a_test.py:make", "code/broken_for_a_test.py:make"):
        with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
            call(text, "model")


def test_what_is_a_name() -> None:
    for text in ("a:b", "a.b_1:c", "a b/c.py:d", "/x/y.py:z", "../é.py:z"):
        assert is_factory(text)
    for text in ("a", "a:b.c", "a/b:c", "a.py", ":b", "a-b:c", "hf:a/b", "s3://a/b"):
        assert not is_factory(text)
