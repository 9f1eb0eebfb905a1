"""Sources behind URLs: fsspec's file system in memory, and S3 by a server on this machine."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from tsm_fast import SaliencyDataset
from tsm_fast.pictures.decode import ImageError, Picture, from_value, unreadable
from tsm_fast.pipeline.sources.open import open_source, reopen
from tsm_fast.pipeline.sources.schemes import is_remote
from tsm_fast.pipeline.sources.source import Item, Source, SourceError, listing

from ...needs import NETWORK, needs
from ..processes import tsm_fast
from ..stores import memory_box, s3_box

pytestmark = pytest.mark.slow

__all__ = ["memory_box", "s3_box"]  # fixtures

FILES = ("upright/cat.jpg", "upright/coins.jpg", "mirrored/png/cat.png", "upright/notes.txt", ".hidden.png")
STRANGE = "a b#c?d%20::e.png"


def write(url: str, folder: Path) -> dict[str, bytes]:
    """Pictures, a tar file of them, a list and a manifest below a URL; the pictures' bytes by their paths."""
    system, root = fsspec.core.url_to_fs(url)
    data = {name: (folder / name).read_bytes() for name in FILES}
    data[STRANGE] = data["mirrored/png/cat.png"]
    for name, content in data.items():
        system.pipe_file(f"{root}/pictures/{name}", content)
    for number, name in enumerate(FILES[:2]):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            about = tarfile.TarInfo("0.jpg")
            about.size = len(data[name])
            tar.addfile(about, io.BytesIO(data[name]))
        system.pipe_file(f"{root}/{number}.tar", packed.getvalue())
    system.pipe_file(f"{root}/list.txt", "\n".join(f"pictures/{name}" for name in FILES[:2]).encode())
    rows = [{"path": f"pictures/{name}", "key": name[8:-4], "label": len(name)} for name in FILES[:2]]
    rows.append({"path": f"{url}/pictures/{FILES[2]}", "key": "url", "label": 0})
    system.pipe_file(f"{root}/table.jsonl", "\n".join(map(json.dumps, rows)).encode())
    return {name: content for name, content in data.items() if name not in FILES[3:]}


@pytest.fixture
def memory(memory_box: str, folder: Path) -> tuple[str, dict[str, bytes]]:
    return f"{memory_box}/some", write(f"{memory_box}/some", folder)


@pytest.fixture(scope="module")
def s3(s3_box: str, folder: Path) -> tuple[str, dict[str, bytes]]:
    """The same in a bucket."""
    return f"{s3_box}/some", write(f"{s3_box}/some", folder)


def read(source: Source) -> dict[str, bytes]:
    again = reopen(source.kind, source.root)
    return {item.key: again.read(item) for item in listing(source)}


def check_all(url: str, data: dict[str, bytes]) -> None:
    """Every kind of source below a URL."""
    source = open_source(f"{url}/pictures/")
    assert read(source) == data
    assert source.left_out.counts == {"hidden": 1, "of another kind": 1}
    assert {item.size for item in listing(source)} == set(map(len, data.values()))
    assert read(open_source(f"{url}/list.txt")) == {f"pictures/{name}": data[name] for name in FILES[:2]}
    table = open_source(f"{url}/table.jsonl")
    assert read(table) == {"cat": data[FILES[0]], "coins": data[FILES[1]], "url": data[FILES[2]]}
    known = table.carried(listing(table))
    assert known is not None
    assert known["label"].to_pylist() == [15, 17, 0]
    for text in ("{0..1}.tar", "*.tar"):
        assert read(open_source(f"{url}/{text}")) == {f"{n}.tar/0.jpg": data[name] for n, name in enumerate(FILES[:2])}
    assert list(read(open_source(f"{url}/1.tar"))) == ["1.tar/0.jpg"]
    gone = open_source(f"{url}/pictures")
    with pytest.raises(FileNotFoundError) as caught:
        gone.read(Item("none.jpg"))
    assert unreadable(caught.value).kind == "missing"
    for text, message in (
        ("nothing", "holds no picture: no file below it ends in"),
        ("nothing.csv", "does not exist"),
        ("nothing.tar", "does not exist"),
        ("nothing-*.tar", "does not exist"),
        ("pictures/upright/cat.jpg", "is one file"),
    ):
        with pytest.raises(SourceError, match=message):
            listing(open_source(f"{url}/{text}"))


def test_memory(memory: tuple[str, dict[str, bytes]]) -> None:
    check_all(*memory)


def test_s3(s3: tuple[str, dict[str, bytes]]) -> None:
    check_all(*s3)


@needs(*NETWORK)
def test_a_run_from_s3(s3: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    url, data = s3
    done = tsm_fast(
        "extract", f"{url}/pictures", "--out", tmp_path / "out", "--shard-size", 2, "--workers", 2, "--size", "64"
    )
    assert done.exit_code == 0, done.stderr
    ds = SaliencyDataset(tmp_path / "out")
    assert ds.keys == sorted(data)
    assert set(ds.status) == {"ok"}
    assert "left out: 1 hidden (such as '.hidden.png'), 1 of another kind (such as 'upright/notes.txt')" in done.stderr


def test_urls_in_a_table_of_this_machine(memory: tuple[str, dict[str, bytes]], tmp_path: Path) -> None:
    url, data = memory
    (tmp_path / "m.csv").write_text(f"path\n{url}/pictures/{FILES[0]}\n")
    assert list(read(open_source(str(tmp_path / "m.csv"))).values()) == [data[FILES[0]]]
    (tmp_path / "m.csv").write_text(f"path\npictures/{FILES[0]}\n")
    assert list(read(open_source(str(tmp_path / "m.csv"), url)).values()) == [data[FILES[0]]]


def test_what_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="Protocol not known: nonsense"):
        listing(open_source("nonsense://a/b"))

    def absent(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(ModuleNotFoundError, match=r"needs the extra 's3': pip install 'tsm_fast\[s3\]'"):
        listing(open_source("s3://a/b"))


def test_what_a_client_raises(memory: tuple[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("token expired")

    source = open_source(f"{memory[0]}/pictures")
    items = listing(source)
    system = type(fsspec.filesystem("memory"))
    for name in ("cat_file", "find"):
        monkeypatch.setattr(system, name, broken)
    with pytest.raises(ImageError, match="RuntimeError: token expired") as caught:
        source.read(items[0])
    assert caught.value.kind == "unreadable"
    with pytest.raises(SourceError, match="cannot be reached: RuntimeError: token expired"):
        listing(source)


def test_a_file_that_is_too_large(memory: tuple[str, dict[str, bytes]]) -> None:
    with pytest.raises(ImageError, match="bytes are more than") as caught:
        open_source(memory[0]).read(Item("x.png", None, 0, 2**40))
    assert caught.value.kind == "too_large"
    value = open_source(f"{memory[0]}/pictures").read(Item(FILES[0]))
    picture = from_value(value, 10**6)
    assert isinstance(picture, Picture)
    np.testing.assert_array_equal(picture.image, np.asarray(Image.open(io.BytesIO(memory[1][FILES[0]]))))


def test_what_is_a_url() -> None:
    assert all(map(is_remote, ("s3://a", "gs://a/b", "hf://datasets/a", "https://x/y.csv")))
    assert not any(map(is_remote, ("hf:a/b", "a/b", "C:/a", "a:b", "x y://z", "/a://b")))
